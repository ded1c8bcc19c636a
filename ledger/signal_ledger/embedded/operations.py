"""What the embedded engine does in a transaction. Each operation keeps the log and the job's row together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar, assert_never

from signal_ledger.causes import Cause
from signal_ledger.commands import Snooze
from signal_ledger.decisions import Asleep, CancelRequested, Runnable, SnoozeRefusal, SnoozeReply, Stale, Stored
from signal_ledger.embedded.flow import begin_step, end_run, end_steps, require_new_steps, revive_step
from signal_ledger.embedded.job_row import Acknowledgement, JobRow, NewJob
from signal_ledger.embedded.unit import EmbeddedUnit
from signal_ledger.errors import KeyConflict
from signal_ledger.events import DeliveryOutcome
from signal_ledger.instants import to_text
from signal_ledger.jobs import CANCELLED_WHILE_WAITING, TERMINAL, JobState
from signal_ledger.names import JobId
from signal_ledger.operations import DeliverCall, close, snooze
from signal_ledger.outbox import refusal_by_conflict, refusal_of
from signal_ledger.steps import SeenStep
from signal_ledger.unit import AnyJobs
from signal_ledger.upcast import NewerEventError

_CAUSES = {
    JobState.COMPLETED: Cause.COMPLETED,
    JobState.CANCELLED: Cause.CANCELLED,
    JobState.DISCARDED: Cause.DISCARDED,
}

STAGE_MAX = 1000
"""How many due jobs one transaction makes available; the next follows at once."""

RELAY_ROWS_MAX = 100
RELAY_BYTES_MAX = 4 * 1024 * 1024
"""How much of the outbox one transaction relays; the next follows at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertJobs(AnyJobs):
    """Insert jobs, all or none."""

    jobs: tuple[NewJob, ...]

    def run(self, unit: EmbeddedUnit) -> list[JobRow]:
        """Return the rows, in the order of the jobs."""
        require_new_steps(unit, self.jobs)
        rows = [unit.insert(job) for job in self.jobs]
        for row in rows:
            begin_step(unit, row)
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What `FetchJobs` found.

    Args:
        jobs: Jobs that execute now, in the order in which to start them.
        next_due_at: When the next scheduled job of the queues is due; None if there is none.
    """

    jobs: tuple[JobRow, ...]
    next_due_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchJobs(AnyJobs):
    """Make due jobs available and pick up as many as there are free slots.

    Args:
        slots: Free slots by queue; a queue without any is staged all the same.
        node: The engine.
        attempted_by: What Oban's column of that name says of the engine.
    """

    slots: Mapping[str, int]
    node: int
    attempted_by: tuple[str, ...]

    def run(self, unit: EmbeddedUnit) -> Fetched:
        """Stage, then fetch."""
        queues = list(self.slots)
        for row in unit.due(queues, STAGE_MAX):
            unit.save(row.available(unit.now))
        fetched = []
        for queue, slots in self.slots.items():
            for row in unit.available(queue, slots) if slots else []:
                executing = row.fetched(unit.now, self.node, self.attempted_by)
                unit.save(executing)
                fetched.append(executing)
        return Fetched(jobs=tuple(fetched), next_due_at=unit.next_due_at(queues))


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    """Record how an execution ended.

    Args:
        ack: How it ended.
        wait: The wait that the job is to sleep on, if it ended for that.
        without_log: Leave the log alone: a fault in it must not keep a job executing for ever. A job that is to
            sleep runs again after a second, and the end of a run is noted for repair.
    """

    size_bytes: ClassVar[int] = 0
    ack: Acknowledgement
    wait: Snooze | None = None
    without_log: bool = False

    @property
    def job_ids(self) -> list[JobId]:
        """The job that ended."""
        return [] if self.without_log else [self.ack.job_id]

    def run(self, unit: EmbeddedUnit) -> JobRow | None:
        """Return the row afterwards; None if a newer execution owns the job and nothing was written (W13)."""
        row = unit.job(self.ack.job_id)
        if row is None or row.state is not JobState.EXECUTING or row.execution != self.ack.execution:
            return None
        if self.without_log:
            after = self._without_log(unit, row)
        elif self.wait is None:
            after = self._ended(unit, row)
        else:
            after = self._asleep(unit, row, snooze(unit, self.wait))
        unit.save(after)
        return after

    def _ended(self, unit: EmbeddedUnit, row: JobRow) -> JobRow:
        if self.ack.state in TERMINAL:
            end_run(unit, row.id, _CAUSES[self.ack.state])
        return row.acknowledged(self.ack, unit.now)

    def _asleep(self, unit: EmbeddedUnit, row: JobRow, reply: SnoozeReply | SnoozeRefusal) -> JobRow:
        """The snooze has looked again: a signal may have come since the execution's last look (W5)."""
        match reply:
            case Asleep(until=until):
                return row.acknowledged(self.ack, unit.now).asleep(until, unit.now)
            case Runnable():
                return row.acknowledged(self.ack, unit.now).available(unit.now)
            case CancelRequested():
                end_run(unit, row.id, Cause.CANCELLED)
                error = {"attempt": row.attempt, "at": to_text(unit.now), "error": CANCELLED_WHILE_WAITING}
                ack = Acknowledgement(job_id=row.id, execution=row.execution, state=JobState.CANCELLED, error=error)
                return row.acknowledged(ack, unit.now)
            case Stale():
                raise AssertionError("the fence was checked on the same row")
            case unreachable:
                assert_never(unreachable)

    def _without_log(self, unit: EmbeddedUnit, row: JobRow) -> JobRow:
        if self.ack.state in TERMINAL:
            unit.note_repair(row.id, _CAUSES[self.ack.state].value)
        ack = self.ack if self.wait is None else replace(self.ack, schedule_in=timedelta(seconds=1))
        return row.acknowledged(ack, unit.now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """What `CancelJobs` did.

    Args:
        count: How many jobs were cancelled or asked to stop.
        executing: Those that were asked to stop.
    """

    count: int
    executing: tuple[JobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenJobs:
    """An operation on jobs that the caller names.

    Args:
        job_ids: The jobs.
    """

    size_bytes: ClassVar[int] = 0
    job_ids: tuple[JobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GetJobs(GivenJobs):
    """Read jobs."""

    def run(self, unit: EmbeddedUnit) -> list[JobRow]:
        """Return the rows of those that exist."""
        return _rows(unit, self.job_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelJobs(GivenJobs):
    """Cancel jobs that have not ended. An executing one is asked to stop, durably (W12)."""

    def run(self, unit: EmbeddedUnit) -> Cancelled:
        """Return how many, and which are executing."""
        rows = [row for row in _rows(unit, self.job_ids) if not row.is_terminal]
        ended = [row.id for row in rows if row.state is not JobState.EXECUTING]
        for job_id in ended:
            close(unit, job_id, Cause.CANCELLED)
        for row in rows:
            unit.save(row.cancelled(unit.now))
        # All are cancelled before those that depend on them hear of it: none of them was cancelled by another.
        end_steps(unit, dict.fromkeys(ended, Cause.CANCELLED))
        executing = [row.id for row in rows if row.state is JobState.EXECUTING]
        return Cancelled(count=len(rows), executing=tuple(executing))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryJobs(GivenJobs):
    """Make jobs run again that are neither available nor executing. A waiting one stays in its run (W10)."""

    def run(self, unit: EmbeddedUnit) -> int:
        """Return how many."""
        rows = [row for row in _rows(unit, self.job_ids) if row.state not in (JobState.AVAILABLE, JobState.EXECUTING)]
        for row in rows:
            if row.is_terminal:
                # A run that another program ended may not be closed yet, and must be before the next one begins.
                unit.clear_repair(row.id)
                end_run(unit, row.id, _CAUSES[row.state])
                revive_step(unit, row.id)
            unit.save(row.retried(unit.now))
        return len(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteJobs(GivenJobs):
    """Delete jobs that are not executing. Their history stays (L6)."""

    def run(self, unit: EmbeddedUnit) -> int:
        """Return how many."""
        rows = [row for row in _rows(unit, self.job_ids) if row.state is not JobState.EXECUTING]
        deleted_alive = [row.id for row in rows if not row.is_terminal]
        for job_id in deleted_alive:
            close(unit, job_id, Cause.DELETED)
        for row in rows:
            unit.remove(row.id)
        end_steps(unit, dict.fromkeys(deleted_alive, Cause.DELETED))
        return len(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class RescueJobs(AnyJobs):
    """Take back the jobs of an engine whose process is gone."""

    node: int

    def run(self, unit: EmbeddedUnit) -> int:
        """Return how many."""
        rows = unit.executing_on(self.node)
        ended: dict[JobId, Cause] = {}
        for row in rows:
            after = row.rescued(unit.now)
            if after.is_terminal:
                ended[row.id] = _CAUSES[after.state]
                close(unit, row.id, ended[row.id])
            unit.save(after)
        end_steps(unit, ended)
        return len(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeeSteps(AnyJobs):
    """Read the steps of a workflow."""

    workflow_id: str

    def run(self, unit: EmbeddedUnit) -> list[SeenStep]:
        """Return them, in the order of their jobs."""
        return unit.seen_steps(self.workflow_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcoming:
    """What is to be run.

    Args:
        queues: The queues that hold a job which may run, now or at its time.
        next_due_at: When the next scheduled job of these is due; None if there is none.
    """

    queues: tuple[str, ...]
    next_due_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeeUpcoming(AnyJobs):
    """Read what is to be run, in whatever queue."""

    def run(self, unit: EmbeddedUnit) -> Upcoming:
        """Return it."""
        queues = unit.queues()
        return Upcoming(queues=tuple(queues), next_due_at=unit.next_due_at(queues))


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneJobs(AnyJobs):
    """Delete jobs that ended before an instant. Pruning is no deletion to the log: their runs are closed already."""

    before: datetime
    limit: int

    def run(self, unit: EmbeddedUnit) -> int:
        """Return how many."""
        job_ids = unit.finished_before(self.before, self.limit)
        for job_id in job_ids:
            unit.remove(job_id)
        return len(job_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetTraces(AnyJobs):
    """Delete the traces of signals that were sent before an instant and that nobody has consumed since."""

    before: datetime
    limit: int

    def run(self, unit: EmbeddedUnit) -> int:
        """Return how many."""
        return unit.forget_traces(self.before, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddNode(AnyJobs):
    """Register an engine.

    Args:
        name: What `attempted_by` calls it.
    """

    name: str

    def run(self, unit: EmbeddedUnit) -> int:
        """Return its id."""
        return unit.add_node(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair(AnyJobs):
    """Append the ``closed`` events that other programs' changes to the jobs left out (L3)."""

    def run(self, unit: EmbeddedUnit) -> int:
        """Return how many jobs were struck off the list."""
        return sum([repair(unit, job_id, Cause(cause)) for job_id, cause in unit.repairs().items()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """What `RelayOutbox` did.

    Args:
        count: How many signals it delivered or refused.
        told: The jobs that were woken or reached live.
    """

    count: int
    told: tuple[JobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOutbox(AnyJobs):
    """Deliver what callers have stored in their own transactions, in the order in which they did (D8).

    A signal is delivered and struck from the outbox in the same transaction, so it is relayed once, however many do.
    """

    rows_max: int = RELAY_ROWS_MAX
    size_bytes_max: int = RELAY_BYTES_MAX

    def run(self, unit: EmbeddedUnit) -> Relayed:
        """Relay."""
        refusals: dict[int, str | None] = {}
        told = []
        for place, delivery in unit.stored(self.rows_max, self.size_bytes_max):
            try:
                [reply] = DeliverCall(deliveries=(delivery,)).again().run(unit)
            except KeyConflict as conflict:
                refusals[place] = refusal_by_conflict(conflict)
                continue
            except NewerEventError:
                # It stays, for a newer version of this library.
                continue
            refusals[place] = refusal_of(reply)
            if isinstance(reply, Stored) and reply.outcome is not DeliveryOutcome.BUFFERED:
                told.append(delivery.job_id)
        unit.settle(refusals)
        return Relayed(count=len(refusals), told=tuple(told))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What `Look` saw.

    Args:
        has_work: A job of the queues is available, or due.
        next_due_at: When the next scheduled job of the queues is due.
        cancels: Executing jobs that were asked to stop.
        signalled: Jobs in a live window that have a signal.
        nodes: The engines that jobs are said to execute on.
        has_repairs: Whether a stream lacks an event.
        has_stored: Whether the outbox holds a signal to relay.
    """

    has_work: bool
    next_due_at: datetime | None
    cancels: tuple[JobId, ...]
    signalled: tuple[JobId, ...]
    nodes: frozenset[int]
    has_repairs: bool
    has_stored: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Look(AnyJobs):
    """Look, without writing, whether another process left something to do.

    Args:
        queues: The queues that have free slots.
        executing: The jobs that execute here.
        live: Those of them in a live window.
    """

    queues: tuple[str, ...]
    executing: tuple[JobId, ...]
    live: tuple[JobId, ...]

    def run(self, unit: EmbeddedUnit) -> Seen:
        """Look."""
        next_due_at = unit.next_due_at(self.queues)
        is_due = next_due_at is not None and next_due_at <= unit.now
        return Seen(
            has_work=is_due or any(unit.available(queue, 1) for queue in self.queues),
            next_due_at=next_due_at,
            cancels=tuple(unit.cancels(self.executing)),
            signalled=tuple(unit.with_pending(self.live)),
            nodes=frozenset(unit.executing_nodes()),
            has_repairs=bool(unit.repairs()),
            has_stored=unit.has_stored(),
        )


def repair(unit: EmbeddedUnit, job_id: JobId, cause: Cause) -> bool:
    """Close a run that was noted for repair and strike it off the list.

    Return whether that was possible: a stream that a newer version of this library has written to is left to that.
    """
    try:
        unit.state(job_id)
    except NewerEventError:
        return False
    unit.clear_repair(job_id)
    end_run(unit, job_id, cause)
    return True


def _rows(unit: EmbeddedUnit, job_ids: Sequence[JobId]) -> list[JobRow]:
    rows = [unit.job(job_id) for job_id in dict.fromkeys(job_ids)]
    return [row for row in rows if row is not None]
