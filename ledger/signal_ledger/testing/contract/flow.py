"""Steps of workflows: promises F1 to F5."""

from collections.abc import Sequence

from signal_ledger.causes import Cause
from signal_ledger.decisions import Waiting
from signal_ledger.jobs import JobState
from signal_ledger.ledger import Ledger
from signal_ledger.names import JobId
from signal_ledger.plan import Plan
from signal_ledger.steps import Step, steps_to_retry
from signal_ledger.testing.bench import Bench, take
from signal_ledger.testing.contract.steps import asleep, executing, kinds, payload_of

_WORKFLOW = "w"


class FlowContract:
    """Promises F1 to F5."""

    async def test_f1_a_step_is_held_until_each_of_its_deps_has_been_completed(self, bench: Bench) -> None:
        first, second = await _step(bench, "first"), await _step(bench, "second")
        last = await _step(bench, "last", deps=["first", "second"])
        await _run(bench, second)
        assert await bench.fetch(last) is None
        assert await _states(bench) == {"first": "available", "second": "completed", "last": "suspended"}
        await _run(bench, first)
        await _run(bench, last)
        assert await _states(bench) == {"first": "completed", "second": "completed", "last": "completed"}

    async def test_f1_an_operator_may_retry_a_step_before_its_deps_have_ended(self, bench: Bench) -> None:
        first, last = await _step(bench, "first"), await _step(bench, "last", deps=["first"])
        await bench.retry(last)
        await _run(bench, last)
        await _run(bench, first)
        assert await _states(bench) == {"first": "completed", "last": "completed"}
        assert await kinds(bench, last) == ["planned", "closed"]

    async def test_f2_a_step_that_was_planned_for_later_becomes_scheduled(self, bench: Bench) -> None:
        first, last = await _step(bench, "first"), await _step(bench, "last", deps=["first"], scheduled_in=60)
        await _run(bench, first)
        assert (await _states(bench))["last"] == "scheduled"
        assert await bench.fetch(last) is None
        bench.clock.advance(60)
        await _run(bench, last)

    async def test_f2_whatever_ends_the_last_dep_releases_the_step(self, bench: Bench) -> None:
        ends = {
            "finish": Cause.CANCELLED,
            "cancel": Cause.CANCELLED,
            "delete": Cause.DELETED,
            "rescue": Cause.DISCARDED,
        }
        for path, cause in ends.items():
            first = await _step(bench, f"{path} first", max_attempts=1)
            last = await _step(bench, f"{path} last", deps=[f"{path} first"], ignore=[cause])
            await _end(bench, first, path)
            assert await kinds(bench, last) == ["planned", "skipped", "released"], path
            skipped = (await bench.store.history(last))[1]
            assert (skipped.dep, skipped.cause) == (f"{path} first", cause)
            await _run(bench, last)

    async def test_f2_snoozes_errors_and_rescues_that_retry_are_no_ends(self, bench: Bench) -> None:
        first, last = await _step(bench, "first"), await _step(bench, "last", deps=["first"])
        for state in (JobState.SCHEDULED, JobState.RETRYABLE):
            await bench.finish(first, await executing(bench, first), state)
        await executing(bench, first)
        await bench.rescue()
        assert await kinds(bench, last) == ["planned"]
        await _run(bench, first)
        assert await kinds(bench, last) == ["planned", "released"]

    async def test_f2_pruning_is_no_deletion(self, bench: Bench) -> None:
        first = await _step(bench, "first")
        await _run(bench, first)
        await bench.prune()
        assert await bench.job(first) is None
        assert await kinds(bench, first) == ["planned", "closed"]
        last = await _step(bench, "last", deps=["first"])
        await _run(bench, last)
        assert await _states(bench) == {"first": "completed", "last": "completed"}

    async def test_f2_a_dep_may_come_in_after_those_that_depend_on_it(self, bench: Bench) -> None:
        last = await _step(bench, "last", deps=["first"])
        assert await bench.fetch(last) is None
        await _run(bench, await _step(bench, "first"))
        await _run(bench, last)

    async def test_f2_a_dep_that_has_ended_before_holds_nobody(self, bench: Bench) -> None:
        await _run(bench, await _step(bench, "first"))
        await _run(bench, await _step(bench, "failed"), JobState.DISCARDED)
        completed = await _step(bench, "completed", deps=["first"])
        failed = await _step(bench, "too late", deps=["first", "failed"])
        assert await kinds(bench, completed) == ["planned", "released"]
        assert await kinds(bench, failed) == ["planned", "cascaded", "closed"]

    async def test_f3_a_dep_that_fails_cancels_what_depends_on_it(self, bench: Bench) -> None:
        ends = {
            "finish": Cause.CANCELLED,
            "cancel": Cause.CANCELLED,
            "delete": Cause.DELETED,
            "rescue": Cause.DISCARDED,
        }
        for path, cause in ends.items():
            first = await _step(bench, f"{path} first", max_attempts=1)
            last = await _step(
                bench,
                f"{path} last",
                deps=[f"{path} first"],
                ignore=[other for other in ends.values() if other != cause],
            )
            await _end(bench, first, path)
            _, cascaded, closed = await bench.store.history(last)
            assert (cascaded.kind, cascaded.dep, cascaded.cause) == ("cascaded", f"{path} first", cause)
            assert (closed.kind, closed.cause) == ("closed", "cancelled")
            seen = await bench.job(last)
            assert seen is not None
            assert seen.state is JobState.CANCELLED

    async def test_f3_a_failure_goes_down_to_those_who_ignore_it(self, bench: Bench) -> None:
        first = await _step(bench, "first")
        jobs = [await _step(bench, f"step {n}", deps=[f"step {n - 1}" if n else "first"]) for n in range(4)]
        last = await _step(bench, "last", deps=["step 1", "step 3"], ignore=[Cause.CANCELLED])
        await bench.delete(first)
        assert {(await _states(bench))[f"step {n}"] for n in range(4)} == {"cancelled"}
        assert [recorded.dep for job_id in jobs for recorded in (await bench.store.history(job_id))[1:2]] == [
            "first",
            "step 0",
            "step 1",
            "step 2",
        ]
        assert await kinds(bench, last) == ["planned", "skipped", "skipped", "released"]

    async def test_f3_two_failures_at_once_cancel_a_step_once(self, bench: Bench) -> None:
        first = await _step(bench, "first")
        for name in ("one", "other"):
            await _step(bench, name, deps=["first"])
        last = await _step(bench, "last", deps=["one", "other"])
        await bench.cancel(first)
        assert await kinds(bench, last) == ["planned", "cascaded", "closed"]
        assert [(step.held, step.ended_as) for step in await _steps(bench)][3] == (0, Cause.CANCELLED)

    async def test_f3_a_step_that_runs_already_is_not_cancelled_by_its_deps(self, bench: Bench) -> None:
        first, last = await _step(bench, "first"), await _step(bench, "last", deps=["first"])
        await bench.retry(last)
        execution = await executing(bench, last)
        ignores = await _step(bench, "ignores", deps=["first"], ignore=[Cause.CANCELLED])
        await bench.retry(ignores)
        await bench.cancel(first)
        assert await bench.finish(last, execution, JobState.COMPLETED)
        assert await kinds(bench, last) == ["planned", "closed"]
        # It was not held any more, so nothing was skipped for it.
        assert await kinds(bench, ignores) == ["planned"]

    async def test_f3_steps_that_are_cancelled_deleted_or_pruned_before_their_deps_are_left_alone(
        self, bench: Bench
    ) -> None:
        first = await _step(bench, "first")
        lasts = [await _step(bench, f"last {n}", deps=["first"]) for n in range(3)]
        await bench.cancel(lasts[0])
        await bench.delete(lasts[1])
        await bench.cancel(lasts[2])
        await bench.delete(lasts[2])
        await _run(bench, first)
        assert [await kinds(bench, last) for last in lasts] == [["planned", "closed"]] * 3
        assert [step.held for step in await _steps(bench)] == [0, 0, 0, 0]

    async def test_f2_signals_to_a_held_step_are_kept(self, bench: Bench) -> None:
        first, last = await _step(bench, "first"), await _step(bench, "last", deps=["first"])
        receipt = await bench.signaller.send(last, "early")
        assert receipt.outcome == "buffered"
        assert (await _states(bench))["last"] == "suspended"
        await _run(bench, first)
        assert payload_of(await take(bench, last, await executing(bench, last))) == "early"

    async def test_f3_a_cascade_ends_the_inbox(self, bench: Bench) -> None:
        first, last = await _step(bench, "first"), await _step(bench, "last", deps=["first"])
        await bench.signaller.send(last, "never read")
        await bench.cancel(first)
        assert (await bench.store.state(last)).pending == {}
        assert (await bench.signaller.send(last, "too late")).outcome == "ignored"

    async def test_f4_a_step_is_found_by_its_name_also_after_its_job_was_pruned(self, bench: Bench) -> None:
        first = await _step(bench, "first")
        last = await _step(bench, "last", deps=["first"])
        await _run(bench, first)
        await bench.prune()
        assert {seen.name: (seen.step.job_id, seen.has_job) for seen in await bench.store.steps(_WORKFLOW)} == {
            "first": (first, False),
            "last": (last, True),
        }
        assert await bench.store.steps("another") == []

    async def test_f4_of_some_jobs_those_that_wait_are_found(self, bench: Bench) -> None:
        first, other = await _step(bench, "first"), await _step(bench, "other")
        _, _ = await asleep(bench), await _step(bench, "last", deps=["first"])
        for job_id in (other, first):
            await bench.sleep(job_id, await executing(bench, job_id))
            bench.clock.advance(1)
        waits = await bench.store.waits_of([seen.step.job_id for seen in await bench.store.steps(_WORKFLOW)])
        assert [(wait.job_id, wait.status) for wait in waits] == [(other, "snoozed"), (first, "snoozed")]
        assert await bench.store.waits_of([JobId(404)]) == []

    async def test_f5_each_run_of_a_step_begins_with_its_plan(self, bench: Bench) -> None:
        first = await _step(bench, "first")
        last = await _step(bench, "last", deps=["first"], ignore=[Cause.DELETED])
        await _run(bench, first)
        await _run(bench, last, JobState.DISCARDED)
        await bench.retry(last)
        assert [(recorded.kind, recorded.run) for recorded in await bench.store.history(last)] == [
            ("planned", 1), ("released", 1), ("closed", 1), ("planned", 2),
        ]  # fmt: skip
        plans = [recorded.plan for recorded in await bench.store.history(last) if recorded.plan is not None]
        assert [plan.deps for plan in plans] == [("first",), ()]
        assert {(plan.workflow_id, plan.name, plan.ignore) for plan in plans} == {("w", "last", (Cause.DELETED,))}

    async def test_f5_a_dep_that_is_retried_by_hand_changes_nothing_for_its_dependants(self, bench: Bench) -> None:
        first, last = await _step(bench, "first"), await _step(bench, "last", deps=["first"])
        await bench.cancel(first)
        await bench.retry(first)
        await _run(bench, first)
        assert await kinds(bench, last) == ["planned", "cascaded", "closed"]
        assert await _states(bench) == {"first": "completed", "last": "cancelled"}

    async def test_f5_retrying_a_workflow_takes_up_what_failed_and_holds_it_again(self, bench: Bench) -> None:
        done = await _step(bench, "done")
        first = await _step(bench, "first")
        last = await _step(bench, "last", deps=["done", "first"])
        await _run(bench, done)
        await _run(bench, first, JobState.DISCARDED)
        assert await _retry(bench) == 2
        assert await _states(bench) == {"done": "completed", "first": "available", "last": "suspended"}
        assert (await bench.store.history(last))[-1].plan == _plan("last", ["first"])
        await _run(bench, first)
        await _run(bench, last)
        assert await kinds(bench, last) == [
            "planned", "cascaded", "closed", "planned", "released", "closed",
        ]  # fmt: skip

    async def test_f5_what_cannot_be_taken_up_is_left_as_it_is(self, bench: Bench) -> None:
        first = await _step(bench, "first")
        last = await _step(bench, "last", deps=["first"])
        await bench.delete(first)
        assert await _retry(bench) == 0
        # Another process may have chosen before: the store looks again.
        assert await bench.store.retry_steps(_WORKFLOW, ["first", "nobody"]) == 0
        assert await kinds(bench, last) == ["planned", "cascaded", "closed"]

    async def test_f5_the_steps_are_what_the_log_tells(self, bench: Bench) -> None:
        first, other = await _step(bench, "first", max_attempts=1), await _step(bench, "other")
        await _step(bench, "ignores", deps=["first"], ignore=[Cause.DISCARDED])
        await _step(bench, "last", deps=["first", "other"])
        await _step(bench, "late", deps=["to come"])
        await _end(bench, first, "rescue")
        bench.clock.advance(1)
        await _retry(bench)
        await bench.delete(other)
        await _step(bench, "after all", deps=["other", "first"], ignore=[Cause.DELETED])
        await _check_story(bench)

    async def test_f5_an_edge_ends_once_and_is_opened_again_by_a_retry_of_the_workflow_alone(
        self, bench: Bench
    ) -> None:
        # Its plan is in the log before that of the dep that is taken up with it.
        last = await _step(bench, "last", deps=["first"])
        first = await _step(bench, "first")
        await bench.cancel(first)
        await _retry(bench)
        await _check_story(bench)
        await bench.cancel(first)
        await bench.retry(first)
        await _run(bench, first)
        [dep, dependant] = sorted(await bench.store.steps(_WORKFLOW), key=lambda seen: seen.name)
        assert (dep.state, dependant.state, dependant.failed_deps) == ("completed", "cancelled", ("first",))
        await _check_story(bench)
        assert await kinds(bench, last) == ["planned", "cascaded", "closed"] * 2

    async def test_f2_a_step_waits_and_sleeps_as_any_job_does(self, bench: Bench) -> None:
        first, last = await _step(bench, "first"), await _step(bench, "last", deps=["first"])
        execution = await executing(bench, first)
        assert isinstance(await take(bench, first, execution), Waiting)
        await bench.sleep(first, execution)
        assert await kinds(bench, last) == ["planned"]
        assert (await bench.signaller.send(first, "go")).outcome == "woken"
        await _run(bench, first)
        assert await kinds(bench, last) == ["planned", "released"]


