"""Workflows on the embedded engine (promises F1 to F5), with real workers on a real file."""

import asyncio
import datetime as dt

import aiosqlite
import pytest
from oban import Cancel, Job, worker
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from signal_ledger import PayloadError, Workflow, await_signal, open_ledger
from signal_ledger.embedded.operations import PruneJobs
from tests.eventually import eventually
from tests.processes.children import child

RAN = []


@pytest.fixture(autouse=True)
def _forget():
    RAN.clear()


@worker()
class Approval:
    async def process(self, job):
        payload = await await_signal(wait_timeout=job.args.get("window", 0))
        RAN.append(job.meta["name"])
        if payload["decision"] != "approved":
            return Cancel(f"declined: {payload['decision']}")
        return None


@worker()
class Charge:
    async def process(self, job):
        RAN.append(job.meta["name"])


@worker(max_attempts=1)
class Failing:
    async def process(self, job):
        raise ValueError("as ever")


@worker()
class Slow:
    async def process(self, job):
        while not job.cancelled():
            await asyncio.sleep(0.005)
        return Cancel("asked to stop")


@worker()
class Teller:
    """Signals a workflow from inside a job, without naming an engine."""

    async def process(self, job):
        workflow = await Workflow.load(job.args["workflow_id"])
        await workflow.signal("approval", {"decision": "approved"}, source="a job")
        RAN.append((await workflow.status()).state)


def order(**options):
    """The reference example: a charge that depends on an approval."""
    workflow = Workflow("order 7", **options)
    workflow.add("approval", Approval.new())
    return workflow.add("charge", Charge.new({"amount": 12}), deps="approval")


async def ended(workflow):
    async def there():
        status = await workflow.status()
        return None if status.state == "executing" else status

    return await eventually(there, what=f"{workflow} has ended")


async def kinds(it, workflow, name):
    return await it.kinds(Job("x", id=workflow.job_ids[name]))


async def until(workflow, **states):
    async def there():
        seen = {one.name: one.state for one in await workflow._seen()}
        return states.items() <= seen.items()

    await eventually(there, what=f"{workflow} is {states}")


async def test_the_reference_example_works_as_written(it):
    workflow = order()
    await it.engine.enqueue_many(workflow)
    await until(workflow, approval="scheduled", charge="suspended")
    receipt = await workflow.signal("approval", {"decision": "approved"})
    assert (receipt.job_id, receipt.outcome) == (workflow.jobs["approval"].id, "woken")
    status = await ended(workflow)
    assert (status.state, status.counts, status.name, status.id) == (
        "completed", {"completed": 2}, "order 7", workflow.id,
    )  # fmt: skip
    assert RAN == ["approval", "charge"]
    assert await kinds(it, workflow, "charge") == ["planned", "released", "closed"]


async def test_f3_a_step_that_is_declined_cancels_the_next_one_unless_it_ignores_that(it):
    workflow = order()
    workflow.add("tell", Charge.new(), deps=["approval", "charge"], ignore_cancelled=True)
    await it.engine.enqueue_many(workflow)
    await workflow.signal("approval", {"decision": "declined"})
    status = await ended(workflow)
    assert (status.state, status.counts) == ("cancelled", {"cancelled": 2, "completed": 1})
    assert RAN == ["approval", "tell"]
    assert await kinds(it, workflow, "charge") == ["planned", "cascaded", "closed"]
    assert await kinds(it, workflow, "tell") == ["planned", "skipped", "skipped", "released", "closed"]


@pytest.mark.parametrize("per_step", [True, False])
async def test_f1_failures_that_are_ignored_are_ignored(it, per_step):
    ignore = {"ignore_discarded": True}
    workflow = Workflow(**({} if per_step else ignore)).add("fails", Failing.new())
    workflow.add("goes on", Charge.new(), "fails", **(ignore if per_step else {}))
    workflow.add("does not", Charge.new(), "fails", ignore_discarded=False)
    await it.engine.enqueue_many(workflow)
    status = await ended(workflow)
    assert status.state == "discarded"
    assert RAN == ["goes on"]


async def test_f2_a_step_that_was_planned_for_later_waits_for_its_time(it):
    workflow = Workflow().add("first", Charge.new())
    workflow.add("last", Charge.new(schedule_in=dt.timedelta(hours=1)), deps="first")
    await it.engine.enqueue_many(workflow)
    await until(workflow, first="completed", last="scheduled")
    await workflow.cancel()


