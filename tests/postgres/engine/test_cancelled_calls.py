"""Calls to the engine on PostgreSQL that are cancelled at every suspension: nothing is left over or had by halves."""

import asyncio

from oban import Job

from tests.cancelling import check_nothing_is_left, try_questions, try_signals


async def test_d2_a_signal_that_is_cancelled_is_there_or_not_and_nothing_is_left(start, record_property):
    it = await start({})
    job, *others = [await it.oban.enqueue(Job("tests.Nobody")) for _ in range(3)]
    await it.engine.signal(job, "warm")
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
