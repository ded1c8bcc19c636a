"""Waiting on Oban and PostgreSQL (promises D4, D5, W3 to W9, W14), with real workers."""

import asyncio
import contextvars
import math
import sys
import threading
import types

import psycopg
import pytest
from oban import Cancel, Job, Record, Snooze, testing, worker

from signal_ledger import PayloadError, SignalTimeout, await_signal, signal
from tests.eventually import eventually
from tests.postgres.engine.conftest import an_oban
from tests.postgres.engine.workers import APPROVED, SEEN, Approval, Votes


async def test_w5_a_snoozed_job_is_woken_by_its_signal(it):
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    receipt = await signal(job, APPROVED, source="ada@example.com")
    assert receipt.outcome == "woken"
    done = await it.until(job, "completed")
    assert SEEN == [APPROVED]
    assert (done.attempt, done.meta["snoozed"]) == (1, 1)
    assert await it.kinds(job) == ["snoozed", "delivered", "consumed", "closed"]
    assert (await it.ledger.history(job.id))[1].source == "ada@example.com"


async def test_w3_a_live_wait_is_resumed_in_place(it):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    assert (await signal(job.id, {"decision": "declined"})).outcome == "live"
    cancelled = await it.until(job, "cancelled")
    assert cancelled.errors[0]["error"] == "declined: declined"
    assert await it.kinds(job) == ["awaited", "delivered", "consumed", "closed"]


async def test_d4_a_signal_before_the_await_is_kept(start):
    web = await start({})
    job = await Approval.enqueue()
    assert (await web.engine.signal(job, APPROVED)).outcome == "buffered"
    node = await start(name="node")
    await node.until(job, "completed")
    assert await web.kinds(job) == ["delivered", "consumed", "closed"]


async def test_w6_a_deadline_wakes_the_job_in_time(it):
    job = await Approval.enqueue({"wait_for": 0.3})
    cancelled = await it.until(job, "cancelled")
    assert cancelled.errors[0]["error"] == "no decision"
    snoozed, timed_out, _ = await it.ledger.history(job.id)
    late = (timed_out.recorded_at - snoozed.deadline_at).total_seconds()
    assert 0 < late < 0.8
    assert snoozed.deadline_at == timed_out.deadline_at
    assert (snoozed.deadline_at - snoozed.recorded_at).total_seconds() == 0.3


async def test_w6_a_due_wait_runs_in_the_stagers_tick_and_not_in_the_next(start):
    """Oban announces what it has staged one tick late; with a tick of 3 s that would be 3 s."""
    it = await start(stager={"interval": 3.0})
    job = await Approval.enqueue({"wait_for": 1.0})
    await it.until(job, "cancelled")
    snoozed, timed_out, _ = await it.ledger.history(job.id)
    assert (timed_out.recorded_at - snoozed.deadline_at).total_seconds() < 3.0


async def test_w6_a_wait_within_its_window_times_out_in_place(it):
    job = await Approval.enqueue({"wait_for": 0.1, "window": 5})
    await it.until(job, "cancelled")
    assert await it.kinds(job) == ["awaited", "timed_out", "closed"]


@pytest.mark.parametrize("window", [0, 60])
async def test_w9_three_votes_are_gathered_in_a_loop(it, window):
    job = await Votes.enqueue({"window": window})
    for count, vote in enumerate(("yes", "no", "yes"), start=1):
        await it.until_status(job, "live" if window else "snoozed")
        await signal(job, vote, channel="votes")
        await it.until_consumed(job, count)
    await it.until(job, "completed")
    assert SEEN == [["yes", "no", "yes"]]


async def test_w9_outcomes_are_replayed_after_an_error(it):
    @worker(max_attempts=3)
    class Flaky:
        async def process(self, job):
            first = await await_signal(wait_timeout=0)
            try:
                second = await await_signal(wait_for=0.05, wait_timeout=1)
            except SignalTimeout:
                second = "timeout"
            SEEN.append((job.attempt, first, second))
            if job.attempt == 1:
                raise ValueError("once")
            return Record([first, second])

        def backoff(self, job):
            return 0

    job = await Flaky.enqueue()
    await it.until_status(job, "snoozed")
    await signal(job, "A")
    await it.until(job, "completed")
    assert SEEN == [(1, "A", "timeout"), (2, "A", "timeout")]
    kinds = await it.kinds(job)
    assert kinds == ["snoozed", "delivered", "consumed", "awaited", "timed_out", "closed"]


