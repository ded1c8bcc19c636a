"""Oban's notifier, kept from leaving things behind when its connection breaks.

By itself it begins a new task for each new connection and never ends the old one; a break that two of its tasks notice
gives two connections, one of which nobody closes; and a stop while it is about to connect anew does not keep it from
that: it listens for ever then, for nobody.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

from oban._notifier import PostgresNotifier

_WRAPPED = "_signal_ledger_wrapped"

type _Method = Callable[[Any], Awaitable[None]]


class _Kept:
    """What is known of a notifier."""

    def __init__(self) -> None:
        self.was_stopped = asyncio.Event()
        self.connecting = asyncio.Lock()
        self.reconnecting: set[asyncio.Task[Any]] = set()


_kept: WeakKeyDictionary[PostgresNotifier, _Kept] = WeakKeyDictionary()


def mend_notifiers() -> None:
    """See to that for all notifiers, once for the process."""
    notifier: Any = PostgresNotifier
    if getattr(notifier.stop, _WRAPPED, False):
        return
    for name, wrapped in (
        ("start", _starting(notifier.start)),
        ("_connect", _connecting(notifier._connect, notifier.stop)),
        ("_reconnect", _reconnecting(notifier._reconnect)),
        ("stop", _stopping(notifier.stop)),
    ):
        setattr(wrapped, _WRAPPED, True)
        setattr(notifier, name, wrapped)


def _starting(start: _Method) -> _Method:
    @functools.wraps(start)
    async def wrapped(self: Any) -> None:  # noqa: ANN401 - a notifier and its privates, and below
        _kept_of(self).was_stopped.clear()
        await start(self)

    return wrapped


def _connecting(connect: _Method, stop: _Method) -> _Method:
    @functools.wraps(connect)
    async def wrapped(self: Any) -> None:  # noqa: ANN401
        kept = _kept_of(self)
        async with kept.connecting:
            if kept.was_stopped.is_set() or _is_connected(self):
                return
            if self._beat_task is not None:
                self._beat_task.cancel()
            await connect(self)
        if kept.was_stopped.is_set():
            # While it was connecting.
            await stop(self)

    return wrapped


def _reconnecting(reconnect: _Method) -> _Method:
    @functools.wraps(reconnect)
    async def wrapped(self: Any) -> None:  # noqa: ANN401
        kept = _kept_of(self)
        task = asyncio.current_task()
        if kept.was_stopped.is_set() or task is None:
            return
        kept.reconnecting.add(task)
        try:
            await reconnect(self)
        finally:
            kept.reconnecting.discard(task)

    return wrapped


def _stopping(stop: _Method) -> _Method:
    @functools.wraps(stop)
    async def wrapped(self: Any) -> None:  # noqa: ANN401
        kept = _kept_of(self)
        kept.was_stopped.set()
        left = [task for task in (*kept.reconnecting, self._loop_task, self._beat_task) if task is not None]
        await stop(self)
        # It stops nothing while there is no connection.
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    return wrapped


def _is_connected(notifier: Any) -> bool:  # noqa: ANN401
    connection, loop_task = notifier._conn, notifier._loop_task
    return connection is not None and not connection.closed and loop_task is not None and not loop_task.done()


def _kept_of(notifier: PostgresNotifier) -> _Kept:
    return _kept.setdefault(notifier, _Kept())
