"""Waits of jobs that are cancelled, retried, deleted or rescued, and of engines that stop (W3, W10, W12, W13)."""

import asyncio
from datetime import UTC, datetime

import psycopg
import pytest
from oban import Record, telemetry, worker
from oban._scheduler import clear_scheduled

from signal_ledger import await_signal, signal
from signal_ledger_adapters.oban import watch
from tests.eventually import eventually
from tests.postgres.engine.workers import APPROVED, SEEN, Approval, Quick

ENTERED = []


@pytest.fixture(autouse=True)
def _forget_entered():
    ENTERED.clear()


async def causes(it, job):
    return [recorded.cause for recorded in await it.ledger.history(job.id) if recorded.kind == "closed"]


@pytest.mark.parametrize("window", [0, 60])
async def test_w12_cancelling_ends_a_wait_live_or_snoozed(it, window):
    job = await Approval.enqueue({"window": window})
    await it.until_status(job, "live" if window else "snoozed")
    await it.engine.cancel_job(job)
    cancelled = await it.until(job, "cancelled")
    assert await causes(it, job) == ["cancelled"]
    assert "wait_until" not in cancelled.meta
    if window:
        assert cancelled.errors[0]["error"] == "cancelled while it waited for a signal"


async def test_w12_a_live_wait_notices_its_cancel_at_once(start, monkeypatch):
    """Not only when live waits are looked after."""
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 1000)
    it = await start()
    job = await Approval.enqueue({"window": 1000})
    await it.until_status(job, "live")
    await it.until_it_listens()
    await it.engine.cancel_job(job)
    await it.until(job, "cancelled")


async def test_w12_a_cancel_that_the_database_could_not_note_still_ends_a_live_wait(it):
    await it.change("DROP TRIGGER signal_ledger_cancel_requested ON oban_jobs")
    job = await Approval.enqueue({"window": 1000})
    await it.until_status(job, "live")
    # Only the hint tells of this cancel.
    await it.until_it_listens()
    await it.engine.cancel_job(job)
    await it.until(job, "cancelled")


async def test_w10_a_retry_of_a_finished_job_is_a_fresh_run(it):
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    await signal(job, APPROVED)
    await it.until(job, "completed")
    await it.engine.retry_job(job)
    await it.until_status(job, "snoozed")
    await signal(job, APPROVED)
    await it.until(job, "completed")
    assert [recorded.run for recorded in await it.ledger.history(job.id)] == [1] * 4 + [2] * 4


async def test_w10_a_retry_of_a_waiting_job_stays_in_its_run(it):
    job = await Approval.enqueue({"wait_for": 60})
    await it.until_status(job, "snoozed")
    await it.engine.retry_job(job)

    async def snoozed_again():
        return (await it.kinds(job)).count("snoozed") == 2

    await eventually(snoozed_again)
    first, second = await it.ledger.history(job.id)
    assert (first.run, first.deadline_at) == (second.run, second.deadline_at)
    await signal(job, APPROVED)
    await it.until(job, "completed")


async def test_w10_deleting_a_waiting_job_closes_its_run(it):
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    await it.engine.delete_job(job)
    assert await causes(it, job) == ["deleted"]
    assert (await signal(job, {})).reason == "missing"


async def test_l6_pruned_jobs_keep_their_history(it):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    await signal(job, APPROVED)
    await it.until(job, "completed")
    await it.oban._query.prune_jobs(-1, 100)
    assert await it.oban.get_job(job.id) is None
    assert await it.kinds(job) == ["awaited", "delivered", "consumed", "closed"]


@worker()
class Zombie:
    """Its first execution does not end before it is told to."""

    let_go = None

    async def process(self, job):
        ENTERED.append(job.attempt)
        try:
            if len(ENTERED) == 1:
                await self.let_go.wait()
            SEEN.append((job.attempt, await await_signal(wait_timeout=60)))
        except Exception:
            SEEN.append("handler")


@pytest.mark.parametrize("is_taken", [True, False], ids=["after", "before"])
async def test_w13_of_two_executions_only_the_newest_writes(it, is_taken):
    """The older one asks after, or before, the newer one has had the signal."""
    Zombie.let_go = asyncio.Event()
    job = await Zombie.enqueue()
    await eventually(lambda: ENTERED == [1])
    await it.oban._query.rescue_jobs(0)
    await it.until_status(job, "live")
    if is_taken:
        await signal(job, "for the newer one")
        await it.until(job, "completed")
        Zombie.let_go.set()
    else:
        Zombie.let_go.set()
        await eventually(lambda: len(_processes()) == 1)
        await signal(job, "for the newer one")
    done = await it.until(job, "completed")
    await eventually(lambda: not _processes())
    assert SEEN == [(2, "for the newer one")]
    assert (done.attempt, done.errors) == (2, [])
    assert await it.kinds(job) == ["awaited", "delivered", "consumed", "closed"]


async def test_w13_a_live_wait_that_was_rescued_ends_without_a_trace(it, request):
    """Rescued in its live window: the look finds out, and the older execution leaves the window."""
    told = []
    telemetry.attach("test", ["oban.job.stop", "oban.job.exception"], lambda name, about: told.append((name, about)))
    request.addfinalizer(lambda: telemetry.detach("test"))
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    await it.oban._query.rescue_jobs(0)
    await eventually(lambda: _second_awaited(it, job))
    await eventually(lambda: len(_processes()) == 1)
    await signal(job, APPROVED)
    done = await it.until(job, "completed")
    await eventually(lambda: not _processes())
    assert [(name, about["job"].attempt) for name, about in told] == [("oban.job.stop", 2)]
    assert SEEN == [APPROVED]
    assert (done.attempt, done.errors) == (2, [])


