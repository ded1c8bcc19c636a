"""Reruns in the core: awaits that are answered out of a history, and the report (promises W8, W9, W11)."""

import asyncio
import dataclasses
from datetime import UTC, datetime

import pytest

from signal_ledger import SignalTimeout, Workflow, await_signal, codec, signal
from signal_ledger.causes import Cause
from signal_ledger.codec import encode_with_digest
from signal_ledger.delivery import Sender
from signal_ledger.errors import PayloadError, RerunDiverged
from signal_ledger.execution import EndExecution, Execution
from signal_ledger.history import History
from signal_ledger.ledger import Ledger
from signal_ledger.memory import MemoryStore
from signal_ledger.offline import Notebook, UnsentSignal, current_notebook, offline, refuse_offline
from signal_ledger.rerun_report import RerunEnd, RerunReport
from signal_ledger.rerunning import OfflineEngine, RecordedRoom, RecordedRun, to_report
from signal_ledger.testing.clock import ManualClock
from tests.core.given import at, awaited, closed, consumed, delivered, planned, recorded, released, snoozed, timed_out

DATES = "deadline 2026-01-01T12:01:05.000000Z"


def sent(signal_id, payload, *, channel="", run=1, source=None):
    encoded = encode_with_digest(payload)
    event = delivered(signal_id, channel=channel, run=run, payload=encoded.data, digest=encoded.digest)
    return dataclasses.replace(event, source=source)


async def rerun(process, *events, run=None):
    """Run a function as `process` on a history, and return the report."""
    recorded_run = RecordedRun(History.of(recorded(events)), run)
    room, notebook = RecordedRoom(recorded_run), Notebook()
    execution = Execution(job_id=7, token=1, engine=OfflineEngine(notebook), room=room)
    result = error = None
    with offline(notebook):
        try:
            result = await execution.run(process)
        except Exception as raised:
            error = raised
    return to_report(
        recorded_run, room, notebook, worker="shop.Sale", attempt=1, result=result, result_text=str(result), error=error
    )


APPROVED = [
    (0, snoozed(deadline=65, channel="approval")),
    (1, sent("s1", "approved", channel="approval", source="ada")),
    (2, consumed("s1", 2, channel="approval", execution=2)),
]
LATE = [(10, snoozed(execution=2, deadline=65)), (66, timed_out(execution=3, deadline=65))]
CLOSED = [(67, closed(execution=3))]


async def decide():
    decision = await await_signal(channel="approval")
    try:
        await await_signal(60)
    except SignalTimeout as timeout:
        return decision, timeout.deadline_at
    return decision


async def test_w9_each_await_gets_what_it_got_then():
    report = await rerun(decide, *APPROVED, *LATE, *CLOSED)
    assert report.result == ("approved", at(65))
    assert (report.ended, report.ok, report.divergence, report.stopped_at) == ("returned", True, None, None)
    assert (report.cause, report.cause_version) == ("completed", 6)
    first, second = report.awaits
    assert (first.channel, first.ordinal, first.got) == ("approval", 1, "signal")
    assert (first.version, first.delivery_version, first.signal_id, first.source) == (3, 2, "s1", "ada")
    assert (second.channel, second.ordinal, second.got, second.version) == (None, 1, "timeout", 5)
    assert second.deadline_at == at(65)
    assert (report.unasked, report.notes, report.signals, report.jobs) == ((), (), (), ())
    report.raise_for_divergence()


async def test_what_process_raised_is_in_the_report():
    async def fail():
        await await_signal(channel="approval")
        raise ConnectionError("no route\nto the host")

    report = await rerun(fail, *APPROVED)
    assert (report.ended, report.ok, report.result) == ("raised", True, None)
    assert isinstance(report.error, ConnectionError)
    assert "raised: ConnectionError: no route\nIn the history, the run has not ended." in str(report)


