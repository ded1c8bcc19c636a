"""The embedded engine relays what callers have stored in their own transactions (promise D8)."""

import asyncio

import aiosqlite
import pytest
from oban import Record, worker

from signal_ledger import await_signal, lite, open_ledger, signal
from signal_ledger_adapters.lite import watch
from tests.eventually import eventually

HOUR_S = 3600


@worker()
class Waiter:
    async def process(self, job):
        return Record(await await_signal(wait_timeout=job.args.get("window", 0)))


@worker()
class Teller:
    """Signals another job in a transaction of its own."""

    async def process(self, job):
        async with aiosqlite.connect(job.args["path"]) as connection:
            receipt = await signal(job.args["job_id"], "from a job", conn=connection)
            await connection.commit()
        return Record(receipt.outcome)


@pytest.mark.parametrize(("window", "status", "outcome"), [(0, "snoozed", "woken"), (HOUR_S, "live", "live")])
async def test_d8_a_commit_is_noticed_when_it_happens_and_resumes_the_job(
    it, path, monkeypatch, window, status, outcome
):
    monkeypatch.setattr(watch, "LOOK_S", HOUR_S)
    job = await Waiter.enqueue({"window": window})
    await it.until_status(job, status)
    async with aiosqlite.connect(path) as connection:
        receipt = await signal(job, "go", conn=connection)
        await connection.commit()
    await it.until(job, "completed")
    [delivered] = [event for event in await it.engine.ledger.history(job.id) if event.kind == "delivered"]
    assert (delivered.signal_id, delivered.outcome) == (receipt.signal_id, outcome)


async def test_d8_what_was_stored_while_no_engine_ran_is_relayed_by_the_next_one(url, path):
    async with lite(url, queues={}) as engine:
        job = await engine.enqueue(Waiter.new())
    async with open_ledger(url) as ledger, aiosqlite.connect(path) as connection:
        receipts = await ledger.signal([job, 404], "stored", conn=connection)
        assert [receipt.outcome for receipt in receipts] == ["stored", "stored"]
        await connection.commit()
        assert [row.refusal for row in await ledger.outbox()] == [None, None]
    # An engine that runs nothing relays, too.
    async with lite(url, queues={}) as engine:

        async def relayed():
            return [row.refusal for row in await engine.ledger.outbox()] == ["missing"]

        await eventually(relayed)
        assert [event.payload for event in await engine.ledger.history(job)] == ["stored"]


async def test_d8_a_job_can_signal_in_a_transaction(it, path):
    waiter = await Waiter.enqueue()
    await it.until_status(waiter, "snoozed")
    teller = await Teller.enqueue({"path": path, "job_id": waiter.id})
    await it.until(teller, "completed")
    await it.until(waiter, "completed")


async def test_d8_many_signals_are_relayed_in_order_by_several_engines(start, path):
    one, _, _ = [await start({}, name=name) for name in ("one", "two", "three")]
    job = await one.engine.enqueue(Waiter.new(scheduled_in=HOUR_S))
    async with aiosqlite.connect(path) as connection:
        for number in range(500):
            await one.engine.signal(job, number, conn=connection)
        await connection.commit()

    async def all_relayed():
        return not await one.engine.ledger.outbox()

    await eventually(all_relayed, timeout=30)
    assert [event.payload for event in await one.engine.ledger.history(job)] == list(range(500))


async def test_d8_an_idle_engine_does_not_write_because_of_the_outbox(it, path):
    """Refused signals stay, and are no work for anybody."""
    async with aiosqlite.connect(path) as connection:
        await signal(404, "lost", conn=connection)
        await connection.commit()

    async def refused():
        return [row.refusal for row in await it.engine.ledger.outbox()] == ["missing"]

    await eventually(refused)
    writer = it.engine._store._writing._connection
    statements, looks = [], []
    reader = it.engine._store._reader._connection
    writer.set_trace_callback(statements.append)
    reader.set_trace_callback(looks.append)
    await eventually(lambda: sum("signal_ledger_outbox" in sql for sql in looks) == 2)
    writer.set_trace_callback(None)
    reader.set_trace_callback(None)
    assert statements == []


async def test_d8_a_relay_that_fails_is_tried_again(it, path, monkeypatch, caplog):
    from signal_ledger.embedded.operations import RelayOutbox

    faults = [OSError("a fault")]
    run = RelayOutbox.run

    def failing(self, unit):
        if faults:
            raise faults.pop()
        return run(self, unit)

    monkeypatch.setattr(RelayOutbox, "run", failing)
    job = await Waiter.enqueue(scheduled_in=HOUR_S)
    async with aiosqlite.connect(path) as connection:
        await signal(job, "go", conn=connection)
        await connection.commit()

    async def delivered():
        return await it.engine.ledger.history(job.id)

    await eventually(delivered)
    assert "the database could not be watched; trying again" in caplog.text


async def test_d8_rolled_back_it_never_was(it, path):
    job = await Waiter.enqueue()
    await it.until_status(job, "snoozed")
    async with aiosqlite.connect(path) as connection:
        await signal(job, "never", conn=connection)
        await connection.rollback()
        assert await it.engine.ledger.outbox() == []
        await signal(job, "go", conn=connection)
        await connection.commit()
    await it.until(job, "completed")
    payloads = [event.payload for event in await it.engine.ledger.history(job.id) if event.kind == "delivered"]
    assert payloads == ["go"]


async def test_d8_a_read_only_ledger_shows_the_outbox_and_stores_nothing(it, url, path):
    async with aiosqlite.connect(path) as connection, open_ledger(url, read_only=True) as ledger:
        with pytest.raises(RuntimeError, match="opened read-only"):
            await ledger.signal(404, "lost", conn=connection)
        await signal(404, "lost", conn=connection)
        await connection.commit()

        async def refused():
            return [row.refusal for row in await ledger.outbox(limit=1)] == ["missing"]

        await eventually(refused)
        [row] = await ledger.outbox()
        assert await ledger.outbox(after=row.cursor) == []
        for limit in (0, 10_001, True):
            with pytest.raises(ValueError, match="limit: expected 1 to 10000"):
                await ledger.outbox(limit=limit)


async def test_d8_a_closed_engine_stores_nothing(url, path):
    async with lite(url, queues={}) as engine:
        pass
    async with aiosqlite.connect(path) as connection:
        with pytest.raises(RuntimeError, match="expected to be open"):
            await engine.signal(404, "lost", conn=connection)
    assert asyncio.get_running_loop().is_running()
