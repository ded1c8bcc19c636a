"""A client process: ``python -m tests.processes.storer URL PATH JOB COUNT`` stores signals in a transaction of its own.

It commits, prints their ids, and is SIGKILLed.
"""

import asyncio
import os
import signal
import sys

import aiosqlite

from signal_ledger import open_ledger


async def main():
    url, path, job_id, count = sys.argv[1:]
    async with open_ledger(url) as ledger, aiosqlite.connect(path) as connection:
        receipts = [await ledger.signal(int(job_id), number, conn=connection) for number in range(int(count))]
        await connection.commit()
        print(*[receipt.signal_id for receipt in receipts], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main())