async def test_it_stops_at_an_await_that_is_open_and_nothing_in_process_can_keep_it_from_that():
    """Promise W11: so it is with the snooze that came of it then."""
    caught = []

    async def stubborn():
        background = asyncio.create_task(asyncio.sleep(3600))
        try:
            await decide()
        except Exception as error:
            caught.append(error)
        finally:
            with pytest.raises(EndExecution):
                await await_signal(channel="another")
            caught.append(background)
            return "swallowed"  # noqa: B012 - what is tried here

    report = await rerun(stubborn, *APPROVED, *LATE[:1])
    [background] = caught
    assert background.cancelled()
    assert (report.ended, report.ok, report.result, report.cause) == ("stopped", True, None, None)
    assert (report.stopped_at.channel, report.stopped_at.ordinal) == (None, 1)
    assert (report.stopped_at.since, report.stopped_at.deadline_at, report.stopped_at.version) == (at(10), at(65), 4)
    assert [each.got for each in report.awaits] == ["signal", "nothing"]
    assert "stopped: at await 1 on the default channel, open since 2026-01-01T12:00:10.000000Z, deadline" in str(report)


async def test_a_wait_counts_since_its_first_event_and_has_its_last_deadline():
    report = await rerun(decide, (0, awaited(channel="approval")), (5, snoozed(channel="approval", deadline=65)))
    assert (report.stopped_at.since, report.stopped_at.deadline_at, report.stopped_at.version) == (at(0), at(65), 2)


async def test_w10_it_stops_at_the_await_in_which_the_job_was_cancelled():
    report = await rerun(decide, *APPROVED, *LATE[:1], (20, closed("cancelled", execution=2)))
    assert (report.ended, report.stopped_at.version, report.cause) == ("stopped", 4, "cancelled")


@pytest.mark.parametrize("events", [APPROVED[1:2], APPROVED])
async def test_it_stops_where_a_history_ends_that_was_cut(events):
    report = await rerun(decide, *events)
    assert report.ended == "stopped"
    assert (report.stopped_at.since, report.stopped_at.version) == (None, None)
    assert str(report.stopped_at).endswith(", before which the history ends")


# Code that has changed


async def test_more_awaits_than_the_run_had_diverge():
    async def more():
        await decide()
        await await_signal(channel="approval")

    report = await rerun(more, *APPROVED, *LATE, *CLOSED)
    assert (report.ended, report.ok) == ("diverged", False)
    assert report.divergence == (
        "asked for await 2 on channel 'approval', as its await number 3; "
        "in the history the run ended without it (event 6)"
    )


async def test_an_await_that_a_run_failed_before_is_none_too_many():
    """What process calls failed then, and is patched or mended now."""

    async def mended():
        await decide()
        await await_signal(channel="receipt")

    report = await rerun(mended, *APPROVED, *LATE, (67, closed("discarded", execution=3)))
    assert (report.ended, report.ok) == ("stopped", True)
    assert "stopped: at await 1 on channel 'receipt', before which the history ends" in str(report)
    assert "what process calls may have failed then, and not now" in str(report)


@pytest.mark.parametrize("cause", ["cancelled", "deleted"])
async def test_an_await_after_an_end_that_may_have_come_from_outside_diverges_and_the_report_says_so(cause):
    async def goes_on():
        await decide()
        await await_signal(channel="receipt")

    report = await rerun(goes_on, *APPROVED, *LATE, (67, closed(cause, execution=3)))
    assert report.ended == "diverged"
    assert f"not deterministic, or the job was {cause} from outside there." in str(report)


async def test_an_await_on_another_channel_diverges_from_the_outcome_that_comes_next():
    async def other():
        await await_signal(channel="approval")
        await await_signal(channel="veto")

    report = await rerun(other, *APPROVED, *LATE, *CLOSED)
    assert report.divergence == (
        "asked for await 1 on channel 'veto', as its await number 2; "
        "the history holds await 1 on the default channel instead (event 5)"
    )
    assert [(each.channel, each.version) for each in report.unasked] == [(None, 5)]


async def test_an_await_on_another_channel_diverges_from_one_that_is_open():
    async def other():
        await await_signal(channel="approval")
        await await_signal(channel="veto")

    report = await rerun(other, *APPROVED, *LATE[:1])
    assert report.divergence == (
        "asked for await 1 on channel 'veto', as its await number 2; "
        "the history holds await 1 on the default channel instead, still open (event 4)"
    )


