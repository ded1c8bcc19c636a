"""Hooking into Oban's engines: fetch, acknowledge, stage, reset, stop."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from oban import Job
from oban._executor import AckAction
from oban._producer import Producer, _get_jobs
from oban._query import Query, _ack_jobs, _reset

from signal_ledger.execution import no_execution
from signal_ledger_adapters.oban_api.chain import chain
from signal_ledger_adapters.oban_api.notifiers import mend_notifiers
from signal_ledger_adapters.oban_api.producers import note_started
from signal_ledger_adapters.oban_api.queries import Acknowledge

type Fetch = Callable[[Producer], Awaitable[list[Job]]]
type OfQuery = Callable[[Query], Awaitable[None]]

_WRAPPED = "_signal_ledger_wrapped"


class EngineHooks(Protocol):
    """What is done at each point. ``previous`` is what Oban, or another extension, does there."""

    async def fetch(self, previous: Fetch, producer: Producer) -> list[Job]:
        """Fetch a producer's next jobs."""
        ...

    async def acknowledge(self, previous: Acknowledge, query: Query, acks: list[AckAction]) -> list[int]:
        """Write down how jobs ended; return the ids of those that were still theirs."""
        ...

    async def before_stage(self, query: Query) -> None:
        """Do what is due before the stager's tick."""
        ...

    async def reset(self, previous: OfQuery, query: Query) -> None:
        """Empty Oban's tables."""
        ...

    def stopping(self, producer: Producer) -> None:
        """A producer is about to stop: it will wait for the jobs that it runs."""
        ...


def hook_engines(hooks: EngineHooks) -> None:
    """Hook into all engines, once for the process."""
    chain("producer.get_jobs", _get_jobs, lambda previous: functools.partial(hooks.fetch, previous))
    chain("query.ack_jobs", _ack_jobs, lambda previous: functools.partial(hooks.acknowledge, previous))
    chain("query.reset", _reset, lambda previous: functools.partial(hooks.reset, previous))
    chain("stager.before_stage", _stage_nothing, lambda previous: _both(previous, hooks.before_stage))
    _wrap_producer(hooks)
    mend_notifiers()


async def _stage_nothing(_query: Query) -> None:
    """Oban's default for ``stager.before_stage``."""


def _both(first: OfQuery, second: OfQuery) -> OfQuery:
    async def both(query: Query) -> None:
        await first(query)
        await second(query)

    return both


def _wrap_producer(hooks: EngineHooks) -> None:
    start: Any = Producer.start
    stop: Any = Producer.stop
    if getattr(stop, _WRAPPED, False):
        return

    @functools.wraps(start)
    async def wrapped_start(self: Producer) -> None:
        # A job may start a queue: what the queue does from then on is not the job's.
        note_started(self)
        with no_execution():
            starting = asyncio.create_task(start(self))
        await starting

    @functools.wraps(stop)
    async def wrapped_stop(self: Producer) -> None:
        hooks.stopping(self)
        await stop(self)

    for name, wrapped in (("start", wrapped_start), ("stop", wrapped_stop)):
        setattr(wrapped, _WRAPPED, True)
        setattr(Producer, name, wrapped)
