"""The engine for tests: nothing happens until it is told to, everything that can happen does then, each in its time."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from oban import Job, Snooze, worker
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from signal_ledger import Limits, PayloadError, Workflow, await_signal, lite, open_ledger, signal, testing
from signal_ledger_adapters.oban_api import instances
from tests.kit.workers import SEEN, Approval, Failing, Letter, Poll, Reminder, Restless, Writer

DAY = timedelta(days=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["in memory", "on a file"])
def url(request, tmp_path):
    return None if request.param == "in memory" else f"sqlite:///{tmp_path}/signals.db"


@pytest.fixture
async def engine(url):
    async with testing.engine(url, clock=testing.ManualClock(NOON)) as engine:
        yield engine
        report = await engine.ledger.verify()
        assert report.ok, str(report)


async def state(engine, job):
    return str((await engine.get_job(job.id)).state)


async def kinds(engine, job):
    return [recorded.kind.value for recorded in await engine.ledger.history(job)]


async def test_nothing_runs_before_it_is_told_to(engine):
    job = await Letter.enqueue({"to": "ada"})
    await asyncio.sleep(0)
    assert (await state(engine, job), SEEN) == ("available", [])
    assert await engine.drain() == 1
    assert (await state(engine, job), SEEN) == ("completed", ["ada"])


async def test_a_drain_runs_what_jobs_enqueue_in_whatever_queue(engine):
    await Writer.enqueue({"to": ["ada", "bob"]})
    assert await engine.drain() == 3
    assert SEEN == ["ada", "bob"]
    assert await engine.drain() == 0


async def test_a_drain_runs_what_jobs_wake(engine):
    approval = await Approval.enqueue()
    await engine.drain()
    await Writer.enqueue({"to": [], "approve": approval.id})
    assert await engine.drain() == 2
    assert await kinds(engine, approval) == ["snoozed", "delivered", "consumed", "closed"]


async def test_jobs_run_one_after_the_other_in_obans_order(engine):
    for to, priority in (("last", 3), ("second", 1), ("third", 1), ("first", 0)):
        await Letter.enqueue({"to": to}, priority=priority)
    await engine.drain()
    assert SEEN == ["first", "second", "third", "last"]


async def test_an_await_snoozes_at_once_whatever_its_window(engine):
    job = await Poll.enqueue({"quorum": 1})
    started = asyncio.get_running_loop().time()
    await engine.drain()
    assert asyncio.get_running_loop().time() - started < 60
    assert await kinds(engine, job) == ["snoozed"]


async def test_a_wait_that_would_time_out_in_place_times_out_by_the_clock(engine):
    @worker()
    class Hasty:
        async def process(self, job):
            await await_signal(wait_for=2, wait_timeout=5)

    job = await Hasty.enqueue()
    await engine.drain()
    await engine.advance(1)
    await testing.assert_waiting(job, deadline_in=1)
    await engine.advance(1, raising=False)
    assert "timed_out" in await kinds(engine, job)


async def test_signals_are_had_in_their_order_and_the_receipts_say_what_became_of_them(engine):
    job = await Poll.enqueue({"quorum": 2})
    assert (await signal(job, 1)).outcome == "buffered"
    await engine.drain()
    assert (await engine.signal(job, 2)).outcome == "woken"
    assert await engine.drain() == 1
    assert await kinds(engine, job) == ["delivered", "consumed", "snoozed", "delivered", "consumed", "closed"]


async def test_steps_of_a_workflow_are_released_in_the_same_drain(engine):
    workflow = Workflow().add("approval", Approval.new()).add("letter", Letter.new({"to": "ada"}), deps="approval")
    await engine.enqueue_many(workflow)
    await engine.drain()
    assert SEEN == []
    await engine.advance(60)
    assert (await workflow.status()).duration == timedelta(seconds=60)
    await workflow.signal("approval", {"decision": "approved"}, channel="approval")
    await engine.drain()
    status = await workflow.status()
    assert (SEEN, status.state, status.duration) == (["ada"], "completed", timedelta(seconds=60))


# Time


async def test_time_passes_when_it_is_told_to(engine):
    assert engine.clock() == NOON
    await engine.advance(1.5)
    await engine.advance(timedelta(minutes=1))
    assert engine.clock() == NOON + timedelta(seconds=61.5)


async def test_a_deadline_passes_at_the_end_of_an_advance_as_long_as_the_wait(engine):
    job = await Approval.enqueue()
    await engine.drain()
    assert await engine.advance(DAY - timedelta(microseconds=1)) == 0
    assert await engine.advance(timedelta(microseconds=1)) == 1
    assert await kinds(engine, job) == ["snoozed", "timed_out", "closed"]
    # The first moment at which it has passed.
    assert engine.clock() == NOON + DAY + timedelta(microseconds=1)


async def test_what_falls_due_on_the_way_runs_at_its_own_time_and_in_order(engine):
    @worker()
    class Clocked:
        async def process(self, job):
            SEEN.append((job.args["n"], (engine.clock() - NOON).total_seconds()))
            return Snooze(30) if job.args["n"] == 2 and job.meta.get("snoozed", 0) < 2 else None

    await Clocked.enqueue({"n": 1}, scheduled_in=50)
    await Clocked.enqueue({"n": 2}, scheduled_in=10)
    await Clocked.enqueue({"n": 3}, scheduled_in=71)
    await engine.advance(70)
    assert SEEN == [(2, 10), (2, 40), (1, 50), (2, 70)]


async def test_a_job_that_is_scheduled_inside_of_another_counts_by_the_same_clock(engine):
    @worker()
    class Scheduling:
        async def process(self, job):
            await Letter.enqueue({"to": "later"}, scheduled_in=60)

    await Scheduling.enqueue(scheduled_in=DAY)
    await engine.advance(DAY)
    assert SEEN == []
    await engine.advance(60)
    assert SEEN == ["later"]


async def test_the_clock_jumps_to_the_next_thing_that_falls_due(engine):
    await Reminder.enqueue()
    await Approval.enqueue()
    times = [await engine.advance_to_next() for _ in range(4)]
    assert [time - NOON for time in times] == [
        *[timedelta(seconds=60 * n) for n in (1, 2, 3)],
        DAY + timedelta(microseconds=1),
    ]
    assert SEEN == [0, 1, 2, 3]
    assert await engine.advance_to_next() is None


async def test_a_wait_without_a_deadline_is_nothing_to_jump_to(engine):
    job = await Poll.enqueue({"quorum": 1})
    assert await engine.advance_to_next() is None
    assert (engine.clock(), await kinds(engine, job)) == (NOON, ["snoozed"])


async def test_a_clock_that_is_moved_by_itself_lets_nothing_happen(engine):
    job = await Approval.enqueue()
    await engine.drain()
    engine.clock.advance(DAY + timedelta(seconds=1))
    await testing.assert_waiting(job)
    await engine.drain()
    await testing.assert_timed_out(job)


async def test_the_clock_does_not_go_back_to_what_was_due_before(engine):
    await Letter.enqueue({"to": "late"}, scheduled_at=NOON - DAY)
    await engine.advance(0)
    assert (SEEN, engine.clock()) == (["late"], NOON)


@pytest.mark.parametrize("duration", [-1, float("nan"), timedelta(days=-1)])
async def test_time_does_not_go_back(engine, duration):
    with pytest.raises(ValueError, match="duration"):
        await engine.advance(duration)


async def test_unless_told_otherwise_time_begins_at_the_present_and_stands_still():
    before = datetime.now(UTC)
    async with testing.engine() as engine:
        assert before <= engine.clock() <= datetime.now(UTC)
        assert engine.clock() == engine.clock()


async def test_oban_counts_by_the_computer_again_when_the_engine_is_closed():
    far = testing.ManualClock(NOON + 10_000 * DAY)
    async with testing.engine(clock=far):
        assert Letter.new(scheduled_in=60).scheduled_at == far() + timedelta(seconds=60)
        assert Letter.new(scheduled_in=DAY).scheduled_at == far() + DAY
    assert Letter.new(scheduled_in=60).scheduled_at < far()


# Failures


async def test_a_failure_ends_the_drain_with_the_jobs_own_exception(engine):
    job = await Failing.enqueue()
    other = await Letter.enqueue({"to": "ada"})
    with pytest.raises(ValueError, match="this is no secret") as failure:
        await engine.drain()
    assert "job 1 (tests.kit.workers.Failing) failed in attempt 1 of 3" in failure.value.__notes__[0]
    # The failure is recorded, and the next drain goes on.
    assert [await state(engine, each) for each in (job, other)] == ["retryable", "available"]
    assert await engine.drain() == 1
    assert engine.error_of(job) is failure.value


async def test_a_failure_can_be_left_to_the_job(engine):
    job = await Failing.enqueue()
    assert await engine.drain(raising=False) == 1
    assert isinstance(engine.error_of(job), ValueError)
    found = await engine.get_job(job.id)
    assert "this is no secret" in found.errors[0]["error"]
    assert await engine.advance(30, raising=False) == 2
    assert (SEEN, await state(engine, job)) == ([1, 2, 3], "discarded")


async def test_an_error_is_forgotten_with_the_next_execution(engine):
    @worker()
    class Once:
        async def process(self, job):
            if job.attempt == 1:
                raise ValueError("the first time")

        def backoff(self, job):
            return 5

    job = await Once.enqueue()
    await engine.drain(raising=False)
    assert isinstance(engine.error_of(job.id), ValueError)
    await engine.advance(5)
    assert engine.error_of(job) is None


async def test_a_result_that_is_none_of_obans_fails_the_job(engine):
    @worker()
    class Odd:
        async def process(self, job):
            return Snooze("for long")

    await Odd.enqueue()
    with pytest.raises(TypeError, match="expected a number of seconds to snooze"):
        await engine.drain()


async def test_a_stray_cancellation_does_not_cancel_the_test(engine):
    @worker()
    class Stray:
        async def process(self, job):
            raise asyncio.CancelledError

    job = await Stray.enqueue()
    with pytest.raises(RuntimeError, match=r"job 1 .* failed in attempt 1 of 20, by CancelledError"):
        await engine.drain()
    assert await state(engine, job) == "retryable"


async def test_a_drain_that_is_cancelled_fails_the_job_that_it_runs(engine):
    entered = asyncio.Event()

    @worker()
    class Slow:
        async def process(self, job):
            entered.set()
            await asyncio.Event().wait()

    job = await Slow.enqueue()
    draining = asyncio.create_task(engine.drain())
    await entered.wait()
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    await engine.drain()
    assert await state(engine, job) == "retryable"


@pytest.mark.parametrize("call", ["drain", "advance"])
async def test_jobs_that_never_come_to_rest_are_an_error_that_names_them(call):
    async with testing.engine(executions_max=50) as engine:
        await Restless.enqueue()
        with pytest.raises(RuntimeError, match=r"in 51 executions; job 1 .*Restless.* had 51 of them"):
            await (engine.drain() if call == "drain" else engine.advance(1))


async def test_a_job_does_not_drain(engine):
    @worker()
    class Draining:
        async def process(self, job):
            await engine.drain()

    await Draining.enqueue()
    with pytest.raises(RuntimeError, match="drain: expected to be called outside of jobs"):
        await engine.drain()


async def test_calls_at_once_take_turns(engine):
    for n in range(10):
        await Letter.enqueue({"to": n})
    assert sum(await asyncio.gather(engine.drain(), engine.drain(), engine.advance(1))) == 10
    assert list(range(10)) == SEEN


# The engine among others


async def test_it_is_found_only_while_it_is_open():
    with pytest.raises(RuntimeError, match="expected an open engine"):
        await signal(1, "go")
    engine = testing.engine(name="Approvals")
    assert not engine.is_open
    async with engine:
        assert (engine.is_open, instances["Approvals"]) == (True, engine)
        assert (await signal(1, "go")).outcome == "ignored"
    assert not engine.is_open
    assert "Approvals" not in instances
    with pytest.raises(RuntimeError, match=r"expected to be open; use it inside `async with testing.engine\("):
        await engine.drain()


async def test_an_abandoned_engine_is_in_nobodys_way():
    engine = testing.engine()
    engine.abandon()
    await engine.start()
    engine.abandon()
    async with testing.engine() as other:
        assert instances["Oban"] is other
    assert "Oban" not in instances


async def test_an_abandoned_engine_that_is_stopped_later_leaves_its_successor_alone():
    engine = await testing.engine().start()
    engine.abandon()
    clock = testing.ManualClock(NOON)
    async with testing.engine(clock=clock) as other:
        await engine.stop()
        assert instances["Oban"] is other
        assert Letter.new({}, scheduled_in=60).scheduled_at == NOON + timedelta(minutes=1)
    assert "Oban" not in instances


async def test_an_engine_that_is_started_again_knows_no_errors_of_before():
    engine = testing.engine()
    async with engine:
        failed = await Failing.enqueue()
        await engine.drain(raising=False)
        assert engine.error_of(failed) is not None
    async with engine:
        again = await Failing.enqueue()
        assert (again.id, engine.error_of(again)) == (failed.id, None)


async def test_it_replaces_an_oban_of_that_name_for_the_time_being(monkeypatch):
    monkeypatch.setitem(instances, "Oban", "the application's")
    async with testing.engine() as engine:
        assert instances["Oban"] is engine
    assert instances["Oban"] == "the application's"


async def test_limits_on_payloads_are_as_told():
    async with testing.engine(limits=Limits(size_bytes_max=10)):
        with pytest.raises(PayloadError, match="expected at most 10"):
            await signal(1, "a" * 11)


async def test_jobs_and_waits_outlive_the_engine_on_a_file(tmp_path):
    url = f"sqlite:///{tmp_path}/signals.db"
    clock = testing.ManualClock(NOON)
    async with testing.engine(url, clock=clock) as engine:
        job = await Approval.enqueue()
        await Letter.enqueue({"to": "ada"})
        await engine.advance_to_next()
    async with testing.engine(url, clock=clock) as engine:
        assert await kinds(engine, job) == ["snoozed", "timed_out", "closed"]
        await Letter.enqueue({"to": "bob"})
    # Also what no engine of this process has enqueued.
    async with testing.engine(url, clock=clock) as engine:
        await engine.drain()
    assert SEEN == ["ada", "bob"]


async def test_jobs_of_an_engine_that_has_died_are_rescued(tmp_path):
    url = f"sqlite:///{tmp_path}/signals.db"
    async with testing.engine(url) as engine:
        job = await Letter.enqueue({"to": "ada"})
        await engine._store.transact(_fetch(engine, "letters"))
    async with testing.engine(url) as engine:
        assert await engine.drain() == 1
        assert (await engine.get_job(job.id)).meta["rescued"] == 1


def _fetch(engine, queue):
    from signal_ledger.embedded.operations import FetchJobs

    return FetchJobs(slots={queue: 1}, node=engine._node, attempted_by=("dead",))


async def test_a_signal_in_the_applications_own_transaction_is_relayed_by_the_next_drain(tmp_path):
    url = f"sqlite:///{tmp_path}/app.db"
    database = create_async_engine(url.replace("sqlite", "sqlite+aiosqlite"))
    async with testing.engine(url) as engine:
        job = await Approval.enqueue()
        await engine.drain()
        for decision in ("approved", "rolled back"):
            async with AsyncSession(database) as session:
                await session.execute(text("CREATE TABLE IF NOT EXISTS decisions (job_id integer)"))
                receipt = await signal(job, {"decision": decision}, channel="approval", conn=session)
                letter = await Letter.enqueue({"to": decision}, conn=session)
                testing.assert_receipt(receipt, "stored")
                await (session.commit() if decision == "approved" else session.rollback())
        assert letter.id is not None
        assert await engine.drain() == 2
        await testing.assert_signalled(job, payload={"decision": "approved"})
        assert (len(await engine.ledger.history(job)), SEEN) == (4, ["approved"])
    await database.dispose()


async def test_in_memory_no_connection_leads_to_it(tmp_path):
    database = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
    async with testing.engine() as engine, AsyncSession(database) as session:
        job = await Approval.enqueue()
        with pytest.raises(TypeError, match=r"got AsyncSession; .* for tests with conn=, open the engine on a SQLite"):
            await signal(job, 1, conn=session)
        with pytest.raises(TypeError, match=r"got AsyncSession; .* for tests with conn=, open the engine on a SQLite"):
            await engine.enqueue(Letter.new(), conn=session)
    await database.dispose()


async def test_several_signals_in_one_transaction_are_relayed_together(tmp_path):
    url = f"sqlite:///{tmp_path}/app.db"
    database = create_async_engine(url.replace("sqlite", "sqlite+aiosqlite"))
    async with testing.engine(url) as engine:
        jobs = [await Poll.enqueue({"quorum": 1}) for _ in range(150)]
        await engine.drain()
        async with AsyncSession(database) as session:
            await signal(jobs, "go", conn=session)
            await session.commit()
        assert await engine.drain() == 150
    await database.dispose()


async def test_on_a_file_it_is_seen_by_a_ledger(tmp_path):
    url = f"sqlite:///{tmp_path}/signals.db"
    async with testing.engine(url) as engine, open_ledger(url) as ledger:
        job = await Approval.enqueue()
        await engine.drain()
        assert (await ledger.signal(job, {"decision": "approved"}, channel="approval")).outcome == "woken"
        await engine.drain()
        await testing.assert_state(job, "completed")


async def test_an_embedded_engine_is_no_place_for_two_of_a_name(tmp_path):
    async with lite(f"sqlite:///{tmp_path}/signals.db", queues={}):
        with pytest.raises(RuntimeError, match="an engine named 'Oban' is open already"):
            await testing.engine().start()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"url": "postgresql://localhost/db"}, ValueError, "url"),
        ({"clock": datetime(2026, 1, 1, tzinfo=UTC)}, TypeError, "clock: expected a ManualClock, got datetime"),
        ({"executions_max": 0}, ValueError, "executions_max: expected an int of 1 or more, got 0"),
        ({"executions_max": True}, ValueError, "executions_max"),
        ({"limits": 7}, TypeError, "limits"),
        ({"name": " "}, ValueError, "name"),
    ],
)
def test_options_are_checked_before_anything_is_opened(options, error, message):
    with pytest.raises(error, match=message):
        testing.engine(**options)


def test_a_clock_needs_a_time_zone():
    with pytest.raises(ValueError, match="now: expected an aware datetime"):
        testing.ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


async def test_a_job_of_a_worker_that_is_not_there_fails(engine):
    await engine.enqueue(Job("nowhere.Worker"))
    with pytest.raises(Exception, match="nowhere"):
        await engine.drain()
