"""An engine process: ``python -m tests.processes.relayer URL [N]`` is SIGKILLed at the N-th suspension of its watch.

It relays, a few signals at a time, until its standard input closes.
"""

import asyncio
import sys

from signal_ledger import lite
from signal_ledger.embedded import operations
from signal_ledger_adapters.lite.watch import Watch
from tests.stepping import kill_at


def kill_in_watch(n):
    """Count the suspensions of all looks together, and die at the n-th."""
    look = Watch.look
    seen = 0

    async def counted(self):
        nonlocal seen
        driven = kill_at(n - seen, look(self))
        try:
            await driven
        finally:
            seen += driven.suspensions

    Watch.look = counted


async def main():
    if len(sys.argv) > 2:
        kill_in_watch(int(sys.argv[2]))
    # The defaults of the fields: one relay would take all at once.
    operations.RelayOutbox.__init__.__kwdefaults__["rows_max"] = 4
    async with lite(sys.argv[1], queues={}):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
