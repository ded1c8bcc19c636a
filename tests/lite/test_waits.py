"""Waiting on the embedded engine (promises D5, W1 to W14), with real workers on a real file."""

import asyncio
import datetime as dt
import threading

import pytest
from oban import Cancel, Record, worker

from signal_ledger import PayloadError, SignalTimeout, await_signal, signal
from signal_ledger.embedded.operations import RescueJobs
from tests.eventually import eventually

SEEN = []


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()


@worker()
class Approval:
    """The example of the design's first section, with its times from the job's args."""

    async def process(self, job):
        try:
            payload = await await_signal(
                wait_for=job.args.get("wait_for", dt.timedelta(days=1)), wait_timeout=job.args.get("window", 0)
            )
        except SignalTimeout:
            return Cancel("no decision")
        SEEN.append(payload)
        if payload["decision"] == "approved":
            return Record(payload)
        return Cancel(f"declined: {payload['decision']}")


@worker()
class Votes:
    async def process(self, job):
        votes = [await await_signal(wait_timeout=job.args.get("window", 0), channel="votes") for _ in range(3)]
        SEEN.append(votes)


async def test_w5_a_snoozed_job_is_woken_by_its_signal(it):
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    receipt = await signal(job, {"decision": "approved"}, source="ada@example.com")
    assert receipt.outcome == "woken"
    done = await it.until(job, "completed")
    assert SEEN == [{"decision": "approved"}]
    assert (done.attempt, done.meta["snoozed"]) == (1, 1)
    assert await it.kinds(job) == ["snoozed", "delivered", "consumed", "closed"]
    assert (await it.engine.ledger.history(job.id))[1].source == "ada@example.com"


async def test_w3_a_live_wait_is_resumed_in_place(it):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    assert (await signal(job.id, {"decision": "declined"})).outcome == "live"
    cancelled = await it.until(job, "cancelled")
    assert cancelled.errors[0]["error"] == "declined: declined"
    assert await it.kinds(job) == ["awaited", "delivered", "consumed", "closed"]


async def test_d4_a_signal_before_the_await_is_kept(start):
    it = await start({})
    job = await Approval.enqueue()
    assert (await signal(job, {"decision": "approved"})).outcome == "buffered"
    second = await start({"default": 1}, name="second")
    await second.until(job, "completed")
    assert await it.kinds(job) == ["delivered", "consumed", "closed"]


async def test_w6_a_deadline_wakes_the_job_in_time(it):
    job = await Approval.enqueue({"wait_for": 0.3})
    cancelled = await it.until(job, "cancelled")
    assert cancelled.errors[0]["error"] == "no decision"
    snoozed, timed_out, _ = await it.engine.ledger.history(job.id)
    late = (timed_out.recorded_at - snoozed.deadline_at).total_seconds()
    assert 0 < late < 1
    assert snoozed.deadline_at == timed_out.deadline_at == snoozed.recorded_at + dt.timedelta(seconds=0.3)


async def test_w6_a_wait_within_its_window_times_out_in_place(it):
    job = await Approval.enqueue({"wait_for": 0.1, "window": 5})
    await it.until(job, "cancelled")
    assert await it.kinds(job) == ["awaited", "timed_out", "closed"]


@pytest.mark.parametrize("window", [0, 60])
async def test_w9_three_votes_are_gathered_in_a_loop(it, window):
    job = await Votes.enqueue({"window": window})
    for vote in ("yes", "no", "yes"):
        await it.until_status(job, "live" if window else "snoozed")
        await signal(job, vote, channel="votes")
        await eventually(lambda: _consumed(it, job))
    await it.until(job, "completed")
    assert SEEN == [["yes", "no", "yes"]]


async def _consumed(it, job):
    kinds = await it.kinds(job)
    return kinds.count("consumed") == kinds.count("delivered")


