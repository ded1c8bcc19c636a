"""Giving way to other tasks, where a store would and a stand-in need not."""

import asyncio

_TURNS = 3
"""A task that is due gets its turn in the first, and one that waits for that task in the second."""


async def give_way() -> None:
    """Let other tasks run, as any store does that waits for a disk or a server.

    Without it a task that asks again and again would get all its answers before another one that asked in between has
    its turn: awaits would be served in another order than on the engines (promise W11).
    """
    for _ in range(_TURNS):
        await asyncio.sleep(0)
