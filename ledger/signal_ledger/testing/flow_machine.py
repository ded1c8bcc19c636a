"""A state machine of workflows: random graphs, and all that can happen to their steps, on several stores at once.

Steps come in before and after their deps, end in every way, are retried one by one and together, sleep and are
signalled; processes crash, jobs are pruned, and what is stored of steps is folded anew. After each step every store
must hold the same events, jobs and steps, and the promises F1 and F2 must hold in each.
"""

from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from signal_ledger.causes import Cause
from signal_ledger.evolve import fold
from signal_ledger.jobs import TERMINAL, JobState
from signal_ledger.names import NO_EXECUTION, Execution, JobId
from signal_ledger.plan import FAILURES, Plan
from signal_ledger.recorded import RecordedEvent
from signal_ledger.steps import SeenStep, steps_to_retry
from signal_ledger.story import fold_workflow
from signal_ledger.testing.bench import take
from signal_ledger.testing.comparing import ComparingMachine, history_of
from signal_ledger.workflow_status import WorkflowState, status_of

REACHED = (
    "held",
    "released",
    "released for later",
    "skipped",
    "cascaded",
    "cascaded by a cascade",
    "dep enqueued later",
    "dep had ended before",
    "dep deleted",
    "retried while held",
    "retried by hand",
    "retried with its workflow",
    "held again",
    "left out of the retry",
    "signal kept while held",
    "signal woke a step",
    "discarded by a rescue",
    "pruned",
    "deleted while held",
    "crash",
    "rebuilt",
    "executing",
    "completed",
    "cancelled",
    "discarded",
)
"""What a run of the machine must have met to mean anything."""

_WORKFLOW = "w"
_STEPS_MAX = 8
_MOSTLY_COMPLETED = st.sampled_from(
    [*[JobState.COMPLETED] * 4, JobState.CANCELLED, JobState.DISCARDED, JobState.RETRYABLE, JobState.SCHEDULED]
)
_DEEDS = st.sampled_from(["cancel", "retry", "delete"])
_RUNNABLE = (JobState.AVAILABLE, JobState.SCHEDULED, JobState.RETRYABLE)