async def test_w4_a_waiting_job_uses_no_slot(start):
    it = await start({"default": 1})
    waiting = await it.engine.enqueue_many(Approval.new() for _ in range(5))
    for job in waiting:
        await it.until_status(job, "snoozed")
    assert it.engine._queues["default"].slots == 1
    receipts = await signal(waiting, {"decision": "approved"})
    assert [receipt.outcome for receipt in receipts] == ["woken"] * 5
    for job in waiting:
        await it.until(job, "completed")


async def test_w3_live_waits_use_half_the_slots_at_most(start):
    it = await start({"default": 3})
    jobs = await it.engine.enqueue_many(Approval.new({"window": 60}) for _ in range(6))
    for job in jobs:
        await eventually(lambda job=job: _waits(it, job))
    statuses = sorted([str((await it.engine.ledger.state(job.id)).status) for job in jobs])
    assert statuses == ["live"] * 2 + ["snoozed"] * 4
    await signal(jobs, {"decision": "approved"})
    for job in jobs:
        await it.until(job, "completed")


async def _waits(it, job):
    return (await it.engine.ledger.state(job.id)).status in ("live", "snoozed")


async def test_w3_the_share_of_live_waits_can_be_set(start):
    it = await start({"default": 4}, live_share=0)
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "snoozed")
    assert await it.kinds(job) == ["snoozed"]


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


async def test_w10_a_retry_of_a_finished_job_is_a_fresh_run(it):
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    await signal(job, {"decision": "approved"})
    await it.until(job, "completed")
    await it.engine.retry_job(job)
    await it.until_status(job, "snoozed")
    await signal(job, {"decision": "approved"})
    await it.until(job, "completed")
    assert [recorded.run for recorded in await it.engine.ledger.history(job.id)] == [1] * 4 + [2] * 4


async def test_w10_deleting_a_waiting_job_closes_its_run(it):
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    await it.engine.delete_job(job)
    assert (await it.engine.ledger.history(job.id))[-1].cause == "deleted"
    assert (await signal(job, {})).reason == "missing"


@pytest.mark.parametrize("window", [0, 60])
async def test_w12_cancelling_ends_a_wait_live_or_snoozed(it, window):
    job = await Approval.enqueue({"window": window})
    await it.until_status(job, "live" if window else "snoozed")
    await it.engine.cancel_job(job)
    cancelled = await it.until(job, "cancelled")
    assert (await it.engine.ledger.history(job.id))[-1].cause == "cancelled"
    assert "wait_until" not in cancelled.meta
    if window:
        assert cancelled.errors[0]["error"] == "cancelled while it waited for a signal"


async def test_w12_a_cancel_whose_hint_is_dropped_is_honoured_by_the_snooze(it, monkeypatch):
    monkeypatch.setattr(it.engine._runner, "cancel", lambda _job_id: None)
    job = await Approval.enqueue({"window": 0.3})
    await it.until_status(job, "live")
    await it.engine.cancel_job(job)
    await it.until(job, "cancelled")
    assert (await it.engine.ledger.history(job.id))[-1].cause == "cancelled"


async def test_w12_a_cancel_while_the_acknowledgement_is_under_way_is_not_lost(it, monkeypatch):
    job = await Approval.enqueue({"window": 0})
    acknowledge = it.engine._runner._acknowledge
    cancelled = asyncio.Event()

    async def cancel_first(*arguments):
        if not cancelled.is_set():
            cancelled.set()
            await it.engine.cancel_job(job)
        await acknowledge(*arguments)

    monkeypatch.setattr(it.engine._runner, "_acknowledge", cancel_first)
    await it.until(job, "cancelled")
    assert await it.kinds(job) == []


async def test_w5_a_signal_while_the_acknowledgement_is_under_way_is_not_lost(it, monkeypatch):
    job = await Approval.enqueue({"window": 0.01})
    acknowledge = it.engine._runner._acknowledge
    signalled = asyncio.Event()

    async def signal_first(*arguments):
        if not signalled.is_set():
            signalled.set()
            assert (await signal(job, {"decision": "approved"})).outcome == "live"
        await acknowledge(*arguments)

    monkeypatch.setattr(it.engine._runner, "_acknowledge", signal_first)
    await it.until(job, "completed")
    assert await it.kinds(job) == ["awaited", "delivered", "snoozed", "consumed", "closed"]


