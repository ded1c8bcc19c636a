"""Oban's engines, and what is read of them."""

import asyncio
import logging
import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from oban import Oban
from oban._query import Query
from oban._scheduler import scheduled_entries
from oban.oban import _instances
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo

logger = logging.getLogger(__name__)

type NotifiedCallback = Callable[[str, dict[str, Any]], None]
"""Called in the event loop with the channel and the payload of a notification."""

instances: dict[str, Any] = _instances
"""Where ``Worker.enqueue()`` looks for its engine, by name."""

_CONNINFO = frozenset(option.keyword.decode() for option in Conninfo.get_defaults())

# Marks the tasks of a start.
_starting: ContextVar[object] = ContextVar("signal_ledger_starting", default=None)

_ABANDON_S = 5.0

# A fork has copies of those that run, whose tasks and connections it has not.
_of_parents: WeakSet[Oban] = WeakSet()

# psycopg's default; None switches prepared statements off.
_PREPARE_THRESHOLD = 5


def _forked() -> None:
    _of_parents.update(oban for oban in instances.values() if isinstance(oban, Oban) and is_started(oban))


os.register_at_fork(after_in_child=_forked)


def name_of(oban: Oban) -> str:
    """Return the name that it is registered under."""
    return oban._name


def prefix_of(oban: Oban) -> str:
    """Return the schema of its tables."""
    return oban._prefix


def query_of(oban: Oban) -> Query:
    """Return its query, which no other engine has."""
    return oban._query


async def conninfo_of(oban: Oban) -> str:
    """Return how it connects, as libpq understands it."""
    conninfo = await oban._query.dsn()
    kwargs = getattr(oban._query._pool, "kwargs", None)
    # The pool hands them to psycopg, for which some are parts of the conninfo.
    parts = {name: value for name, value in kwargs.items() if name in _CONNINFO} if isinstance(kwargs, dict) else {}
    return make_conninfo(conninfo, **parts)


def is_behind_pooler(oban: Oban) -> bool:
    """Say whether its connections go without prepared statements, as those behind a pooler of transactions must."""
    kwargs = getattr(oban._query._pool, "kwargs", None)
    return isinstance(kwargs, dict) and kwargs.get("prepare_threshold", _PREPARE_THRESHOLD) is None


def is_started(oban: Oban) -> bool:
    """Say whether it has been started."""
    return oban._signal_token is not None


def was_started_before_fork(oban: Oban) -> bool:
    """Say whether another process has started it, of which this one is a fork."""
    return oban in _of_parents


def was_stopped(oban: Oban) -> bool:
    """Say whether it has been stopped; it cannot be started anew: its loops would end at once."""
    return bool(oban._stager._stopping.is_set())


async def start(oban: Oban) -> None:
    """Start it. A start that fails, or is cancelled, leaves nothing running, as Oban's own would."""
    mark = object()
    token = _starting.set(mark)
    try:
        await oban.start()
    except BaseException:
        await _abandon(oban, mark)
        raise
    finally:
        _starting.reset(token)


async def _abandon(oban: Oban, mark: object) -> None:
    if not _begun(mark) and getattr(oban._notifier, "_loop_task", None) is None:
        # Oban's tables are missing, say: it can be tried again.
        return
    # Oban's own stop does nothing if the start has not come to its end, which this token tells.
    parts: Any = oban
    parts._signal_token = mark
    try:
        await oban.stop()
    except Exception as error:  # noqa: BLE001 - the fault of the start is what counts
        logger.debug("an Oban that could not be started could not be stopped: %s", error)
    finally:
        parts._signal_token = None
        # What was still starting.
        begun = _begun(mark)
        for task in begun:
            task.cancel()
        if begun:
            await asyncio.wait(begun, timeout=_ABANDON_S)
        # It may have been connecting when it was stopped.
        await oban._notifier.stop()


def _begun(mark: object) -> list[asyncio.Task[Any]]:
    """What a start has begun: each task has the context of the one that began it."""
    own = asyncio.current_task()
    return [task for task in asyncio.all_tasks() if task is not own and task.get_context().get(_starting) is mark]


async def stop(oban: Oban) -> None:
    """Stop it. If a part of it fails to, its queues have stopped all the same when this raises.

    Cancelled, it is stopped without patience for jobs that still run: else half of it, which nobody could stop, ran on.
    """
    try:
        await oban.stop()
    except asyncio.CancelledError:
        for producer in oban._producers.values():
            producer._shutdown_grace_period = 0.0
        await asyncio.gather(oban.stop(), return_exceptions=True)
        raise
    except Exception:
        await asyncio.gather(*[producer.stop() for producer in oban._producers.values()], return_exceptions=True)
        raise


def rescue_after(oban: Oban) -> float | None:
    """Return after how many seconds of execution its jobs are rescued; None if that is not known."""
    seconds = getattr(oban._lifeline, "_rescue_after", None)
    return None if seconds is None else float(seconds)


def rescue_after_of(query: Query) -> float | None:
    """Return the same, given its query; None if it is not known by its name any more."""
    for oban in list(instances.values()):
        if getattr(oban, "_query", None) is query:
            return rescue_after(oban)
    return None


def retry_acknowledgements(oban: Oban) -> None:
    """Let producers whose acknowledgements failed try again; by itself Oban waits for the queue's next event."""
    for producer in list(oban._producers.values()):
        if producer._pending_acks:
            producer.notify()


async def listen(oban: Oban, channel: str, callback: NotifiedCallback) -> str:
    """Have a callback called for each notification on ``<prefix>.oban_<channel>``; return a token for `unlisten`."""
    # It listens first and then stops to listen where that is due, which may be since a moment ago.
    getattr(oban._notifier, "_pending_unlisten", set()).discard(channel)
    token: str = await oban._notifier.listen(channel, callback, wait=False)
    return token


async def unlisten(oban: Oban, token: str) -> None:
    """End what `listen` began."""
    await oban._notifier.unlisten(token)


async def notify(oban: Oban, channel: str, payload: dict[str, Any]) -> None:
    """Send a notification."""
    await oban._notifier.notify(channel, payload)


def cron_workers() -> list[str]:
    """Return the names of the workers that are registered with a cron expression."""
    return sorted({entry.worker_cls.__qualname__ for entry in scheduled_entries()})
