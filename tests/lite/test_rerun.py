"""Histories that the embedded engine has recorded, run again, also beside it (promises L6, W9, W10)."""

import asyncio

import pytest
from oban import Cancel, worker

from signal_ledger import History, Workflow, await_signal, open_ledger, rerun, signal
from signal_ledger_adapters.oban_api import path_of
from tests.eventually import eventually
from tests.recorded_sales import (
    SEEN,
    AnotherChannel,
    Approving,
    FewerAwaits,
    MoreAwaits,
    Noted,
    Sale,
    Telling,
    Undetermined,
    sold,
    waits_on,
)


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()


async def test_w9_a_recorded_job_comes_to_the_same_in_a_rerun(it, tmp_path):
    sale = await sold(it)
    (await it.engine.ledger.export(sale)).save(tmp_path / "incident.jsonl")
    history = History.load(tmp_path / "incident.jsonl")
    assert list(history) == await it.engine.ledger.history(sale)
    [then] = SEEN
    report = await rerun(Sale, history)
    assert [then, then] == SEEN
    assert (report.ended, report.cause, report.attempt, report.worker) == ("returned", "completed", 2, path_of(Sale))
    assert [(each.channel, each.got) for each in report.awaits] == [
        ("order", "signal"),
        (None, "timeout"),
        ("votes", "signal"),
        ("votes", "signal"),
    ]
    assert report.awaits[0].source == "ada"


async def test_w9_a_rerun_of_what_was_known_then_stops_where_the_job_was(it):
    history = await it.engine.ledger.export(await sold(it))
    endings = set()
    for version in range(len(history)):
        cut = history.until(version)
        report = await rerun(Sale, cut)
        got = [each.version for each in report.awaits if each.version is not None]
        assert got == [event.version for event in cut if event.kind in ("consumed", "timed_out")]
        # The first attempt failed when it had got its first vote.
        expected = "raised" if (report.attempt, len(got)) == (1, 3) else "returned" if len(got) == 4 else "stopped"
        assert report.ended == expected
        endings.add(expected)
    assert len(endings) == 3


@pytest.mark.parametrize(
    ("changed", "divergence"),
    [
        (MoreAwaits, "asked for await 3 on channel 'votes', as its await number 5; in the history the run ended"),
        (FewerAwaits, "returned a value of type str, without asking for await 1 on the default channel"),
        (
            AnotherChannel,
            "asked for await 1 on channel 'orders', as its await number 1; the history holds await 1",
        ),
        (Undetermined, "returned Cancel(reason='heads'), without asking for await 1 on channel 'order' "),
    ],
)
async def test_w9_code_that_asks_for_something_else_diverges(it, changed, divergence):
    history = await it.engine.ledger.export(await sold(it))
    report = await rerun(changed, history, args={**history.job.args, "coin": "heads"})
    assert report.ended == "diverged"
    assert report.divergence.startswith(divergence)


async def test_l6_a_job_that_is_gone_is_run_again_with_its_args_given(it, url):
    sale = await sold(it)
    await it.engine.delete_job(sale)
    async with open_ledger(url, read_only=True) as ledger:
        history = await ledger.export(sale.id)
    assert history.job is None
    assert (await rerun(Sale, history, args={"order": 12})).ok


async def test_w10_the_await_in_which_a_job_was_cancelled_is_where_it_stops(it):
    sale = await Sale.enqueue({"order": 12})
    await eventually(lambda: waits_on(it, sale, "order"))
    await it.engine.cancel_job(sale)
    report = await rerun(Sale, await it.engine.ledger.export(sale))
    assert (report.ended, report.stopped_at.channel, report.cause) == ("stopped", "order", "cancelled")
    assert (report.stopped_at.deadline_at, report.attempt) == (None, 1)


