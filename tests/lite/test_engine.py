"""The embedded engine follows Oban's documented behaviour (states, attempts, results), on real files."""

import asyncio
import datetime as dt
import logging
import sqlite3

import oban
import pytest
from oban import Cancel, Job, Record, Snooze, job, worker

from signal_ledger import lite
from signal_ledger.embedded.operations import FetchJobs
from signal_ledger_adapters.lite.runner import Runner
from signal_ledger_adapters.oban_api import instances
from signal_ledger_adapters.sqlite.store import SqliteStore

RUNS = []


@pytest.fixture(autouse=True)
def _forget_runs():
    RUNS.clear()


@worker()
class Echo:
    async def process(self, job):
        RUNS.append(job.args.get("n"))
        return Record({"echo": job.args})


@worker(max_attempts=2)
class Failing:
    async def process(self, job):
        RUNS.append(job.attempt)
        raise ValueError(f"attempt {job.attempt}")

    def backoff(self, job):
        return 0


@worker()
class Cancelling:
    async def process(self, job):
        return Cancel("no")


@worker()
class Snoozing:
    async def process(self, job):
        RUNS.append((job.attempt, job.meta.get("snoozed")))
        return Snooze(0, {"why": "later"}) if len(RUNS) == 1 else None


@worker()
class Slow:
    async def process(self, job):
        while not job.cancelled():
            await asyncio.sleep(0.005)
        return Cancel("asked to stop")


@worker(max_attempts=1)
class TimingOut:
    async def process(self, job):
        await asyncio.sleep(60)

    def timeout(self, job):
        return 0.05


@job(queue="default", tags=["greeting"])
async def greet(name, greeting="hello"):
    RUNS.append(f"{greeting} {name} {oban.current_job().attempt}")


async def test_a_job_runs_and_completes(it):
    one = await Echo.enqueue({"n": 1})
    assert (one.id, one.state, one.queue) == (1, "available", "default")
    done = await it.until(one, "completed")
    assert (done.attempt, done.errors, done.args, RUNS) == (1, [], {"n": 1}, [1])
    assert done.meta["recorded"] is True
    assert done.completed_at >= done.attempted_at >= done.inserted_at
    assert len(done.attempted_by) == 2
    assert await it.kinds(one) == []


async def test_jobs_are_inserted_together(it):
    jobs = await it.engine.enqueue_many(Echo.new({"n": n}) for n in range(3))
    more = await it.engine.enqueue_many(Echo.new({"n": 3}), Echo.new({"n": 4}))
    assert [one.id for one in (*jobs, *more)] == [1, 2, 3, 4, 5]
    assert await it.engine.enqueue_many([]) == []
    for one in (*jobs, *more):
        await it.until(one, "completed")
    assert sorted(RUNS) == [0, 1, 2, 3, 4]


async def test_functions_are_workers_too(it):
    # `greet.enqueue("Ada")` passes its args through `new` twice in oban 0.7.0, on every engine.
    await it.until(await it.engine.enqueue(greet.new("Ada", greeting="hi")), "completed")
    assert RUNS == ["hi Ada 1"]


async def test_a_failure_is_retried_with_its_backoff_and_then_discarded(it):
    discarded = await it.until(await Failing.enqueue(), "discarded")
    assert RUNS == [1, 2]
    assert [error["attempt"] for error in discarded.errors] == [1, 2]
    assert "ValueError: attempt 2" in discarded.errors[1]["error"]
    assert discarded.discarded_at is not None


async def test_the_default_backoff_is_obans(it):
    @worker()
    class Once:
        async def process(self, job):
            raise ValueError

    failed = await it.until(await Once.enqueue(), "retryable")
    assert 15 <= (failed.scheduled_at - failed.attempted_at).total_seconds() <= 20


async def test_cancel_as_a_result(it):
    cancelled = await it.until(await Cancelling.enqueue(), "cancelled")
    assert cancelled.errors[0]["error"] == "no"
    assert cancelled.cancelled_at is not None


async def test_snooze_as_a_result_gives_the_attempt_back(it):
    done = await it.until(await Snoozing.enqueue(), "completed")
    assert RUNS == [(1, None), (1, 1)]
    assert (done.attempt, done.meta) == (1, {"snoozed": 1, "why": "later"})


async def test_a_workers_timeout_fails_the_job(it):
    discarded = await it.until(await TimingOut.enqueue(), "discarded")
    assert "JobTimeoutError" in discarded.errors[0]["error"]


async def test_a_worker_that_cannot_be_resolved_fails_its_job(it):
    failed = await it.until(await it.engine.enqueue(Job(worker="nowhere.Worker")), "retryable")
    assert "Module 'nowhere' not found" in failed.errors[0]["error"]


