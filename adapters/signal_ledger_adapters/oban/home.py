"""Signals from other threads: the store's connections belong to one event loop."""

import asyncio
from collections.abc import Sequence

from signal_ledger.commands import Deliver
from signal_ledger.decisions import DeliverReply
from signal_ledger.operations import DeliverCall
from signal_ledger.ports import DeliveryStore


class AtHome:
    """A store that may be asked from any event loop, and does its work in its own; see `ports.DeliveryStore`.

    Args:
        store: The store.
        loop: The event loop that it was opened in.
    """

    def __init__(self, store: DeliveryStore, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    async def deliver(self, call: DeliverCall, *, timeout_s: float) -> list[DeliverReply]:
        """Store the deliveries of a call."""
        delivering = self._store.deliver(call, timeout_s=timeout_s)
        if asyncio.get_running_loop() is self._loop:
            return await delivering
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(delivering, self._loop))

    async def store_with(self, connection: object, deliveries: Sequence[Deliver]) -> None:
        """Store them with the caller's own connection, which belongs to the caller's event loop."""
        await self._store.store_with(connection, deliveries)