class FlowMachine(ComparingMachine):
    """Plays with the steps of one workflow. Subclass it with `open_benches`.

    The steps are chosen by their places among those that fit, and not from a bundle: most of a large graph is held.
    """

    to_reach: ClassVar[tuple[str, ...]] = REACHED

    def __init__(self) -> None:
        super().__init__()
        self._plans: dict[str, Plan] = {}
        self._job_ids: dict[str, JobId] = {}
        self._max_attempts: dict[JobId, int] = {}
        self._newest: dict[JobId, Execution] = {}
        # By operators, whatever the deps of their steps did.
        self._forced: set[JobId] = set()

    @initialize(
        shape=st.sampled_from(["nothing", "a chain", "a fan", "a join"]), ignore=st.sets(st.sampled_from(FAILURES))
    )
    def open(self, shape: str, ignore: set[Cause]) -> None:
        """Begin with empty stores, and mostly with a few steps."""
        self.benches = self._run(self.open_benches())
        if shape != "nothing":
            for number in range(4):
                deps = {"a chain": {number - 1}, "a fan": {0}, "a join": {0, 1, 2} if number == 3 else set()}
                self.insert(deps[shape] if number else set(), True, ignore, None, 1)

    # Steps

    @precondition(lambda self: len(self._plans) < _STEPS_MAX)
    @rule(
        deps=st.sets(st.integers(0, _STEPS_MAX - 1), max_size=3),
        is_ordered=st.sampled_from([True, True, False]),
        ignore=st.sets(st.sampled_from(FAILURES)),
        scheduled_in=st.sampled_from([None, 60.0]),
        max_attempts=st.sampled_from([1, 20]),
    )
    def insert(
        self,
        deps: set[int],
        is_ordered: bool,  # noqa: FBT001 - hypothesis passes it by name
        ignore: set[Cause],
        scheduled_in: float | None,
        max_attempts: int,
    ) -> None:
        """Enqueue a step, mostly after its deps."""
        number = len(self._plans)
        wanted = {dep % number for dep in deps if number} if is_ordered else deps - {number}
        plan = Plan(
            workflow_id=_WORKFLOW,
            workflow_name=None,
            name=f"s{number}",
            deps=tuple(f"s{dep}" for dep in sorted(wanted)),
            ignore=tuple(cause for cause in FAILURES if cause in ignore),
        )
        seen = self._steps()
        job_id = self._same(lambda bench: bench.insert(plan=plan, scheduled_in=scheduled_in, max_attempts=max_attempts))
        self._plans[plan.name], self._job_ids[plan.name], self._max_attempts[job_id] = plan, job_id, max_attempts
        if any(plan.name in other.deps for other in self._plans.values()):
            self.reached["dep enqueued later"] += 1
        if any(one.name in plan.deps and one.step.ended_as is not None for one in seen):
            self.reached["dep had ended before"] += 1

    @rule(place=st.integers(0, _STEPS_MAX), outcome=_MOSTLY_COMPLETED)
    def run(self, place: int, outcome: JobState) -> None:
        """Let a step run, and end."""
        job_id = self._choose(place, _RUNNABLE)
        if job_id is not None and (execution := self._fetch(job_id)):
            self._finish(job_id, execution, outcome)

    @rule(place=st.integers(0, _STEPS_MAX), signalled=st.booleans())
    def wait(self, place: int, signalled: bool) -> None:  # noqa: FBT001
        """Let a step run and fall asleep; and maybe wake it."""
        job_id = self._choose(place, _RUNNABLE)
        if job_id is None or not (execution := self._fetch(job_id)):
            return
        ordinal = self._next_ordinal(job_id)
        self._same(lambda bench: take(bench, job_id, execution, ordinal=ordinal))
        self._same(lambda bench: bench.sleep(job_id, execution, ordinal=ordinal))
        if signalled:
            receipt = self._same(lambda bench: bench.signaller.send(job_id, 1))
            self.reached["signal woke a step"] += receipt.outcome == "woken"

    @rule(place=st.integers(0, _STEPS_MAX))
    def execute(self, place: int) -> None:
        """Let a step run, and go on."""
        job_id = self._choose(place, _RUNNABLE)
        if job_id is not None:
            self._fetch(job_id)

    @rule(place=st.integers(0, _STEPS_MAX), outcome=_MOSTLY_COMPLETED, is_zombie=st.sampled_from([False, False, True]))
    def finish(self, place: int, outcome: JobState, is_zombie: bool) -> None:  # noqa: FBT001
        """Let a step that executes end; or an execution before that one try to."""
        job_id = self._choose(place, (JobState.EXECUTING,))
        if job_id is not None:
            newest = self._newest.get(job_id, NO_EXECUTION)
            execution = Execution(newest - 1) if is_zombie else newest
            self._finish(job_id, execution, outcome)

    @rule(outcome=st.sampled_from([JobState.COMPLETED, JobState.COMPLETED, JobState.CANCELLED]))
    def run_all(self, outcome: JobState) -> None:
        """Let all steps that may run end alike, one after the other."""
        self.time_passes(61)
        for job_id in self._job_ids.values():
            if self._state_of(job_id) in _RUNNABLE:
                self._fetch(job_id)
            if self._state_of(job_id) is JobState.EXECUTING:
                newest = self._newest[job_id]
                self._same(lambda bench, of=job_id, by=newest: bench.finish(of, by, outcome))  # type: ignore[misc]

    @rule(place=st.integers(0, _STEPS_MAX))
    def lose_worker(self, place: int) -> None:
        """Let a step run, and its worker die."""
        self.execute(place)
        self.disturb("rescue")

    @rule(place=st.integers(0, _STEPS_MAX), outcome=st.sampled_from([JobState.CANCELLED, JobState.DISCARDED]))
    def fail_and_retry(self, place: int, outcome: JobState) -> None:
        """Let a step fail, and then take up what has failed."""
        self.run(place, outcome)
        self.retry_workflow()

    @rule(place=st.integers(0, _STEPS_MAX), is_held=st.booleans())
    def send(self, place: int, is_held: bool) -> None:  # noqa: FBT001
        """Signal a step, or one that is held."""
        job_id = self._choose(place, (JobState.SUSPENDED,) if is_held else tuple(JobState))
        if job_id is not None:
            state = self._state_of(job_id)
            receipt = self._same(lambda bench: bench.signaller.send(job_id, 0))
            self.reached["signal kept while held"] += (state, receipt.outcome) == (JobState.SUSPENDED, "buffered")

    # Operators

    @rule(place=st.integers(0, _STEPS_MAX), deed=_DEEDS)
    def operate(self, place: int, deed: str) -> None:
        """Do to a step that has not ended what operators do."""
        self._operate(self._choose(place, tuple(state for state in JobState if state not in TERMINAL)), deed)

    @rule(place=st.integers(0, _STEPS_MAX), deed=_DEEDS)
    def operate_on_held(self, place: int, deed: str) -> None:
        """Do it to a step that is held."""
        self._operate(self._choose(place, (JobState.SUSPENDED,)), deed)

    @rule(place=st.integers(0, _STEPS_MAX), deed=_DEEDS)
    def operate_on_ended(self, place: int, deed: str) -> None:
        """Do it to a step that has ended."""
        self._operate(self._choose(place, tuple(TERMINAL)), deed)

    def _operate(self, job_id: JobId | None, deed: str) -> None:
        if job_id is None:
            return
        state = self._state_of(job_id)
        match deed:
            case "cancel":
                self._same(lambda bench: bench.cancel(job_id))
            case "retry":
                self._same(lambda bench: bench.retry(job_id))
                self._forced.add(job_id)
                self.reached["retried while held"] += state is JobState.SUSPENDED
                self.reached["retried by hand"] += state in TERMINAL
            case _:
                self._same(lambda bench: bench.delete(job_id))
                self.reached["deleted while held"] += state is JobState.SUSPENDED

    @rule()
    def retry_workflow(self) -> None:
        """Take up again what has failed."""
        seen = self._steps()
        names = steps_to_retry(seen)
        count = self._same(lambda bench: bench.store.retry_steps(_WORKFLOW, names)) if names else 0
        assert count == len(names)
        self._forced -= {self._job_ids[name] for name in names}
        self.reached["retried with its workflow"] += count
        self.reached["held again"] += sum(one.name in names and one.state == "suspended" for one in self._steps())
        failed = [one for one in seen if one.step.ended_as in (Cause.CANCELLED, Cause.DISCARDED)]
        self.reached["left out of the retry"] += len(failed) - len(names)

    # Time and faults

    @rule(seconds=st.sampled_from([0.000001, 1, 61]))
    def time_passes(self, seconds: float) -> None:
        """Move the clock."""
        for bench in self.benches:
            bench.clock.advance(seconds)

    @rule(fault=st.sampled_from(["crash", "rescue", "rebuild", "prune"]))
    def disturb(self, fault: str) -> None:
        """Let happen what happens to all jobs at once. Whatever was answered before a crash must still be there."""
        before = self._steps()
        match fault:
            case "crash":
                self._crash()
                assert self._steps() == before
            case "rebuild":
                self._same(lambda bench: bench.store.rebuild())
                self.reached["rebuilt"] += 1
                assert self._steps() == before
            case "rescue":
                self._same(lambda bench: bench.rescue())
                discarded = [one for one in self._steps() if one.step.ended_as is Cause.DISCARDED]
                known = [one for one in before if one.step.ended_as is Cause.DISCARDED]
                self.reached["discarded by a rescue"] += len(discarded) - len(known)
            case _:
                self._same(lambda bench: bench.prune())
                self.reached["pruned"] += sum(one.has_job for one in before) - sum(one.has_job for one in self._steps())

    # What must hold

    @invariant()
    def stores_hold_the_same(self) -> None:
        """The same events, jobs and steps; and the steps are what the log tells."""
        log: list[RecordedEvent] = []
        for job_id in self._job_ids.values():
            history = self._same(lambda bench, of=job_id: history_of(bench, of))  # type: ignore[misc]
            state = self._same(lambda bench, of=job_id: bench.store.state(of))  # type: ignore[misc]
            self._same(lambda bench, of=job_id: bench.job(of))  # type: ignore[misc]
            assert state == fold(job_id, history)
            log += self._run(self.benches[0].store.history(job_id))
            self._note(history)
        story = fold_workflow(
            sorted([one for one in log if one.kind in ("planned", "closed")], key=lambda one: one.position)
        )
        stored = {one.step.job_id: one for one in self._steps()}
        assert {step.job_id for step in story.steps} == set(stored)
        for step in story.steps:
            seen = stored[step.job_id]
            assert (step.held, step.ended_as, step.ended_at) == (seen.step.held, seen.step.ended_as, seen.step.ended_at)
            assert set(seen.step.plan.deps) == set(self._plans[seen.name].deps)

    @invariant()
    def nobody_runs_early_or_is_stranded(self) -> None:
        """Who may run has no dep that is open or has failed (F1, F3); who is held has one that has not ended (F2)."""
        seen = self._steps()
        alive = {one.name for one in seen if one.step.ended_as is None} | {f"s{n}" for n in range(_STEPS_MAX)} - {
            one.name for one in seen
        }
        for one in seen:
            assert one.step.held == len(one.open_deps), one
            assert alive.issuperset(one.open_deps), one
            if one.state == "suspended":
                assert one.open_deps, one
                assert not one.failed_deps, one
            elif one.step.ended_as is None and one.step.job_id not in self._forced:
                assert not one.open_deps, one
                assert not one.failed_deps, one

    @invariant()
    def statuses_add_up(self) -> None:
        """Each step is counted once, and has ended as its job has, if that is there."""
        seen = self._steps()
        if not seen:
            return
        terminal = {state.value for state in TERMINAL}
        for one in seen:
            if one.has_job:
                assert (one.step.ended_as or "alive") == (one.state if one.state in terminal else "alive"), one
            else:
                assert one.step.ended_as is not None, one
        status = status_of(seen, self.benches[0].clock())
        assert status.total == len(self._plans) == sum(status.counts.values())
        assert (status.state is WorkflowState.EXECUTING) == any(one.step.ended_as is None for one in seen)
        assert (status.state is WorkflowState.EXECUTING) == (status.ended_at is None)
        assert set(status.held) == {one.name for one in seen if one.state == "suspended"}
        self.reached[status.state] += 1

    # Inside

    def _steps(self) -> list[SeenStep]:
        return self._same(lambda bench: bench.store.steps(_WORKFLOW))

    def _state_of(self, job_id: JobId) -> JobState | None:
        seen = self._same(lambda bench: bench.job(job_id))
        return None if seen is None else seen.state

    def _choose(self, place: int, states: tuple[JobState, ...]) -> JobId | None:
        """Choose a step whose job is in one of these states."""
        fitting = [one.step.job_id for one in self._steps() if one.has_job and one.state in states]
        return fitting[place % len(fitting)] if fitting else None

    def _fetch(self, job_id: JobId) -> Execution | None:
        """Let a worker pick a job up, and check that it may: F1, as the log has it."""
        execution = self._same(lambda bench: bench.fetch(job_id))
        if execution:
            self._newest[job_id] = execution
            if job_id not in self._forced:
                self._check_order(job_id)
        return execution

    def _finish(self, job_id: JobId, execution: Execution, outcome: JobState) -> None:
        """Acknowledge as an engine does: who has used up the attempts is not retried."""
        job = self._same(lambda bench: bench.job(job_id))
        if outcome is JobState.RETRYABLE and job is not None and job.attempt >= self._max_attempts[job_id]:
            outcome = JobState.DISCARDED
        self._same(lambda bench: bench.finish(job_id, execution, outcome))

    def _check_order(self, job_id: JobId) -> None:
        [plan] = [plan for name, plan in self._plans.items() if self._job_ids[name] == job_id]
        for dep in plan.deps:
            history = self._same(lambda bench, of=dep: history_of(bench, self._job_ids[of]))  # type: ignore[misc]
            ends = [recorded.cause for recorded in history if recorded.cause is not None and recorded.kind == "closed"]
            assert any(plan.tolerates(cause) for cause in ends), f"{plan.name} ran before {dep}"

    def _next_ordinal(self, job_id: JobId) -> int:
        history = self._same(lambda bench: history_of(bench, job_id))
        run = fold(job_id, history).open_run
        return 1 + sum(recorded.kind == "consumed" and recorded.run == run for recorded in history)

    def _note(self, history: list[RecordedEvent]) -> None:
        """Count what has become of a step with its newest event."""
        kinds = [recorded.kind.value for recorded in history]
        job_id = history[0].job_id
        match kinds[-2:]:
            case [*_, "planned"] if self._state_of(job_id) is JobState.SUSPENDED:
                self.reached["held"] += 1
            case [*before, "released"]:
                self.reached["released"] += 1
                self.reached["skipped"] += before == ["skipped"]
                self.reached["released for later"] += self._state_of(job_id) is JobState.SCHEDULED
            case ["cascaded", "closed"]:
                cascaded = history[-2]
                self.reached["cascaded"] += 1
                self.reached["dep deleted"] += cascaded.cause is Cause.DELETED
                assert cascaded.dep is not None
                dep = self._same(lambda bench: history_of(bench, self._job_ids[cascaded.dep or ""]))
                self.reached["cascaded by a cascade"] += any(recorded.kind == "cascaded" for recorded in dep)
            case _:
                pass
