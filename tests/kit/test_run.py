"""One worker, run through its waits: what becomes of it, when, and what is told of it."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest
from oban import Cancel, Job, job, worker

from signal_ledger import Workflow, await_signal, signal, testing
from signal_ledger.testing import Signal, run
from tests.kit.workers import SEEN, Approval, Failing, Letter, Poll, Reminder, Restless, Writer

DAY = timedelta(days=1)
APPROVED = {"decision": "approved"}


def kinds(it):
    return [recorded.kind.value for recorded in it.history]


async def test_a_signal_that_is_there_is_had_in_one_execution():
    it = await run(Approval, signals=[Signal(APPROVED, channel="approval", source="ada")])
    assert (it.state, it.result, it.executions, it.took) == ("completed", "approved", 1, timedelta(0))
    assert kinds(it) == ["delivered", "consumed", "closed"]
    assert (it.history[0].source, it.job.state, it.error, it.reason) == ("ada", "completed", None, None)
    testing.assert_receipt(it.receipts, "buffered")


async def test_a_signal_that_comes_later_wakes_the_job_at_its_time():
    it = await run(Approval, signals=[Signal(APPROVED, channel="approval", after=timedelta(hours=5))])
    assert (it.state, it.result, it.executions, it.took) == ("completed", "approved", 2, timedelta(hours=5))
    testing.assert_receipt(it.receipts, "woken")


async def test_a_signal_after_no_time_wakes_the_job_that_has_come_to_its_await():
    it = await run(Approval, signals=[Signal(APPROVED, channel="approval", after=0)])
    assert (kinds(it)[0], it.took) == ("snoozed", timedelta(0))
    testing.assert_receipt(it.receipts, "woken")


async def test_without_a_signal_the_clock_jumps_to_the_deadline():
    it = await run(Approval)
    assert (it.state, it.reason, it.result, it.took, it.receipts) == ("cancelled", "no decision", None, DAY, ())
    assert kinds(it) == ["snoozed", "timed_out", "closed"]


async def test_a_signal_at_the_deadline_is_in_time_and_one_after_it_is_not():
    for after, state, outcome in ((DAY, "completed", "woken"), (DAY + timedelta(seconds=1), "cancelled", "ignored")):
        it = await run(Approval, signals=[Signal(APPROVED, channel="approval", after=after)])
        assert (it.state, it.took) == (state, DAY)
        testing.assert_receipt(it.receipts, outcome)


async def test_who_waits_for_what_never_comes_is_still_waiting():
    it = await run(Poll, {"quorum": 3}, signals=["yes", "no"])
    assert (it.state, it.waiting.channel, it.waiting.ordinal, it.waiting.deadline_at) == ("waiting", None, 3, None)
    assert (it.result, it.job.state, it.executions) == (None, "scheduled", 1)


async def test_signals_are_sent_in_the_order_of_their_times_and_as_given_at_the_same():
    signals = [Signal("late", after=60), "first", Signal("early", after=timedelta(seconds=5)), "second"]
    it = await run(Poll, {"quorum": 4}, signals=signals)
    assert it.result == ["first", "second", "early", "late"]
    assert [receipt.outcome for receipt in it.receipts] == ["buffered", "buffered", "woken", "woken"]


async def test_a_key_is_had_once():
    it = await run(Poll, {"quorum": 2}, signals=[Signal("yes", key="ada"), Signal("yes", key="ada"), "no"])
    assert it.result == ["yes", "no"]
    assert [receipt.outcome for receipt in it.receipts] == ["buffered", "duplicate", "buffered"]


async def test_a_bound_on_the_time_leaves_the_job_as_it_is_then():
    it = await run(Approval, signals=[Signal(APPROVED, channel="approval", after=7200)], until=3600)
    assert (it.state, it.took, it.receipts) == ("waiting", timedelta(hours=1), ())
    assert it.waiting.deadline_at - it.history[0].recorded_at == DAY
    at_the_deadline = await run(Approval, until=DAY)
    assert at_the_deadline.state == "cancelled"
    assert (await run(Reminder, until=90)).state == "scheduled"
    assert (await run(Failing, until=0)).state == "retryable"


async def test_a_failure_is_retried_and_told():
    it = await run(Failing)
    assert (it.state, str(it.error), SEEN) == ("discarded", "this is no secret", [1, 2, 3])
    assert (it.executions, it.took, it.result) == (3, timedelta(seconds=30), None)


async def test_an_error_that_was_made_up_for_is_none():
    @worker()
    class Once:
        async def process(self, job):
            if job.attempt == 1:
                raise ValueError("the first time")
            return "done"

    it = await run(Once)
    assert (it.state, it.result, it.error, it.executions) == ("completed", "done", None, 2)


async def test_a_timeout_that_is_not_caught_fails_the_job_again_and_again():
    @worker(max_attempts=2)
    class Careless:
        async def process(self, job):
            await await_signal(wait_for=60)

    it = await run(Careless)
    assert (it.state, type(it.error).__name__, it.executions) == ("discarded", "SignalTimeout", 3)


async def test_other_jobs_run_on_the_way_and_what_they_do_counts():
    @worker()
    class Asking:
        """Enqueues what will signal it later."""

        async def process(self, job):
            await Writer.enqueue({"to": ["ada"], "approve": job.id}, scheduled_in=600)
            return await await_signal(channel="approval")

    it = await run(Asking)
    assert (it.state, it.result, it.took, SEEN) == ("completed", APPROVED, timedelta(minutes=10), ["ada"])
    assert it.history[1].source == "the writer"


async def test_a_job_that_comes_back_by_itself_is_run_to_its_end():
    it = await run(Reminder)
    assert (it.state, it.executions, it.took, kinds(it)) == ("completed", 4, timedelta(minutes=3), [])


async def test_a_job_that_never_comes_to_rest_is_an_error():
    with pytest.raises(RuntimeError, match=r"expected the jobs to come to rest.*; job 1 .* had 10001 of them") as told:
        await run(Restless)
    assert "run(..., until=) ends earlier" in str(told.value)


async def test_a_job_that_deletes_itself_later_is_told_as_deleted():
    @worker()
    class Deleting:
        async def process(self, job):
            await engine.delete_job(job.args["id"])

    async with testing.engine() as engine:
        await Deleting.enqueue({"id": 2}, scheduled_in=60)
        it = await engine.run(Poll, {"quorum": 1})
    assert (it.state, it.waiting, kinds(it)) == ("deleted", None, ["snoozed", "closed"])


async def test_functions_and_jobs_are_run_as_classes_are():
    @job()
    async def sum_up(numbers):
        return sum(numbers)

    assert (await run(sum_up, [1, 2])).result == 3
    assert (await run(sum_up.new([1, 2]))).result == 3
    it = await run(Approval.new({}, max_attempts=1, meta={"of": "a test"}))
    assert (it.job.max_attempts, it.job.meta["of"]) == (1, "a test")


async def test_an_engine_of_the_workers_own_name_is_made():
    @worker(oban="Elsewhere")
    class There:
        async def process(self, job):
            return job.args["n"] if job.args["n"] == 0 else (await There.enqueue({"n": 0})).args["n"]

    assert (await run(There, {"n": 1})).result == 0


async def test_an_open_engine_runs_it_itself():
    clock = testing.ManualClock(datetime(2026, 3, 1, tzinfo=UTC))
    async with testing.engine(clock=clock) as engine:
        with pytest.raises(RuntimeError, match=r"there is one; use its own: engine\.run"):
            await run(Approval)
        first = await engine.run(Approval)
        second = await engine.run(Approval, until=60)
    assert (first.took, second.state) == (DAY, "waiting")
    assert clock() - datetime(2026, 3, 1, tzinfo=UTC) == DAY + timedelta(minutes=1, microseconds=1)


async def test_a_step_that_is_held_is_not_waited_for():
    workflow = Workflow().add("approval", Approval.new()).add("letter", Letter.new({"to": "ada"}), deps="approval")
    async with testing.engine() as engine:
        await engine.enqueue_many(workflow)
        await engine.drain()
        it = await engine.run(Poll, {"quorum": 1}, until=60)
        assert it.state == "waiting"
        assert (await signal(workflow.job_ids["approval"], APPROVED, channel="approval")).outcome == "woken"


def test_no_event_loop_is_needed_around_it():
    assert asyncio.run(run(Approval)).state == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((object(),), {}, TypeError, "worker: expected a class with @worker"),
        ((int,), {}, TypeError, "got builtins.int"),
        (
            (Approval,),
            {"signals": {"decision": "approved"}},
            TypeError,
            "expected a list .*, got builtins.dict",
        ),
        ((Approval,), {"signals": "approved"}, TypeError, "signals"),
        ((Approval,), {"signals": Signal("approved")}, TypeError, "signals"),
        ((Approval,), {"signals": 7}, TypeError, "signals"),
        ((Approval,), {"until": -1}, ValueError, "until"),
        ((Approval.new(), {"a": 1}), {}, TypeError, "args: expected None beside a job"),
        ((Job("app.Worker", id=7),), {}, ValueError, "this one has id 7"),
    ],
)
async def test_arguments_are_checked_before_anything_runs(arguments, options, error, message):
    with pytest.raises(error, match=message):
        await run(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"after": -1}, ValueError), ({"channel": ""}, ValueError), ({"key": 7}, TypeError), ({"source": ""}, ValueError)],
)
def test_a_signal_is_checked_where_it_is_made(options, error):
    with pytest.raises(error, match=next(iter(options))):
        Signal("approved", **options)


# What is told of it


@worker()
class Declined:
    async def process(self, job):
        payload = await await_signal(channel="approval")
        return Cancel(f"declined: {payload['decision']}")


async def test_the_text_of_a_run_is_the_story_of_the_job():
    signals = [Signal({"decision": "s3cret"}, channel="approval", source="ada", after=60)]
    async with testing.engine(clock=testing.ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC))) as engine:
        it = await engine.run(Declined, signals=signals)
    assert repr(it) == (
        "<Run of job 1 (Declined): cancelled, after 2 executions in 0:01:00; "
        "events: snoozed, delivered, consumed, closed>"
    )
    assert str(it).splitlines() == [
        "job 1 (Declined): cancelled, after 2 executions in 0:01:00",
        "   1  2026-03-01 12:00:00.000  snoozed    execution 1, await 1 on approval: sleeps",
        "   2  2026-03-01 12:01:00.000  delivered  woken from ada on approval",
        "   3  2026-03-01 12:01:00.000  consumed   execution 2, await 1 on approval: got the signal of event 2",
        "   4  2026-03-01 12:01:00.000  closed     cancelled by execution 2, attempt 1",
    ]


async def test_a_run_that_waits_says_on_what_and_until_when():
    clock = testing.ManualClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    async with testing.engine(clock=clock) as engine:
        assert "(Approval): waiting on channel 'approval' until 2026-03-02 12:00:00.000 UTC, after 1 execution in" in (
            repr(await engine.run(Approval, until=0))
        )
        assert "(Poll): waiting on the default channel without a deadline, after" in (
            repr(await engine.run(Poll, {"quorum": 1}))
        )


async def test_no_text_shows_a_payload_nor_what_an_exception_says():
    it = await run(Failing, {"secret": "s3cret"})
    assert re.search(r"discarded, failed by ValueError at workers.py:\d+, after 3 executions", repr(it))
    told = [repr(it), str(it), repr(Signal("s3cret")), repr(await run(Poll, {"quorum": 1}, signals=["s3cret"]))]
    assert not [text for text in told if "s3cret" in text]
    assert "s3cret" in str(it.error)


async def test_a_long_story_is_told_from_its_end():
    it = await run(Poll, {"quorum": 30}, signals=["yes"] * 30)
    lines = str(it).splitlines()
    assert (len(lines), lines[1]) == (42, "   (… 21 events before these)")
    assert "closed" in lines[-1]


@worker()
class Panel:
    async def process(self, job):
        async def desk(count):
            return [await await_signal(channel="votes") for _ in range(count)]

        return await asyncio.gather(desk(2), desk(1))


async def test_w11_concurrent_awaits_are_served_in_call_order_in_memory_as_on_a_file(tmp_path):
    signals = [testing.Signal(vote, channel="votes") for vote in "abc"]
    for url in (None, f"sqlite:///{tmp_path}/panel.db"):
        async with testing.engine(url) as engine:
            it = await engine.run(Panel, signals=signals)
            assert it.result == [["a", "c"], ["b"]], url


async def test_jobs_that_enqueue_one_another_without_an_end_are_told_by_their_worker():
    @worker()
    class Chain:
        async def process(self, job):
            await Chain.enqueue(scheduled_in=60)

    async with testing.engine(executions_max=50) as engine:
        await Approval.enqueue()
        await Chain.enqueue()
        with pytest.raises(RuntimeError, match=r"; 50 jobs of \S*Chain had 50 of them"):
            await engine.advance(1e6)


async def test_as_many_executions_as_are_allowed_are_no_error():
    async with testing.engine(executions_max=2) as engine:
        for _ in range(2):
            await Panel.enqueue()
        assert await engine.drain() == 2
        for _ in range(3):
            await Panel.enqueue()
        with pytest.raises(RuntimeError, match="expected the jobs to come to rest"):
            await engine.drain()
