"""Workflows in the embedded engine: given these steps, when that happens, then this (promises F1 to F5).

What every store must do is in `signal_ledger.testing.contract.flow`; here is what a bench cannot ask for.
"""

from dataclasses import replace

import pytest

from signal_ledger.causes import Cause
from signal_ledger.embedded.flow import RetrySteps
from signal_ledger.embedded.operations import (
    Acknowledge,
    CancelJobs,
    DeleteJobs,
    InsertJobs,
    Repair,
    RescueJobs,
    RetryJobs,
)
from signal_ledger.jobs import JobState
from signal_ledger.ledger import Ledger
from signal_ledger.memory import MemoryStore, MemoryUnit
from signal_ledger.steps import steps_to_retry
from signal_ledger.story import fold_workflow
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.upcast import NewerEventError
from tests.core.given import a_plan, at, closed, planned, recorded
from tests.core.test_embedded import ack, new_job


@pytest.fixture
async def bench():
    clock = ManualClock()
    store = MemoryStore(clock)
    yield EmbeddedBench(store, clock, store.begin)
    report = await Ledger(store, None).verify()
    assert report.ok, str(report)


def step_job(name, deps=(), ignore=()):
    plan = a_plan(name, deps, ignore=ignore)
    return new_job(meta=plan.to_meta(), state=JobState.SUSPENDED if deps else JobState.AVAILABLE)


async def given_steps(bench, graph, ignore=()):
    """Insert steps, all at once: {"charge": ["approval"]}. Return their job ids by their names."""
    rows = await bench.store.transact(
        InsertJobs(jobs=tuple(step_job(name, deps, ignore) for name, deps in graph.items()))
    )
    return {name: row.id for name, row in zip(graph, rows, strict=True)}


async def states(bench):
    return {seen.name: seen.state for seen in await bench.store.steps("w")}


async def kinds(bench, job_id):
    return [event.kind.value for event in await bench.store.history(job_id)]


async def run(bench, job_id, state=JobState.COMPLETED):
    assert await bench.finish(job_id, await bench.fetch(job_id), state)


async def test_f2_steps_may_be_enqueued_in_any_order_and_all_at_once(bench):
    jobs = await given_steps(bench, {"last": ["first", "other"], "first": [], "other": ["first"]})
    # One queue for all: whatever may run is fetched.
    ran = []
    while execution := await bench.fetch(jobs["last"]):
        [name] = [name for name, state in (await states(bench)).items() if state == "executing"]
        ran.append(name)
        await bench.finish(jobs[name], execution, JobState.COMPLETED)
    assert ran == ["first", "other", "last"]


async def test_f3_a_thousand_levels_are_cancelled_at_once(bench):
    jobs = await given_steps(bench, {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(1001)})
    await bench.cancel(jobs["s0"])
    assert set((await states(bench)).values()) == {"cancelled"}
    last = await bench.store.history(jobs["s1000"])
    assert [(event.kind, event.dep) for event in last[1:]] == [("cascaded", "s999"), ("closed", None)]


async def test_f2_a_thousand_deps_release_once_and_a_thousand_dependants_are_released(bench):
    many = [f"s{n}" for n in range(1000)]
    jobs = await given_steps(bench, {"first": [], **{name: ["first"] for name in many}, "last": many})
    await run(bench, jobs["first"])
    assert list((await states(bench)).values()).count("available") == 1000
    for name in many:
        await run(bench, jobs[name])
    assert await kinds(bench, jobs["last"]) == ["planned", "released"]


async def test_f3_of_many_that_are_cancelled_at_once_none_is_cancelled_by_another(bench):
    jobs = await given_steps(bench, {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]})
    cancelled = await bench.store.transact(CancelJobs(job_ids=tuple(jobs[name] for name in "abc")))
    assert cancelled.count == 3
    assert [await kinds(bench, jobs[name]) for name in "abc"] == [["planned", "closed"]] * 3
    assert await kinds(bench, jobs["d"]) == ["planned", "cascaded", "closed"]


async def test_f3_of_many_that_are_deleted_at_once_none_is_cancelled_by_another(bench):
    jobs = await given_steps(bench, {"a": [], "b": ["a"], "c": ["b"]})
    assert await bench.store.transact(DeleteJobs(job_ids=(jobs["a"], jobs["b"]))) == 2
    assert [await kinds(bench, jobs[name]) for name in "ab"] == [["planned", "closed"]] * 2
    assert (await bench.store.history(jobs["c"]))[1].cause == "deleted"


