"""A job's row as it was read: what a history carries beside the events, so that the job can be run again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from signal_ledger.jobs import JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedJob:
    """A job's row at the time when it was read. The fields are Oban's.

    Args:
        worker: The worker's path, such as ``app.workers.Approval``.
        queue: The queue.
        state: The state.
        priority: The priority, 0 to 9.
        attempt: How many attempts it has taken.
        max_attempts: How many it may take.
        args: The arguments, as JSON has them. Not shown by ``repr``.
        meta: The meta, likewise.
        tags: The tags.
        errors: What went wrong in attempts before: ``attempt``, ``at`` and ``error`` of each. Not shown by ``repr``.
        attempted_by: Who picked it up last.
        inserted_at: When it was made.
        scheduled_at: When it was to run next.
        attempted_at: When it was picked up last; None if never.
        cancelled_at: When it was cancelled, if it was.
        completed_at: When it was completed, if it was.
        discarded_at: When it was discarded, if it was.
    """

    worker: str
    queue: str
    state: JobState
    priority: int
    attempt: int
    max_attempts: int
    args: Mapping[str, object] = field(repr=False)
    meta: Mapping[str, object] = field(repr=False)
    tags: tuple[str, ...]
    errors: tuple[Mapping[str, object], ...] = field(repr=False)
    attempted_by: tuple[str, ...]
    inserted_at: datetime
    scheduled_at: datetime
    attempted_at: datetime | None
    cancelled_at: datetime | None
    completed_at: datetime | None
    discarded_at: datetime | None
