"""The worker's process: ``python -m signal_ledger_adapters.demo.worker_process URL``. Runs until its input closes."""

import asyncio
import logging
import os
import sys
from pathlib import Path

from signal_ledger_adapters.demo.stages import stage_of


async def main() -> None:
    """Run the queue. Jobs name their worker by its path, so that the engine finds the classes by itself."""
    logging.basicConfig(format=f"{'':10}worker process {os.getpid()} says: %(message)s")
    async with stage_of(sys.argv[1], Path()).worker():
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