async def test_f3_a_cancel_of_a_running_step_cascades_only_when_it_has_ended(bench):
    jobs = await given_steps(bench, {"a": [], "b": ["a"]})
    execution = await bench.fetch(jobs["a"])
    await bench.cancel(jobs["a"])
    assert await kinds(bench, jobs["b"]) == ["planned"]
    await bench.finish(jobs["a"], execution, JobState.CANCELLED)
    assert await kinds(bench, jobs["b"]) == ["planned", "cascaded", "closed"]


async def test_f3_a_rescue_that_discards_several_tells_each_dependant_of_the_first(bench):
    jobs = await given_steps(bench, {"a": [], "b": [], "c": ["a", "b"]})
    for name in "ab":
        row = await bench.store.read(OneJob(jobs[name]))
        await bench.store.transact(Save(replace(row, state=JobState.EXECUTING, node=1, attempt=3)))
    assert await bench.store.transact(RescueJobs(node=1)) == 2
    assert [event.dep for event in await bench.store.history(jobs["c"])] == [None, "a", None]
    assert [seen.step.held for seen in await bench.store.steps("w")] == [0, 0, 0]


class OneJob:
    job_ids = ()
    size_bytes = 0

    def __init__(self, job_id):
        self.job_id = job_id

    def run(self, unit):
        return unit.job(self.job_id)


class Save(OneJob):
    def run(self, unit):
        unit.save(self.job_id)


@pytest.mark.parametrize(
    "graph",
    [
        [step_job("a"), step_job("a")],
        [step_job("b"), step_job("known")],
        [step_job("b"), new_job(meta={"workflow_id": 7})],
    ],
)
async def test_f4_a_name_that_is_taken_is_refused_and_nothing_is_written(bench, graph):
    await given_steps(bench, {"known": []})
    with pytest.raises(ValueError, match=r"expected new names for its steps, '(a|known)' is in it|meta: expected"):
        await bench.store.transact(InsertJobs(jobs=tuple(graph)))
    assert await states(bench) == {"known": "available"}


async def test_f4_the_same_name_may_be_in_two_workflows(bench):
    await given_steps(bench, {"approval": []})
    other = new_job(meta=a_plan("approval", workflow="another").to_meta())
    [row] = await bench.store.transact(InsertJobs(jobs=(other,)))
    assert [seen.step.job_id for seen in await bench.store.steps("another")] == [row.id]


async def test_f5_a_retry_by_hand_of_a_dependant_begins_a_run_of_its_own(bench):
    jobs = await given_steps(bench, {"a": [], "b": ["a"]})
    await bench.cancel(jobs["a"])
    await bench.store.transact(RetryJobs(job_ids=(jobs["b"],)))
    await run(bench, jobs["b"])
    assert [(event.kind, event.run) for event in (await bench.store.history(jobs["b"]))[3:]] == [
        ("planned", 2),
        ("closed", 2),
    ]
    assert await states(bench) == {"a": "cancelled", "b": "completed"}


async def test_f5_a_step_that_was_cancelled_while_it_was_held_is_held_again_for_the_same_deps(bench):
    jobs = await given_steps(bench, {"a": [], "b": ["a"]})
    await bench.cancel(jobs["b"])
    names = steps_to_retry(await bench.store.steps("w"))
    assert names == ("b",)
    assert await bench.store.retry_steps("w", names) == 1
    assert await states(bench) == {"a": "available", "b": "suspended"}
    assert (await bench.store.history(jobs["b"]))[-1].plan.deps == ("a",)
    await run(bench, jobs["a"])
    assert (await states(bench))["b"] == "available"


async def test_f5_a_step_that_was_retried_by_hand_is_planned_with_the_deps_that_are_open_still(bench):
    jobs = await given_steps(bench, {"a": [], "b": ["a"]})
    await bench.cancel(jobs["b"])
    await bench.retry(jobs["b"])
    [again] = [event for event in await bench.store.history(jobs["b"]) if event.run == 2]
    assert (again.kind, again.plan.deps) == ("planned", ("a",))
    before = await bench.store.steps("w")
    await bench.store.rebuild()
    assert await bench.store.steps("w") == before


