"""Signals from other threads: the store's connections belong to one event loop."""

import asyncio
from collections.abc import Sequence

from signal_ledger.commands import Deliver
from signal_ledger.decisions import DeliverReply
from signal_ledger.operations import DeliverCall
from signal_ledger.ports import DeliveryStore
from signal_ledger_adapters.this_process import OwnProcess


class AtHome:
    """A store that may be asked from any event loop, and does its work in its own; see `ports.DeliveryStore`.

    Args:
        store: The store.
        loop: The event loop that it was opened in.
        own_process: The process that it was opened in: a fork has a copy of the event loop, which never runs.
    """

    def __init__(self, store: DeliveryStore, loop: asyncio.AbstractEventLoop, own_process: OwnProcess) -> None:
        self._store = store
        self._loop = loop
        self._own_process = own_process

    async def deliver(self, call: DeliverCall, *, timeout_s: float) -> list[DeliverReply]:
        """Store the deliveries of a call."""
        self._own_process.require()
        delivering = self._store.deliver(call, timeout_s=timeout_s)
        if asyncio.get_running_loop() is self._loop:
            return await delivering
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(delivering, self._loop))

    async def store_with(self, connection: object, deliveries: Sequence[Deliver]) -> None:
        """Store them with the caller's own connection, which belongs to the caller's event loop."""
        await self._store.store_with(connection, deliveries)
