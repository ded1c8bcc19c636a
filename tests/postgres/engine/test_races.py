"""Interleavings, made by gates: what happens between the last look and the acknowledgement (W5, W7, W12)."""

import asyncio
import functools
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from oban import _extensions, worker
from sqlalchemy.engine import make_url

from signal_ledger import await_signal, open_ledger
from tests.eventually import eventually
from tests.postgres.engine.workers import APPROVED, SEEN, Approval

POINT = "query.ack_jobs"


class Gate:
    """Holds acknowledgements up until it is opened."""

    def __init__(self):
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def pass_through(self):
        self.reached.set()
        await self.opened.wait()


@pytest.fixture
async def elsewhere(ledger_url):
    async with open_ledger(ledger_url) as ledger:
        yield ledger


@pytest.fixture
def before_the_transaction(it, monkeypatch):
    """A gate before the acknowledgement has begun."""
    gate = Gate()
    ours = _extensions._extensions[POINT]

    async def gated(query, acks):
        if acks:
            await gate.pass_through()
        return await ours(query, acks)

    monkeypatch.setitem(_extensions._extensions, POINT, gated)
    return gate


@pytest.fixture
def between_the_statements(it, monkeypatch):
    """A gate in the acknowledgement's transaction: Oban's statement has run, ours has not."""
    gate = Gate()
    ours = _extensions._extensions[POINT]
    [previous] = ours.args

    async def gated(query, acks):
        done = await previous(query, acks)
        await gate.pass_through()
        return done

    monkeypatch.setitem(_extensions._extensions, POINT, functools.partial(ours.func, gated))
    return gate


def waits_for_a_lock(it):
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return it.sql(waiting) == [(1,)]


async def set_default(it, setting, value):
    """Set it for the sessions of the database; Oban gets new ones."""
    await it.change(f"ALTER DATABASE {make_url(it.url).database} SET {setting} = '{value}'")
    await it.oban._query._pool.drain()


@pytest.mark.parametrize("window", [0, 0.01])
async def test_w5_a_signal_before_the_acknowledgement_is_not_lost(it, elsewhere, before_the_transaction, window):
    job = await Approval.enqueue({"window": window})
    await before_the_transaction.reached.wait()
    receipt = await elsewhere.signal(job, APPROVED)
    assert receipt.outcome == ("live" if window else "buffered")
    before_the_transaction.opened.set()
    await it.until(job, "completed")
    first = ["awaited"] if window else []
    assert await it.kinds(job) == [*first, "delivered", "snoozed", "consumed", "closed"]