async def test_fewer_awaits_diverge_when_process_ends():
    async def fewer():
        return await await_signal(channel="approval")

    report = await rerun(fewer, *APPROVED, *LATE, *CLOSED)
    assert (report.ended, report.result) == ("diverged", "approved")
    assert report.divergence == (
        "returned approved, without asking for await 1 on the default channel (event 5), which the history holds"
    )
    with pytest.raises(RerunDiverged, match=r"process returned approved, without asking") as diverged:
        report.raise_for_divergence()
    assert diverged.value.report is report
    assert isinstance(diverged.value, AssertionError)


async def test_a_process_that_does_not_ask_for_the_open_await_diverges():
    async def fewer():
        return await await_signal(channel="approval")

    report = await rerun(fewer, *APPROVED, *LATE[:1])
    assert report.divergence.endswith(
        "without asking for await 1 on the default channel (event 4), which the history holds"
    )


async def test_an_exception_before_all_awaits_diverges_and_is_the_cause():
    async def fail():
        raise ConnectionError("no route")

    report = await rerun(fail, *APPROVED, *LATE, *CLOSED)
    assert report.ended == "diverged"
    assert report.divergence == (
        "raised ConnectionError: no route, "
        "without asking for await 1 on channel 'approval' (event 3) and 1 more, which the history holds"
    )
    assert "or what it calls did not fail then" in str(report)
    with pytest.raises(RerunDiverged) as diverged:
        report.raise_for_divergence()
    assert diverged.value.__cause__ is report.error


async def test_a_divergence_cannot_be_swallowed_and_stands():
    tried = []

    async def stubborn():
        for channel in ("veto", "approval"):
            try:
                await await_signal(channel=channel)
            except BaseException as error:
                tried.append(type(error))
        return "swallowed"

    report = await rerun(stubborn, *APPROVED, *CLOSED)
    assert tried == [EndExecution, EndExecution]
    assert report.ended == "diverged"
    assert "asked for await 1 on channel 'veto', as its await number 1;" in report.divergence
    assert len(report.awaits) == 1


async def test_another_order_of_channels_is_no_divergence_and_is_noted():
    async def other_order():
        with pytest.raises(SignalTimeout):
            await await_signal()
        return await await_signal(channel="approval")

    report = await rerun(other_order, *APPROVED, *LATE, *CLOSED)
    assert (report.ended, report.result) == ("returned", "approved")
    [note] = report.notes
    assert "in another order than then" in note
    stopped = await rerun(other_order, *APPROVED, *LATE[:1])
    assert (stopped.ended, stopped.notes) == ("stopped", (note,))


async def test_a_wait_that_process_had_given_up_stops_the_rerun_and_is_noted():
    events = [(0, awaited(channel="approval")), (1, awaited()), *LATE[1:], *CLOSED]
    report = await rerun(decide, *events)
    assert (report.ended, report.stopped_at.channel) == ("stopped", "approval")
    assert report.notes[-1].startswith("In the history the job went on without an outcome of the await")


# Payloads


@pytest.mark.parametrize("payload", [None, b"\x83no term"])
async def test_d9_a_payload_that_cannot_be_read_raises_as_it_did_then(payload):
    raised = []

    async def careful():
        try:
            await await_signal()
        except PayloadError as error:
            raised.append(error)
        return await await_signal()

    events = [(0, delivered("s1", payload=payload)), (0, sent("s2", "next")), (1, consumed("s1", 1))]
    report = await rerun(careful, *events, (1, consumed("s2", 2, 2)), (2, closed()))
    assert (report.ended, report.result, len(raised)) == ("returned", "next", 1)
    assert [each.got for each in report.awaits] == ["unreadable", "signal"]
    assert "whose payload cannot be read: PayloadError" in str(report)


def test_w8_an_outcome_without_its_delivery_is_refused():
    history = History.of(recorded([(0, awaited()), (1, consumed("s1", 1))]))
    with pytest.raises(ValueError, match="expected event 1 to be the delivery that event 2 consumed, it is none"):
        RecordedRun(history)
    with pytest.raises(ValueError, match="expected event 9 to be the delivery"):
        RecordedRun(History.of(recorded([(0, consumed("s1", 9))])))


# Runs and executions

TWICE = [*APPROVED, (5, closed("discarded", execution=2)), (6, sent("s2", "again", run=2, channel="approval"))]
SECOND = [(7, consumed("s2", 5, channel="approval", execution=3, run=2))]


