"""The worker's process: ``python -m signal_ledger_adapters.demo.worker_process URL``. Runs until its input closes."""

import asyncio
import logging
import os
import sys

from signal_ledger import lite


async def main() -> None:
    """Run the queue. Jobs name their worker by its path, so that the engine finds the classes by itself."""
    logging.basicConfig(format=f"{'':10}worker process {os.getpid()} says: %(message)s")
    async with lite(sys.argv[1], queues={"purchases": 5}, live_share=1):
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
