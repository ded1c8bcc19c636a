"""Notifications are hints: without them everything works within the polling second (promises W3, W5, W12)."""

import asyncio
import logging
import time

import asyncpg
import pytest
from oban._notifier import PostgresNotifier

from signal_ledger import open_ledger
from signal_ledger_adapters.oban import watch
from tests.eventually import eventually
from tests.postgres.engine.workers import APPROVED, Approval


@pytest.fixture
async def elsewhere(ledger_url):
    """A ledger that has nothing to do with the engine under test, as in another process."""
    async with open_ledger(ledger_url) as ledger:
        yield ledger


@pytest.fixture
def _deaf(monkeypatch):
    """No notification arrives in this process."""

    async def drop(self, notification):
        pass

    monkeypatch.setattr(PostgresNotifier, "_dispatch", drop)
    monkeypatch.setattr(watch, "_TEST_S", 0.3)


async def seconds_until_it_is_done(it, job, sending):
    begun = time.monotonic()
    await sending
    await it.until(job, "completed", "cancelled")
    return time.monotonic() - begun


@pytest.mark.parametrize("window", [0, 60])
async def test_a_signal_from_another_process_arrives_long_before_the_look(start, elsewhere, monkeypatch, window):
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 1000)
    it = await start(stager={"interval": 1000.0})
    await eventually(lambda: _is_listening(it))
    job = await Approval.enqueue({"window": window})
    await it.until_status(job, "live" if window else "snoozed")
    assert await seconds_until_it_is_done(it, job, elsewhere.signal(job, APPROVED)) < 5


def _is_listening(it):
    return not it.oban._notifier._pending_listen


@pytest.mark.usefixtures("_deaf")
@pytest.mark.parametrize("window", [0, 60])
async def test_with_every_notification_dropped_a_signal_arrives_within_the_polling_second(start, elsewhere, window):
    it = await start(stager={"interval": 1.0})
    job = await Approval.enqueue({"window": window})
    await it.until_status(job, "live" if window else "snoozed")
    assert await seconds_until_it_is_done(it, job, elsewhere.signal(job, APPROVED)) < 3


@pytest.mark.usefixtures("_deaf")
async def test_with_every_notification_dropped_a_cancel_arrives_within_the_polling_second(it):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    assert await seconds_until_it_is_done(it, job, it.engine.cancel_job(job)) < 3


@pytest.mark.usefixtures("_deaf")
async def test_own_signals_need_no_notification(start, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 1000)
    it = await start()
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    await it.engine.signal(job, APPROVED)
    await it.until(job, "completed")


async def test_a_signal_while_the_listener_is_gone_arrives_within_the_polling_second(it, elsewhere):
    job = await Approval.enqueue({"window": 60})
    await it.until_status(job, "live")
    await eventually(lambda: _is_listening(it))
    connection = it.oban._notifier._conn
    killed = it.sql("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
    assert killed == [(True,)]
    await eventually(lambda: it.oban._notifier._conn is not connection)
    assert await seconds_until_it_is_done(it, job, elsewhere.signal(job, APPROVED)) < 3


@pytest.mark.usefixtures("_deaf")
async def test_d8_stored_signals_are_relayed_within_the_polling_second_without_notifications(it):
    await store_and_wait(it)


async def test_d8_stored_signals_are_relayed_at_once_with_them(start, monkeypatch):
    monkeypatch.setattr(watch, "RELAY_EVERY_S", 1000)
    it = await start()
    await eventually(lambda: _is_listening(it))
    await store_and_wait(it)


async def store_and_wait(it):
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    connection = await asyncpg.connect(it.url)
    try:
        async with connection.transaction():
            await it.engine.signal(job, APPROVED, conn=connection)
        await it.until(job, "completed")
    finally:
        await connection.close()


@pytest.mark.usefixtures("_deaf")
async def test_a_self_test_says_that_hints_do_not_arrive(it, caplog):
    with caplog.at_level(logging.WARNING):
        await eventually(lambda: "hints do not arrive at 'Oban'" in caplog.text)
    assert "everything works within the polling second" in caplog.text


async def test_a_self_test_says_nothing_when_they_do(it, caplog):
    tests = [task for task in asyncio.all_tasks() if task.get_name() == "signal-ledger-self-test"]
    await asyncio.wait(tests)
    assert "hints" not in caplog.text


async def test_live_waits_share_one_look_and_no_wait_needs_none(start, monkeypatch):
    """One query a second for all of them."""
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.05)
    rounds, looks = [], []
    monkeypatch.setattr(watch, "retry_acknowledgements", rounds.append)
    it = await start()
    look = it.engine._store.look

    async def counted(live):
        looks.append(len(live))
        return await look(live)

    monkeypatch.setattr(it.engine._store, "look", counted)
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    begun = len(rounds)
    await eventually(lambda: len(rounds) > begun + 5)
    assert looks == []
    live = await it.engine.enqueue_many(Approval.new({"window": 60}) for _ in range(3))
    await eventually(lambda: 3 in looks)
    assert len(looks) <= len(rounds) - begun
    await it.engine.signal([job, *live], APPROVED)
    for each in live:
        await it.until(each, "completed")
