"""The unit of work: what an operation may read and write while it holds the store's transaction.

`signal_ledger.operations` says what is done, a store says how rows are read and written. The in-memory store and the
SQLite store implement this; on PostgreSQL database functions take the place of both.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Protocol

from signal_ledger.commands import Command
from signal_ledger.facts import Facts
from signal_ledger.jobs import JobView
from signal_ledger.names import JobId, SignalId
from signal_ledger.stored import StoredEvent
from signal_ledger.wait_state import WaitState


class LedgerUnit(Protocol):
    """A transaction on the log, its projection and the states of jobs."""

    @property
    def now(self) -> datetime:
        """The store's clock, read once the transaction holds its lock."""
        ...

    def view(self, job_id: JobId) -> JobView | None:
        """Return the job as decisions see it; None if there is none."""
        ...

    def state(self, job_id: JobId) -> WaitState:
        """Return the stored projection; folded from the log if it is missing.

        Raises:
            NewerEventError: The stream holds an event that a newer version of this library wrote.
        """
        ...

    def facts(self, command: Command, state: WaitState) -> Facts:
        """Return what `signal_ledger.facts.look_up` would find."""
        ...

    def append(self, rows: Sequence[StoredEvent], state: WaitState) -> None:
        """Append to a stream and store the state that it folds to."""
        ...

    def wake(self, job_id: JobId) -> None:
        """Make a snoozed job available now and take ``wait_until`` out of its meta."""
        ...

    def note_trace(self, job_id: JobId, signal_id: SignalId, traceparent: str) -> None:
        """Keep the trace of who signalled beside the log, for a while."""
        ...

    def take_trace(self, job_id: JobId, signal_id: SignalId) -> str | None:
        """Return the trace of a delivery, if it is kept, and keep it no longer."""
        ...

    def note_repair(self, job_id: JobId, reason: str) -> None:
        """Write down that a job's stream lacks an event, for the sweeper (promise L3)."""
        ...


class Operation[U: LedgerUnit, R](Protocol):
    """Something done in one transaction, which it may share with others.

    It raises before it writes: what has been written when an operation fails is rolled back together with the
    operations that share its transaction, which are then run again on their own.
    """

    @property
    def job_ids(self) -> Sequence[JobId]:
        """The jobs it is about, so that a store can load those of a whole batch at once."""
        ...

    @property
    def size_bytes(self) -> int:
        """How much of the callers' data it will write; what the library adds to it need not be counted."""
        ...

    def run(self, unit: U) -> R:
        """Do it."""
        ...


class AnyJobs:
    """Part of an operation on jobs that it finds for itself, and that writes nothing large."""

    __slots__ = ()
    job_ids: ClassVar[tuple[JobId, ...]] = ()
    size_bytes: ClassVar[int] = 0
