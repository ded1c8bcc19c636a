"""Locks that other programs hold for longer than a caller waits, and connections that may not write (promise D6)."""

import asyncio
import contextlib
import re
import sqlite3

import aiosqlite
import pytest
from oban import Record, worker

from signal_ledger import DeliveryUnknown, await_signal, lite, open_ledger
from tests.eventually import eventually
from tests.faults.ledgers import make


@contextlib.contextmanager
def holding(path, begin):
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(begin)
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
async def test_d6_a_lock_beyond_the_timeout_is_named_and_calls_go_on_when_it_is_gone(tmp_path, begin):
    path = tmp_path / "signals.db"
    [job_id] = await make(path, 1)
    async with open_ledger(f"sqlite:///{path}") as ledger:
        with holding(path, begin):
            patient = asyncio.create_task(ledger.signal(job_id, "patient"))
            expected = f"within 0.1 s (another program holds the write lock of {path}): the signal may or may not"
            with pytest.raises(DeliveryUnknown, match=re.escape(expected)) as unknown:
                await ledger.signal(job_id, "hasty", timeout=0.1)
            assert unknown.value.reason == f"another program holds the write lock of {path}"
            # Readers wait for nobody.
            assert await ledger.history(job_id) == []
            assert not patient.done()
        assert (await patient).version == 1
        again = await ledger.signal(job_id, "hasty", key=unknown.value.signal_id)
        assert (again.outcome, again.version) == ("buffered", 2)
        assert (await ledger.verify()).ok


@worker()
class Waiter:
    async def process(self, job):
        return Record(await await_signal(wait_timeout=0.05))


async def test_w5_jobs_go_on_when_a_lock_is_gone_that_was_there_while_they_fell_asleep(tmp_path):
    path = tmp_path / "signals.db"
    async with lite(f"sqlite:///{path}") as engine:
        job = await engine.enqueue(Waiter.new())

        async def awaited():
            return (await engine.ledger.state(job.id)).version

        await eventually(awaited)
        with holding(path, "BEGIN IMMEDIATE"):
            signalled = asyncio.create_task(engine.signal(job, "through it all"))
            await asyncio.sleep(0.3)
        await signalled

        async def completed():
            return (await engine.get_job(job.id)).state == "completed"

        await eventually(completed)
        assert (await engine.ledger.verify()).ok


async def test_d8_a_connection_that_may_not_write_is_named(tmp_path):
    path = tmp_path / "signals.db"
    [job_id] = await make(path, 1)
    async with open_ledger(f"sqlite:///{path}") as ledger, aiosqlite.connect(path) as connection:
        await connection.execute("PRAGMA query_only = ON")
        with pytest.raises(ValueError, match=r"conn: expected a connection that can write, got one with .*query_only"):
            await ledger.signal(job_id, 1, conn=connection)
        await connection.execute("PRAGMA query_only = OFF")
        assert (await ledger.signal(job_id, 1, conn=connection)).outcome == "stored"
        await connection.commit()
