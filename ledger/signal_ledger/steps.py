"""The steps of workflows, as stores keep them and as a reader sees them.

docs/adr/0016-workflows.md tells how they end, and what follows from it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter

from signal_ledger.causes import Cause
from signal_ledger.names import JobId
from signal_ledger.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step as a store keeps it.

    Args:
        plan: What it is to its workflow, but for its deps, of which there may be thousands: edges lead from them.
        job_id: Its job, which may be gone.
        held: How many of its deps have not ended.
        planned_at: When it was enqueued.
        ended_as: How it ended; None while its job is alive.
        ended_at: When it did.
    """

    plan: Plan
    job_id: JobId
    held: int
    planned_at: datetime
    ended_as: Cause | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenStep:
    """A step with what its job does now.

    Args:
        step: The step, with its deps, in the order of their names.
        state: The state of its job, or how the step ended if the job is gone: ``available``, ``scheduled``,
            ``suspended``, ``executing``, ``retryable``, ``completed``, ``cancelled``, ``discarded`` or ``deleted``.
        has_job: Whether the job is there.
        open_deps: The deps that have not ended, in the same order.
        failed_deps: The deps that have ended in a way that the step does not tolerate, in the same order.
    """

    step: Step
    state: str
    has_job: bool
    open_deps: tuple[str, ...]
    failed_deps: tuple[str, ...]

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.plan.name


def see(step: Step, job_state: str | None, edges: Mapping[str, Cause | None]) -> SeenStep:
    """Put together what is kept of a step.

    Args:
        step: The step.
        job_state: The state of its job; None if that is gone.
        edges: How each of its deps ended; None for those that have not.
    """
    plan = step.plan
    ended = sorted(edges.items(), key=itemgetter(0))
    gone = Cause.DELETED if step.ended_as is None else step.ended_as
    return SeenStep(
        step=replace(step, plan=replace(plan, deps=tuple(dep for dep, _ in ended))),
        state=gone.value if job_state is None else job_state,
        has_job=job_state is not None,
        open_deps=tuple(dep for dep, cause in ended if cause is None),
        failed_deps=tuple(dep for dep, cause in ended if cause is not None and not plan.tolerates(cause)),
    )


def steps_to_retry(seen: Iterable[SeenStep]) -> tuple[str, ...]:
    """Choose the steps that a retry of their workflow takes up again.

    They are those that were cancelled or discarded, whose jobs are there, and whose deps that failed are taken up
    again, too.

    Args:
        seen: All steps of the workflow.

    Returns:
        Their names, in the order of ``seen``.
    """
    steps = {one.name: one for one in seen}
    chosen = {name for name, one in steps.items() if _has_failed(one)}
    left_out = [name for name in chosen if not chosen.issuperset(steps[name].failed_deps)]
    dependants = _dependants(steps)
    while left_out:
        # Who depends on a step that is left out is left out as well; and so on.
        name = left_out.pop()
        if name in chosen:
            chosen.remove(name)
            left_out += dependants.get(name, [])
    return tuple(name for name in steps if name in chosen)


def _has_failed(one: SeenStep) -> bool:
    return one.has_job and one.step.ended_as in (Cause.CANCELLED, Cause.DISCARDED)


def _dependants(steps: Mapping[str, SeenStep]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, one in steps.items():
        for dep in one.failed_deps:
            found.setdefault(dep, []).append(name)
    return found
