"""Between Oban's jobs and the embedded engine's rows."""

import json
from datetime import timedelta
from typing import Any, cast

from oban import Job
from oban.job import JobState as ObanState

from signal_ledger.embedded.job_row import Acknowledgement, JobRow, NewJob
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
    """Take what is acknowledged from Oban's action."""
    return Acknowledgement(
        job_id=job_id,
        execution=execution,
        state=JobState(action.state),
        attempt_change=action.attempt_change or 0,
        schedule_in=None if action.schedule_in is None else timedelta(seconds=action.schedule_in),
        error=action.error,
        meta=action.meta,
    )


def _json(value: object) -> Any:  # noqa: ANN401 - of the shape that went in
    """Pass a value through JSON, so that a job sees the same in its first execution as after a restart."""
    return json.loads(json.dumps(value, allow_nan=False))
