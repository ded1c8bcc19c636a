"""A job's row and how it changes: each transition is a method that returns the row after it.

The rules are those of Oban's own statements (`oban/queries/*.sql`, oban 0.7.0); where they are ours, it is said.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from signal_ledger.instants import to_milliseconds, to_text
from signal_ledger.jobs import TERMINAL, JobState, JobView
from signal_ledger.names import NO_EXECUTION, Execution, JobId
from signal_ledger.recorded_job import RecordedJob

# Oban schedules in 32-bit seconds, so no snooze is longer than 68 years; 50 stand for "indefinitely" on both engines.
INDEFINITELY = timedelta(days=50 * 365.25)

WAIT_UNTIL = "wait_until"
"""The key of a waiting job's meta that Oban's dashboard reads (promise W14)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be inserted. The fields are Oban's.

    Args:
        worker: The worker's path, such as ``app.workers.ApprovalWorker``.
        scheduled_at: When to run it; None is at once.
        inserted_at: When it was made; None is now.
    """

    worker: str
    queue: str
    state: JobState
    priority: int
    max_attempts: int
    args: Mapping[str, object]
    meta: Mapping[str, object]
    tags: tuple[str, ...]
    scheduled_at: datetime | None
    inserted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """How an execution ended, in the terms of Oban's ``AckAction``.

    Args:
        job_id: The job.
        execution: The execution that ended.
        state: The job's next state.
        attempt_change: What to add to ``attempt``; a snooze gives its attempt back with -1.
        schedule_in: How long until the job runs again; None keeps ``scheduled_at``.
        error: An entry for ``errors``.
        meta: Entries to merge into ``meta``.
    """

    job_id: JobId
    execution: Execution
    state: JobState
    attempt_change: int = 0
    schedule_in: timedelta | None = None
    error: Mapping[str, object] | None = None
    meta: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as the embedded engine stores it: Oban's columns and three of its own.

    Args:
        execution: The token of its last execution, counted from 1; 0 if it never ran.
        node: The engine that executes or executed it; None if none did.
        cancel_requested: Whether a cancel came while it was executing (promise W12).
    """

    id: JobId
    state: JobState
    queue: str
    worker: str
    attempt: int
    max_attempts: int
    priority: int
    args: Mapping[str, object]
    meta: Mapping[str, object]
    tags: tuple[str, ...]
    errors: tuple[Mapping[str, object], ...]
    attempted_by: tuple[str, ...]
    inserted_at: datetime
    scheduled_at: datetime
    attempted_at: datetime | None
    cancelled_at: datetime | None
    completed_at: datetime | None
    discarded_at: datetime | None
    execution: Execution
    node: int | None
    cancel_requested: bool

    @property
    def view(self) -> JobView:
        """The job as the ledger's decisions see it."""
        return JobView(
            state=self.state,
            execution=self.execution,
            attempt=self.attempt,
            cancel_requested=self.cancel_requested,
        )

    @property
    def is_terminal(self) -> bool:
        """Whether its life is over, unless it is retried."""
        return self.state in TERMINAL

    @property
    def ended_at(self) -> datetime | None:
        """When it ended; None unless its state is terminal."""
        match self.state:
            case JobState.COMPLETED:
                return self.completed_at
            case JobState.CANCELLED:
                return self.cancelled_at
            case JobState.DISCARDED:
                return self.discarded_at
            case _:
                return None

    @property
    def is_exhausted(self) -> bool:
        """Whether it has no attempt left."""
        return self.attempt >= self.max_attempts

    @property
    def recorded(self) -> RecordedJob:
        """The row as a history carries it: Oban's columns."""
        return RecordedJob(
            worker=self.worker,
            queue=self.queue,
            state=self.state,
            priority=self.priority,
            attempt=self.attempt,
            max_attempts=self.max_attempts,
            args=self.args,
            meta=self.meta,
            tags=self.tags,
            errors=self.errors,
            attempted_by=self.attempted_by,
            inserted_at=self.inserted_at,
            scheduled_at=self.scheduled_at,
            attempted_at=self.attempted_at,
            cancelled_at=self.cancelled_at,
            completed_at=self.completed_at,
            discarded_at=self.discarded_at,
        )

    def fetched(self, now: datetime, node: int, attempted_by: tuple[str, ...]) -> "JobRow":
        """A worker picks the job up (`fetch_jobs.sql`)."""
        return replace(
            self,
            state=JobState.EXECUTING,
            attempt=self.attempt + 1,
            attempted_at=now,
            attempted_by=attempted_by,
            execution=Execution(self.execution + 1),
            node=node,
        )

    def acknowledged(self, ack: Acknowledgement, now: datetime) -> "JobRow":
        """Its execution ended (`ack_job.sql`)."""
        return replace(
            self,
            state=ack.state,
            attempt=self.attempt + ack.attempt_change,
            scheduled_at=self.scheduled_at if ack.schedule_in is None else now + ack.schedule_in,
            errors=self.errors if ack.error is None else (*self.errors, ack.error),
            meta=self.meta if ack.meta is None else {**self.meta, **ack.meta},
            cancelled_at=now if ack.state is JobState.CANCELLED else self.cancelled_at,
            completed_at=now if ack.state is JobState.COMPLETED else self.completed_at,
            discarded_at=now if ack.state is JobState.DISCARDED else self.discarded_at,
            cancel_requested=self.cancel_requested and ack.state not in TERMINAL,
        )

    def asleep(self, until: datetime | None, now: datetime) -> "JobRow":
        """It sleeps on a wait until a signal or a deadline; None is indefinitely (ours)."""
        wait_until = "infinity" if until is None else to_milliseconds(until)
        # A wait times out once its deadline lies behind: the first microsecond for that is the next one.
        return replace(
            self,
            state=JobState.SCHEDULED,
            scheduled_at=now + INDEFINITELY if until is None else until + timedelta(microseconds=1),
            meta={**self.meta, WAIT_UNTIL: wait_until},
        )

    def available(self, now: datetime) -> "JobRow":
        """It may run now: a signal woke it, or its time has come (`stage_jobs.sql`)."""
        return replace(
            self, state=JobState.AVAILABLE, scheduled_at=min(self.scheduled_at, now), meta=_without_wait(self.meta)
        )

    def released(self, now: datetime) -> "JobRow":
        """It is a step that is held no longer (ours)."""
        state = JobState.SCHEDULED if self.scheduled_at > now else JobState.AVAILABLE
        return replace(self, state=state)

    def cancelled(self, now: datetime) -> "JobRow":
        """It was cancelled (`cancel_many_jobs.sql`); while executing, that is only asked for."""
        if self.state is JobState.EXECUTING:
            return replace(self, cancel_requested=True)
        return replace(
            self,
            state=JobState.CANCELLED,
            cancelled_at=now,
            meta={**_without_wait(self.meta), "cancel_attempted_at": to_text(now)},
            cancel_requested=False,
        )

    def retried(self, now: datetime) -> "JobRow":
        """It was retried by hand (`retry_many_jobs.sql`)."""
        return replace(
            self,
            state=JobState.AVAILABLE,
            max_attempts=max(self.max_attempts, self.attempt + 1),
            scheduled_at=now,
            completed_at=None,
            cancelled_at=None,
            discarded_at=None,
            meta=_without_wait(self.meta),
            cancel_requested=False,
        )

    def rescued(self, now: datetime) -> "JobRow":
        """The process that executed it is gone (`rescue_jobs.sql`; that a cancel is honoured here is ours)."""
        if self.is_exhausted:
            return replace(self, state=JobState.DISCARDED, discarded_at=now, cancel_requested=False)
        if self.cancel_requested:
            return replace(self, state=JobState.CANCELLED, cancelled_at=now, cancel_requested=False)
        rescues = self.meta.get("rescued", 0)
        count = rescues + 1 if isinstance(rescues, int) else 1
        return replace(self, state=JobState.AVAILABLE, meta={**self.meta, "rescued": count})


def _without_wait(meta: Mapping[str, object]) -> Mapping[str, object]:
    return {key: value for key, value in meta.items() if key != WAIT_UNTIL}


def inserted(job_id: JobId, job: NewJob, now: datetime) -> JobRow:
    """A job is enqueued (`insert_job.sql`): one with a time to run at is scheduled, even if that time is past."""
    is_scheduled = job.state is JobState.AVAILABLE and job.scheduled_at is not None
    return JobRow(
        id=job_id,
        state=JobState.SCHEDULED if is_scheduled else job.state,
        queue=job.queue,
        worker=job.worker,
        attempt=0,
        max_attempts=job.max_attempts,
        priority=job.priority,
        args=job.args,
        meta=job.meta,
        tags=job.tags,
        errors=(),
        attempted_by=(),
        inserted_at=job.inserted_at or now,
        scheduled_at=job.scheduled_at or now,
        attempted_at=None,
        cancelled_at=None,
        completed_at=None,
        discarded_at=None,
        execution=NO_EXECUTION,
        node=None,
        cancel_requested=False,
    )
