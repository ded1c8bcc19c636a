"""Workflows on Oban: steps that wait for one another, whoever ends them (F1 to F5)."""

import asyncio

import pytest
from oban import Cancel, Snooze, worker

from signal_ledger import await_signal, open_ledger
from signal_ledger.causes import Cause
from signal_ledger.plan import Plan
from signal_ledger.steps import steps_to_retry
from tests.callers import make_engine, sqlalchemy_connection, sqlalchemy_session, with_psycopg
from tests.eventually import eventually
from tests.postgres.engine.workers import APPROVED, SEEN, Approval
from tests.workflows import WorkflowContract

WORKFLOW = "orders/1"

CALLERS = {
    "AsyncSession": lambda url: sqlalchemy_session(make_engine(url, "psycopg")),
    "AsyncConnection": lambda url: sqlalchemy_connection(make_engine(url, "psycopg")),
    "psycopg": with_psycopg,
}


class TestWorkflowsOnOban(WorkflowContract):
    @pytest.fixture(params=["engine", "oban"])
    def enqueue_many(self, request, it):
        return getattr(it, request.param).enqueue_many

    @pytest.fixture(params=list(CALLERS))
    async def caller(self, request, ledger_url):
        async with CALLERS[request.param](ledger_url) as caller:
            yield caller


@worker()
class Step:
    """Does as its args say, and says when."""

    async def process(self, job):
        SEEN.append(job.meta["name"])
        match job.args.get("do"):
            case "cancel":
                return Cancel("as it was told")
            case "fail":
                raise RuntimeError("as it was told")
            case "snooze" if job.attempt == 1 and not job.meta.get("snoozed"):
                return Snooze(1)
            case _:
                return None


class Steps(list):
    """Jobs of a workflow, made by hand: what its meta must say is all there is to it."""

    def add(self, name, *deps, worker=Step, ignore=(), do=None, **options):
        plan = Plan(workflow_id=WORKFLOW, workflow_name=None, name=name, deps=deps, ignore=tuple(map(Cause, ignore)))
        state = {"state": "suspended"} if deps else {}
        self.append(worker.new({"do": do} if do else {}, meta=plan.to_meta(), **state, **options))
        return self


async def states(it):
    async with open_ledger(it.url) as ledger:
        return {seen.name: seen.state for seen in await ledger._store.steps(WORKFLOW)}


async def until_states(it, **wanted):
    async def there():
        return await states(it) == wanted

    await eventually(there, what=f"steps are {wanted}")


async def events(it, name):
    async with open_ledger(it.url) as ledger:
        [seen] = [seen for seen in await ledger._store.steps(WORKFLOW) if seen.name == name]
        return [(recorded.kind.value, recorded.dep) for recorded in await ledger.history(seen.step.job_id)]


async def test_f1_f2_a_workflow_runs_in_the_order_of_its_deps(it):
    """A chain, a diamond, and all of it enqueued by nothing but Oban."""
    steps = Steps().add("a").add("b", "a").add("left", "b").add("right", "b").add("end", "left", "right")
    await it.oban.enqueue_many(*steps)
    await until_states(it, **dict.fromkeys(("a", "b", "left", "right", "end"), "completed"))
    assert (SEEN[:2], sorted(SEEN[2:4]), SEEN[4:]) == (["a", "b"], ["left", "right"], ["end"])


@pytest.mark.timeout(300)
async def test_f2_many_steps_fan_out_and_in(start):
    it = await start({"default": 20})
    many = [f"step {number}" for number in range(60)]
    steps = Steps().add("first")
    for name in many:
        steps.add(name, "first")
    await it.oban.enqueue_many(*steps.add("last", *many))
    await until_states(it, **dict.fromkeys(("first", *many, "last"), "completed"))
    assert (SEEN[0], SEEN[-1], sorted(SEEN[1:-1])) == ("first", "last", sorted(many))


async def test_f2_nodes_that_end_deps_at_once_strand_nobody(start):
    nodes = [await start({"default": 10}) for _ in range(2)]
    many = [f"step {number}" for number in range(40)]
    steps = Steps()
    for name in many:
        steps.add(name)
    for number in range(20):
        steps.add(f"pair {number}", many[number], many[-1 - number])
    await nodes[0].oban.enqueue_many(*steps.add("last", *[f"pair {number}" for number in range(20)]))

    async def done():
        return set((await states(nodes[0])).values()) == {"completed"}

    await eventually(done)
    assert SEEN[-1] == "last"


@pytest.mark.parametrize(("do", "cause"), [("cancel", "cancelled"), ("fail", "discarded")])
async def test_f3_a_failed_dep_cancels_those_that_do_not_ignore_it(it, do, cause):
    steps = Steps().add("a", do=do, max_attempts=1).add("b", "a").add("c", "b").add("d", "a", ignore=[cause])
    await it.oban.enqueue_many(*steps)
    await until_states(it, a=cause, b="cancelled", c="cancelled", d="completed")
    assert SEEN == ["a", "d"]
    assert await events(it, "b") == [("planned", None), ("cascaded", "a"), ("closed", None)]
    assert await events(it, "d") == [("planned", None), ("skipped", "a"), ("released", "a"), ("closed", None)]