async def test_a_job_snoozes_itself_records_and_cancels_beside_its_awaits(it):
    @worker()
    class Mixed:
        async def process(self, job):
            first = await await_signal(wait_timeout=0)
            if job.meta.get("snoozed", 0) < 2:
                return Snooze(1, meta={"own": True})
            return Cancel("enough") if first == "cancel" else Record(first)

    jobs = [await Mixed.enqueue() for _ in range(2)]
    for job, payload in zip(jobs, ("record", "cancel"), strict=True):
        await it.until_status(job, "snoozed")
        assert (await signal(job, payload)).outcome == "woken"
        await it.until_consumed(job)
    # Its own snooze is none of the ledger's: a signal does not end it (W5).
    await it.until(jobs[0], "scheduled")
    assert (await signal(jobs[0], "early")).outcome == "buffered"
    recorded = await it.until(jobs[0], "completed")
    assert recorded.meta["recorded"]
    assert recorded.meta["own"]
    assert (await it.until(jobs[1], "cancelled")).errors[0]["error"] == "enough"


async def test_w5_a_job_enqueued_for_later_keeps_its_schedule(it):
    job = await Approval.enqueue(scheduled_in=1000)
    assert (await signal(job, APPROVED)).outcome == "buffered"
    assert (await it.oban.get_job(job.id)).state == "scheduled"


async def test_woken_jobs_run_by_priority(start):
    it = await start({"default": 1})
    low, high = [await Approval.enqueue(priority=priority) for priority in (9, 0)]
    for job in (low, high):
        await it.until_status(job, "snoozed")
    await it.oban.pause_queue("default")
    await it.engine.signal(low, {"decision": "low"})
    await it.engine.signal(high, {"decision": "high"})
    await it.oban.resume_queue("default")
    for job in (low, high):
        await it.until(job, "cancelled")
    assert [payload["decision"] for payload in SEEN] == ["high", "low"]


async def test_w4_a_waiting_job_uses_no_slot(start):
    it = await start({"default": 1})
    waiting = await it.engine.enqueue_many(Approval.new() for _ in range(5))
    for job in waiting:
        await it.until_status(job, "snoozed")
    await eventually(lambda: not it.oban.check_queue("default").running)
    receipts = await signal(waiting, APPROVED)
    assert [receipt.outcome for receipt in receipts] == ["woken"] * 5
    for job in waiting:
        await it.until(job, "completed")


@pytest.mark.parametrize(("limit", "live_share"), [(3, 0.5), (4, 0), (2, 1.0)])
async def test_w3_live_waits_use_a_share_of_the_slots_at_most(start, limit, live_share):
    it = await start({"default": limit}, live_share=live_share)
    jobs = await it.engine.enqueue_many(Approval.new({"window": 60}) for _ in range(2 * limit))
    places = math.ceil(limit * live_share)

    async def statuses():
        return sorted([str((await it.ledger.state(job.id)).status) for job in jobs])

    # With a share of all, waits fill the queue, and the rest is not even fetched.
    others = "idle" if live_share == 1 else "snoozed"
    expected = sorted(["live"] * places + [others] * (2 * limit - places))

    async def is_so():
        return await statuses() == expected

    await eventually(is_so, what=str(expected))
    await signal(jobs, APPROVED)
    for job in jobs:
        await it.until(job, "completed")


async def test_w3_the_share_follows_the_scale_of_the_queue(start):
    it = await start({"default": 2})
    await it.oban.scale_queue(queue="default", limit=6)
    jobs = await it.engine.enqueue_many(Approval.new({"window": 60}) for _ in range(3))
    for job in jobs:
        await it.until_status(job, "live")


async def test_w3_a_workers_timeout_cuts_the_window_short(it):
    @worker(max_attempts=1)
    class Hasty:
        async def process(self, job):
            return Record(await await_signal(wait_timeout=60))

        def timeout(self, job):
            return 0.5

    job = await Hasty.enqueue()
    await it.until_status(job, "snoozed")
    assert await it.kinds(job) == ["awaited", "snoozed"]
    await signal(job, "in the end")
    await it.until(job, "completed")


async def test_w3_the_age_at_which_oban_rescues_cuts_the_window_short(start):
    it = await start(lifeline={"interval": 0.1, "rescue_after": 1.0})
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "snoozed")
    assert await it.kinds(job) == ["awaited", "snoozed"]
    assert "rescued" not in (await it.oban.get_job(job.id)).meta


async def test_w3_so_it_does_when_another_oban_has_taken_the_name(start, ledger_url):
    """An Oban is known by its name from the moment that it is made."""
    it = await start(lifeline={"interval": 0.1, "rescue_after": 1.0})
    async with an_oban(ledger_url, {}):
        job = await it.engine.enqueue(Approval.new({"window": 60}))
        await it.until_status(job, "snoozed")
    assert "rescued" not in (await it.oban.get_job(job.id)).meta


