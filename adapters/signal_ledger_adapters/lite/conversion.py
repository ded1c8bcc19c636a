"""Between Oban's jobs and the embedded engine's rows."""

import json
from datetime import timedelta
from typing import Any, cast

from oban import Job
from oban.job import JobState as ObanState

from signal_ledger.embedded.job_row import INDEFINITELY, Acknowledgement, JobRow, NewJob
from signal_ledger.jobs import JobState
from signal_ledger.names import Execution, JobId
from signal_ledger_adapters.oban_api import AckAction


def to_new_job(job: Job) -> NewJob:
    """Take what is inserted from a job.

    Raises:
        TypeError: ``args``, ``meta`` or ``tags`` hold what JSON cannot.
        ValueError: They hold inf or NaN, which JSON cannot either.
    """
    return NewJob(
        worker=job.worker,
        queue=job.queue,
        state=JobState(job.state),
        priority=job.priority,
        max_attempts=job.max_attempts,
        args=_json(job.args),
        meta=_json(job.meta),
        tags=tuple(_json(job.tags)),
        scheduled_at=job.scheduled_at,
        inserted_at=job.inserted_at,
    )


def update_job(job: Job, row: JobRow) -> Job:
    """Write the database's values back into a job that was inserted, as Oban does."""
    job.id = row.id
    job.inserted_at = row.inserted_at
    job.queue = row.queue
    job.scheduled_at = row.scheduled_at
    job.state = ObanState(row.state)
    return job


def to_job(row: JobRow) -> Job:
    """Make a job of a row."""
    return Job(
        row.worker,
        id=row.id,
        state=ObanState(row.state),
        queue=row.queue,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        priority=row.priority,
        args=dict(row.args),
        meta=dict(row.meta),
        # Oban's annotation says str; what it stores are dicts.
        errors=cast("list[str]", [dict(error) for error in row.errors]),
        tags=list(row.tags),
        attempted_by=list(row.attempted_by),
        inserted_at=row.inserted_at,
        attempted_at=row.attempted_at,
        cancelled_at=row.cancelled_at,
        completed_at=row.completed_at,
        discarded_at=row.discarded_at,
        scheduled_at=row.scheduled_at,
        _validate=False,
    )


def to_acknowledgement(action: AckAction, job_id: JobId, execution: Execution) -> Acknowledgement:
    """Take what is acknowledged from Oban's action.

    Raises:
        TypeError: A snooze is no number of seconds, or its meta holds what JSON cannot.
        ValueError: The snooze is longer than 50 years, or its meta holds inf or NaN.
    """
    return Acknowledgement(
        job_id=job_id,
        execution=execution,
        state=JobState(action.state),
        attempt_change=action.attempt_change or 0,
        schedule_in=_delay(action),
        error=action.error,
        meta=None if action.meta is None else _json(action.meta),
    )


def _delay(action: AckAction) -> timedelta | None:
    seconds: object = action.schedule_in
    if seconds is None and action.state not in ("scheduled", "retryable"):
        return None
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(f"expected a number of seconds to snooze or back off, got {type(seconds).__name__}")
    if not seconds <= INDEFINITELY.total_seconds():
        raise ValueError(f"expected at most 50 years to snooze or back off, got {seconds} s")
    return timedelta(seconds=seconds)


def _json(value: object) -> Any:  # noqa: ANN401 - of the shape that went in
    """Pass a value through JSON, so that a job sees the same in its first execution as after a restart."""
    return json.loads(json.dumps(value, allow_nan=False))