async def test_w10_each_run_has_its_own_awaits_and_the_last_one_is_run_unless_another_is_named():
    async def once():
        return await await_signal(channel="approval")

    assert (await rerun(once, *TWICE, *SECOND)).result == "again"
    first = await rerun(once, *TWICE, *SECOND, run=1)
    assert (first.result, first.run, first.cause) == ("approved", 1, "discarded")
    for run in (0, 3, True, "1"):
        with pytest.raises(ValueError, match="run: expected a run of the history, from 1 to 2, got"):
            await rerun(once, *TWICE, run=run)


def found(*events):
    return RecordedRun(History(job_id=7, events=tuple(recorded(events))))


def with_attempt(event, attempt):
    return dataclasses.replace(event, attempt=attempt)


def test_the_attempt_is_that_of_the_last_execution():
    assert found().attempt is None
    assert found((0, sent("s1", 1))).attempt is None
    assert found((0, closed("cancelled", execution=0))).attempt is None
    assert found(*APPROVED).attempt == 1
    retried = found(*APPROVED, (3, with_attempt(snoozed(execution=3), 2)))
    assert (retried.attempt, retried.last_execution, retried.began.version) == (2, 3, 4)
    # A snooze gives its attempt back, and a job that is cancelled while it sleeps ends with that.
    assert found((0, awaited()), (1, with_attempt(closed("cancelled"), 0))).attempt == 1
    assert found((0, with_attempt(closed("cancelled"), 0))).attempt == 1


def test_the_plan_of_the_run_is_found():
    assert found((0, planned("charge"))).plan.name == "charge"
    assert found((0, released())).plan is None


# What is written in a rerun


async def test_signals_are_taken_down_and_not_sent():
    receipts = []

    async def tell():
        receipts.append(await signal(12, {"secret": 1}, channel="news", key="k", source="sale"))
        receipts.append(await signal([12, 13], "go", conn=object()))
        with pytest.raises(PayloadError):
            await signal(12, object())

    report = await rerun(tell, (0, sent("s1", 1)))
    one, [two, three] = receipts
    assert {(each.outcome, each.reason, each.signal_id) for each in (one, two, three)} == {
        ("ignored", "rerun: nothing is sent", None)
    }
    assert [(each.job_id, each.target) for each in report.signals] == [(12, "job 12"), (12, "job 12"), (13, "job 13")]
    first = report.signals[0]
    assert (first.channel, first.key, first.source, first.payload) == ("news", "k", "sale", {"secret": 1})
    assert "secret" not in repr(report) + str(report)
    assert "  1. to job 12 on channel 'news', key 'k', source 'sale'\n" in str(report)
    assert "  3. to job 13 on the default channel" in str(report)


async def test_signals_through_a_ledger_are_taken_down_too():
    store = MemoryStore(ManualClock())
    ledger = Ledger(store, Sender(store=store, new_id=Notebook().new_id))

    async def tell():
        return await ledger.signal(12, "go")

    report = await rerun(tell, (0, sent("s1", 1)))
    assert report.result.outcome == "ignored"
    assert [each.payload for each in report.signals] == ["go"]
    assert current_notebook() is None


async def test_workflows_are_signalled_by_names_that_nobody_can_look_up():
    async def tell():
        workflow = await Workflow.load("w1")
        await workflow.signal("charge", "go")
        again = await Workflow.load("w1")
        for ask in (lambda: again.job_ids, lambda: len(again), again.graph):
            with pytest.raises(RuntimeError, match="expected no such call in a rerun"):
                ask()
        return await again.signal(["charge", "ship"], "go")

    report = await rerun(tell, (0, sent("s1", 1)))
    assert [each.job_id for each in report.result] == [-1, -2]
    assert [each.target for each in report.signals] == ["step 'charge' of workflow w1"] * 2 + [
        "step 'ship' of workflow w1"
    ]


