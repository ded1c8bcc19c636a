"""A client process: ``python -m tests.processes.client URL CALLS RECEIPTS`` signals through `open_ledger`.

It makes the calls of a JSON file, one after the other, once it is told to go. What it was told by a receipt is on disk
before it makes the next call.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from signal_ledger import open_ledger


async def main():
    url, calls, receipts = sys.argv[1:]
    async with open_ledger(url) as ledger:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        with Path(receipts).open("w") as file:
            for call in json.loads(Path(calls).read_text()):
                answer = await ledger.signal(**call)
                for receipt in answer if isinstance(answer, list) else [answer]:
                    told = {
                        "job_id": receipt.job_id,
                        "outcome": receipt.outcome,
                        "signal_id": receipt.signal_id,
                        "version": receipt.version,
                    }
                    file.write(json.dumps({**call, **told}) + "\n")
                file.flush()
                os.fsync(file.fileno())


if __name__ == "__main__":
    asyncio.run(main())