async def test_w5_a_signal_that_waits_for_the_acknowledgement_wakes_the_job(it, elsewhere, between_the_statements):
    """The acknowledgement holds the job's lock; the delivery comes after it, and finds the snooze."""
    job = await Approval.enqueue()
    await between_the_statements.reached.wait()
    sending = asyncio.create_task(elsewhere.signal(job, APPROVED))
    await eventually(lambda: waits_for_a_lock(it))
    between_the_statements.opened.set()
    assert (await sending).outcome == "woken"
    await it.until(job, "completed")
    assert await it.kinds(job) == ["snoozed", "delivered", "consumed", "closed"]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_w5_an_acknowledgement_that_waits_for_a_signal_sees_it(it, before_the_transaction, isolation):
    """The delivery holds the job's lock; the acknowledgement comes after it, whatever the database's default."""
    await set_default(it, "default_transaction_isolation", isolation)
    job = await Approval.enqueue()
    await before_the_transaction.reached.wait()
    with psycopg.connect(it.url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        [[outcome]] = connection.execute(
            "SELECT outcome FROM signal_ledger.deliver(ARRAY[1], ARRAY[true], ARRAY[%s::bigint], "
            "ARRAY[gen_random_uuid()::text], ARRAY[''], ARRAY[%s::bytea], ARRAY[%s], ARRAY[NULL::text], ARRAY[''], "
            "ARRAY[NULL::text])",
            (job.id, *_encoded(APPROVED)),
        ).fetchall()
        assert outcome == "buffered"
        before_the_transaction.opened.set()
        await eventually(lambda: waits_for_a_lock(it))
    await it.until(job, "completed")
    # Oban's own transactions are as the database wants them: then the end is noted, and appended within the second.
    await it.until_status(job, "closed")
    assert await it.kinds(job) == ["delivered", "snoozed", "consumed", "closed"]


def _encoded(payload):
    from signal_ledger.codec import DEFAULT_LIMITS, encode_with_digest

    encoded = encode_with_digest(payload, DEFAULT_LIMITS)
    return encoded.data, encoded.digest


@pytest.mark.parametrize("is_late", [True, False], ids=["after", "by"])
async def test_w7_a_signal_is_judged_by_when_it_was_recorded(it, elsewhere, before_the_transaction, is_late):
    """The job runs long after its deadline; what counts is whether the signal had been recorded by then."""
    before_the_transaction.opened.set()
    job = await Approval.enqueue({"wait_for": 1.0})
    await it.until_status(job, "snoozed")
    await it.oban.pause_queue("default")
    deadline_at = (await it.ledger.state(job.id)).deadline_at
    if is_late:
        await eventually(lambda: it.sql("SELECT clock_timestamp() > %s", deadline_at) == [(True,)])
    receipt = await elsewhere.signal(job, APPROVED)
    assert receipt.outcome == ("buffered" if is_late else "woken")
    await eventually(lambda: it.sql("SELECT clock_timestamp() > %s", deadline_at) == [(True,)])
    await it.oban.resume_queue("default")
    await it.until(job, "cancelled" if is_late else "completed")
    outcome = "timed_out" if is_late else "consumed"
    assert await it.kinds(job) == ["snoozed", "delivered", outcome, "closed"]


async def test_w7_a_signal_after_the_deadline_does_not_stop_the_timeout_of_a_live_wait(it, elsewhere):
    job = await Approval.enqueue({"wait_for": 0.5, "window": 60})
    await it.until_status(job, "live")
    deadline_at = (await it.ledger.state(job.id)).deadline_at
    # The job's row is locked until the deadline is over: neither the wait's end nor the signal gets there before.
    with psycopg.connect(it.url) as holder:
        holder.execute("SELECT FROM oban_jobs WHERE id = %s FOR NO KEY UPDATE", (job.id,))
        sending = asyncio.create_task(elsewhere.signal(job, APPROVED))
        await eventually(lambda: waits_for_a_lock(it))
        await eventually(lambda: it.sql("SELECT clock_timestamp() > %s", deadline_at) == [(True,)])
    assert (await sending).outcome == "buffered"
    await it.until(job, "cancelled")
    assert (await it.kinds(job)).count("timed_out") == 1
    assert SEEN == []


async def test_w12_a_cancel_before_the_acknowledgement_is_not_lost(it, before_the_transaction):
    job = await Approval.enqueue()
    await before_the_transaction.reached.wait()
    await it.engine.cancel_job(job)
    before_the_transaction.opened.set()
    cancelled = await it.until(job, "cancelled")
    assert cancelled.errors[0]["error"] == "cancelled while it waited for a signal"
    assert await it.kinds(job) == []


async def test_w12_a_cancel_that_waits_for_the_acknowledgement_is_not_lost(it, between_the_statements):
    job = await Approval.enqueue()
    await between_the_statements.reached.wait()
    cancelling = asyncio.create_task(it.engine.cancel_job(job))
    await eventually(lambda: waits_for_a_lock(it))
    between_the_statements.opened.set()
    await cancelling
    await it.until(job, "cancelled")
    assert await it.kinds(job) == ["snoozed", "closed"]


async def test_l8_a_newer_library_before_the_acknowledgement_puts_the_job_off_for_a_minute(it, before_the_transaction):
    """The acknowledgement alone would let it sleep for as long as its wait may last: fifty years."""
    job = await Approval.enqueue({"wait_for": None}, scheduled_in=timedelta(seconds=1))
    await it.engine.signal(job, "so that there is a state", channel="other")
    await before_the_transaction.reached.wait()
    await it.change("UPDATE signal_ledger.waits SET schema_version = 3")
    before_the_transaction.opened.set()
    found = await it.until(job, "scheduled")
    assert timedelta(seconds=50) < found.scheduled_at - datetime.now(UTC) <= timedelta(seconds=60)
    await it.change("UPDATE signal_ledger.waits SET schema_version = 1")
    assert await it.kinds(job) == ["delivered"]


async def test_w13_a_rescue_before_the_acknowledgement_leaves_the_older_execution_without_a_snooze(
    it, before_the_transaction
):
    job = await Approval.enqueue()
    await before_the_transaction.reached.wait()
    await it.oban._query.rescue_jobs(0)
    before_the_transaction.opened.set()
    await it.until_status(job, "snoozed")
    [snoozed] = await it.ledger.history(job.id)
    assert snoozed.attempt == 2
    await it.engine.signal(job, APPROVED)
    await it.until(job, "completed")


async def test_acknowledgements_are_made_in_ascending_order(it, monkeypatch):
    """Whoever locks several jobs does so in this order: deliveries and acknowledgements never wait in a circle."""
    orders = []
    ours = _extensions._extensions[POINT]
    [previous] = ours.args

    async def noted(query, acks):
        orders.append([ack.id for ack in acks])
        return await previous(query, acks)

    reversing = functools.partial(ours.func, noted)

    async def reversed_acks(query, acks):
        return await reversing(query, acks[::-1])

    monkeypatch.setitem(_extensions._extensions, POINT, reversed_acks)
    jobs = await it.engine.enqueue_many(Approval.new() for _ in range(5))
    for job in jobs:
        await it.until_status(job, "snoozed")
    assert any(len(order) > 1 for order in orders)
    assert orders == [sorted(order) for order in orders]


async def test_an_acknowledgement_that_meets_a_deadlock_is_tried_again(it, monkeypatch, caplog):
    """A real one: a stranger locks the jobs in the opposite order."""
    gate = Gate()
    ours = _extensions._extensions[POINT]
    [previous] = ours.args
    tries = []

    async def one_by_one(query, acks):
        done = []
        for ack in acks:
            done += await previous(query, [ack])
            if not tries:
                await gate.pass_through()
        tries.append(len(acks))
        return done

    await set_default(it, "deadlock_timeout", "100ms")
    monkeypatch.setitem(_extensions._extensions, POINT, functools.partial(ours.func, one_by_one))
    low, high = await _two_that_end_together(it)
    await gate.reached.wait()
    with psycopg.connect(it.url) as stranger:
        # Only the acknowledgement looks for deadlocks.
        stranger.execute("SET deadlock_timeout = '1h'")
        stranger.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", (high.id,))
        gate.opened.set()
        locking = asyncio.to_thread(stranger.execute, "SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", (low.id,))
        await asyncio.wait_for(locking, 10)
    for job in (low, high):
        await it.until_status(job, "snoozed")
    assert await it.kinds(low) == await it.kinds(high) == ["snoozed"]
    assert "one by one" not in caplog.text


@worker()
class InPairs:
    """Falls asleep at the same moment as another one, so that one transaction acknowledges both."""

    both = asyncio.Barrier(2)

    async def process(self, _job):
        try:
            await await_signal(wait_timeout=0)
        finally:
            await self.both.wait()


async def _two_that_end_together(it):
    await it.oban.pause_queue("default")
    low, high = await it.engine.enqueue_many(InPairs.new() for _ in range(2))
    await it.oban.resume_queue("default")
    return low, high
