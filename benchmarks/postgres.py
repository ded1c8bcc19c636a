"""PostgreSQL: delivering signals, beside a bare INSERT and COMMIT through asyncpg at as many connections."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
from oban._query import Query
from psycopg_pool import AsyncConnectionPool

from benchmarks.figures import Figure
from signal_ledger.delivery import Sender
from signal_ledger_adapters.composition import new_id
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.migrate import migrate
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.scratch import Cluster, scratch_cluster
from signal_ledger_adapters.postgres.store import PostgresStore

TASKS = (1, 8, 32, 256)
CONNECTIONS_MAX = 32
JOBS = 2000
LIST = 1000
PAYLOAD = {"decision": "approved"}
ROW = b"\x83t\x00\x00\x00\x01m\x00\x00\x00\x08decisionm\x00\x00\x00\x08approved"

# Jobs that sleep on their first wait, as their snooze leaves them.
PARK = """
UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_at = timezone('UTC', now()) WHERE state = 'available';
SELECT signal_ledger.take(array_agg(id), array_agg(signal_ledger.to_execution(attempted_at)), array_agg(''::text),
    array_agg(1), array_agg(NULL::interval), array_agg(false), array_agg(true))
FROM oban_jobs WHERE state = 'executing';
UPDATE oban_jobs SET state = 'scheduled', attempt = 0 WHERE state = 'executing';
SELECT signal_ledger.snooze(array_agg(id ORDER BY id), array_agg(signal_ledger.to_execution(attempted_at) ORDER BY id),
    array_agg(''::text), array_agg(1), array_agg(NULL::interval), '') FROM oban_jobs
WHERE state = 'scheduled' AND NOT meta ? 'wait_until';
"""


async def postgres(_folder: Path, rounds: int, seconds: float) -> list[Figure]:
    """Signal jobs that do not wait yet, and parked ones."""
    # Its data must be on the disk whose syncs are measured, wherever the temporary folder is.
    with scratch_cluster() as cluster:
        figures: list[Figure] = []
        url = await install(cluster, "bench")
        for tasks in TASKS:
            bare, fresh, parked = [], [], []
            for _ in range(rounds):
                bare.append(await _bare_rows_per_s(url, min(tasks, CONNECTIONS_MAX), seconds))
                fresh.append(await _signals_per_s(url, tasks, seconds, park=False))
                parked.append(await _signals_per_s(url, tasks, seconds, park=True))
            connections = min(tasks, CONNECTIONS_MAX)
            yardstick = Figure(
                name=f"bare INSERT and COMMIT, {connections} connection(s)", unit="rows/s", rounds=tuple(bare)
            )
            figures += [
                yardstick,
                Figure(
                    name=f"signal(), not waiting, {tasks} task(s)",
                    unit="signals/s",
                    rounds=tuple(fresh),
                    yardstick=yardstick,
                ),
                Figure(
                    name=f"signal(), parked, {tasks} task(s)",
                    unit="signals/s",
                    rounds=tuple(parked),
                    yardstick=yardstick,
                ),
            ]
        single, lists = [], []
        for _ in range(rounds):
            single.append(await _bare_rows_per_s(url, 1, seconds))
            lists.append(await _list_per_s(url))
        yardstick = Figure(name="bare INSERT and COMMIT, one task", unit="rows/s", rounds=tuple(single))
        return [
            *figures,
            yardstick,
            Figure(
                name=f"signal(), a list of {LIST} parked jobs",
                unit="signals/s",
                rounds=tuple(lists),
                yardstick=yardstick,
            ),
        ]


async def install(cluster: Cluster, name: str) -> str:
    """Make a database with Oban's tables, a ledger and a bare table, and return its URL."""
    url = cluster.create_database(name)
    async with AsyncConnectionPool(url, min_size=1, open=False) as pool:
        await Query(pool).install()
    await migrate(to_url(url), Names(), testing=True)
    connection = await asyncpg.connect(url)
    await connection.execute(
        "CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, job_id bigint, payload bytea)"
    )
    await connection.close()
    return url


async def _bare_rows_per_s(url: str, connections: int, seconds: float) -> float:
    async with asyncpg.create_pool(url, min_size=connections, max_size=connections) as pool:

        async def insert(ends: float) -> int:
            count = 0
            async with pool.acquire() as connection:
                statement = await connection.prepare("INSERT INTO bare (job_id, payload) VALUES ($1, $2)")
                while time.perf_counter() < ends:
                    await statement.fetch(count, ROW)
                    count += 1
            return count

        return await _per_s([insert] * connections, seconds)


async def _signals_per_s(url: str, tasks: int, seconds: float, *, park: bool) -> float:
    job_ids = await _jobs(url, park=park)
    store = await PostgresStore.open(to_url(url), Names())
    sender = Sender(store=store, new_id=new_id)
    place = 0

    async def send(ends: float) -> int:
        nonlocal place
        count = 0
        while time.perf_counter() < ends:
            # A parked job is parked once: when all have been woken, the measurement is over.
            if park and place >= len(job_ids):
                break
            job_id = job_ids[place % len(job_ids)]
            place += 1
            await sender.send(job_id, PAYLOAD, channel=None, key=None, source="bench", timeout=30)
            count += 1
        return count

    try:
        await sender.send(job_ids[0], PAYLOAD, channel="warm", key=None, source=None, timeout=30)
        return await _per_s([send] * tasks, seconds)
    finally:
        await store.close()


async def _list_per_s(url: str) -> float:
    job_ids = await _jobs(url, park=True)
    store = await PostgresStore.open(to_url(url), Names())
    sender = Sender(store=store, new_id=new_id)
    try:
        await sender.send(job_ids[-1], PAYLOAD, channel="warm", key=None, source=None, timeout=30)
        started = time.perf_counter()
        await sender.send(job_ids[:LIST], PAYLOAD, channel=None, key=None, source="bench", timeout=30)
        return LIST / (time.perf_counter() - started)
    finally:
        await store.close()


async def _jobs(url: str, *, park: bool) -> list[int]:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "TRUNCATE signal_ledger.events, signal_ledger.waits, signal_ledger.cancels; TRUNCATE oban_jobs, bare"
    )
    rows = await connection.fetch(
        "INSERT INTO oban_jobs (worker) SELECT 'bench.Worker' FROM generate_series(1, $1::integer) RETURNING id", JOBS
    )
    if park:
        await connection.execute(PARK)
    await connection.execute("VACUUM (ANALYZE) oban_jobs; ")
    await connection.close()
    return [row["id"] for row in rows]


async def _per_s(tasks: list[Callable[[float], Awaitable[int]]], seconds: float) -> float:
    started = time.perf_counter()
    counts = await asyncio.gather(*[task(started + seconds) for task in tasks])
    return sum(counts) / (time.perf_counter() - started)
