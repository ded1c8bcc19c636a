"""Nodes that die at a suspension of their choice: ``python -m tests.postgres.engine.killing URL`` forks one an order.

An order is a line, ``KIND N``: the child runs the queue, says so, and is SIGKILLed at the n-th suspension of that kind.
One that lives until it is told to stop tells how many of each kind it has met. What is counted, each kind for itself:
what runs `process` and every await in it; what acknowledges; and the tasks that work for all calls of a process, which
take outcomes, deliver signals, relay stored ones, and ask for what is due. Everything is imported before the fork.
"""

import asyncio
import json
import os
import signal
import sys
import traceback
from collections import Counter

from oban import Oban, Record, worker
from oban._producer import Producer
from psycopg_pool import AsyncConnectionPool

from signal_ledger import SignalTimeout, attach, await_signal
from signal_ledger import signal as send
from signal_ledger_adapters.postgres.lanes import Lanes
from tests.faults.nursery import read_line

MET = Counter()

_OF_LANES = {"_take_batch": "take", "_deliver_batch": "deliver", "_relay_batch": "relay", "_ask": "upkeep"}
STOP = "stop\n"
KINDS = ("execution", "acknowledgement", *_OF_LANES.values())


@worker(max_attempts=100)
class Four:
    """A signal that is there, a wait that times out in place, one that is snoozed; then it signals another job."""

    async def process(self, job):
        got = [await await_signal(channel="first")]
        try:
            await await_signal(wait_for=0.02, wait_timeout=1, channel="second")
        except SignalTimeout:
            got.append("timeout")
        got.append(await await_signal(wait_timeout=0.02, channel="third"))
        await send(job.args["other"], got, key="from Four")
        return Record(got)


class Counted:
    """Awaits a coroutine, and says each time that it is suspended."""

    def __init__(self, coroutine, suspended):
        self._coroutine = coroutine
        self._suspended = suspended

    def __await__(self):
        steps = self._coroutine.__await__()
        value = error = None
        while True:
            try:
                waits_for = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            self._suspended()
            value = error = None
            try:
                value = yield waits_for
            except BaseException as thrown:
                error = thrown


def count_suspensions(dies_at):
    def count(owner, name, kind_of):
        original = getattr(owner, name)

        async def counted(self, *arguments):
            kind = kind_of(self)

            def suspended():
                MET[kind] += 1
                if dies_at == (kind, MET[kind]):
                    os.kill(os.getpid(), signal.SIGKILL)

            return await Counted(original(self, *arguments), suspended)

        setattr(owner, name, counted)

    count(Producer, "_execute", lambda _: "execution")
    count(Producer, "_ack_jobs", lambda _: "acknowledgement")
    for name in ("_work", "_wait_for_locks"):
        count(Lanes, name, lambda lanes: _OF_LANES[lanes._run.__name__])


async def live(url):
    async with AsyncConnectionPool(url, min_size=1, max_size=5, open=False) as pool:
        oban = Oban(pool=pool, queues={"default": 2}, stager={"interval": 0.1}, node=f"node {os.getpid()}")
        async with attach(oban):
            say(running=True)
            # In one piece: of what a node has read when it is killed, its nursery would take the rest for an order.
            await asyncio.to_thread(os.read, 0, len(STOP))
            met = dict(MET)
    say(met=met)


def say(**something):
    os.write(1, (json.dumps(something) + "\n").encode())


def main():
    say(ready=True)
    while line := read_line():
        kind, _, number = line.partition(" ")
        if line == STOP:
            # Meant for a child that was dead already.
            continue
        pid = os.fork()
        if not pid:
            status = 1
            try:
                count_suspensions((kind, int(number)))
                asyncio.run(live(sys.argv[1]))
                status = 0
            except BaseException:
                say(failed=traceback.format_exc())
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        say(ended_with=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    # Workers are found by their module's name, which must be the same in every process.
    from tests.postgres.engine import killing as this

    this.main()