async def test_several_names_at_once_get_the_signal_or_none_does(it):
    workflow = Workflow()
    for name in ("one", "two", "three"):
        workflow.add(name, Approval.new())
    await it.engine.enqueue_many(workflow)
    with pytest.raises(ValueError, match="expected the name of a step, got 'four'; there are 'one', 'two', 'three'"):
        await workflow.signal(["one", "four"], {"decision": "approved"})
    receipts = await workflow.signal(["three", "one"], {"decision": "approved"}, key="k", source="ada", channel=None)
    assert [receipt.job_id for receipt in receipts] == [workflow.job_ids["three"], workflow.job_ids["one"]]
    assert await workflow.signal([], 1) == []
    [again] = await workflow.signal(iter(["one"]), {"decision": "approved"}, key="k")
    assert again.outcome == "duplicate"
    assert (await workflow.signal("two", {"decision": "approved"})).outcome in ("woken", "buffered", "live")
    assert (await ended(workflow)).state == "completed"
    assert sorted(RAN) == ["one", "three", "two"]


async def test_f2_a_name_may_be_signalled_while_its_job_is_held(it):
    workflow = order()
    workflow.add("confirmation", Approval.new(), deps="charge")
    await it.engine.enqueue_many(workflow)
    assert (await workflow.signal("confirmation", {"decision": "approved"})).outcome == "buffered"
    assert (await workflow.status()).held["confirmation"] == ("charge",)
    await workflow.signal("approval", {"decision": "approved"})
    assert (await ended(workflow)).state == "completed"
    assert RAN == ["approval", "charge", "confirmation"]


async def test_f4_another_process_that_knows_the_id_signals_by_name(it, url):
    workflow = order()
    workflow.add("confirmation", Approval.new(), deps="charge")
    await it.engine.enqueue_many(workflow)
    await until(workflow, approval="scheduled")
    async with child("workflow_client", url, workflow.id, "approval", "confirmation") as process:
        assert await process.stdout.readline() == b"order 7 woken buffered\n"
        assert (await ended(workflow)).state == "completed"
    assert RAN == ["approval", "charge", "confirmation"]
    history = await it.engine.ledger.history(workflow.job_ids["approval"])
    assert [event.source for event in history if event.kind == "delivered"] == ["web"]


async def test_f4_a_workflow_is_loaded_with_its_names_after_its_jobs_were_pruned(it):
    workflow = order()
    await it.engine.enqueue_many(workflow)
    await workflow.signal("approval", {"decision": "approved"})
    before = await ended(workflow)
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    assert await it.engine._store.transact(PruneJobs(before=tomorrow, limit=10)) == 2
    loaded = await Workflow.load(workflow.id)
    assert (loaded.id, loaded.name, len(loaded)) == (workflow.id, "order 7", 2)
    assert (dict(loaded.job_ids), dict(loaded.jobs)) == (dict(workflow.job_ids), {})
    assert await loaded.status() == before
    receipt = await loaded.signal("charge", "too late")
    assert (receipt.outcome, receipt.reason) == ("ignored", "missing")
    assert await loaded.retry() == 0
    assert loaded.graph() == workflow.graph()


async def test_f4_what_was_never_enqueued_cannot_be_loaded(it):
    with pytest.raises(LookupError, match="expected the id of one that was enqueued, found none with 'nothing'"):
        await Workflow.load("nothing")
    with pytest.raises(TypeError, match="workflow_id: expected a str, got int"):
        await Workflow.load(7)


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("caller", ["session", "connection", "aiosqlite"])
async def test_f5_a_workflow_is_enqueued_with_the_callers_own_changes(it, url, path, caller, commits):
    workflow, insert = order(), "INSERT INTO orders VALUES (7)"
    async with aiosqlite.connect(path) as admin:
        await admin.execute("CREATE TABLE orders (id INTEGER)")
        await admin.commit()
        engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
        connection = {
            "session": lambda: AsyncSession(engine),
            "connection": engine.connect,
            "aiosqlite": lambda: aiosqlite.connect(path),
        }[caller]
        async with connection() as conn:
            await conn.execute(insert if caller == "aiosqlite" else text(insert))
            await it.engine.enqueue_many(workflow, conn=conn)
            # Nobody else sees anything yet.
            assert await it.engine.ledger.steps(workflow.id) == []
            await (conn.commit() if commits else conn.rollback())
        await engine.dispose()
        [[orders]] = await admin.execute_fetchall("SELECT count(*) FROM orders")
        assert orders == commits
    if commits:
        await workflow.signal("approval", {"decision": "approved"})
        assert (await ended(workflow)).state == "completed"
    else:
        with pytest.raises(LookupError, match="expected to be enqueued, there are no steps of it"):
            await workflow.status()
        assert await it.engine.ledger.steps(workflow.id) == []


