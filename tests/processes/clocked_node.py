"""An Oban node whose clock is not true: ``python -m tests.processes.clocked_node URL NAME``; see `clocked`."""

import asyncio
import select
import sys
import time

from oban import Oban
from psycopg_pool import AsyncConnectionPool

from signal_ledger import attach
from tests.processes.clocked import follow_orders

time.sleep = lambda seconds: select.select([], [], [], seconds)


async def main():
    async with AsyncConnectionPool(sys.argv[1], min_size=1, max_size=5, open=False) as pool:
        oban = Oban(pool=pool, queues={"default": 5}, name=sys.argv[2], node=sys.argv[2], stager={"interval": 0.2})
        async with attach(oban) as engine:
            print("ready", flush=True)
            await follow_orders(engine)


if __name__ == "__main__":
    asyncio.run(main())