async def test_scheduled_jobs_run_in_time(it):
    at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=0.15)
    one = await Echo.enqueue({"n": 1}, scheduled_at=at)
    past = await Echo.enqueue({"n": 2}, scheduled_in=-5)
    assert (one.state, past.state) == ("scheduled", "scheduled")
    await it.until(past, "completed")
    done = await it.until(one, "completed")
    assert done.attempted_at >= at


async def test_a_queue_runs_no_more_than_its_limit_and_by_priority(start):
    it = await start({"default": 2, "other": 1})
    slow = await it.engine.enqueue_many(Slow.new(priority=priority) for priority in (3, 2, 1))
    await it.until(slow[2], "executing")
    await it.until(await Echo.enqueue({"n": 1}, queue="other"), "completed")
    assert [await it.state(one) for one in slow] == ["available", "executing", "executing"]
    await it.engine.cancel_job(slow[1])
    await it.until(slow[0], "executing")
    assert await it.engine.cancel_many_jobs([slow[0], slow[2].id]) == 2
    for one in slow:
        cancelled = await it.until(one, "cancelled")
        assert cancelled.errors[-1]["error"] == "asked to stop"


async def test_a_paused_queue_starts_nothing(start):
    it = await start({"default": {"limit": 2, "paused": True}, "other": {"limit": 1}})
    paused = await Echo.enqueue({"n": 1})
    await it.until(await Echo.enqueue({"n": 2}, queue="other"), "completed")
    assert await it.state(paused) == "available"


async def test_jobs_are_cancelled_retried_and_deleted_by_hand(start):
    it = await start({})
    one = await Echo.enqueue({"n": 1})
    await it.engine.cancel_job(one)
    cancelled = await it.engine.get_job(one.id)
    assert cancelled.state == "cancelled"
    assert "cancel_attempted_at" in cancelled.meta
    await it.engine.retry_job(one.id)
    assert await it.state(one) == "available"
    assert await it.engine.retry_many_jobs([one]) == 0
    await it.engine.delete_job(one)
    assert await it.engine.get_job(one.id) is None
    assert await it.engine.delete_many_jobs([one]) == 0
    assert await it.engine.cancel_many_jobs([]) == 0


async def test_a_discarded_job_that_is_retried_runs_once_more(it):
    one = await Failing.enqueue()
    await it.until(one, "discarded")
    await it.engine.retry_job(one)
    await it.until(one, "executing", "discarded")
    again = await it.until(one, "discarded")
    assert (again.max_attempts, RUNS) == (3, [1, 2, 3])


@pytest.mark.parametrize("args", [{"a": object()}, {"a": {1, 2}}, {"a": b"b"}, {"a": float("nan")}])
async def test_args_that_json_cannot_hold_are_refused(start, args):
    it = await start({})
    with pytest.raises((TypeError, ValueError)):
        await Echo.enqueue(args)
    assert await it.engine.get_job(1) is None


async def test_a_job_sees_its_args_as_json_has_them(it):
    await it.until(await Echo.enqueue({"n": (1, 2)}), "completed")
    assert RUNS == [[1, 2]]


async def test_enqueue_takes_part_in_the_callers_transaction(start, url, tmp_path):
    import aiosqlite
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    it = await start()
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    async with AsyncSession(engine) as session:
        await session.execute(text("CREATE TABLE orders (id INTEGER)"))
        await session.execute(text("INSERT INTO orders VALUES (1)"))
        rolled_back = await Echo.enqueue({"n": "never"}, conn=session)
        assert rolled_back.id == 1
        await session.rollback()
        with_session = await Echo.enqueue({"n": "session"}, conn=session)
        # Whoever holds the first one must not signal the second.
        assert with_session.id == 2
        await session.commit()
    async with engine.begin() as connection:
        with_connection = await Echo.enqueue({"n": "connection"}, conn=connection)
    await engine.dispose()
    async with aiosqlite.connect(f"{tmp_path}/signals.db") as connection:
        with_driver = await it.engine.enqueue(Echo.new({"n": "driver"}), conn=connection)
        await connection.commit()
    for one in (with_session, with_connection, with_driver):
        await it.until(one, "completed")
    assert sorted(RUNS) == ["connection", "driver", "session"]
    async with aiosqlite.connect(":memory:") as other:
        with pytest.raises(ValueError, match="the ledger's own file, got one to another database"):
            await Echo.enqueue({}, conn=other)
    with pytest.raises(TypeError, match="conn: expected a SQLAlchemy AsyncSession"):
        await Echo.enqueue({}, conn=object())


