"""A worker process: ``python -m tests.processes.worker URL [N]`` is SIGKILLed at the N-th suspension.

It runs the queue until its standard input closes. The suspensions counted are those of the job's own task, which runs
`process`, every await in it, and the acknowledgement.
"""

import asyncio
import sys

from oban import Record, worker

from signal_ledger import SignalTimeout, await_signal, lite
from signal_ledger_adapters.lite.runner import Runner
from tests.stepping import kill_at


@worker(max_attempts=100)
class Three:
    """One signal that is there, one wait that times out in place, one that is snoozed and signalled."""

    async def process(self, job):
        got = [await await_signal(channel="first")]
        try:
            await await_signal(wait_for=0.02, wait_timeout=1, channel="second")
        except SignalTimeout:
            got.append("timeout")
        got.append(await await_signal(wait_timeout=0.02, channel="third"))
        return Record(got)


def kill_in_jobs(n):
    """Let every job's task count its suspensions, all jobs together, and die at the n-th."""
    execute = Runner._execute
    seen = 0

    async def counted(self, *arguments):
        nonlocal seen
        driven = kill_at(n - seen, execute(self, *arguments))
        try:
            await driven
        finally:
            seen += driven.suspensions

    Runner._execute = counted


async def main():
    if len(sys.argv) > 2:
        kill_in_jobs(int(sys.argv[2]))
    async with lite(sys.argv[1], queues={"default": 2}):
        print("running", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    # Workers are found by their module's name, which must be the same in every process.
    from tests.processes import worker as this

    asyncio.run(this.main())
