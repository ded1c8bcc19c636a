"""What a process knows of an Oban and the ledger under it, which may come later than the first jobs."""

import asyncio
import logging
import math
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from oban import Job

from signal_ledger.commands import Take
from signal_ledger.decisions import TakeRefusal, TakeReply
from signal_ledger.delivery import Sender
from signal_ledger.engines import Engine
from signal_ledger.execution import Execution
from signal_ledger.ledger import Ledger
from signal_ledger.names import Execution as Token
from signal_ledger.names import JobId
from signal_ledger.ports import StoreUnavailableError
from signal_ledger_adapters.oban.room import Room, Seat
from signal_ledger_adapters.oban.store import DistributedStore, Statements
from signal_ledger_adapters.oban_api import (
    Producer,
    Query,
    attach_execution,
    limit_of,
    query_of_producer,
    rescue_after_of,
    token_of,
)

logger = logging.getLogger(__name__)

LIVE_SHARE = 0.5
"""Which share of a queue's slots may be live waits, unless the engine says otherwise."""

PATIENCE_S = 1.0
"""How long a job that started before the ledger was attached waits for that."""

# Oban would rescue a job that executes for so long; it is snoozed this much earlier.
_MARGIN_SHARE = 0.1
_MARGIN_MAX_S = 5.0


class Attached:
    """A ledger under an Oban.

    Args:
        engine: The engine.
        store: Its store.
        statements: What runs on Oban's connections.
        live_share: Which share of a queue's slots may be live waits.
        rescue_after_s: How long a job may execute before Oban rescues it, in seconds; None if that is not known.
    """

    def __init__(
        self,
        engine: Engine,
        store: DistributedStore,
        statements: Statements,
        live_share: float,
        rescue_after_s: float | None,
    ) -> None:
        self.engine = engine
        self.store = store
        self.statements = statements
        self.live_share = live_share
        self.rescue_after_s = rescue_after_s


class Attachment(Engine):
    """The ledger of an Oban, if there is one. Executions hold it as their engine.

    Attributes:
        changing: Whoever attaches or detaches holds this.
        statements: Those of the ledger that is attached, or was last.
    """

    def __init__(self) -> None:
        self._rooms: WeakKeyDictionary[Producer, Room] = WeakKeyDictionary()
        self._attached: Attached | None = None
        self._is_attached = asyncio.Event()
        self._is_detaching = False
        self.changing = asyncio.Lock()
        self.statements: Statements | None = None

    @property
    def name(self) -> str:
        """The name of the Oban, for messages."""
        return "Oban" if self._attached is None else self._attached.engine.name

    @property
    def ledger(self) -> Ledger:
        """The log of the ledger that is attached."""
        return self._required.engine.ledger

    async def cancel_many_jobs(self, jobs: Iterable[Any]) -> int:
        """Cancel jobs; see ``oban.Oban``."""
        return await self._required.engine.cancel_many_jobs(jobs)

    @property
    def _required(self) -> Attached:
        if self._attached is None:
            raise RuntimeError(_missing(self.name))
        return self._attached

    @property
    def attached(self) -> Attached | None:
        """The ledger, if it is attached now."""
        return self._attached

    @property
    def live(self) -> list[tuple[JobId, Token]]:
        """The executions that wait live."""
        return [wait for room in self._rooms.values() for wait in room.live]

    def attach(self, attached: Attached) -> None:
        """Let waiting jobs go to a ledger from now on."""
        self._attached = attached
        # Kept when it is detached: executions that end after that are put to sleep as ever.
        self.statements = attached.statements
        self._is_attached.set()

    async def detach(self, grace_s: float) -> None:
        """Let live waits snooze, then let go of the ledger."""
        self._is_detaching = True
        rooms = list(self._rooms.values())
        for room in rooms:
            room.close()
        try:
            async with asyncio.timeout(grace_s):
                for room in rooms:
                    await room.emptied()
        except TimeoutError:
            logger.warning("live waits did not end within %g s", grace_s)
        finally:
            self._attached = None
            self._is_attached.clear()
            self._rooms.clear()
            self._is_detaching = False

    def admit(self, job: Job, producer: Producer, fetched_at: float) -> None:
        """Let a job that was fetched wait.

        Args:
            job: The job.
            producer: Who fetched it.
            fetched_at: When, in the event loop's time; before its attempted_at.
        """

        def begin(ends_by: float | None) -> Execution:
            ends = [end for end in (ends_by, self._rescued_by(producer, fetched_at)) if end is not None]
            token = token_of(job)
            return Execution(
                job_id=JobId(job.id or 0),
                token=token,
                engine=self,
                room=Seat(self.room_of(producer), job, token, self._take, lambda: self._places_max(producer)),
                ends_by=min(ends, default=None),
                worker=job.worker,
            )

        attach_execution(job, begin)

    def room_of(self, producer: Producer) -> Room:
        """Return a producer's room."""
        room = self._rooms.get(producer)
        if room is None:
            room = self._rooms[producer] = Room()
            if self._is_detaching:
                room.close()
        return room

    def give_hint(self, job_id: JobId) -> None:
        """Tell a job, if it waits live in this process, to look again."""
        for room in self._rooms.values():
            room.give_hint(job_id)

    async def signal(self, target: Any, payload: object, **options: Any) -> Any:  # noqa: ANN401 - as the engine's
        """Deliver a signal from inside of a job; see `signal_ledger.signal`."""
        try:
            attached = await self._wait_for_it()
        except StoreUnavailableError:
            raise RuntimeError(_missing(self.name)) from None
        return await attached.engine.signal(target, payload, **options)

    @property
    def _signals(self) -> Sender:
        raise RuntimeError(_missing(self.name))

    async def _take(self, take: Take) -> TakeReply | TakeRefusal:
        attached = self._attached or await self._wait_for_it()
        return await attached.store.take(take)

    async def _wait_for_it(self) -> Attached:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._is_attached.wait()
        except TimeoutError:
            raise StoreUnavailableError(_missing(self.name)) from None
        assert self._attached is not None  # noqa: S101 - the event says so
        return self._attached

    def _rescued_by(self, producer: Producer, fetched_at: float) -> float | None:
        attached = self._attached
        seconds = rescue_after_of(query_of_producer(producer)) if attached is None else attached.rescue_after_s
        return None if seconds is None else fetched_at + seconds - min(_MARGIN_MAX_S, _MARGIN_SHARE * seconds)

    def _places_max(self, producer: Producer) -> int:
        share = LIVE_SHARE if self._attached is None else self._attached.live_share
        return math.ceil(limit_of(producer) * share)


_attachments: WeakKeyDictionary[Query, Attachment] = WeakKeyDictionary()


def attachment_of(query: Query) -> Attachment:
    """Return what is known of the ledger under an Oban, whether there is one or not."""
    attachment = _attachments.get(query)
    if attachment is None:
        attachment = _attachments[query] = Attachment()
    return attachment


def _missing(name: str) -> str:
    return f"there is no ledger under {name!r}; use it inside `async with attach(oban)`"