async def test_f2_snoozing_is_no_end(it):
    await it.oban.enqueue_many(*Steps().add("a", do="snooze").add("b", "a"))
    await eventually(lambda: "a" in SEEN)
    assert (await states(it))["b"] == "suspended"
    await until_states(it, a="completed", b="completed")
    assert SEEN == ["a", "a", "b"]


async def test_f2_a_dep_that_waits_for_a_signal_holds_its_dependants_until_it_has_it(it):
    jobs = await it.oban.enqueue_many(*Steps().add("approval", worker=Approval).add("charge", "approval"))
    await it.until_status(jobs[0], "snoozed")
    assert (await states(it))["charge"] == "suspended"
    await it.engine.signal(jobs[0], APPROVED)
    await until_states(it, approval="completed", charge="completed")


async def test_f3_a_cancelled_wait_cancels_its_dependants(it):
    jobs = await it.oban.enqueue_many(*Steps().add("approval", worker=Approval).add("charge", "approval"))
    await it.until_status(jobs[0], "snoozed")
    await it.engine.cancel_job(jobs[0])
    await until_states(it, approval="cancelled", charge="cancelled")


@worker()
class Vote:
    async def process(self, job):
        SEEN.append(await await_signal(wait_timeout=0))


async def test_f4_a_held_step_keeps_its_signals(it):
    jobs = await it.oban.enqueue_many(*Steps().add("a", worker=Approval).add("vote", "a", worker=Vote))
    assert (await it.engine.signal(jobs[1], "early")).outcome == "buffered"
    await it.until_status(jobs[0], "snoozed")
    await it.engine.signal(jobs[0], APPROVED)
    await until_states(it, a="completed", vote="completed")
    assert SEEN == [APPROVED, "early"]


@pytest.mark.parametrize("path", ["delete", "operator", "rescue"])
async def test_f3_it_does_not_matter_who_ends_a_dep(start, path):
    it = await start({})
    jobs = await it.oban.enqueue_many(*Steps().add("a", max_attempts=1).add("b", "a"))
    match path:
        case "delete":
            await it.engine.delete_job(jobs[0])
        case "operator":
            await it.change("UPDATE oban_jobs SET state = 'discarded' WHERE id = %s", jobs[0].id)
        case _:
            await it.change(
                "UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_at = now() - interval '1 day' "
                "WHERE id = %s",
                jobs[0].id,
            )
            await it.oban._query.rescue_jobs(3600)
    assert (await states(it))["b"] == "cancelled"


async def test_f2_a_pruned_dep_has_ended(it):
    jobs = await it.oban.enqueue_many(*Steps().add("a").add("b", "a", "c").add("c", worker=Approval))
    await it.until(jobs[0], "completed")
    await it.oban._query.prune_jobs(-1, 100)
    await it.until_status(jobs[2], "snoozed")
    await it.engine.signal(jobs[2], APPROVED)
    await until_states(it, a="completed", b="completed", c="completed")


async def test_f5_a_failed_workflow_is_taken_up_again(it):
    jobs = await it.oban.enqueue_many(*Steps().add("a").add("b", "a", do="fail", max_attempts=1).add("c", "b"))
    await until_states(it, a="completed", b="discarded", c="cancelled")
    await it.change("UPDATE oban_jobs SET args = '{}' WHERE id = %s", jobs[1].id)
    async with open_ledger(it.url) as ledger:
        names = steps_to_retry(await ledger._store.steps(WORKFLOW))
        assert await ledger._store.retry_steps(WORKFLOW, names) == 2
    await until_states(it, a="completed", b="completed", c="completed")
    assert SEEN == ["a", "b", "b", "c"]


async def test_l3_with_the_functions_of_steps_gone_the_queue_goes_on_and_dependants_are_told_later(it, caplog):
    await it.change("ALTER FUNCTION signal_ledger.tell_dependants RENAME TO gone")
    [first, _] = await it.oban.enqueue_many(*Steps().add("a").add("b", "a"))
    await it.until(first, "completed")
    assert (await states(it))["b"] == "suspended"
    await it.change("ALTER FUNCTION signal_ledger.gone RENAME TO tell_dependants")
    await it.change("UPDATE signal_ledger.repairs SET noted_at = clock_timestamp()")
    await until_states(it, a="completed", b="completed")
    await eventually(lambda: it.sql("SELECT * FROM signal_ledger.repairs") == [])


async def test_f5_steps_are_rebuilt_from_the_log_while_the_system_runs(it):
    steps = Steps()
    for number in range(30):
        steps.add(f"step {number}", *([f"step {number - 1}"] if number else []))
    await it.oban.enqueue_many(*steps)
    async with open_ledger(it.url) as ledger:
        for _ in range(3):
            await it.change("TRUNCATE signal_ledger.steps, signal_ledger.edges")
            await asyncio.sleep(0)
            await ledger.rebuild()
    await until_states(it, **{f"step {number}": "completed" for number in range(30)})
    assert [f"step {number}" for number in range(30)] == SEEN
