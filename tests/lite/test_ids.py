"""The id of a job whose transaction was rolled back is not given again: a signal to it reaches nobody else's."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager

import aiosqlite
import pytest
from oban import Job

from signal_ledger import Workflow, lite
from tests.eventually import eventually

NEXT_ID = """
import asyncio, sys
from oban import Job
from signal_ledger import lite

async def main():
    async with lite(sys.argv[1], queues={}) as engine:
        print((await engine.enqueue(Job("shop.Purchase"))).id)

asyncio.run(main())
"""


@asynccontextmanager
async def rolled_back(path):
    async with aiosqlite.connect(path) as conn:
        yield conn
        await conn.rollback()


@pytest.fixture
async def engine(url):
    async with lite(url, queues={}) as engine:
        yield engine


async def test_a_signal_to_a_job_that_was_rolled_back_reaches_nobody(engine, path):
    for _ in range(2):
        async with rolled_back(path) as conn:
            lost = await engine.enqueue(Job("shop.Purchase"), conn=conn)
        other = await engine.enqueue(Job("shop.Purchase"))
        assert other.id == lost.id + 1
        assert (await engine.signal(lost, "for the lost one")).outcome == "ignored"
        assert await engine.ledger.history(other) == []


async def test_two_transactions_that_are_rolled_back_give_different_ids(engine, path):
    given = []
    for _ in range(2):
        async with rolled_back(path) as conn:
            given += [job.id for job in await engine.enqueue_many([Job("a.B"), Job("a.B")], conn=conn)]
        async with rolled_back(path) as conn:
            workflow = Workflow().add("one", Job("a.B"))
            await engine.enqueue_many(workflow, conn=conn)
            given += workflow.job_ids.values()
    assert given == [1, 2, 3, 4, 5, 6]


async def test_another_process_does_not_give_the_id_again(engine, url, path):
    async with rolled_back(path) as conn:
        lost = await engine.enqueue(Job("shop.Purchase"), conn=conn)

    async def is_noted():
        async with aiosqlite.connect(path) as conn, conn.execute("SELECT seq FROM sqlite_sequence") as cursor:
            return (lost.id,) in await cursor.fetchall()

    await eventually(is_noted)
    # This engine goes on meanwhile: it might hold the write lock just now.
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", NEXT_ID, url, stdout=PIPE)
    told, _ = await process.communicate()
    assert int(told) == lost.id + 1


async def test_the_ids_of_transactions_that_commit_have_no_gaps(engine, path):
    for number in range(1, 4):
        async with aiosqlite.connect(path) as conn:
            job = await engine.enqueue(Job("shop.Purchase"), conn=conn)
            await conn.commit()
        assert (job.id, (await engine.enqueue(Job("shop.Purchase"))).id) == (2 * number - 1, 2 * number)


async def test_transactions_that_wait_for_one_another_give_different_ids(engine, path):
    async with aiosqlite.connect(path) as first, aiosqlite.connect(path) as second:
        await first.execute("CREATE TABLE own (x)")
        await first.commit()
        # The ids are noted for all in between, mostly: one round in twenty shows what was read before the lock was had.
        for _ in range(120):
            await first.execute("INSERT INTO own VALUES (1)")
            waiting = asyncio.create_task(engine.enqueue(Job("shop.B"), conn=second))
            # Until it has asked for the file and its statement waits inside of SQLite, or is about to.
            await asyncio.sleep(0.01)
            lost = await engine.enqueue(Job("shop.A"), conn=first)
            await first.rollback()
            other = await waiting
            await second.commit()
            assert lost.id != other.id


async def test_an_engine_closes_while_a_transaction_that_enqueued_is_open(url, path):
    async with aiosqlite.connect(path) as conn:
        async with asyncio.timeout(10):
            async with lite(url, queues={}) as engine:
                job = await engine.enqueue(Job("shop.A"), conn=conn)
        await conn.commit()
    async with lite(url, queues={}) as engine:
        assert (await engine.get_job(job.id)).state == "available"


async def test_ids_are_counted_on_from_the_jobs_that_are_there_whatever_sqlite_remembers(engine, path):
    for _ in range(3):
        await engine.enqueue(Job("shop.A"))
    async with aiosqlite.connect(path) as conn:
        await conn.execute("DELETE FROM sqlite_sequence WHERE name = 'oban_jobs'")
        await conn.commit()
        assert (await engine.enqueue(Job("shop.A"))).id == 4
        await conn.execute("DELETE FROM sqlite_sequence WHERE name = 'oban_jobs'")
        await conn.commit()
        assert (await engine.enqueue(Job("shop.A"), conn=conn)).id == 5
        await conn.commit()