async def test_finished_jobs_are_pruned_and_their_history_stays(start):
    clock = [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)]
    it = await start({}, clock=lambda: clock[0], prune_after=60)
    one = await Echo.enqueue({})
    await it.engine.signal(one, 1)
    await it.engine.cancel_job(one)
    clock[0] += dt.timedelta(seconds=61)
    it.engine._tasks[2].cancel()
    pruner = asyncio.create_task(it.engine._prune())

    async def gone():
        return await it.engine.get_job(one.id) is None

    from tests.eventually import eventually

    await eventually(gone)
    pruner.cancel()
    assert await it.kinds(one) == ["delivered", "closed"]


async def test_without_pruning_jobs_stay(start):
    it = await start({}, prune_after=None)
    job = await it.engine.enqueue(Job("x"))
    await it.engine.cancel_job(job)
    assert await it.engine._prune_jobs() == 0
    assert await it.state(job) == "cancelled"


async def test_the_engine_says_once_what_it_does_not_do(url, caplog):
    with caplog.at_level(logging.INFO):
        async with lite(url, queues={}):
            pass
    assert caplog.text.count("the embedded engine has no cron and no unique jobs") == 1
    caplog.clear()

    @worker(cron="@daily")
    class Daily:
        async def process(self, job): ...

    try:
        with caplog.at_level(logging.WARNING):
            async with lite(url, queues={}):
                pass
        assert "not scheduled: test_the_engine_says_once_what_it_does_not_do.<locals>.Daily" in caplog.text
    finally:
        from oban._scheduler import clear_scheduled

        clear_scheduled()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"queues": {"default": 0}}, ValueError, r"queues\['default'\]: expected a limit of 1 or more, got 0"),
        ({"queues": {"default": "5"}}, TypeError, r"queues\['default'\]: expected an int as limit, got str"),
        ({"queues": {"default": True}}, TypeError, "expected an int as limit, got bool"),
        ({"queues": {" ": 5}}, ValueError, "queues: expected names that are not blank"),
        ({"queues": {5: 5}}, TypeError, "queues: expected names of type str, got int"),
        ({"queues": {"default": {"size": 5}}}, ValueError, "expected limit and paused, got size"),
        ({"name": " "}, ValueError, "name: expected a name that is not blank"),
        ({"live_share": 1.5}, ValueError, "live_share: expected a number from 0 to 1, got 1.5"),
        ({"live_share": "half"}, TypeError, "live_share: expected a number from 0 to 1, got str"),
        ({"limits": 5}, TypeError, "limits: expected signal_ledger.Limits or None, got int"),
        ({"shutdown_grace_period": -1}, ValueError, "shutdown_grace_period: expected 0 seconds to 50 years, got -1"),
        ({"prune_after": -1}, ValueError, "prune_after: expected 0 seconds to 50 years, got -1"),
        ({"prune_after": float("inf")}, ValueError, "prune_after: expected"),
        ({"url": "postgresql://x/y"}, ValueError, "expected sqlite:///<file>"),
    ],
)
def test_bad_options_are_refused_before_anything_is_opened(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        lite(**{"url": f"sqlite:///{tmp_path}/signals.db", **options})
    assert list(tmp_path.iterdir()) == []


async def test_an_engine_is_used_while_it_is_open(url, tmp_path):
    engine = lite(url, queues={})
    for use in (engine.get_job(1), engine.signal(1, 1), engine.enqueue(Echo.new())):
        with pytest.raises(RuntimeError, match="expected to be open; use it inside `async with lite"):
            await use
    with pytest.raises(RuntimeError, match="expected to be open"):
        _ = engine.ledger
    await engine.stop()
    async with engine:
        assert instances["Oban"] is engine
        with pytest.raises(RuntimeError, match="expected to be started once"):
            await engine.start()
        with pytest.raises(RuntimeError, match="an engine named 'Oban' is open already; give this one another name="):
            async with lite(url, queues={}):
                pass
    assert "Oban" not in instances
    with pytest.raises(RuntimeError, match="Oban instance 'Oban' not found"):
        await Echo.enqueue({})


async def test_an_oban_of_the_same_name_is_put_back(url):
    instances["Oban"] = "an Oban"
    try:
        async with lite(url, queues={}) as engine:
            assert instances["Oban"] is engine
        assert instances["Oban"] == "an Oban"
    finally:
        del instances["Oban"]


async def test_workers_find_their_engine_by_name(start):
    @worker(oban="second")
    class Second:
        async def process(self, job): ...

    await start({})
    second = await start(name="second")
    await second.until(await Second.enqueue(), "completed")


async def test_a_stop_waits_for_running_jobs_and_lets_live_waits_snooze(url):
    from signal_ledger import await_signal

    finished = []

    @worker()
    class Finishing:
        async def process(self, job):
            await asyncio.sleep(0.1)
            finished.append(job.id)

    @worker()
    class Waiting:
        async def process(self, job):
            await await_signal(wait_timeout=60)

    async with lite(url, queues={"default": 5}) as engine:
        jobs = await engine.enqueue_many(Finishing.new(), Waiting.new())
        from tests.eventually import eventually

        async def both():
            return (await engine.ledger.state(jobs[1].id)).status == "live"

        await eventually(both)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5
    assert finished == [jobs[0].id]
    async with lite(url, queues={}) as engine:
        assert [str((await engine.get_job(one.id)).state) for one in jobs] == ["completed", "scheduled"]


async def test_what_does_not_end_within_the_grace_period_is_cancelled_and_rescued_later(url, caplog):
    @worker()
    class Endless:
        async def process(self, job):
            RUNS.append(job.attempt)
            if job.meta.get("rescued"):
                return
            await asyncio.sleep(60)

    async with lite(url, queues={"default": 5}, shutdown_grace_period=0.05) as engine:
        one = await engine.enqueue(Endless.new())
        from tests.eventually import eventually

        await eventually(lambda: RUNS)
    assert "1 job(s) did not end within 0.05 s and were cancelled" in caplog.text
    async with lite(url) as engine:

        async def completed():
            return (await engine.get_job(one.id)).state == "completed"

        await eventually(completed)
    assert RUNS == [1, 2]


@worker(max_attempts=1)
class Counted:
    async def process(self, job):
        RUNS.append(job.id)


async def test_a_graceful_stop_runs_the_jobs_whose_fetch_was_under_way(url, monkeypatch):
    fetched = asyncio.Event()
    start_all = Runner._start_all

    def noted(self, jobs):
        if jobs.jobs:
            fetched.set()
        start_all(self, jobs)

    transact = SqliteStore.transact

    async def slow(self, operation):
        result = await transact(self, operation)
        if isinstance(operation, FetchJobs) and result.jobs:
            # The jobs are executing, by the database; the stop begins here.
            stopping.append(asyncio.create_task(engine.stop()))
            await asyncio.sleep(0)
        return result

    stopping = []
    monkeypatch.setattr(Runner, "_start_all", noted)
    monkeypatch.setattr(SqliteStore, "transact", slow)
    engine = lite(url)
    async with engine:
        one = await engine.enqueue(Counted.new())
        await asyncio.wait_for(fetched.wait(), 10)
        await asyncio.gather(*stopping)
    assert [one.id] == RUNS
    async with lite(url, queues={}) as after:
        assert str((await after.get_job(one.id)).state) == "completed"


@worker(max_attempts=1)
class StrayCancel:
    async def process(self, _job):
        raise asyncio.CancelledError


@worker(max_attempts=2)
class BadBackoff:
    async def process(self, _job):
        raise ValueError("the worker's own")

    def backoff(self, _job):
        raise ZeroDivisionError("in backoff")


@worker(max_attempts=1)
class EndlessSnooze:
    async def process(self, _job):
        return Snooze(10**12)


@worker(max_attempts=1)
class SnoozeNotJson:
    async def process(self, _job):
        return Snooze(1, meta={"at": object()})


class OnTheClass:
    @staticmethod
    async def process(job):
        RUNS.append(job.id)


@pytest.mark.parametrize(
    ("failing", "state", "told"),
    [
        (StrayCancel, "discarded", "CancelledError"),
        (BadBackoff, "retryable", "in backoff"),
        (EndlessSnooze, "discarded", "expected at most 50 years to snooze"),
        (SnoozeNotJson, "discarded", "not JSON serializable"),
    ],
)
async def test_what_the_executor_lets_through_fails_the_job_and_does_not_leave_it_executing(it, failing, state, told):
    one = await it.engine.enqueue(failing.new())
    found = await it.until(one, state)
    assert told in found.errors[-1]["error"]


async def test_a_static_process_is_called_as_oban_calls_it(it):
    one = await it.engine.enqueue(worker()(OnTheClass).new())
    await it.until(one, "completed")
    assert [one.id] == RUNS


async def test_an_engine_may_be_stopped_by_two_at_once(url):
    engine = await lite(url).start()
    await asyncio.gather(engine.stop(), engine.stop())


async def test_the_watch_survives_a_fault_of_the_database(it, monkeypatch, caplog):
    mark = it.engine._store.mark
    faults = iter([True])

    def failing_mark():
        if next(faults, False):
            raise sqlite3.OperationalError("disk I/O error")
        return mark()

    monkeypatch.setattr(it.engine._store, "mark", failing_mark)
    from tests.eventually import eventually

    await eventually(lambda: "could not be watched" in caplog.text)
    assert not any(task.done() for task in it.engine._tasks)
