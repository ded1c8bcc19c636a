"""Locks that other programs hold for longer than a caller waits, and connections that may not write (promise D6)."""

import asyncio
import contextlib
import re
import sqlite3

import aiosqlite
import pytest
from oban import Record, worker
from oban._recorded import decode_recorded

from signal_ledger import DeliveryUnknown, await_signal, lite, open_ledger
from tests.eventually import eventually
from tests.fault_figures import Account
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
async def test_d6_a_lock_beyond_the_timeout_is_named_and_calls_go_on_when_it_is_gone(tmp_path, begin, record_property):
    path = tmp_path / "signals.db"
    job_ids = await make(path)
    account = Account()
    expected = f"within 0.1 s (another program holds the write lock of {path}): the signal may or may not"
    async with open_ledger(f"sqlite:///{path}") as ledger:
        with holding(path, begin):
            patient = [asyncio.create_task(account.signal(ledger, job_id, "patient")) for job_id in job_ids]
            for job_id in job_ids:
                with pytest.raises(DeliveryUnknown, match=re.escape(expected)) as unknown:
                    await account.signal(ledger, job_id, "hasty", timeout=0.1)
                assert unknown.value.reason == f"another program holds the write lock of {path}"
                # Readers wait for nobody.
                assert await ledger.history(job_id) == []
            assert not any(task.done() for task in patient)
        assert [(await task).version for task in patient] == [1] * len(job_ids)
        figures = await account.figures(ledger)
        for job_id in job_ids:
            assert [event.payload for event in await ledger.history(job_id)] == ["patient", "hasty"]
        assert (await ledger.verify()).ok
    assert (figures.acknowledged, figures.unknown, figures.committed) == (len(job_ids), len(job_ids), 0)
    figures.record(record_property, happened=1)


@worker()
class Waiter:
    async def process(self, job):
        return Record(await await_signal(wait_timeout=2))


async def test_w5_jobs_go_on_when_a_lock_is_gone_that_was_there_while_they_fell_asleep(tmp_path, record_property):
    path = tmp_path / "signals.db"
    account = Account()
    async with lite(f"sqlite:///{path}", queues={"default": 20}) as engine:
        jobs = [await engine.enqueue(Waiter.new()) for _ in range(5)]

        async def awaited(job):
            return (await engine.ledger.state(job.id)).version

        for job in jobs:
            await eventually(lambda job=job: awaited(job))
        writer = engine._store._writing
        with holding(path, "BEGIN IMMEDIATE"):
            signalled = [
                asyncio.create_task(account.signal(engine, job.id, f"through it all, {job.id}")) for job in jobs
            ]
            # The signals, and what the jobs do at the ends of their windows, which have passed by then.
            await eventually(lambda: len(writer._batch) + len(writer._requests) >= 2 * len(jobs))
            assert writer._is_waiting_for_lock
            assert not any(task.done() for task in signalled)
        await asyncio.gather(*signalled)

        async def completed(job):
            found = await engine.get_job(job.id)
            return found if found.state == "completed" else None

        for job in jobs:
            done = await eventually(lambda job=job: completed(job))
            assert decode_recorded(done.meta["return"]) == f"through it all, {job.id}"
        assert (await engine.ledger.verify()).ok
        figures = await account.figures(engine.ledger)
    assert figures.acknowledged == len(jobs)
    figures.record(record_property, happened=1)


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
