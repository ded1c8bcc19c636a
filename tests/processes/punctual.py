"""A client process: ``python -m tests.processes.punctual URL OFFSET`` signals jobs at their deadlines.

It reads a line of JSON, pairs of a job's id and a time in seconds since 1970, and signals each job that many seconds
after its time, with the offset as payload. It tells in a line what it was told: job, outcome, signal id, duration.
"""

import asyncio
import json
import sys
import time

from signal_ledger import open_ledger


async def main():
    url, offset = sys.argv[1], float(sys.argv[2])
    async with open_ledger(url) as ledger:
        await ledger.signal(0, "to nobody, so that everything is warm")
        print("ready", flush=True)
        jobs = json.loads(await asyncio.to_thread(sys.stdin.readline))

        async def at(job_id, due):
            await asyncio.sleep(due + offset - time.time())
            began = time.monotonic()
            receipt = await ledger.signal(job_id, offset)
            return job_id, receipt.outcome, receipt.signal_id, time.monotonic() - began

        print(json.dumps(await asyncio.gather(*[at(job_id, due) for job_id, due in jobs])), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