async def test_w13_of_two_executions_only_the_newest_writes(it):
    entered = []
    let_go = asyncio.Event()

    @worker()
    class Zombie:
        async def process(self, job):
            entered.append(job.attempt)
            try:
                if len(entered) == 1:
                    await let_go.wait()
                SEEN.append((job.attempt, await await_signal(wait_timeout=5)))
            except Exception:
                SEEN.append("handler")

    job = await Zombie.enqueue()
    await eventually(lambda: entered == [1])
    await it.engine._store.transact(RescueJobs(node=it.engine._node))
    it.engine._runner.kick()
    await it.until_status(job, "live")
    await signal(job, "for the newer one")
    let_go.set()
    done = await it.until(job, "completed")
    await eventually(lambda: not it.engine._runner._tasks)
    assert SEEN == [(2, "for the newer one")]
    assert (done.attempt, done.errors) == (2, [])


async def test_w14_meta_tells_dashboards_until_when_a_job_waits(it):
    with_deadline = await Approval.enqueue({"wait_for": 60})
    without = await Approval.enqueue({"wait_for": None})
    for job in (with_deadline, without):
        await it.until_status(job, "snoozed")
    deadline = (await it.engine.ledger.state(with_deadline.id)).deadline_at
    assert (await it.engine.get_job(with_deadline.id)).meta["wait_until"] == int(deadline.timestamp() * 1000)
    assert (await it.engine.get_job(without.id)).meta["wait_until"] == "infinity"
    await signal([with_deadline, without], {"decision": "approved"})
    for job in (with_deadline, without):
        assert "wait_until" not in (await it.until(job, "completed")).meta


async def test_a_worker_without_a_decorator_waits_too(it, monkeypatch):
    import sys
    import types

    from oban import Job

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


async def test_a_process_that_calls_its_parents_waits_once(it):
    @worker()
    class Parent:
        async def process(self, job):
            return await await_signal(wait_timeout=0)

    @worker()
    class Child(Parent):
        async def process(self, job):
            SEEN.append(await super().process(job))

    job = await Child.enqueue()
    await it.until_status(job, "snoozed")
    await signal(job, "inherited")
    await it.until(job, "completed")
    assert SEEN == ["inherited"]
    assert await it.kinds(job) == ["snoozed", "delivered", "consumed", "closed"]


async def test_signals_are_sent_from_inside_of_jobs(it):
    @worker()
    class Deciding:
        async def process(self, job):
            receipt = await signal(job.args["other"], {"decision": "approved"}, source=f"job {job.id}")
            SEEN.append(receipt.outcome)

    waiting = await Approval.enqueue()
    await it.until_status(waiting, "snoozed")
    deciding = await Deciding.enqueue({"other": waiting.id})
    for job in (waiting, deciding):
        await it.until(job, "completed")
    # The other one may go on before the signaller does.
    assert len(SEEN) == 2
    assert {"decision": "approved"} in SEEN
    assert "woken" in SEEN


async def test_signals_may_come_from_another_thread(it):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")

    def elsewhere():
        asyncio.run(it.engine.signal(job.id, {"decision": "approved"}))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await it.until(job, "completed")
    thread.join()


async def test_two_engines_on_one_file_work_together(start):
    it = await start({})
    second = await start({"default": 2}, name="second")
    job = await Approval.enqueue()
    await second.until_status(job, "snoozed")
    with pytest.raises(RuntimeError, match=r"found 2 \('Oban', 'second'\)"):
        await signal(job, {})
    await it.engine.signal(job, {"decision": "approved"})
    await second.until(job, "completed")
    live = await Approval.enqueue({"window": 60})
    await second.until_status(live, "live")
    assert (await it.engine.signal(live, {"decision": "approved"})).outcome == "live"
    await second.until(live, "completed")
    cancelled = await Approval.enqueue({"window": 60})
    await second.until_status(cancelled, "live")
    await it.engine.cancel_job(cancelled)
    await second.until(cancelled, "cancelled")


