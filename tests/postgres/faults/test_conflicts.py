"""Deadlocks, and whatever a role has as its defaults for transactions: all promises hold (D2, W5)."""

import asyncio
import random

import psycopg
import pytest

from signal_ledger import attach, open_ledger
from tests.eventually import eventually
from tests.postgres.engine.conftest import Node, an_oban, query
from tests.postgres.faults.load import Load
from tests.postgres.faults.workers import collectors, have_consumed_all

LEVELS = ["read uncommitted", "read committed", "repeatable read", "serializable"]


def deadlocks(url):
    [[count]] = query(url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return count


@pytest.mark.parametrize("level", LEVELS)
async def test_deadlocks_and_conflicts_at_every_default_level_are_tried_again(ledger_url, level, record_property):
    """Others lock the same jobs in any order, and update them, at that level; all transactions may be put off, too."""
    query(ledger_url, "DROP ROLE IF EXISTS levelled")
    query(ledger_url, "CREATE ROLE levelled SUPERUSER LOGIN")
    query(ledger_url, f"ALTER ROLE levelled SET default_transaction_isolation = '{level}'")
    query(ledger_url, "ALTER ROLE levelled SET default_transaction_deferrable = on")
    [[name]] = query(ledger_url, "SELECT current_database()")
    query(ledger_url, f"ALTER DATABASE {name} SET deadlock_timeout = '10ms'")
    url = ledger_url.replace("postgres@", "levelled@")
    chance = random.Random(level)
    failures = 0
    is_over = asyncio.Event()

    async def interfere(job_ids):
        nonlocal failures
        while not is_over.is_set():
            try:
                async with await psycopg.AsyncConnection.connect(url) as connection:
                    for job_id in chance.sample(job_ids, 3):
                        await connection.execute("UPDATE oban_jobs SET priority = 1 - priority WHERE id = %s", [job_id])
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                failures += 1

    async with an_oban(url) as oban, attach(oban) as engine, open_ledger(url) as ledger:
        node = Node(ledger_url, oban, engine)
        jobs = await collectors(node, 6)
        job_ids = [job.id for job in jobs]
        load = Load(ledger, job_ids, timeout=30)
        interfering = [asyncio.create_task(interfere(job_ids)) for _ in range(3)]
        try:
            async with load.running(8):
                await eventually(lambda: deadlocks(ledger_url) > 3 and len(load.acknowledged) > 200)
        finally:
            is_over.set()
            await asyncio.gather(*interfering)
        figures = await load.figures(ledger, record_property)
        assert figures.unknown == 0
        await have_consumed_all(node, jobs)

        async def is_whole():
            # Oban ends jobs at that level: what it cannot see is noted, and appended afterwards.
            return (await ledger.verify()).ok

        await eventually(is_whole)
    assert failures > 3
    query(ledger_url, "DROP ROLE levelled")
