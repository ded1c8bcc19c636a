"""An Oban node: ``python -m tests.processes.node URL N`` is SIGKILLed at the N-th suspension of its jobs' tasks.

It runs the queue until its standard input closes, and then tells how many it has met. What is counted is what runs
`process` and every await in it, and, in the producer's task, what acknowledges.
"""

import asyncio
import sys

from oban import Oban
from oban._producer import Producer
from psycopg_pool import AsyncConnectionPool

from signal_ledger import attach
from tests.stepping import kill_at

SEEN = []


def kill_in_jobs(n):
    """Count the suspensions of executions and of acknowledgements, all together, and die at the n-th."""

    def count(owner, name):
        original = getattr(owner, name)

        async def counted(self, *arguments):
            driven = kill_at(n - sum(SEEN), original(self, *arguments))
            try:
                return await driven
            finally:
                SEEN.append(driven.suspensions)

        setattr(owner, name, counted)

    count(Producer, "_execute")
    count(Producer, "_ack_jobs")


async def main():
    url, n = sys.argv[1:]
    kill_in_jobs(int(n))
    async with AsyncConnectionPool(url, min_size=1, max_size=5, open=False) as pool:
        oban = Oban(pool=pool, queues={"default": 2}, stager={"interval": 0.2})
        async with attach(oban):
            print("running", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            print(sum(SEEN), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