async def test_f5_steps_that_have_been_taken_up_meanwhile_are_left_alone(bench):
    jobs = await given_steps(bench, {"a": []})
    await bench.cancel(jobs["a"])
    operation = RetrySteps(workflow_id="w", names=("a", "nobody"))
    assert [await bench.store.transact(operation) for _ in range(2)] == [1, 0]


async def test_f5_a_job_that_another_program_has_revived_is_not_taken_up_while_it_runs(bench):
    jobs = await given_steps(bench, {"a": []})
    await bench.cancel(jobs["a"])
    row = await bench.store.read(OneJob(jobs["a"]))
    await bench.store.transact(Save(row.retried(bench.clock())))
    assert await bench.store.retry_steps("w", ["a"]) == 0
    assert await kinds(bench, jobs["a"]) == ["planned", "closed"]


async def test_f2_the_end_of_a_run_that_was_noted_for_repair_is_told_with_the_repair(bench):
    jobs = await given_steps(bench, {"a": [], "b": ["a"]})
    execution = await bench.fetch(jobs["a"])
    acknowledgement = replace(ack(JobState.COMPLETED), job_id=jobs["a"], execution=execution)
    await bench.store.transact(Acknowledge(ack=acknowledgement, without_log=True))
    assert await kinds(bench, jobs["b"]) == ["planned"]
    assert await bench.store.transact(Repair()) == 1
    assert await kinds(bench, jobs["b"]) == ["planned", "released"]


async def test_l8_a_step_with_a_stream_of_a_newer_library_goes_on_without_an_event(bench, monkeypatch):
    jobs = await given_steps(bench, {"a": [], "b": ["a"], "c": ["a"]}, ignore=["cancelled"])
    state = MemoryUnit.state

    def newer(unit, job_id):
        if job_id == jobs["b"]:
            raise NewerEventError(job_id=job_id, version=1, kind="planned", schema_version=9)
        return state(unit, job_id)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryUnit, "state", newer)
        await bench.cancel(jobs["a"])
    assert await states(bench) == {"a": "cancelled", "b": "available", "c": "available"}
    assert await kinds(bench, jobs["b"]) == ["planned"]
    assert await kinds(bench, jobs["c"]) == ["planned", "skipped", "released"]


async def test_a_job_that_is_no_step_ends_and_is_retried_as_ever(bench):
    job_id = await bench.insert()
    await run(bench, job_id)
    await bench.retry(job_id)
    assert await kinds(bench, job_id) == []


async def test_f2_a_job_that_is_gone_without_a_word_holds_nobody_up(bench):
    """An operator deleted a held job behind the ledger's back: its row is left, and lowered."""
    jobs = await given_steps(bench, {"a": [], "b": ["a"]})
    await bench.store.transact(Remove(jobs["b"]))
    await run(bench, jobs["a"])
    assert await kinds(bench, jobs["b"]) == ["planned"]
    assert [seen.state for seen in await bench.store.steps("w")] == ["completed", "deleted"]


class Remove(OneJob):
    def run(self, unit):
        unit.remove(self.job_id)


def test_f5_streams_of_other_jobs_tell_nothing():
    story = fold_workflow(recorded([(0, closed())]))
    assert (story.steps, story.edges) == ((), {})


def test_f5_a_story_is_told_by_plans_and_ends():
    """One stream, for once: what a job was, how it ended, and that it was taken up again."""
    events = [(0, planned("b", ["a"])), (1, closed("cancelled")), (2, planned("b", ["a"], run=2))]
    story = fold_workflow(recorded(events))
    assert story.edges == {("a", "b"): None}
    [step] = story.steps
    assert (step.plan, step.held, step.planned_at, step.ended_as) == (a_plan("b"), 1, at(0), None)
    [ended] = fold_workflow(recorded(events[:2])).steps
    assert (ended.ended_as, ended.ended_at) == (Cause.CANCELLED, at(1))


async def test_f5_the_steps_are_rebuilt_from_nothing(bench):
    jobs = await given_steps(bench, {"a": [], "b": ["a"], "c": ["b"]})
    await run(bench, jobs["a"])
    before = await bench.store.steps("w")
    bench.store._tables.steps.clear()
    bench.store._tables.edges.clear()
    assert await bench.store.rebuild() == 3
    assert await bench.store.steps("w") == before