async def test_a_rerun_beside_an_open_engine_writes_nothing(it, url):
    telling = await Telling.enqueue()
    await signal(telling, "go")
    await it.until(telling, "completed")
    noted = await eventually(lambda: it.engine.get_job(telling.id + 1))
    await it.until(noted, "completed")
    history = await it.engine.ledger.export(telling)
    before = await everything(it)
    report = await rerun(Telling, history)
    assert {(receipt.outcome, receipt.reason) for receipt in report.result} == {("ignored", "rerun: nothing is sent")}
    assert [(job.worker, dict(job.args)) for job in report.jobs] == [(path_of(Noted), {"by": telling.id})]
    assert [(sent.job_id, sent.payload) for sent in report.signals] == [(telling.id, "told"), (-1, "told")]

    @worker()
    class AtHand:
        """What an engine at hand does for it is not done either."""

        async def process(self, job):
            await await_signal()
            await it.engine.enqueue(Noted.new({"by": "engine"}))
            with pytest.raises(TypeError, match=r"job: expected a Job, such as .* got builtins.dict"):
                await it.engine.enqueue_many(Noted.new(), {"by": "engine"})
            await it.engine.enqueue_many(Noted.new(), Noted.new(), conn=object())
            await it.engine.signal(job, "told", conn=object())
            for call in (it.engine.cancel_job, it.engine.retry_job, it.engine.delete_job, it.engine.get_job):
                with pytest.raises(RuntimeError, match="engine 'Oban': expected no such call in a rerun"):
                    await call(job)
            with pytest.raises(RuntimeError, match="expected no such call in a rerun"):
                _ = it.engine.ledger

    report = await rerun(AtHand, history)
    assert (report.ended, len(report.jobs), len(report.signals)) == ("returned", 3, 1)
    assert await everything(it) == before


async def everything(it):
    ids = {event.job_id async for event in it.engine.ledger.events()}
    jobs = [await it.engine.get_job(job_id) for job_id in range(1, max(ids) + 5)]
    return [event async for event in it.engine.ledger.events()], [job and (job.id, str(job.state)) for job in jobs]


async def test_other_tasks_of_the_process_go_on_while_a_rerun_is_under_way(it):
    first = await Telling.enqueue()
    await signal(first, "go")
    await it.until(first, "completed")
    history = await it.engine.ledger.export(first)
    entered, leave = asyncio.Event(), asyncio.Event()

    @worker()
    class Held:
        async def process(self, job):
            entered.set()
            await leave.wait()
            await Noted.enqueue({"by": "rerun"})
            return await await_signal()

    running = asyncio.create_task(rerun(Held, history))
    await entered.wait()
    second = await Telling.enqueue()
    assert (await signal(second, "go")).outcome != "ignored"
    await it.until(second, "completed")
    await eventually(lambda: {"by": second.id} in SEEN)
    leave.set()
    report = await running
    assert (report.ended, report.result, len(report.jobs)) == ("returned", "go", 1)
    assert {"by": "rerun"} not in SEEN


async def test_a_job_may_run_another_again_and_then_wait_on(it):
    sale = await sold(it)
    history = await it.engine.ledger.export(sale)

    @worker()
    class Debugging:
        async def process(self, job):
            report = await rerun(Sale, history)
            return Cancel(f"{report.ended}, {await await_signal(wait_timeout=60)}")

    debugging = await Debugging.enqueue()
    await it.until_status(debugging, "live")
    await signal(debugging, "seen")
    done = await it.until(debugging, "cancelled")
    assert done.errors[0]["error"] == "returned, seen"


async def test_a_step_finds_its_workflow_which_takes_no_signals(it):
    workflow = Workflow("order 7").add("approval", Approving.new()).add("charge", Noted.new(), deps="approval")
    await it.engine.enqueue_many(workflow)
    await workflow.signal("approval", "granted")
    await it.until(workflow.jobs["approval"], "cancelled")
    history = await it.engine.ledger.export(workflow.job_ids["approval"])
    for each in (history, History.of(history)):
        report = await rerun(Approving, each, args={})
        assert report.result == Cancel("ignored")
        assert [sent.target for sent in report.signals] == [f"step 'charge' of workflow {workflow.id}"]

    @worker()
    class Planning:
        """A workflow that is made in the rerun is signalled by the names of its steps."""

        async def process(self, job):
            await await_signal()
            made = Workflow().add("first", Noted.new())
            await it.engine.enqueue_many(made)
            return await made.signal("first", "go")

    report = await rerun(Planning, history)
    assert report.result.job_id == report.jobs[0].id == -1
