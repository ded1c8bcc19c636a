"""The ports: what the core asks of a store and of an engine."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from signal_ledger.commands import Deliver, Take
from signal_ledger.decisions import DeliverReply, TakeRefusal, TakeReply
from signal_ledger.embedded.job_row import JobRow, NewJob
from signal_ledger.embedded.unit import EmbeddedUnit
from signal_ledger.events import Kind
from signal_ledger.names import JobId, public_channel
from signal_ledger.operations import DeliverCall
from signal_ledger.outbox import StoredSignal
from signal_ledger.recorded import RecordedEvent
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.steps import SeenStep, Step
from signal_ledger.stored import StoredEvent
from signal_ledger.unit import Operation
from signal_ledger.wait_state import OpenWait, Status, WaitState


class StoreUnavailableError(RuntimeError):
    """The store could not do its work right now; the same call may succeed later. Nothing says that it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events to read. None, for each field, means any.

    Args:
        after: A cursor; only events behind it.
        since: Recorded at or after this instant.
        until: Recorded before this instant.
        channel: As stored.
    """

    after: str | None = None
    job_id: JobId | None = None
    kinds: frozenset[Kind] | None = None
    since: datetime | None = None
    until: datetime | None = None
    source: str | None = None
    channel: str | None = None

    def matches(self, recorded: RecordedEvent) -> bool:
        """Say whether an event behind ``after`` is wanted."""
        event = recorded.event
        return (
            (self.job_id is None or recorded.job_id == self.job_id)
            and (self.kinds is None or recorded.kind in self.kinds)
            and (self.since is None or recorded.recorded_at >= self.since)
            and (self.until is None or recorded.recorded_at < self.until)
            and (self.source is None or recorded.source == self.source)
            and (self.channel is None or getattr(event, "channel", None) == self.channel)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJob:
    """A job that waits.

    Args:
        job_id: The job.
        run: Its run.
        status: ``live`` or ``snoozed``.
        channel: The channel it waits on; None is the default channel.
        ordinal: Which await on that channel within the run.
        since: When the wait began.
        deadline_at: When it ends without a signal; None if never, or if that is decided by the first snooze.
        cursor: Pass it as ``after=`` to get the page behind this row.
    """

    job_id: JobId
    run: int
    status: Status
    channel: str | None
    ordinal: int
    since: datetime
    deadline_at: datetime | None
    cursor: str


def to_waiting_job(state: WaitState, wait: OpenWait, cursor: str) -> WaitingJob:
    """Show a wait state as a row of `Ledger.waiting`."""
    return WaitingJob(
        job_id=state.job_id,
        run=state.run,
        status=state.status,
        channel=public_channel(wait.channel),
        ordinal=wait.ordinal,
        since=wait.since,
        deadline_at=wait.deadline_at,
        cursor=cursor,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableEvent:
    """A row of the log whose columns are none that a store writes.

    Args:
        job_id: Its stream.
        version: Its version.
        reason: What is wrong with it. Never a payload.
    """

    job_id: JobId
    version: int
    reason: str


class StoredStep(NamedTuple):
    """A step in a snapshot.

    Args:
        job_id: Its job.
        step: The step; None if it cannot be read.
        open_edges: How many open edges lead to it.
    """

    job_id: JobId
    step: Step | None
    open_edges: int


class Snapshot(Protocol):
    """The whole log and its projection at one moment."""

    def rows(self, job_ids: Sequence[JobId] | None = None) -> AsyncIterator[tuple[int, StoredEvent | UnreadableEvent]]:
        """Yield position and row of every event, ordered by job and version.

        Args:
            job_ids: Only of these jobs, some thousands at most.
        """
        ...

    def states(self) -> AsyncIterator[tuple[JobId, WaitState | None]]:
        """Yield the stored projections, ordered by job; None for one that cannot be read."""
        ...

    def steps(self) -> AsyncIterator[StoredStep]:
        """Yield the stored steps of workflows, ordered by job."""
        ...

    def wrong_blocks(self) -> AsyncIterator[str]:
        """Yield cursors of the last events of blocks that are not what the log tells, in its order.

        A block is what a store keeps of a part of the log to find events by it. A store may do without.
        """
        ...

    async def repairs(self) -> list[JobId]:
        """Return the jobs whose streams are known to lack an event."""
        ...

    async def newest_position(self) -> int:
        """Return the position of the newest event; 0 for an empty log."""
        ...


class DeliveryStore(Protocol):
    """A place that signals can be sent to."""

    async def deliver(self, call: DeliverCall, *, timeout_s: float) -> list[DeliverReply]:
        """Store the deliveries of a call, all or none; durable when it returns.

        Raises:
            KeyConflict: A key is taken by another signal; nothing was written.
            TimeoutError: Nobody knows what happened within ``timeout_s``.
            StoreUnavailableError: Try again with the same ids.
        """
        ...

    async def store_with(self, connection: object, deliveries: Sequence[Deliver]) -> None:
        """Store the deliveries of a call in a caller's own transaction; they are relayed after its commit (promise D8).

        They differ in their jobs and ids alone.

        Raises:
            TypeError: It is no connection that the store knows.
            ValueError: It is a connection to another database, or its commits would not be durable.
        """
        ...


class LedgerStore(DeliveryStore, Protocol):
    """A place where the log is kept."""

    async def take(self, take: Take) -> TakeReply | TakeRefusal:
        """Decide a wait for an execution.

        Raises:
            NewerEventError: A newer version of this library has written to the stream.
        """
        ...

    async def state(self, job_id: JobId) -> WaitState:
        """Return the stored projection of a job."""
        ...

    async def history(self, job_id: JobId, *, cursor: str | None = None) -> list[RecordedEvent]:
        """Return a stream in the order of its versions, up to and including ``cursor``."""
        ...

    async def job(self, job_id: JobId) -> RecordedJob | None:
        """Return a job's row; None if there is none, or if the reader has no right to see it."""
        ...

    async def is_settled(self, instant: datetime) -> bool:
        """Say whether no event can still be recorded at or before an instant (promise L5)."""
        ...

    async def waiting(
        self, *, channel: str | None, deadline_before: datetime | None, limit: int, after: str | None
    ) -> list[WaitingJob]:
        """Return a page of the jobs that wait, the longest-waiting first."""
        ...

    async def waits_of(self, job_ids: Sequence[JobId]) -> list[WaitingJob]:
        """Return which of these jobs wait, the longest-waiting first."""
        ...

    async def page(self, wanted: EventFilter, limit: int) -> list[RecordedEvent]:
        """Return the first events that match, in the order of the log."""
        ...

    async def outbox(self, *, limit: int, after: str | None) -> list[StoredSignal]:
        """Return a page of the signals that are not relayed, or were refused, in the order of their storing."""
        ...

    async def steps(self, workflow_id: str) -> list[SeenStep]:
        """Return the steps of a workflow, in the order of their jobs; none if there is no such workflow."""
        ...

    async def retry_steps(self, workflow_id: str, names: Sequence[str]) -> int:
        """Take up steps again that have failed; see `signal_ledger.steps.steps_to_retry`. Return how many."""
        ...

    async def end(self) -> str | None:
        """Return the cursor of the newest event that a follower may see; None for an empty log."""
        ...

    def mark(self) -> int:
        """Return a number that is another one after each change."""
        ...

    async def changed(self, mark: int) -> None:
        """Return when the log may have grown since a mark was taken, after a second at the latest."""
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Open a consistent view of everything."""
        ...

    async def rebuild(self, *, progress: Callable[[int], object] | None = None) -> int:
        """Fold every stream, and every workflow, anew and store the results, while the system runs.

        Return how many streams there are. ``progress`` is told now and then how many were folded so far.
        """
        ...

    async def close(self) -> None:
        """Finish what has been asked for and close the store."""
        ...


class EmbeddedStore(LedgerStore, Protocol):
    """A store that also keeps the jobs of the embedded engine, and runs operations in its own process."""

    async def transact[R](self, operation: Operation[EmbeddedUnit, R]) -> R:
        """Run an operation; it is durable when this returns. Waits as long as the store is busy."""
        ...

    async def read[R](self, operation: Operation[EmbeddedUnit, R]) -> R:
        """Run an operation that only reads, without taking a write lock."""
        ...

    async def insert_with(self, connection: object, jobs: Sequence[NewJob]) -> list[JobRow]:
        """Insert jobs in a caller's own transaction.

        Raises:
            TypeError: It is no connection that the store knows.
            ValueError: It is a connection to another database.
        """
        ...

    async def join(self, name: str) -> int:
        """Register an engine as alive and return its id, which never repeats."""
        ...

    def leave(self, node: int) -> None:
        """Say that an engine has stopped."""
        ...

    def is_gone(self, node: int) -> bool:
        """Say whether an engine has stopped or died."""
        ...


class LiveWait(Protocol):
    """A place in the waiting room: a job in its live window."""

    async def hint(self, timeout_s: float) -> None:
        """Return when there may be something to take, or when the time is up."""
        ...

    def give_hint(self) -> None:
        """Let `hint` return."""
        ...


class WaitingRoom(Protocol):
    """What an execution asks of its engine while it waits."""

    @property
    def is_closing(self) -> bool:
        """Whether live waits are to snooze at once, because the engine stops."""
        ...

    async def take(self, take: Take) -> TakeReply | TakeRefusal:
        """As `LedgerStore.take`."""
        ...

    def enter(self, job_id: JobId) -> LiveWait | None:
        """Take a place for a live wait; None if there is none left, or the engine stops."""
        ...

    def leave(self, job_id: JobId, live: LiveWait) -> None:
        """Give a place back."""
        ...
