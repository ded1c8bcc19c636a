"""How steps of workflows begin and end in the embedded engine: docs/adr/0016-workflows.md, as code.

On PostgreSQL the triggers of ``12_flow.sql`` do the same.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from signal_ledger.causes import Cause
from signal_ledger.embedded.job_row import JobRow, NewJob
from signal_ledger.embedded.unit import EmbeddedUnit
from signal_ledger.events import Cascaded, Event, Planned, Released, Skipped
from signal_ledger.jobs import TERMINAL, JobState
from signal_ledger.names import JobId
from signal_ledger.operations import append, close
from signal_ledger.plan import Plan
from signal_ledger.steps import Step
from signal_ledger.unit import AnyJobs
from signal_ledger.upcast import NewerEventError


def require_new_steps(unit: EmbeddedUnit, jobs: Iterable[NewJob]) -> None:
    """Check the plans of jobs that are to be inserted.

    Raises:
        ValueError: One is incomplete, its workflow has such a step already, or its state is none that it can begin in.
    """
    steps = [(plan, job.state) for job in jobs if (plan := Plan.of_meta(job.meta)) is not None]
    names: dict[str, list[str]] = {}
    for plan, _ in steps:
        names.setdefault(plan.workflow_id, []).append(plan.name)
    for workflow_id, new in names.items():
        known = [step.plan.name for step in unit.steps_named(workflow_id, new)]
        twice = known or [name for name, count in Counter(new).items() if count > 1]
        if twice:
            raise ValueError(
                f"workflow {workflow_id}: expected new names for its steps, {twice[0]!r} is in it already; "
                "a workflow is enqueued once"
            )
    for plan, state in steps:
        if state in TERMINAL or (state is JobState.SUSPENDED) != bool(plan.deps):
            raise ValueError(
                f"workflow {plan.workflow_id}, step {plan.name!r}: expected state suspended if it has deps, and one of "
                f"a job that may run if it has none; got {state}, and deps {list(plan.deps)}"
            )


def begin_step(unit: EmbeddedUnit, row: JobRow) -> None:
    """Append the plan of a job that was inserted, if it is a step, and keep it."""
    plan = Plan.of_meta(row.meta)
    if plan is None:
        return
    append(unit, row.id, _planned(plan))
    step = Step(plan=replace(plan, deps=()), job_id=row.id, held=len(plan.deps), planned_at=unit.now)
    unit.add_step(step, plan.deps)
    # One that came in earlier may have ended already.
    for dep in unit.steps_named(plan.workflow_id, plan.deps):
        if dep.ended_as is not None:
            end_step(unit, dep.job_id, dep.ended_as, again=True)


def end_run(unit: EmbeddedUnit, job_id: JobId, cause: Cause) -> None:
    """Close a job's run in the log and, if it is a step, let others go on without it.

    Belongs before the change of the job that ends it, as `close` does.
    """
    close(unit, job_id, cause)
    end_step(unit, job_id, cause)


def end_step(unit: EmbeddedUnit, job_id: JobId, cause: Cause, *, again: bool = False) -> None:
    """Note how a step ended, and release, or cancel, those that were held for it: level by level (F2, F3).

    Args:
        unit: The transaction.
        job_id: The job, which need not be a step.
        cause: How it ended.
        again: Whether it is known that it ended, and only new dependants are to hear of it.
    """
    step = unit.step_of(job_id)
    if step is None or (step.ended_as is not None and not again):
        return
    _work_off(unit, [replace(step, ended_as=cause, ended_at=step.ended_at if again else unit.now)])


def end_steps(unit: EmbeddedUnit, ended: Mapping[JobId, Cause]) -> None:
    """As `end_step`, for jobs that ended together."""
    steps = [
        replace(step, ended_as=ended[job_id], ended_at=unit.now)
        for job_id in ended
        if (step := unit.step_of(job_id)) is not None and step.ended_as is None
    ]
    _work_off(unit, sorted(steps, key=lambda step: step.job_id))


def _work_off(unit: EmbeddedUnit, level: list[Step]) -> None:
    for ended in level:
        unit.save_step(ended)
    while level:
        level = [failed for ended in level for failed in _tell_dependants(unit, ended)]


def revive_step(unit: EmbeddedUnit, job_id: JobId) -> None:
    """Begin a new run of a step that had ended. Its dependants have gone on without it."""
    step = unit.step_of(job_id)
    if step is not None:
        deps = _open_deps(unit, step.plan.workflow_id, [step.plan.name])
        _tell(unit, job_id, _planned(replace(step.plan, deps=deps.get(step.plan.name, ()))))
        unit.save_step(replace(step, ended_as=None, ended_at=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySteps(AnyJobs):
    """Take up steps of a workflow again that have failed; see `signal_ledger.steps.steps_to_retry`.

    Args:
        workflow_id: The workflow.
        names: The steps. Those that have not failed, or whose jobs are gone, are left as they are.
    """

    workflow_id: str
    names: tuple[str, ...]

    def run(self, unit: EmbeddedUnit) -> int:
        """Return how many."""
        failed = [
            (step, row)
            for step in unit.steps_named(self.workflow_id, self.names)
            if step.ended_as in (Cause.CANCELLED, Cause.DISCARDED)
            and (row := unit.job(step.job_id)) is not None
            and row.is_terminal
        ]
        names = [step.plan.name for step, _ in failed]
        unit.reopen_edges(self.workflow_id, names)
        open_deps = _open_deps(unit, self.workflow_id, names)
        for step, row in failed:
            deps = open_deps.get(step.plan.name, ())
            append(unit, row.id, _planned(replace(step.plan, deps=deps)))
            unit.save_step(replace(step, held=len(deps), ended_as=None, ended_at=None))
            retried = row.retried(unit.now)
            unit.save(replace(retried, state=JobState.SUSPENDED) if deps else retried)
        return len(failed)


def _tell_dependants(unit: EmbeddedUnit, ended: Step) -> list[Step]:
    """Return those that have ended in turn."""
    cause = ended.ended_as
    assert cause is not None  # noqa: S101 - it has just ended
    plan = ended.plan
    names = unit.end_edges(plan.workflow_id, plan.name, cause)
    dependants = sorted(unit.steps_named(plan.workflow_id, names), key=lambda step: step.job_id)
    unit.preload([step.job_id for step in dependants])
    suspended = {step.job_id for step in dependants if _is_suspended(unit, step)}
    # Only of those that change, since a row holds the names of all deps, which may be thousands.
    changed = [step.job_id for step in dependants if step.held == 1 or not step.plan.tolerates(cause)]
    unit.preload([job_id for job_id in changed if job_id in suspended], rows=True)
    failed = []
    for dependant in dependants:
        lowered = replace(dependant, held=dependant.held - 1)
        job_id = dependant.job_id
        tolerates = dependant.plan.tolerates(cause)
        if not tolerates and job_id in suspended:
            _tell(unit, job_id, lambda run: Cascaded(run=run, dep=plan.name, cause=cause))
            close(unit, job_id, Cause.CANCELLED)
            unit.save(_row(unit, job_id).cancelled(unit.now))
            lowered = replace(lowered, ended_as=Cause.CANCELLED, ended_at=unit.now)
            # At once: another dep of the same level may have to lower it, too.
            unit.save_step(lowered)
            failed.append(lowered)
            continue
        if tolerates and cause is not Cause.COMPLETED and job_id in suspended:
            _tell(unit, job_id, lambda run: Skipped(run=run, dep=plan.name, cause=cause))
        if lowered.held == 0 and job_id in suspended:
            _tell(unit, job_id, lambda run: Released(run=run, dep=plan.name))
            unit.save(_row(unit, job_id).released(unit.now))
        unit.save_step(lowered)
    return failed


def _tell(unit: EmbeddedUnit, job_id: JobId, event: Callable[[int], Event]) -> None:
    # A stream that a newer library has written to is that library's: the step goes on all the same.
    with suppress(NewerEventError):
        append(unit, job_id, event)


def _open_deps(unit: EmbeddedUnit, workflow_id: str, names: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Return the deps of steps that have not ended: those that their next runs are planned with."""
    return {
        name: tuple(sorted(dep for dep, ended_as in edges.items() if ended_as is None))
        for name, edges in unit.edges_to(workflow_id, names).items()
    }


def _is_suspended(unit: EmbeddedUnit, step: Step) -> bool:
    view = unit.view(step.job_id)
    return view is not None and view.state is JobState.SUSPENDED


def _row(unit: EmbeddedUnit, job_id: JobId) -> JobRow:
    row = unit.job(job_id)
    assert row is not None  # noqa: S101 - its view was there
    return row


def _planned(plan: Plan) -> Callable[[int], Event]:
    return lambda run: Planned(run=run, plan=plan)
