"""Calls to the embedded engine that are cancelled at every suspension: nothing is left over or had by halves."""

import asyncio

import aiosqlite
from oban import Job

from signal_ledger import lite, open_ledger
from signal_ledger.embedded.operations import RelayOutbox
from tests.cancelling import (
    CANCELLED,
    at_every_suspension,
    check_nothing_is_left,
    delivered,
    try_questions,
    try_signals,
)
from tests.fault_figures import Account, Sent
from tests.faults.ledgers import make
from tests.stepping import cancel_task_at


async def test_d2_a_signal_that_is_cancelled_is_there_or_not_and_nothing_is_left(tmp_path, record_property):
    async with lite(f"sqlite:///{tmp_path}/signals.db", queues={}) as engine:
        job, *others = await engine.enqueue_many([Job("tests.Nobody") for _ in range(3)])
        before = asyncio.all_tasks()
        await try_signals(engine, job, others, record_property)
        await check_nothing_is_left(before, engine._store._engine.pool)
        assert (await engine.ledger.verify()).ok


async def test_a_question_that_is_cancelled_leaves_nothing(tmp_path, record_property, caplog):
    async with lite(f"sqlite:///{tmp_path}/signals.db", queues={}) as engine:
        job = await engine.enqueue(Job("tests.Nobody"))
        await engine.signal(job, 1)
        before = asyncio.all_tasks()
        await try_questions(engine, job, record_property)
        await check_nothing_is_left(before, engine._store._engine.pool)
        assert (await engine.ledger.verify()).ok
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text


async def test_d8_storing_and_relaying_that_are_cancelled_keep_all_or_nothing(tmp_path, record_property):
    path = tmp_path / "signals.db"
    [job_id] = await make(path, 1)
    async with open_ledger(f"sqlite:///{path}") as ledger, aiosqlite.connect(path) as connection:
        numbers = iter(range(1000))
        tries = await at_every_suspension(lambda: ledger.signal(job_id, next(numbers), conn=connection))
        await connection.commit()
        stored = len(await ledger.outbox())
        assert len(tries) - tries.count(CANCELLED) <= stored <= len(tries)
        relays = await at_every_suspension(lambda: ledger._store.transact(RelayOutbox()))
        payloads = delivered(await ledger.history(job_id))
        assert len(payloads) == len(set(payloads)) == stored
        assert payloads == sorted(payloads)
        assert await ledger.outbox() == []
        assert (await ledger.verify()).ok
        account = Account()
        for number, answer in enumerate(tries):
            if answer is CANCELLED:
                account.unknown.append(Sent(job_id, number, None))
            else:
                account.note(answer, number)
        figures = await account.figures(ledger)
    cancelled = tries.count(CANCELLED) + relays.count(CANCELLED)
    figures.record(record_property, happened=cancelled)


async def test_closing_that_is_cancelled_can_be_done_again_and_loses_nothing(tmp_path, record_property):
    path = tmp_path / "signals.db"
    n = 0
    account = Account()
    while True:
        n += 1
        engine = await lite(f"sqlite:///{path}", queues={"default": 1}).start()
        job = await engine.enqueue(Job("tests.Nobody", queue="nobody"))
        sending = asyncio.create_task(account.signal(engine, job.id, n))
        await asyncio.sleep(0)
        task, driven = cancel_task_at(n, engine.stop())
        try:
            await task
        except asyncio.CancelledError:
            await engine.stop()
        receipt = await sending
        async with open_ledger(f"sqlite:///{path}") as ledger:
            assert delivered(await ledger.history(job.id)) == [n]
            assert receipt.version == 1
        assert engine._tasks == []
        if driven.suspensions < n:
            break
    assert n > 3
    async with open_ledger(f"sqlite:///{path}") as ledger:
        figures = await account.figures(ledger)
    figures.record(record_property, happened=n - 1)
