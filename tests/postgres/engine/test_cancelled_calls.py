"""Calls to the engine on PostgreSQL that are cancelled at every suspension: nothing is left over or had by halves."""

import asyncio
import contextlib
from collections import Counter

import asyncpg
import psycopg
import pytest
from oban import Job
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from signal_ledger import Receipt, attach, open_ledger
from signal_ledger_adapters.postgres.connection import to_url
from tests.cancelling import (
    CANCELLED,
    check_nothing_is_left,
    delivered,
    try_questions,
    try_signals,
)
from tests.eventually import eventually
from tests.fault_figures import Account, Sent
from tests.postgres.engine.conftest import Node, an_oban, query
from tests.postgres.engine.workers import APPROVED, Approval
from tests.stepping import cancel_task_at


async def test_d2_a_signal_that_is_cancelled_is_there_or_not_and_nothing_is_left(start, record_property):
    it = await start({})
    first, job, *others = [await it.oban.enqueue(Job("tests.Nobody")) for _ in range(4)]
    await it.engine.signal(first, "warm")
    before = asyncio.all_tasks()
    await try_signals(it.engine, job, others, record_property)
    await check_nothing_is_left(before, it.engine._store._engine.pool)


async def test_a_question_that_is_cancelled_leaves_nothing(start, record_property):
    it = await start({})
    job = await it.oban.enqueue(Job("tests.Nobody"))
    await it.engine.signal(job, 1)
    before = asyncio.all_tasks()
    await try_questions(it.engine, job, record_property)
    await check_nothing_is_left(before, it.engine._store._engine.pool)


@contextlib.asynccontextmanager
async def psycopg_connection(url):
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection, connection.rollback, connection.commit


@contextlib.asynccontextmanager
async def asyncpg_connection(url):
    connection = await asyncpg.connect(url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        yield connection, transaction.rollback, transaction.commit
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def sqlalchemy_session(url):
    engine = create_async_engine(to_url(url))
    async with AsyncSession(engine) as session:
        yield session, session.rollback, session.commit
    await engine.dispose()


CONNECTIONS = {"psycopg": psycopg_connection, "asyncpg": asyncpg_connection, "sqlalchemy": sqlalchemy_session}


@pytest.mark.parametrize("then", ["rollback", "commit"])
@pytest.mark.parametrize("kind", CONNECTIONS)
async def test_d8_storing_that_is_cancelled_stores_a_signal_once_or_not_at_all(
    start, ledger_url, kind, then, record_property
):
    """Whatever the driver leaves of the transaction: rolled back, nothing is there; committed, all or nothing."""
    it = await start({})
    job = await it.oban.enqueue(Job("tests.Nobody"))
    before = asyncio.all_tasks()
    account, tries = Account(), []
    async with open_ledger(ledger_url) as ledger:

        async def store(number, n):
            async with CONNECTIONS[kind](ledger_url) as (connection, rollback, commit):
                task, driven = cancel_task_at(n, ledger.signal(job, number, conn=connection))
                try:
                    receipt = await task
                except asyncio.CancelledError:
                    with contextlib.suppress(psycopg.Error, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError):
                        await (rollback() if then == "rollback" else commit())
                    account.unknown.append(Sent(job.id, number, None))
                    return CANCELLED, driven
                await commit()
                account.acknowledged.append(Sent(job.id, number, receipt.signal_id))
                return receipt.outcome, driven

        while True:
            outcome, driven = await store(len(tries), len(tries) + 1)
            tries.append(outcome)
            if driven.suspensions <= len(tries) - 1:
                break
        assert tries[-1] == "stored"
        kept = [number for number, outcome in enumerate(tries) if outcome == "stored"]
        await eventually(lambda: _has(it, job, kept), what=f"{kept} are there")
        assert await ledger.outbox() == []
        payloads = delivered(await ledger.history(job))
        assert payloads == sorted(set(payloads))
        assert payloads == kept or then == "commit"
        figures = await account.figures(ledger)
    await check_nothing_is_left(before, it.engine._store._engine.pool)
    figures.record(record_property, happened=tries.count(CANCELLED))


async def _outcome(task):
    try:
        return await task
    except asyncio.CancelledError:
        return CANCELLED


async def _has(it, job, expected):
    return set(delivered(await it.ledger.history(job))) >= set(expected)


async def test_d8_a_relay_that_is_cancelled_relays_all_or_nothing_and_once(start, ledger_url, record_property):
    it = await start({})
    job = await it.oban.enqueue(Job("tests.Nobody"))
    # Its own relay would be in the way, which runs as a task of the engine.
    await it.engine._watch.stop()
    numbers = iter(range(10_000))
    async with open_ledger(ledger_url) as ledger:
        before = asyncio.all_tasks()
        account, tries = Account(), []
        while True:
            # Two transactions, of three signals each.
            for _ in range(2):
                async with await psycopg.AsyncConnection.connect(ledger_url) as connection:
                    for _ in range(3):
                        await account.signal(ledger, job.id, next(numbers), conn=connection)
            # Somebody holds the job when it begins, so that it has to come back.
            async with await psycopg.AsyncConnection.connect(ledger_url) as other:
                await other.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [job.id])
                task, driven = cancel_task_at(len(tries) + 1, ledger._store.relay())
                await eventually(lambda driven=driven, task=task: driven.suspensions > 1 or task.done())
            tries.append(await _outcome(task))
            payloads = delivered(await ledger.history(job))
            assert payloads == list(range(len(payloads))), "relayed twice, or out of order"
            assert len(payloads) % 3 == 0, "half of a transaction"
            if driven.suspensions < len(tries):
                break
        await ledger._store.relay()
        assert delivered(await ledger.history(job)) == list(range(next(numbers)))
        assert await ledger.outbox() == []
        assert (await ledger.verify()).ok
        figures = await account.figures(ledger)
        await check_nothing_is_left(before, ledger._store._engine.pool)
    await it.engine._watch.start()
    assert tries.count(CANCELLED) >= 2
    figures.record(record_property, happened=tries.count(CANCELLED))


