"""The PostgreSQL that is measured, and databases on it with jobs that wait."""

import asyncio
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import asyncpg
import psycopg
from oban._query import Query
from psycopg_pool import AsyncConnectionPool

from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.migrate import migrate
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.scratch import Cluster, scratch_cluster

PARKED_AT_ONCE = 1000

# All are the defaults but for the sizes. No checkpoint falls into a measurement: the writes after one are dearer.
_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "16GB",
    "min_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "synchronous_commit": "on",
    "fsync": "on",
    "full_page_writes": "on",
}

# Leave jobs asleep on their first wait, as a snooze does: the jobs change as by Oban's own statements, and the log is
# written by the ledger's own functions. $1 are the jobs, in ascending order.
_PARK = (
    """UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_at = timezone('UTC', clock_timestamp())
    WHERE id = ANY ($1::bigint[])""",
    """SELECT count(*) FROM (
        SELECT array_agg(id) AS ids, array_agg(signal_ledger.to_execution(attempted_at)) AS executions,
               array_agg(''::text) AS channels, array_agg(1) AS ordinals, array_agg(NULL::interval) AS wait_fors,
               array_agg(false) AS in_places, array_agg(true) AS windows
        FROM (SELECT id, attempted_at FROM oban_jobs WHERE id = ANY ($1::bigint[]) ORDER BY id) AS executing
    ) AS j, signal_ledger.take(j.ids, j.executions, j.channels, j.ordinals, j.wait_fors, j.in_places, j.windows)""",
    "UPDATE oban_jobs SET state = 'scheduled', attempt = 0 WHERE id = ANY ($1::bigint[])",
    """SELECT count(*) FROM (
        SELECT array_agg(id) AS ids, array_agg(signal_ledger.to_execution(attempted_at)) AS executions,
               array_agg(''::text) AS channels, array_agg(1) AS ordinals, array_agg(NULL::interval) AS wait_fors
        FROM (SELECT id, attempted_at FROM oban_jobs WHERE id = ANY ($1::bigint[]) ORDER BY id) AS acknowledged
    ) AS j, signal_ledger.snooze(j.ids, j.executions, j.channels, j.ordinals, j.wait_fors, '')""",
)


@contextmanager
def bench_cluster(settings: Mapping[str, str] | None = None, *, wal_mb: float = 0) -> Generator[Cluster, None, None]:
    """Start a durable PostgreSQL of its own, and end it on the way out.

    Its data must be on the disk whose syncs are measured, wherever the temporary folder is.

    Args:
        settings: More of its settings.
        wal_mb: About how many megabytes the measurements will add to the write-ahead log.
    """
    with scratch_cluster(settings={**_SETTINGS, **(settings or {})}) as cluster:
        _make_wal(cluster, round(wal_mb))
        yield cluster


def _make_wal(cluster: Cluster, megabytes: int) -> None:
    """Write so much of the write-ahead log, and leave its files to be used again.

    A new file of it is filled with zeros before it is used, while everybody waits. A server that has been in use for a
    while has old ones.
    """
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as connection:
        for _ in range(megabytes):
            connection.execute("SELECT pg_logical_emit_message(false, '', repeat('x', 1024 * 1024))")
        connection.execute("CHECKPOINT")


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


async def enqueue(
    url: str, count: int, *, worker: str, args: str = "{}", park: bool = False, scheduled: bool = False
) -> list[int]:
    """Insert jobs and return their ids.

    Args:
        url: The database.
        count: How many.
        worker: Their worker.
        args: Their arguments, as JSON.
        park: Whether they are to sleep on their first wait.
        scheduled: Whether they are to be scheduled for tomorrow.
    """
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "INSERT INTO oban_jobs (worker, args, max_attempts, state, scheduled_at) "
            "SELECT $1, $2::jsonb, 1000, $4::text::oban_job_state, timezone('UTC', now()) + $5 * interval '1 day' "
            "FROM generate_series(1, $3::integer) RETURNING id",
            worker,
            args,
            count,
            "scheduled" if scheduled else "available",
            1 if scheduled else 0,
        )
        job_ids = sorted(row["id"] for row in rows)
        if park:
            await put_to_sleep(connection, job_ids)
        for table in ("oban_jobs", "signal_ledger.events", "signal_ledger.waits"):
            await connection.execute(f"VACUUM (ANALYZE) {table}")
        return job_ids
    finally:
        await connection.close()


async def put_to_sleep(connection: asyncpg.Connection, job_ids: list[int]) -> None:
    """Leave jobs, in ascending order, asleep on their first wait."""
    for first in range(0, len(job_ids), PARKED_AT_ONCE):
        async with connection.transaction():
            for statement in _PARK:
                await connection.execute(statement, job_ids[first : first + PARKED_AT_ONCE])


async def empty(url: str) -> None:
    """Leave no job and no event; the schema is one for testing."""
    connection = await asyncpg.connect(url)
    await connection.execute("SELECT signal_ledger.reset(); TRUNCATE oban_jobs, bare")
    await connection.close()


async def until(url: str, question: str, *arguments: object, poll_s: float = 0.01) -> None:
    """Ask the database, which tells nobody, until the answer is yes."""
    connection = await asyncpg.connect(url)
    try:
        while not await connection.fetchval(question, *arguments):  # noqa: ASYNC110 - of another program
            await asyncio.sleep(poll_s)
    finally:
        await connection.close()