async def test_a_job_that_is_executed_inside_of_another_one_does_not_take_its_signals(it):
    """Oban's mode for tests does so."""

    @worker()
    class Inner:
        async def process(self, job):
            try:
                await await_signal(wait_timeout=0)
            except RuntimeError as error:
                SEEN.append(str(error))

    @worker()
    class Outer:
        async def process(self, job):
            with testing.mode("inline"):
                await it.engine.enqueue(Inner.new())
            SEEN.append(await await_signal(wait_timeout=0))

    job = await it.engine.enqueue(Outer.new(scheduled_in=0.5))
    await it.engine.signal(job, "for the outer one")
    await it.until(job, "completed")
    assert SEEN == [
        "await_signal: expected to be called inside a job's process, which an engine runs",
        "for the outer one",
    ]


async def test_w14_meta_tells_dashboards_until_when_a_job_waits(it):
    with_deadline = await Approval.enqueue({"wait_for": 60})
    without = await Approval.enqueue({"wait_for": None})
    for job in (with_deadline, without):
        await it.until_status(job, "snoozed")
    deadline = (await it.ledger.state(with_deadline.id)).deadline_at
    assert (await it.oban.get_job(with_deadline.id)).meta["wait_until"] == int(deadline.timestamp() * 1000)
    assert (await it.oban.get_job(without.id)).meta["wait_until"] == "infinity"
    await signal([with_deadline, without], APPROVED)
    for job in (with_deadline, without):
        assert "wait_until" not in (await it.until(job, "completed")).meta


async def test_a_worker_without_a_decorator_waits_too(it, monkeypatch):
    class Plain:
        async def process(self, job):
            SEEN.append(await await_signal(wait_timeout=0))

    module = types.ModuleType("plain_workers")
    module.Plain = Plain
    monkeypatch.setitem(sys.modules, "plain_workers", module)
    job = await it.engine.enqueue(Job(worker="plain_workers.Plain"))
    await it.until_status(job, "snoozed")
    await signal(job, "plain")
    await it.until(job, "completed")
    assert SEEN == ["plain"]


async def test_signals_are_sent_from_inside_of_jobs(it):
    @worker()
    class Deciding:
        async def process(self, job):
            receipt = await signal(job.args["other"], APPROVED, source=f"job {job.id}")
            SEEN.append(receipt.outcome)

    waiting = await Approval.enqueue()
    await it.until_status(waiting, "snoozed")
    deciding = await Deciding.enqueue({"other": waiting.id})
    for job in (waiting, deciding):
        await it.until(job, "completed")
    # The other one may go on before the signaller does.
    assert len(SEEN) == 2
    assert APPROVED in SEEN
    assert "woken" in SEEN


async def test_signals_may_come_from_another_thread(it):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    thread = threading.Thread(target=lambda: asyncio.run(it.engine.signal(job.id, APPROVED)))
    thread.start()
    await it.until(job, "completed")
    thread.join()


async def test_l7_a_damaged_payload_reaches_its_await_and_no_other(start):
    it = await start()
    start.expected_findings = {"D9 payload", "L7 payload"}

    @worker()
    class Careful:
        async def process(self, job):
            try:
                await await_signal(wait_timeout=0)
            except PayloadError as error:
                SEEN.append(type(error).__name__)
            SEEN.append(await await_signal(wait_timeout=0))

    job = await Careful.enqueue()
    await it.until_status(job, "snoozed")
    # As another language may send it: the function takes what it is given.
    await it.change(
        "SELECT outcome FROM signal_ledger.deliver(ARRAY[1], ARRAY[true], ARRAY[%s::bigint], "
        "ARRAY[gen_random_uuid()::text], ARRAY[''], ARRAY['\\x83ff'::bytea], ARRAY[repeat('0', 64)], "
        "ARRAY[NULL::text], ARRAY[''], ARRAY[NULL::text])",
        job.id,
    )
    await it.until_consumed(job, 1)
    await it.engine.signal(job, "sound")
    await it.until(job, "completed")
    assert SEEN == ["PayloadError", "PayloadError", "sound"]


async def test_w4_what_works_for_all_jobs_does_not_end_with_one_of_them(it):
    """A job that ends cancels the tasks it left behind: those whose context is its own."""
    job = await Approval.enqueue(scheduled_in=1000)
    mark = contextvars.ContextVar("mark")
    mark.set("a job's")
    with psycopg.connect(it.url) as holder:
        holder.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", (job.id,))
        sending = asyncio.create_task(it.engine.signal(job, APPROVED))

        def lanes():
            return [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == "Lanes._work"]

        await eventually(lanes)
        assert [task.get_context().get(mark) for task in lanes()] == [None]
    await sending
