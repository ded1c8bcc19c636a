"""Operations of the store itself: folding streams anew, and asking whether a time has settled."""

from dataclasses import dataclass
from datetime import datetime

from signal_ledger.evolve import fold
from signal_ledger.names import JobId
from signal_ledger.unit import AnyJobs
from signal_ledger_adapters.sqlite.unit import SqliteUnit

STREAMS_AT_ONCE = 200
"""How many streams one transaction folds anew, so that signals and jobs can go on in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildStreams(AnyJobs):
    """Fold the next streams anew.

    Args:
        after: Begin behind this job.
    """

    after: JobId

    def run(self, unit: SqliteUnit) -> list[JobId]:
        """Return the jobs whose streams were folded; none when all are done."""
        job_ids = unit.streams_after(self.after, STREAMS_AT_ONCE)
        for job_id in job_ids:
            unit.append([], fold(job_id, unit.stream(job_id)))
        return job_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class DropOrphans(AnyJobs):
    """Delete the stored states that have no stream."""

    def run(self, unit: SqliteUnit) -> None:
        """Delete them."""
        unit.drop_orphans()


@dataclass(frozen=True, slots=True, kw_only=True)
class IsPast(AnyJobs):
    """Ask, with the write lock held, whether an instant is past: no event can be recorded at it any more (L5)."""

    instant: datetime

    def run(self, unit: SqliteUnit) -> bool:
        """Compare it to the clock."""
        return self.instant < unit.now
