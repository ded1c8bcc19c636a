"""Operations of the store itself: folding streams anew, and asking whether a time has settled."""

from dataclasses import dataclass, replace
from datetime import datetime

from signal_ledger.events import Planned
from signal_ledger.evolve import fold
from signal_ledger.names import JobId
from signal_ledger.recorded import RecordedEvent
from signal_ledger.steps import Step
from signal_ledger.story import fold_workflow
from signal_ledger.unit import AnyJobs
from signal_ledger_adapters.sqlite.unit import SqliteUnit

STREAMS_AT_ONCE = 200
"""How many streams one transaction folds anew, so that signals and jobs can go on in between."""


BLOCKS_AT_ONCE = 50
"""How many blocks one transaction writes anew: of some 50,000 events."""


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
            stream = unit.stream(job_id)
            unit.append([], fold(job_id, stream))
            _restore_step(unit, stream)
        return job_ids


def _restore_step(unit: SqliteUnit, stream: list[RecordedEvent]) -> None:
    first = next((recorded for recorded in stream if isinstance(recorded.event, Planned)), None)
    if first is not None and isinstance(first.event, Planned):
        plan = first.event.plan
        step = Step(plan=replace(plan, deps=()), job_id=first.job_id, held=len(plan.deps), planned_at=first.recorded_at)
        unit.restore_step(step, plan.deps)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildWorkflow(AnyJobs):
    """Fold the next workflow anew. Its steps are there: `RebuildStreams` has seen to that.

    Args:
        after: Begin behind this workflow.
    """

    after: str

    def run(self, unit: SqliteUnit) -> str | None:
        """Return the workflow; None when all are done."""
        workflow_id = unit.workflow_after(self.after)
        if workflow_id is not None:
            unit.rewrite_workflow(workflow_id, fold_workflow(unit.workflow_story(workflow_id)))
        return workflow_id


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildBlocks(AnyJobs):
    """Write the next blocks anew.

    Args:
        first: Begin with this one.
    """

    first: int

    def run(self, unit: SqliteUnit) -> bool:
        """Return whether there are more."""
        return unit.rewrite_blocks(self.first, BLOCKS_AT_ONCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class DropOrphans(AnyJobs):
    """Delete the stored states that have no stream, and the steps and edges that the log does not tell of."""

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
