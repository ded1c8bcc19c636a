"""What assertions say when they fail is enough to know why; on every engine, and never a payload."""

import math
import re
from datetime import UTC, datetime, timedelta

import pytest

from signal_ledger import Outcome, Receipt, lite, open_ledger, signal
from signal_ledger.testing import (
    ManualClock,
    assert_not_waiting,
    assert_receipt,
    assert_signalled,
    assert_state,
    assert_timed_out,
    assert_waiting,
    engine,
)
from tests.eventually import eventually
from tests.kit.workers import Approval, Failing, Letter, Poll

DAY = timedelta(days=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

SNOOZED = (
    "   1  2026-03-01 12:00:00.000  snoozed    "
    "execution 1, await 1 on approval: sleeps, at most until 2026-03-02 12:00:00.000"
)


@pytest.fixture
async def it():
    async with engine(clock=ManualClock(NOON)) as manual:
        yield manual


@pytest.fixture
async def waiting(it):
    """A job that waits on the channel "approval" for a day."""
    job = await Approval.enqueue()
    await it.drain()
    return job


async def lines_of(awaitable):
    with pytest.raises(AssertionError) as failure:
        await awaitable
    return str(failure.value).splitlines()


async def test_a_job_waits_on_a_channel_for_some_time(it, waiting):
    wait = await assert_waiting(waiting, channel="approval", deadline_in=DAY)
    assert (wait.job_id, wait.deadline_at) == (waiting.id, NOON + DAY)
    await it.advance(3600)
    await assert_waiting(waiting.id, deadline_in=82_800.5)
    assert await lines_of(assert_waiting(waiting, channel="votes")) == [
        "job 1 (Approval): expected to wait on channel 'votes'; it waits on channel 'approval'",
        SNOOZED,
    ]
    assert await lines_of(assert_waiting(waiting, channel="")) == [
        "job 1 (Approval): expected to wait on the default channel; it waits on channel 'approval'",
        SNOOZED,
    ]
    assert await lines_of(assert_waiting(waiting, deadline_in=DAY)) == [
        "job 1 (Approval): expected to wait for 1 day, 0:00:00; it waits for 23:00:00",
        SNOOZED,
    ]
    assert await lines_of(assert_waiting(waiting, deadline_in=math.inf)) == [
        "job 1 (Approval): expected to wait without a deadline; it waits for 23:00:00",
        SNOOZED,
    ]


async def test_a_deadline_that_has_passed_is_told_as_such(it, waiting):
    it.clock.advance(86_460)
    [first, _] = await lines_of(assert_waiting(waiting, deadline_in=60))
    assert first.endswith("expected to wait for 0:01:00; it waits with a deadline that passed 0:01:00 ago")


async def test_a_job_waits_without_a_deadline(it):
    job = await Poll.enqueue({"quorum": 1})
    await it.drain()
    await assert_waiting(job, channel="", deadline_in=math.inf)
    [first, _] = await lines_of(assert_waiting(job, deadline_in=60))
    assert first == "job 1 (Poll): expected to wait for 0:01:00; it waits without a deadline"


async def test_a_job_does_not_wait(it, waiting):
    assert await lines_of(assert_not_waiting(waiting)) == [
        "job 1 (Approval): expected not to wait; it waits on channel 'approval' until 2026-03-02 12:00:00.000 UTC",
        SNOOZED,
    ]
    await signal(waiting, {"decision": "approved"}, channel="approval")
    await assert_not_waiting(waiting)
    [first, *story] = await lines_of(assert_waiting(waiting))
    assert first == ("job 1 (Approval): expected to wait; it is available, and runs with the next drain() or advance()")
    assert story == [SNOOZED, "   2  2026-03-01 12:00:00.000  delivered  woken on approval"]
    await it.drain()
    [first, *_] = await lines_of(assert_waiting(waiting.id))
    assert first == "job 1: expected to wait; it is completed"


async def test_a_job_without_events_is_told_as_such(it):
    await Letter.enqueue()
    assert await lines_of(assert_waiting(1)) == [
        "job 1: expected to wait; it is available, and runs with the next drain() or advance()",
        "   (no events: it has never waited, and was never signalled)",
    ]
    [first, _] = await lines_of(assert_waiting(404))
    assert first == "job 404: expected to wait; there is no such job"


async def test_a_job_is_in_a_state(it, waiting):
    await assert_state(waiting, "scheduled")
    assert await lines_of(assert_state(waiting, "completed")) == [
        "job 1 (Approval): expected to be completed; it is scheduled",
        SNOOZED,
    ]
    [first, _] = await lines_of(assert_state(404, "completed"))
    assert first == "job 404: expected to be completed; there is no such job"
    with pytest.raises(ValueError, match=r"state: expected one of available, .*, got 'complete'"):
        await assert_state(waiting, "complete")


async def test_the_exception_of_a_failed_job_is_the_cause_and_is_not_quoted(it):
    job = await Failing.enqueue({"secret": "s3cret"})
    await it.drain(raising=False)
    with pytest.raises(AssertionError) as failure:
        await assert_state(job, "completed")
    assert failure.value.__cause__ is it.error_of(job)
    [first, second, _] = str(failure.value).splitlines()
    assert first == "job 1 (Failing): expected to be completed; it is retryable"
    assert re.fullmatch(r"   its last execution failed by ValueError at workers.py:\d+", second)


async def test_a_job_was_signalled(it, waiting):
    assert await lines_of(assert_signalled(waiting)) == [
        "job 1 (Approval): expected to be signalled; it was never signalled",
        SNOOZED,
    ]
    await signal(waiting, {"decision": "s3cret", "by": ["ada"]}, channel="approval", source="ada", key="k")
    await signal(waiting, 1, source="bob")
    found = await assert_signalled(waiting, payload={"by": ["ada"], "decision": "s3cret"})
    assert (found.version, found.source) == (2, "ada")
    assert (await assert_signalled(waiting, channel="")).source == "bob"
    for wanted in ({"channel": "approval"}, {"source": "ada"}, {"key": "k"}, {"payload": 1, "source": "bob"}):
        await assert_signalled(waiting, **wanted)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"source": "bob", "key": "k"}, "by bob with key k; it was signalled otherwise"),
        ({"channel": "votes"}, "on channel 'votes'; it was signalled otherwise"),
        (
            {"payload": {"decision": "no", "by": ["ada"]}},
            '; event 2 is such a signal, but payload["decision"] is another str',
        ),
        ({"payload": None}, "; event 2 is such a signal, but payload is a dict, expected None"),
    ],
)
async def test_a_signal_that_is_looked_for_in_vain_is_told_by_its_difference(it, waiting, wanted, told):
    await signal(waiting, {"decision": "s3cret", "by": ["ada"]}, channel="approval", source="ada", key="k")
    [first, *story] = await lines_of(assert_signalled(waiting, **wanted))
    assert first == f"job 1 (Approval): expected to be signalled{'' if told[0] == ';' else ' '}{told}"
    assert "s3cret" not in "\n".join([first, *story])