async def test_closing_a_ledger_that_is_cancelled_ends_every_call_and_loses_nothing(start, ledger_url, record_property):
    """Calls are under way: each ends, acknowledged and there, or told that it is not known."""
    it = await start({})
    job = await it.oban.enqueue(Job("tests.Nobody"))
    before = asyncio.all_tasks()
    account, told = Account(), {}
    n = 0
    while True:
        n += 1
        opened = open_ledger(f"{ledger_url}&application_name=closed")
        ledger = await opened.__aenter__()
        await ledger.history(job)
        assert connections_of("closed", ledger_url) > 0
        sending = {
            number: asyncio.create_task(account.signal(ledger, job.id, number, timeout=5))
            for number in range(100 * n, 100 * n + 4)
        }
        await asyncio.sleep(0)
        task, driven = cancel_task_at(n, opened.__aexit__(None, None, None))
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            results = await asyncio.gather(*sending.values(), return_exceptions=True)
        told |= dict(zip(sending, results, strict=True))
        await eventually(lambda: asyncio.all_tasks() <= before, what="no task is left")
        await eventually(lambda: connections_of("closed", ledger_url) == 0, what="no connection is left")
        if driven.suspensions < n:
            break
    payloads = delivered(await it.ledger.history(job))
    assert len(payloads) == len(set(payloads))
    assert {number for number, result in told.items() if isinstance(result, Receipt)} <= set(payloads)
    assert n > 3
    (await account.figures(it.ledger)).record(record_property, happened=n - 1)
    record_property("each came to", dict(Counter(type(result).__name__ for result in told.values())))


async def test_stopping_that_is_cancelled_can_be_done_again_and_loses_nothing(start, ledger_url, record_property):
    """A live wait snoozes, or is rescued by another node; what was acknowledged is there."""
    it = await start({})
    before = asyncio.all_tasks()
    account, told = Account(), {}
    jobs = []
    n = 0
    while True:
        n += 1
        async with an_oban(ledger_url) as oban:
            engine = await attach(oban).start()
            node = Node(ledger_url, oban, engine)
            jobs.append(await engine.enqueue(Approval.new({"window": 60})))
            await node.until_status(jobs[-1], "live")
            sending = asyncio.create_task(account.signal(engine, jobs[-1].id, n, channel="other", timeout=5))
            await asyncio.sleep(0)
            task, driven = cancel_task_at(n, engine.stop())
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await engine.stop()
            async with asyncio.timeout(10):
                [told[jobs[-1].id]] = await asyncio.gather(sending, return_exceptions=True)
            await eventually(lambda: asyncio.all_tasks() - before <= _of_pool(), what="no task is left", timeout=20)
        if driven.suspensions < n:
            break
    assert n > 3
    (await account.figures(it.ledger, channel="other")).record(record_property, happened=n - 1)
    await it.oban._query.rescue_jobs(0)
    await start({"default": 20})
    for job in jobs:
        history = await it.ledger.history(job)
        if isinstance(told[job.id], Receipt):
            assert len(delivered(history)) == 1
        await it.engine.signal(job, APPROVED)
        await it.until(job, "completed")


def connections_of(application, url):
    [[count]] = query(url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", application)
    return count


def _of_pool():
    """The tasks of psycopg's pool, which is closed by who has opened it."""
    return {task for task in asyncio.all_tasks() if task.get_name().startswith("pool-")}