async def test_l3_a_run_that_another_program_ends_is_closed(it, tmp_path):
    import sqlite3

    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    connection = sqlite3.connect(f"{tmp_path}/signals.db")
    connection.execute("UPDATE oban_jobs SET state = 'discarded' WHERE id = ?", (job.id,))
    connection.commit()
    connection.close()
    await it.until_status(job, "closed")
    assert (await it.engine.ledger.history(job.id))[-1].cause == "discarded"


async def test_l7_a_damaged_payload_reaches_its_await_and_no_other(it, tmp_path):
    import sqlite3

    @worker()
    class Careful:
        async def process(self, job):
            try:
                await await_signal(wait_timeout=0)
            except PayloadError as error:
                SEEN.append(type(error).__name__)
            SEEN.append(await await_signal(wait_timeout=0))

    connection = sqlite3.connect(f"{tmp_path}/signals.db")
    job = await Careful.enqueue()
    await it.until_status(job, "snoozed")
    connection.executescript("DROP TRIGGER signal_ledger_events_no_update; BEGIN IMMEDIATE;")
    sending = asyncio.create_task(it.engine.signal(job, "damaged"))
    connection.execute("COMMIT")
    await sending
    connection.close()
    await it.until(job, "scheduled", "completed")


async def test_l8_a_stream_of_a_newer_library_snoozes_the_job(it, tmp_path):
    import sqlite3

    job = await Approval.enqueue({"wait_for": 0.4})
    await it.until_status(job, "snoozed")
    connection = sqlite3.connect(f"{tmp_path}/signals.db")
    connection.execute("UPDATE signal_ledger_waits SET schema_version = schema_version + 1")
    connection.commit()

    async def put_off():
        found = await it.engine.get_job(job.id)
        return found.meta.get("snoozed") == 2 and found.state == "scheduled"

    await eventually(put_off)
    assert await it.kinds(job) == ["snoozed"]
    connection.execute("UPDATE signal_ledger_waits SET schema_version = schema_version - 1")
    connection.commit()
    connection.close()


async def test_l3_a_fault_of_the_ledger_puts_the_job_off_by_a_second(it, monkeypatch, caplog):
    from signal_ledger.embedded import operations

    snooze = operations.snooze
    broken = [True]

    def failing(unit, command):
        if broken:
            raise ZeroDivisionError("a fault of the ledger")
        return snooze(unit, command)

    monkeypatch.setattr(operations, "snooze", failing)
    job = await Approval.enqueue()
    await it.until(job, "scheduled")
    broken.clear()
    assert "the ledger failed; the job is acknowledged without it" in caplog.text
    await it.until_status(job, "snoozed")
    await signal(job, {"decision": "approved"})
    await it.until(job, "completed")


async def test_w4_an_idle_engine_does_the_same_with_many_snoozed_jobs_as_with_few(start):
    """Statements of a second, counted on all connections of the engine."""
    counts = []
    it = await start({"default": 5})
    for jobs in (10, 3000):
        rows = await it.engine.enqueue_many(Approval.new() for _ in range(jobs))
        await it.until_status(rows[-1], "snoozed")
        await eventually(lambda: not it.engine._runner._tasks)
        statements = []
        connections = [it.engine._store._writing._connection, it.engine._store._reader._connection]
        for connection in connections:
            connection.set_trace_callback(statements.append)
        await asyncio.sleep(1.5)
        for connection in connections:
            connection.set_trace_callback(None)
        counts.append(len(statements))
    few, many = counts
    assert many <= few * 1.5 + 10, counts
