"""An engine process whose clock is not true: ``python -m tests.processes.clocked URL`` runs the queue.

It is told by lines: ``time`` prints what its clock says, ``signal JOB NUMBER`` signals, and prints the outcome, the
signal's id, and how long the call took.
"""

import asyncio
import select
import sys
import time

from oban import Record, worker

from signal_ledger import SignalTimeout, await_signal, lite

# libfaketime refuses to sleep until an instant of the monotonic clock, which is how Python sleeps.
time.sleep = lambda seconds: select.select([], [], [], seconds)


@worker(max_attempts=1)
class Clocked:
    """Gathers so many votes, some of which may be timeouts."""

    async def process(self, job):
        votes = []
        for _ in range(job.args["votes"]):
            try:
                vote = await await_signal(wait_for=job.args.get("wait_for"), wait_timeout=job.args["window"])
            except SignalTimeout:
                vote = "timeout"
            votes.append(vote)
        return Record(votes)


async def follow_orders(engine):
    while line := await asyncio.to_thread(sys.stdin.readline):
        match line.split():
            case ["time"]:
                print(time.time(), flush=True)
            case ["signal", job_id, number]:
                began = time.monotonic()
                receipt = await engine.signal(int(job_id), int(number))
                print(receipt.outcome, receipt.signal_id, time.monotonic() - began, flush=True)


async def main():
    async with lite(sys.argv[1]) as engine:
        print("ready", flush=True)
        await follow_orders(engine)


if __name__ == "__main__":
    # Workers are found by their module's name, which must be the same in every process.
    from tests.processes import clocked as this

    asyncio.run(this.main())
