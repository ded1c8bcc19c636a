"""How a workflow is doing: counted from its steps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from signal_ledger.causes import Cause
from signal_ledger.steps import SeenStep


class WorkflowState(StrEnum):
    """What became of a workflow."""

    EXECUTING = "executing"
    """A step has not ended."""
    COMPLETED = "completed"
    """All steps were completed."""
    CANCELLED = "cancelled"
    """All have ended, and one was cancelled or deleted."""
    DISCARDED = "discarded"
    """All have ended, and one was discarded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStatus:
    """How a workflow is doing.

    Args:
        id: The workflow.
        name: Its name, if it has one.
        state: What became of it.
        total: How many steps it has.
        counts: How many of them are in each state of a job, or ``deleted``; without those of which there are none.
        started_at: When the first step was enqueued.
        ended_at: When the last step ended; None while one has not.
        duration: From the start to the end, or until now.
        held: The steps that are held, each with the deps that it is held for.
    """

    id: str
    name: str | None
    state: WorkflowState
    total: int
    counts: Mapping[str, int]
    started_at: datetime
    ended_at: datetime | None
    duration: timedelta
    held: Mapping[str, tuple[str, ...]]


def status_of(seen: Sequence[SeenStep], now: datetime) -> WorkflowStatus:
    """Count the steps of a workflow.

    Args:
        seen: All of its steps, one at least.
        now: The present time.
    """
    steps = [one.step for one in seen]
    plan = steps[0].plan
    started_at = min(step.planned_at for step in steps)
    ends = [step.ended_at for step in steps if step.ended_at is not None]
    ended_at = max(ends) if len(ends) == len(steps) else None
    return WorkflowStatus(
        id=plan.workflow_id,
        name=plan.workflow_name,
        state=_state({step.ended_as for step in steps}),
        total=len(steps),
        counts=dict(Counter(one.state for one in seen)),
        started_at=started_at,
        ended_at=ended_at,
        duration=(now if ended_at is None else ended_at) - started_at,
        held={one.name: one.open_deps for one in seen if one.state == "suspended" and one.open_deps},
    )


def _state(ends: set[Cause | None]) -> WorkflowState:
    if None in ends:
        return WorkflowState.EXECUTING
    if Cause.DISCARDED in ends:
        return WorkflowState.DISCARDED
    if ends & {Cause.CANCELLED, Cause.DELETED}:
        return WorkflowState.CANCELLED
    return WorkflowState.COMPLETED