def _processes():
    return [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == "Producer._execute"]


async def _second_awaited(it, job):
    return (await it.kinds(job)).count("awaited") == 2


async def test_w12_a_cancel_of_a_job_whose_worker_died_is_honoured_by_the_rescue(it):
    Zombie.let_go = asyncio.Event()
    job = await Zombie.enqueue()
    await eventually(lambda: ENTERED == [1])
    await it.engine.cancel_job(job)
    await it.oban._query.rescue_jobs(0)
    assert (await it.oban.get_job(job.id)).state == "cancelled"
    Zombie.let_go.set()
    await eventually(lambda: not _processes())


@pytest.mark.parametrize("by", ["oban", "attach"])
async def test_w3_a_graceful_stop_lets_live_waits_snooze_at_once(start, by):
    it = await start({})
    other = await start(name="other", shutdown_grace_period=60.0)
    job = await it.engine.enqueue(Approval.new({"window": 600}))
    await other.until_status(job, "live")
    async with asyncio.timeout(3):
        await (other.oban if by == "oban" else other.engine).stop()
    await it.until_status(job, "snoozed")
    snoozed = await it.oban.get_job(job.id)
    assert (snoozed.state, snoozed.attempt) == ("scheduled", 0)
    assert "wait_until" in snoozed.meta
    node = await start(name="node")
    assert (await it.engine.signal(job, APPROVED)).outcome == "woken"
    await node.until(job, "completed")


async def test_a_queue_that_is_stopped_and_started_again_waits_as_before(it):
    job = await Approval.enqueue({"window": 600})
    await it.until_status(job, "live")
    async with asyncio.timeout(3):
        await it.oban.stop_queue("default")
    await it.until_status(job, "snoozed")
    await it.oban.start_queue(queue="default", limit=2)
    second = await Approval.enqueue({"window": 600})
    await it.until_status(second, "live")
    await it.engine.signal([job, second], APPROVED)
    for each in (job, second):
        await it.until(each, "completed")


async def test_a_queue_that_a_job_starts_outlives_the_job(it):
    """The tasks that a job left are cancelled when it falls asleep; those of the queue are not the job's."""

    @worker()
    class Opener:
        async def process(self, job):
            await it.oban.start_queue(queue="tenant", limit=1)
            await await_signal(wait_timeout=0)

    opener = await it.engine.enqueue(Opener.new())
    await it.until_status(opener, "snoozed")
    job = await it.engine.enqueue(Quick.new(queue="tenant"))
    await it.until(job, "completed")


async def test_a_queue_that_is_paused_keeps_what_was_woken_until_it_goes_on(it):
    job = await it.engine.enqueue(Approval.new())
    await it.until_status(job, "snoozed")
    await it.oban.pause_queue("default")
    await eventually(lambda: it.oban.check_queue("default").paused)
    assert (await it.engine.signal(job, APPROVED)).outcome == "woken"
    assert (await it.oban.get_job(job.id)).state == "available"
    await it.oban.resume_queue("default")
    await it.until(job, "completed")


async def test_cron_and_telemetry_go_on_as_before(it):
    """A cron job waits like any other, and its executions are told of: one ended in a snooze, and one in success."""
    stopped = []

    @worker(cron="* * * * *")
    class Nightly:
        async def process(self, job):
            return Record(await await_signal(wait_timeout=0))

    handler = "test_cron_and_telemetry"
    telemetry.attach(handler, ["oban.job.stop"], lambda _name, meta: stopped.append(meta["state"]))
    try:
        await it.oban._scheduler._evaluate(datetime.now(UTC))
        [[job_id]] = it.sql("SELECT id FROM oban_jobs WHERE meta ? 'cron'")
        job = await it.oban.get_job(job_id)
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, APPROVED)
        await it.until(job, "completed")
    finally:
        telemetry.detach(handler)
        clear_scheduled()
    assert stopped == ["scheduled", "completed"]


async def test_jobs_that_never_await_cost_oban_no_statement_more(start):
    """Nothing of the ledger's runs on Oban's connections for them, and no transaction is opened for it."""
    statements = []

    class Cursor(psycopg.AsyncCursor):
        async def execute(self, query, *arguments, **options):
            statements.append(query if isinstance(query, bytes) else str(query).encode())
            return await super().execute(query, *arguments, **options)

    it = await start(pool_options={"kwargs": {"cursor_factory": Cursor}})
    # What is done once, at the start.
    statements.clear()
    jobs = await it.engine.enqueue_many(Quick.new() for _ in range(20))
    for job in jobs:
        await it.until(job, "completed")
    assert len(statements) > 20
    ours = [statement for statement in statements if b"ledger" in statement or statement.lstrip().startswith(b"SET")]
    assert ours == []


async def test_jobs_that_never_await_leave_no_event(it):
    job = await Quick.enqueue()
    await it.until(job, "completed")
    assert SEEN == ["quick"]
    assert await it.kinds(job) == []
