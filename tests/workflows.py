"""Workflows with real workers on a real database: what every engine is tried with (promises F1 to F5).

`WorkflowContract` is bound to each engine in the folder of its tests.
"""

import asyncio
import datetime as dt

import pytest
from oban import Cancel, Job, worker

from signal_ledger import PayloadError, SignalTimeout, Workflow, await_signal, open_ledger
from signal_ledger.arguments import type_name
from tests.eventually import eventually
from tests.processes.children import child

RAN = []


@worker()
class Approval:
    async def process(self, job):
        payload = await await_signal(wait_timeout=job.args.get("window", 0))
        RAN.append(job.meta["name"])
        if payload["decision"] != "approved":
            return Cancel(f"declined: {payload['decision']}")
        return None


async def charge_card(user_id):
    RAN.append(f"the card of user {user_id} is charged")


@worker()
class ApprovalWorker:
    """As the manual of the reference has it."""

    async def process(self, job):  # noqa: RET503
        try:
            payload = await await_signal(wait_for=dt.timedelta(days=1))
        except SignalTimeout:
            return Cancel("no decision")
        if payload["decision"] == "approved":
            await charge_card(job.args["user_id"])
        else:
            return Cancel(f"declined: {payload['decision']}")


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


class WorkflowContract:
    """Needs fixtures: `it` and `start`, `enqueue_many` (each way to enqueue), `caller` (each kind of connection)."""

    @pytest.fixture(autouse=True)
    def _forget(self):
        RAN.clear()

    async def test_the_reference_example_works_as_written(self, it, enqueue_many):
        workflow = order()
        assert await enqueue_many(workflow) == list(workflow.jobs.values())
        await until(workflow, approval="scheduled", charge="suspended")
        receipt = await workflow.signal("approval", {"decision": "approved"})
        assert (receipt.job_id, receipt.outcome) == (workflow.jobs["approval"].id, "woken")
        status = await ended(workflow)
        assert (status.state, status.counts, status.name, status.id) == (
            "completed", {"completed": 2}, "order 7", workflow.id,
        )  # fmt: skip
        assert RAN == ["approval", "charge"]
        assert await kinds(it, workflow, "charge") == ["planned", "released", "closed"]

    async def test_the_worker_of_the_reference_is_a_step_as_it_is_written(self, it, enqueue_many):
        workflow = Workflow()
        workflow.add("approval", ApprovalWorker.new({"user_id": 7}))
        workflow.add("charge", Charge.new(), deps="approval")
        await enqueue_many(workflow)
        await it.until_status(workflow.jobs["approval"], "live")
        assert (await workflow.signal("approval", {"decision": "approved"})).outcome == "live"
        assert (await ended(workflow)).counts == {"completed": 2}
        assert RAN == ["the card of user 7 is charged", "charge"]

    async def test_f3_a_step_that_is_declined_cancels_the_next_one_unless_it_ignores_that(self, it):
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
    async def test_f1_failures_that_are_ignored_are_ignored(self, it, per_step):
        ignore = {"ignore_discarded": True}
        workflow = Workflow(**({} if per_step else ignore)).add("fails", Failing.new())
        workflow.add("goes on", Charge.new(), "fails", **(ignore if per_step else {}))
        workflow.add("does not", Charge.new(), "fails", ignore_discarded=False)
        await it.engine.enqueue_many(workflow)
        status = await ended(workflow)
        assert status.state == "discarded"
        assert RAN == ["goes on"]

    async def test_f2_a_step_that_was_planned_for_later_waits_for_its_time(self, it):
        workflow = Workflow().add("first", Charge.new())
        workflow.add("last", Charge.new(schedule_in=dt.timedelta(hours=1)), deps="first")
        await it.engine.enqueue_many(workflow)
        await until(workflow, first="completed", last="scheduled")
        await workflow.cancel()

    async def test_several_names_at_once_get_the_signal_or_none_does(self, it):
        workflow = Workflow()
        for name in ("one", "two", "three"):
            workflow.add(name, Approval.new())
        await it.engine.enqueue_many(workflow)
        with pytest.raises(
            ValueError, match="expected the name of a step, got 'four'; there are 'one', 'two', 'three'"
        ):
            await workflow.signal(["one", "four"], {"decision": "approved"})
        receipts = await workflow.signal(
            ["three", "one"], {"decision": "approved"}, key="k", source="ada", channel=None
        )
        assert [receipt.job_id for receipt in receipts] == [workflow.job_ids["three"], workflow.job_ids["one"]]
        assert await workflow.signal([], 1) == []
        [again] = await workflow.signal(iter(["one"]), {"decision": "approved"}, key="k")
        assert again.outcome == "duplicate"
        assert (await workflow.signal("two", {"decision": "approved"})).outcome in ("woken", "buffered", "live")
        assert (await ended(workflow)).state == "completed"
        assert sorted(RAN) == ["one", "three", "two"]

    async def test_f2_a_name_may_be_signalled_while_its_job_is_held(self, it):
        workflow = order()
        workflow.add("confirmation", Approval.new(), deps="charge")
        await it.engine.enqueue_many(workflow)
        receipts = await workflow.signal(["charge", "confirmation"], {"decision": "approved"})
        assert [receipt.outcome for receipt in receipts] == ["buffered", "buffered"]
        assert (await workflow.status()).held["confirmation"] == ("charge",)
        await workflow.signal("approval", {"decision": "approved"})
        assert (await ended(workflow)).state == "completed"
        assert RAN == ["approval", "charge", "confirmation"]

    async def test_f4_another_process_that_knows_the_id_signals_by_name(self, it, enqueue_many):
        workflow = order()
        workflow.add("confirmation", Approval.new(), deps="charge")
        await enqueue_many(workflow)
        await until(workflow, approval="scheduled")
        async with child("workflow_client", it.url, workflow.id, "approval", "confirmation") as process:
            assert await process.stdout.readline() == b"order 7 woken buffered\n"
            assert (await ended(workflow)).state == "completed"
        assert RAN == ["approval", "charge", "confirmation"]
        history = await it.engine.ledger.history(workflow.job_ids["approval"])
        assert [event.source for event in history if event.kind == "delivered"] == ["web"]

    async def test_f4_a_workflow_is_loaded_with_its_names_after_its_jobs_were_pruned(self, it):
        workflow = order()
        await it.engine.enqueue_many(workflow)
        await workflow.signal("approval", {"decision": "approved"})
        before = await ended(workflow)
        assert await it.prune() == 2
        loaded = await Workflow.load(workflow.id)
        assert (loaded.id, loaded.name, len(loaded)) == (workflow.id, "order 7", 2)
        assert (dict(loaded.job_ids), dict(loaded.jobs)) == (dict(workflow.job_ids), {})
        assert await loaded.status() == before
        receipt = await loaded.signal("charge", "too late")
        assert (receipt.outcome, receipt.reason) == ("ignored", "missing")
        receipts = await loaded.signal(["charge", "approval"], "too late")
        assert [(receipt.job_id, receipt.reason) for receipt in receipts] == [
            (workflow.job_ids["charge"], "missing"),
            (workflow.job_ids["approval"], "missing"),
        ]
        assert await loaded.retry() == 0
        assert loaded.graph() == workflow.graph()

    async def test_f4_what_was_never_enqueued_cannot_be_loaded(self, it):
        with pytest.raises(LookupError, match="expected the id of one that was enqueued, found none with 'nothing'"):
            await Workflow.load("nothing")
        with pytest.raises(TypeError, match=r"^id: expected a str, got int"):
            await Workflow.load(7)
        workflow = order()
        for question in (workflow.status, workflow.waiting, workflow.cancel, workflow.retry):
            with pytest.raises(
                LookupError, match=r"Workflow\('order 7'\): expected to be enqueued, there are no steps"
            ):
                await question()

    @pytest.mark.parametrize("commits", [True, False])
    async def test_f5_a_workflow_is_enqueued_with_the_callers_own_changes(self, it, enqueue_many, caller, commits):
        workflow = order()
        await caller.run("CREATE TABLE orders (id INTEGER)")
        await caller.commit()
        await caller.run("INSERT INTO orders VALUES (7)")
        await enqueue_many(workflow, conn=caller.conn)
        # Nobody else sees anything yet.
        assert await it.engine.ledger.steps(workflow.id) == []
        await (caller.commit() if commits else caller.rollback())
        assert await caller.run("SELECT count(*) FROM orders") == commits
        await caller.rollback()
        if commits:
            await workflow.signal("approval", {"decision": "approved"})
            assert (await ended(workflow)).state == "completed"
        else:
            with pytest.raises(LookupError, match="expected to be enqueued, there are no steps of it"):
                await workflow.status()
            assert await it.engine.ledger.steps(workflow.id) == []

    async def test_f4_a_workflow_that_was_rolled_back_signals_nobody_elses_job(self, it, caller):
        lost, other = order(), order()
        await it.engine.enqueue_many(lost, conn=caller.conn)
        await caller.rollback()
        await it.engine.enqueue_many(other)
        assert not set(lost.job_ids.values()) & set(other.job_ids.values())
        with pytest.raises(
            ValueError, match=r"expected to be enqueued before it is signalled; was its transaction rolled"
        ):
            await lost.signal("approval", "for the lost one")
        assert "delivered" not in {event.kind for event in await it.engine.ledger.history(other.job_ids["approval"])}

    @pytest.mark.parametrize(
        ("name", "state"), [("approval", "suspended"), ("charge", "available"), ("approval", "completed")]
    )
    async def test_f1_a_step_in_a_state_that_does_not_fit_its_deps_is_refused(self, it, name, state):
        workflow = order()
        workflow.jobs[name].state = state
        with pytest.raises(ValueError, match=f"step '?{name}'?: expected state suspended if it has deps"):
            await it.engine.enqueue_many(workflow)
        assert await it.engine.ledger.steps(workflow.id) == []

    async def test_f5_the_first_statement_of_a_transaction_may_be_the_workflow(self, it, enqueue_many, caller):
        workflow = order()
        await enqueue_many(workflow, conn=caller.conn)
        await caller.rollback()
        assert await it.engine.ledger.steps(workflow.id) == []

    async def test_a_signal_by_name_may_be_stored_with_the_callers_own_changes(self, it, caller):
        workflow = order()
        await it.engine.enqueue_many(workflow)
        await until(workflow, approval="scheduled")
        stored = await workflow.signal("approval", {"decision": "approved"}, conn=caller.conn)
        assert stored.outcome == "stored"
        assert await it.kinds(workflow.jobs["approval"]) == ["planned", "snoozed"]
        await caller.commit()
        assert (await ended(workflow)).state == "completed"

    async def test_cancelling_a_workflow_ends_members_in_whatever_state_they_are(self, it):
        workflow = Workflow().add("done", Charge.new())
        workflow.add("live", Approval.new({"window": 60})).add("snoozed", Approval.new()).add("running", Slow.new())
        workflow.add("held", Charge.new(), deps=["done", "snoozed"]).add("held by it", Charge.new(), deps="held")
        await it.engine.enqueue_many(workflow)
        await until(workflow, done="completed", snoozed="scheduled", running="executing", held="suspended")
        await it.until_status(workflow.jobs["live"], "live")
        assert await workflow.cancel() == 5

        async def there():
            # Oban asks a job that executes by a notification, which may get lost.
            return await workflow.cancel() == 0

        await eventually(there)
        status = await ended(workflow)
        assert (status.state, status.counts) == ("cancelled", {"completed": 1, "cancelled": 5})
        # They were cancelled together, and not one because of another.
        assert await kinds(it, workflow, "held by it") == ["planned", "closed"]

    async def test_retrying_a_workflow_takes_up_what_failed_and_what_failed_because_of_it(self, it):
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

    async def test_a_status_tells_who_is_in_which_state_and_who_is_held_for_whom(self, it):
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

    async def test_the_steps_that_wait_are_told_with_what_they_wait_for(self, it):
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

    async def test_inside_a_job_the_jobs_own_engine_is_used(self, start):
        it = await start()
        await start({}, name="another")
        workflow = order(via=it.engine)
        await it.engine.enqueue_many(workflow)
        several = (
            r"Workflow\('.*'\): expected one open engine, found 2 \('Oban', 'another'\); name one, or a ledger, by via="
        )
        with pytest.raises(RuntimeError, match=several):
            await Workflow.load(workflow.id)
        with pytest.raises(RuntimeError, match=several):
            await order().status()
        await it.engine.enqueue(Teller.new({"workflow_id": workflow.id}))
        assert (await ended(workflow)).state == "completed"
        await eventually(lambda: len(RAN) == 3)
        assert [
            event.source for event in await it.engine.ledger.history(workflow.job_ids["approval"]) if event.source
        ] == ["a job"]

    async def test_with_a_ledger_everything_works_but_what_needs_an_engine(self, it):
        workflow = order()
        await it.engine.enqueue_many(workflow)
        async with open_ledger(it.url) as ledger, open_ledger(it.url, read_only=True) as read_only:
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

    # Errors, before anything is written

    @pytest.mark.parametrize(
        "given",
        [
            lambda one, another, job: [one, another],
            lambda one, another, job: [[one, another]],
            lambda one, another, job: [job, one],
            lambda one, another, job: [iter([job]), one],
        ],
    )
    async def test_one_workflow_is_enqueued_at_a_time(self, it, given):
        one, another, job = order(), order(), Charge.new()
        hint = r"got Workflow\('order 7'\); enqueue one workflow at a time: engine.enqueue_many\(workflow\)$"
        with pytest.raises(TypeError, match=hint):
            await it.engine.enqueue_many(*given(one, another, job))
        with pytest.raises(TypeError, match=hint):
            await it.engine.enqueue(one)
        assert await it.engine.get_job(1) is None
        assert (one.job_ids, another.job_ids, job.id) == ({}, {}, None)

    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ([{"amount": 12}], "builtins.dict"),
            ([[{"amount": 12}]], "builtins.dict"),
            (["approval"], "builtins.str"),
            ([7], "builtins.int"),
            ([None], "builtins.NoneType"),
            ([Charge], "builtins.type"),
            ([[], None], "builtins.NoneType"),
        ],
    )
    async def test_what_is_no_job_is_not_enqueued_nor_is_what_stands_beside_it(self, it, given, name):
        job = Charge.new()
        with pytest.raises(TypeError, match=f"expected a Job.* got {name}$"):
            await it.engine.enqueue_many(*given)
        with pytest.raises(TypeError, match=f"job: expected a Job, such as Worker.new.* got {type_name(given[-1])}$"):
            await it.engine.enqueue_many(job, given[-1])
        with pytest.raises(TypeError, match=r"job: expected a Job, such as Worker.new\(...\) returns, got "):
            await it.engine.enqueue(given[0])
        assert (await it.engine.get_job(1), job.id) == (None, None)

    async def test_all_jobs_are_enqueued_in_order_however_they_are_given(self, it):
        def jobs(count):
            return [Charge.new(meta={"name": str(number)}, schedule_in=3600) for number in range(count)]

        for given, expected in (
            (one := jobs(2), one),
            ([one := jobs(2)], one),
            ([iter(one := jobs(2))], one),
            ([one := jobs(2), *(more := jobs(2))], [*one, *more]),
            ([iter(one := jobs(2)), *(more := jobs(1))], [*one, *more]),
            ([workflow := Workflow().add("a", jobs(1)[0]), *(more := jobs(1))], [workflow.jobs["a"], *more]),
            ([[], *(more := jobs(1))], more),
            ([()], []),
        ):
            assert await it.engine.enqueue_many(*given) == expected
            ids = [job.id for job in expected]
            assert None not in ids
            assert ids == sorted(ids)

    async def test_a_workflow_is_enqueued_once(self, it, enqueue_many):
        workflow = order()
        await enqueue_many(workflow)
        has_id = (
            "the job of 'approval' has id 1 already; if that enqueue failed or was rolled back, make the workflow anew$"
        )
        with pytest.raises(RuntimeError, match=f"expected to be enqueued once, {has_id}"):
            await enqueue_many(workflow)
        loaded = await Workflow.load(workflow.id)
        with pytest.raises(RuntimeError, match="expected to be new, it was loaded; a workflow is enqueued once"):
            await enqueue_many(loaded)
        with pytest.raises(RuntimeError, match="it was loaded; nothing can be added to it"):
            loaded.add("more", Charge.new())
        more = Charge.new(meta={"by": "ada"})
        with pytest.raises(RuntimeError, match=f"nothing to be added once it is enqueued, {has_id}"):
            workflow.add("more", more)
        assert (len(workflow), more.meta) == (2, {"by": "ada"})
        assert len(await it.engine.ledger.steps(workflow.id)) == 2
        await workflow.cancel()

    async def test_a_workflow_whose_enqueue_was_rolled_back_is_made_anew(self, it, enqueue_many, caller):
        workflow = order()
        await enqueue_many(workflow, conn=caller.conn)
        await caller.rollback()
        with pytest.raises(RuntimeError, match="if that enqueue failed or was rolled back, make the workflow anew"):
            await enqueue_many(workflow)
        with pytest.raises(RuntimeError, match="if that enqueue failed or was rolled back, make the workflow anew"):
            workflow.add("more", Charge.new())
        again = order()
        await enqueue_many(again)
        assert [step.name for step in await it.engine.ledger.steps(again.id)] == ["approval", "charge"]
        await again.cancel()

    async def test_a_copy_of_a_workflow_cannot_be_enqueued_beside_it(self, it):
        """Nor by jobs that were made by hand: the store refuses, and writes nothing."""
        workflow = order()
        copies = [Job("tests.Charge", meta=dict(job.meta)) for job in workflow]
        await it.engine.enqueue_many(workflow)
        with pytest.raises(
            ValueError, match=r"^workflow .*: expected new names for its steps, .approval. is in it already"
        ):
            await it.engine.enqueue_many(Charge.new(), *copies)
        assert await it.engine.get_job(3) is None
        await workflow.cancel()

    async def test_with_an_error_nothing_is_delivered(self, it):
        workflow = order()
        await it.engine.enqueue_many(workflow)
        await until(workflow, approval="scheduled")
        for names, error, message in (
            ("nobody", ValueError, "expected the name of a step, got 'nobody'; there are 'approval', 'charge'"),
            (["approval", "nobody"], ValueError, "got 'nobody'"),
            (["approval", 7], TypeError, "name: expected names of steps, got builtins.int"),
            (b"approval", TypeError, "name: expected names of steps, got builtins.bytes"),
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