async def test_a_payload_that_cannot_be_read_is_no_payload(it, waiting):
    await signal(waiting, {"decision": "approved"}, channel="approval")
    [delivered] = [one for one in it._store._tables.events if one.kind == "delivered"]
    object.__setattr__(delivered.event, "payload", None)
    [first, *_] = await lines_of(assert_signalled(waiting, payload="another"))
    assert first.endswith("but payload cannot be read")


async def test_a_wait_has_timed_out(it, waiting):
    [first, _] = await lines_of(assert_timed_out(waiting))
    assert first == ("job 1 (Approval): expected a wait to have timed out; it waits until 2026-03-02 12:00:00.000 UTC")
    await it.advance(DAY)
    assert (await assert_timed_out(waiting)).deadline_at == NOON + DAY
    await assert_timed_out(waiting, channel="approval")
    [first, *_] = await lines_of(assert_timed_out(waiting, channel=""))
    assert first == ("job 1 (Approval): expected a wait on the default channel to have timed out; it is cancelled")


def test_receipts_say_what_became_of_a_signal():
    woken = Receipt(job_id=7, outcome=Outcome.WOKEN, signal_id="s", version=2)
    ignored = Receipt(job_id=8, outcome=Outcome.IGNORED, signal_id=None, version=None, reason="completed")
    assert_receipt(woken, "woken")
    assert_receipt([woken, woken], Outcome.WOKEN)
    assert_receipt(ignored, "ignored", reason="completed")
    for receipts, options, message in (
        ([woken, ignored], {}, r"the signal to job 8: expected woken, got ignored \(completed\)"),
        ([], {}, "expected receipts that say woken, got none"),
        (woken, {"reason": "missing"}, r"the signal to job 7: expected woken \(missing\), got woken"),
    ):
        with pytest.raises(AssertionError, match=f"^{message}$"):
            assert_receipt(receipts, "woken", **options)
    with pytest.raises(ValueError, match="outcome: expected one of woken, live"):
        assert_receipt(woken, "awake")


async def test_inside_a_job_its_own_engine_is_asked(it):
    from oban import worker

    @worker()
    class Asking:
        async def process(self, job):
            await assert_not_waiting(job)
            await assert_state(job, "executing")

    await Asking.enqueue()
    async with engine(name="another"):
        assert await it.drain() == 1


async def test_they_work_on_a_real_engine_and_on_a_ledger(tmp_path):
    url = f"sqlite:///{tmp_path}/signals.db"
    async with lite(url) as real, open_ledger(url, read_only=True) as ledger:
        job = await Approval.enqueue()

        async def executing():
            return (await real.get_job(job.id)).state == "executing"

        await eventually(executing)

        async def live():
            return (await ledger.state(job)).status == "live"

        await eventually(live)
        for via in (None, real, ledger):
            await assert_waiting(job, channel="approval", via=via)
        await signal(job, {"decision": "approved"}, channel="approval")

        async def completed():
            return (await real.get_job(job.id)).state == "completed"

        await eventually(completed)
        await assert_state(job, "completed")
        for via in (None, real, ledger):
            await assert_signalled(job, payload={"decision": "approved"}, via=via)
            await assert_not_waiting(job, via=via)
        [first, *_] = await lines_of(assert_waiting(job, via=ledger))
        assert first == "job 1 (Approval): expected to wait; its wait state is closed"
        with pytest.raises(TypeError, match="via: expected an engine, which has jobs, got Ledger"):
            await assert_state(job, "completed", via=ledger)


async def test_a_deadline_is_counted_by_the_computer_where_there_is_no_other_clock(tmp_path):
    url = f"sqlite:///{tmp_path}/signals.db"
    async with lite(url) as real:
        job = await Poll.enqueue({"quorum": 1})
        [first, *_] = await lines_of(assert_timed_out(job, via=real.ledger))
        assert "expected a wait to have timed out" in first
    async with open_ledger(url) as ledger:
        await assert_waiting(job, deadline_in=math.inf, via=ledger)


async def test_without_an_engine_they_say_how_to_name_one():
    with pytest.raises(RuntimeError, match=r"^job 7: expected an open engine .* or name a ledger by via=$"):
        await assert_waiting(7)