async def test_what_can_be_neither_done_nor_taken_down_is_refused():
    store = MemoryStore(ManualClock())
    ledger = Ledger(store, Sender(store=store, new_id=Notebook().new_id))
    workflow = Workflow()
    refused = []

    async def ask():
        for call in (workflow.status, workflow.cancel, ledger.rebuild, lambda: ledger.retry_steps("w")):
            with pytest.raises(RuntimeError, match="expected no such call in a rerun, which reaches no database"):
                await call()
            refused.append(call)
        with pytest.raises(RuntimeError, match="cancel_many_jobs: expected no such call in a rerun"):
            await OfflineEngine(Notebook()).cancel_many_jobs([7])

    assert (await rerun(ask, (0, sent("s1", 1)))).ended == "returned"
    assert len(refused) == 4
    refuse_offline("outside of a rerun nothing is refused")


def test_jobs_are_taken_down_under_ids_of_their_own():
    notebook = Notebook()
    common = {"queue": "mail", "args": {"secret": 1}, "meta": {}}
    first = notebook.add_job(worker="shop.Mail", scheduled_at=None, **common)
    second = notebook.add_job(worker="shop.Mail", scheduled_at=datetime(2026, 1, 2, tzinfo=UTC), **common)
    assert (first, second) == (-1, -2)
    assert "secret" not in repr(notebook.jobs)
    report = RerunReport(worker="w", job_id=7, run=1, attempt=1, ended=RerunEnd.RETURNED, jobs=tuple(notebook.jobs))
    assert str(report).splitlines()[-3:] == [
        "Jobs that it would have enqueued:",
        "  1. shop.Mail in queue 'mail'",
        "  2. shop.Mail in queue 'mail', scheduled at 2026-01-02T00:00:00.000000Z",
    ]


async def test_the_name_of_an_engine_that_is_none():
    engine = OfflineEngine(notebook := Notebook())
    assert engine.name == "rerun"
    assert (await engine._signals.send(7, 1, channel=None, key=None, source=None, timeout=1)).outcome == "ignored"
    assert notebook.signals == [
        UnsentSignal(job_id=7, target="job 7", channel=None, key=None, source=None, encoded=codec.encode(1))
    ]
    assert RecordedRoom(found()).is_closing


async def test_the_report_tells_it_all_to_people():
    report = await rerun(decide, *APPROVED, *LATE, *CLOSED)
    assert str(report).splitlines() == [
        "Rerun of shop.Sale on the history of job 7, run 1, attempt 1:",
        "returned: ('approved', datetime.datetime(2026, 1, 1, 12, 1, 5, tzinfo=datetime.timezone.utc))",
        "In the history, the run ended as completed (event 6).",
        "Awaits, in the order in which process asked for them:",
        "  1. await 1 on channel 'approval': signal s1 from ada (sent in event 2, consumed in event 3)",
        f"  2. await 1 on the default channel: timed out, {DATES} (event 5)",
    ]
    assert report.cause is Cause.COMPLETED


async def test_an_exception_before_an_await_that_the_run_never_ended_is_what_may_have_failed_then():
    async def fail():
        raise ConnectionError("no route")

    discarded = closed("discarded", execution=3)
    for events in ([*APPROVED, *LATE, (67, discarded)], [*APPROVED, *LATE]):
        report = await rerun(fail, *events)
        assert (report.ended, report.ok, type(report.error)) == ("raised", True, ConnectionError)
        assert len(report.unasked) == 2
        assert "An attempt that failed there would leave no events." in str(report)


async def test_w11_concurrent_awaits_are_served_in_call_order():
    async def panel():
        async def desk(count):
            return [await await_signal(channel="approval") for _ in range(count)]

        return await asyncio.gather(desk(2), desk(1))

    events = [(0, sent(name, name, channel="approval")) for name in ("a", "b", "c")]
    events += [(1, consumed(name, place, place, channel="approval")) for place, name in enumerate("abc", start=1)]
    report = await rerun(panel, *events)
    assert report.result == [["a", "c"], ["b"]]


async def test_an_await_that_is_given_up_at_once_as_it_was_then_does_not_stop_the_rerun():
    async def first_of_two():
        tasks = [asyncio.create_task(await_signal(channel=channel)) for channel in ("approval", "refusal")]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        return done == {tasks[0]}

    given_up = (3, awaited(channel="refusal", execution=2))
    for events in ([*APPROVED, given_up, (4, closed(execution=2))], [*APPROVED, (4, closed(execution=2))]):
        report = await rerun(first_of_two, *events)
        assert (report.ended, report.result) == ("returned", True)