async def test_f4_a_workflow_that_was_rolled_back_signals_nobody_elses_job(it, path):
    lost, other = order(), order()
    async with aiosqlite.connect(path) as conn:
        await it.engine.enqueue_many(lost, conn=conn)
        await conn.rollback()
    await it.engine.enqueue_many(other)
    assert not set(lost.job_ids.values()) & set(other.job_ids.values())
    with pytest.raises(ValueError, match=r"expected to be enqueued before it is signalled; was its transaction rolled"):
        await lost.signal("approval", "for the lost one")
    assert "delivered" not in {event.kind for event in await it.engine.ledger.history(other.job_ids["approval"])}


@pytest.mark.parametrize(
    ("name", "state"), [("approval", "suspended"), ("charge", "available"), ("approval", "completed")]
)
async def test_f1_a_step_in_a_state_that_does_not_fit_its_deps_is_refused(it, name, state):
    workflow = order()
    workflow.jobs[name].state = state
    with pytest.raises(ValueError, match=f"step '{name}': expected state suspended if it has deps"):
        await it.engine.enqueue_many(workflow)
    assert await it.engine.ledger.steps(workflow.id) == []


@pytest.mark.parametrize("as_aiosqlite", [True, False])
async def test_f5_the_first_statement_of_a_transaction_may_be_the_workflow(it, url, path, as_aiosqlite):
    workflow = order()
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    async with aiosqlite.connect(path) if as_aiosqlite else engine.connect() as conn:
        await it.engine.enqueue_many(workflow, conn=conn)
        await conn.rollback()
    await engine.dispose()
    assert await it.engine.ledger.steps(workflow.id) == []


async def test_a_signal_by_name_may_be_stored_with_the_callers_own_changes(it, path):
    workflow = order()
    await it.engine.enqueue_many(workflow)
    async with aiosqlite.connect(path) as conn:
        assert (await workflow.signal("approval", {"decision": "approved"}, conn=conn)).outcome == "stored"
        await conn.commit()
    assert (await ended(workflow)).state == "completed"


async def test_cancelling_a_workflow_ends_members_in_whatever_state_they_are(it):
    workflow = Workflow().add("done", Charge.new())
    workflow.add("live", Approval.new({"window": 60})).add("snoozed", Approval.new()).add("running", Slow.new())
    workflow.add("held", Charge.new(), deps=["done", "snoozed"]).add("held by it", Charge.new(), deps="held")
    await it.engine.enqueue_many(workflow)
    await until(workflow, done="completed", snoozed="scheduled", running="executing", held="suspended")
    await it.until_status(workflow.jobs["live"], "live")
    assert await workflow.cancel() == 5
    status = await ended(workflow)
    assert (status.state, status.counts) == ("cancelled", {"completed": 1, "cancelled": 5})
    # They were cancelled together, and not one because of another.
    assert await kinds(it, workflow, "held by it") == ["planned", "closed"]
    assert await workflow.cancel() == 0


async def test_retrying_a_workflow_takes_up_what_failed_and_what_failed_because_of_it(it):
    workflow = order()
    workflow.add("first", Charge.new()).add("last", Charge.new(), deps=["first", "charge"])
    await it.engine.enqueue_many(workflow)
    await workflow.signal("approval", {"decision": "declined"})
    assert (await ended(workflow)).state == "cancelled"
    assert await workflow.retry() == 3
    assert (await workflow.status()).held == {"charge": ("approval",), "last": ("charge",)}
    await workflow.signal("approval", {"decision": "approved"})
    assert (await ended(workflow)).state == "completed"
    assert RAN[-3:] == ["approval", "charge", "last"]
    assert await workflow.retry() == 0


async def test_a_status_tells_who_is_in_which_state_and_who_is_held_for_whom(it):
    workflow = order()
    workflow.add("first", Charge.new()).add("last", Charge.new(), deps=["first", "charge"])
    await it.engine.enqueue_many(workflow)
    await until(workflow, first="completed", approval="scheduled")
    status = await workflow.status()
    assert (status.state, status.total, status.ended_at) == ("executing", 4, None)
    assert status.counts == {"completed": 1, "scheduled": 1, "suspended": 2}
    assert status.held == {"charge": ("approval",), "last": ("charge",)}
    assert status.started_at <= dt.datetime.now(dt.UTC)
    assert dt.timedelta(0) <= status.duration < dt.timedelta(minutes=5)
    await workflow.cancel()