def _plan(name: str, deps: Sequence[str] = (), ignore: Sequence[Cause] = ()) -> Plan:
    return Plan(workflow_id=_WORKFLOW, workflow_name=None, name=name, deps=tuple(deps), ignore=tuple(ignore))


async def _step(
    bench: Bench,
    name: str,
    *,
    deps: Sequence[str] = (),
    ignore: Sequence[Cause] = (),
    scheduled_in: float | None = None,
    max_attempts: int = 20,
) -> JobId:
    return await bench.insert(plan=_plan(name, deps, ignore), scheduled_in=scheduled_in, max_attempts=max_attempts)


async def _run(bench: Bench, job_id: JobId, state: JobState = JobState.COMPLETED) -> None:
    assert await bench.finish(job_id, await executing(bench, job_id), state)


async def _end(bench: Bench, job_id: JobId, path: str) -> None:
    match path:
        case "finish":
            await _run(bench, job_id, JobState.CANCELLED)
        case "cancel":
            await bench.cancel(job_id)
        case "delete":
            await bench.delete(job_id)
        case _:
            await executing(bench, job_id)
            await bench.rescue()


async def _check_story(bench: Bench) -> None:
    """The steps are what they are rebuilt to, and what an auditor finds in the log."""
    before = await bench.store.steps(_WORKFLOW)
    await bench.store.rebuild()
    assert await bench.store.steps(_WORKFLOW) == before
    report = await Ledger(bench.store, None).verify()
    assert report.ok, str(report)


async def _retry(bench: Bench) -> int:
    names = steps_to_retry(await bench.store.steps(_WORKFLOW))
    return await bench.store.retry_steps(_WORKFLOW, names) if names else 0


async def _steps(bench: Bench) -> list[Step]:
    return [seen.step for seen in await bench.store.steps(_WORKFLOW)]


async def _states(bench: Bench) -> dict[str, str]:
    return {seen.name: seen.state for seen in await bench.store.steps(_WORKFLOW)}