async def test_the_steps_that_wait_are_told_with_what_they_wait_for(it):
    workflow = Workflow().add("one", Approval.new()).add("live", Approval.new({"window": 60}))
    workflow.add("held", Approval.new(), deps="one").add("done", Charge.new())
    await it.engine.enqueue_many(workflow)
    await until(workflow, one="scheduled", done="completed")
    await it.until_status(workflow.jobs["live"], "live")
    waits = {waiting.name: waiting.wait for waiting in await workflow.waiting()}
    assert {name: (wait.status, wait.job_id, wait.channel) for name, wait in waits.items()} == {
        "one": ("snoozed", workflow.job_ids["one"], None),
        "live": ("live", workflow.job_ids["live"], None),
    }
    await workflow.cancel()
    await ended(workflow)
    assert await workflow.waiting() == []


async def test_inside_a_job_the_jobs_own_engine_is_used(start):
    it = await start()
    await start({}, name="another")
    workflow = order(via=it.engine)
    await it.engine.enqueue_many(workflow)
    with pytest.raises(RuntimeError, match="expected one open engine, found 2"):
        await Workflow.load(workflow.id)
    await it.engine.enqueue(Teller.new({"workflow_id": workflow.id}))
    assert (await ended(workflow)).state == "completed"
    await eventually(lambda: len(RAN) == 3)
    assert [event.source for event in await it.engine.ledger.history(workflow.job_ids["approval"]) if event.source] == [
        "a job"
    ]


async def test_with_a_ledger_everything_works_but_what_needs_an_engine(it, url):
    workflow = order()
    await it.engine.enqueue_many(workflow)
    async with open_ledger(url) as ledger, open_ledger(url, read_only=True) as read_only:
        loaded = await Workflow.load(workflow.id, via=ledger)
        with pytest.raises(RuntimeError, match="cancel: expected an engine, a ledger runs no jobs"):
            await loaded.cancel()
        await loaded.signal("approval", {"decision": "declined"})
        await ended(loaded)
        watched = await Workflow.load(workflow.id, via=read_only)
        assert (await watched.status()).state == "cancelled"
        with pytest.raises(RuntimeError, match="opened read-only"):
            await watched.retry()
        with pytest.raises(RuntimeError, match="opened read-only"):
            await watched.signal("approval", 1)
        assert await loaded.retry() == 2
        await loaded.signal("approval", {"decision": "approved"})
        assert (await ended(workflow)).state == "completed"


async def test_without_an_engine_a_workflow_can_be_made_but_not_asked():
    workflow = order()
    with pytest.raises(RuntimeError, match="expected an open engine in this process, found none"):
        await workflow.status()
    with pytest.raises(ValueError, match="expected to be enqueued before it is signalled"):
        await workflow.signal("approval", 1)
    assert (len(workflow), dict(workflow.job_ids)) == (2, {})
    assert repr(workflow) == "Workflow('order 7')"


def test_a_graph_is_drawn_with_all_names_as_they_are():
    workflow = Workflow().add('say "hi" <b>&\n#9829;`', Charge.new()).add("end", Charge.new(), 'say "hi" <b>&\n#9829;`')
    assert workflow.graph() == (
        'flowchart TD\n    s1["say #quot;hi#quot; #lt;b#gt;#amp; #35;9829;#96;"]\n    s2["end"]\n    s1 --> s2'
    )
    assert Workflow().graph() == "flowchart TD"


def test_jobs_carry_their_plans_under_obans_own_names():
    workflow = order(ignore_deleted=True)
    assert workflow.jobs["charge"].meta == {
        "workflow_id": workflow.id,
        "workflow_name": "order 7",
        "name": "charge",
        "deps": ["approval"],
        "ignore_deleted": True,
    }
    assert [str(job.state) for job in workflow] == ["available", "suspended"]


# Errors, before anything is written


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("approval", Charge.new()), ValueError, "expected a new name, 'approval' was added already"),
        (("a", Charge.new(), "nobody"), ValueError, "expected steps that were added before, got 'nobody'; added: 'app"),
        (("a", Charge.new(), ["approval", "nobody"]), ValueError, "got 'nobody'"),
        (("a", Charge.new(), "a"), ValueError, "expected other steps, 'a' cannot wait for itself"),
        (("a", Charge.new(), [7]), TypeError, "deps: expected names of steps, got builtins.int"),
        (("a", Charge.new(), None), TypeError, "deps: expected names of steps, got builtins.NoneType"),
        ((7, Charge.new()), TypeError, "name: expected a str, got int"),
        ((b"a", Charge.new()), TypeError, "name: expected a str, got bytes"),
        (("", Charge.new()), ValueError, "name: expected a str of 1 to 255 bytes, got an empty str"),
        (("é" * 128, Charge.new()), ValueError, "name: expected"),
        (("a", Charge), TypeError, "job: expected a Job, such as Worker.new"),
        (("a", Job("x", id=7)), ValueError, "job: expected one that is not enqueued, 'a' has id 7"),
    ],
)
def test_a_step_that_cannot_be_is_refused_and_the_workflow_stays_as_it_was(arguments, error, message):
    workflow = order()
    with pytest.raises(error, match=message):
        workflow.add(*arguments)
    assert list(workflow.jobs) == ["approval", "charge"]


def test_a_job_belongs_to_one_step_of_one_workflow():
    job = Charge.new()
    workflow = Workflow().add("a", job)
    for other in (workflow, Workflow()):
        with pytest.raises(ValueError, match="expected a job of its own for 'b', this one was added already"):
            other.add("b", job)


@pytest.mark.parametrize("option", ["ignore_cancelled", "ignore_discarded", "ignore_deleted"])
def test_options_are_bools(option):
    with pytest.raises(TypeError, match=f"{option}: expected True or False, got str"):
        Workflow(**{option: "yes"})
    with pytest.raises(TypeError, match=f"{option}: expected True or False, got int"):
        Workflow().add("a", Charge.new(), **{option: 1})


def test_a_workflows_name_is_text():
    with pytest.raises(TypeError, match="name: expected a str, got int"):
        Workflow(7)
    with pytest.raises(ValueError, match="name: expected"):
        Workflow("")
    workflow = Workflow()
    assert (workflow.name, repr(workflow)) == (None, f"Workflow('{workflow.id}')")


async def test_a_workflow_is_enqueued_once(it):
    workflow = order()
    await it.engine.enqueue_many(workflow)
    with pytest.raises(RuntimeError, match="expected to be enqueued once, the job of 'approval' is enqueued already"):
        await it.engine.enqueue_many(workflow)
    loaded = await Workflow.load(workflow.id)
    with pytest.raises(RuntimeError, match="expected to be new, it was loaded; a workflow is enqueued once"):
        await it.engine.enqueue_many(loaded)
    with pytest.raises(RuntimeError, match="it was loaded; nothing can be added to it"):
        loaded.add("more", Charge.new())
    assert len(await it.engine.ledger.steps(workflow.id)) == 2
    await workflow.cancel()


async def test_a_copy_of_a_workflow_cannot_be_enqueued_beside_it(it):
    """Nor by jobs that were made by hand: the store refuses, and writes nothing."""
    workflow = order()
    copies = [Job("tests.Charge", meta=dict(job.meta)) for job in workflow]
    await it.engine.enqueue_many(workflow)
    with pytest.raises(ValueError, match="expected new names for its steps, 'approval' is in it already"):
        await it.engine.enqueue_many(Charge.new(), *copies)
    assert await it.engine.get_job(3) is None
    await workflow.cancel()


async def test_with_an_error_nothing_is_delivered(it):
    workflow = order()
    await it.engine.enqueue_many(workflow)
    await until(workflow, approval="scheduled")
    for names, error, message in (
        ("nobody", ValueError, "expected the name of a step, got 'nobody'; there are 'approval', 'charge'"),
        (["approval", "nobody"], ValueError, "got 'nobody'"),
        (["approval", 7], TypeError, "name: expected names of steps, got builtins.int"),
        (workflow.jobs["approval"], TypeError, "name: expected names of steps, got oban"),
        (None, TypeError, "name: expected names of steps, got builtins.NoneType"),
    ):
        with pytest.raises(error, match=message):
            await workflow.signal(names, {"decision": "approved"})
    with pytest.raises(PayloadError):
        await workflow.signal(["approval", "charge"], object())
    assert await kinds(it, workflow, "approval") == ["planned", "snoozed"]
    assert await kinds(it, workflow, "charge") == ["planned"]
    await workflow.cancel()
