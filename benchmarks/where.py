"""Where the server's time goes: what pg_stat_statements tells of the statements in the ledger's functions.

The extension itself takes time, so these figures are compared with one another and with nothing else.
"""

from collections.abc import Iterator

import asyncpg

from benchmarks.cluster import bench_cluster, enqueue, install
from benchmarks.figures import Figure
from benchmarks.load import measure
from benchmarks.options import Options
from benchmarks.postgres import PAYLOAD
from signal_ledger import open_ledger

TASKS = (1, 32)
PARKED = 10_000
TOP = 12
NAME_MAX = 90

_SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
    "pg_stat_statements.track_planning": "on",
    "pg_stat_statements.track_utility": "on",
}

# A function's time is in that of its caller, too.
_TOP = """
SELECT query, total_exec_time + total_plan_time AS ms, calls
FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
AND query NOT LIKE '%pg_stat_statements%' ORDER BY ms DESC LIMIT $1
"""


async def where(options: Options) -> list[Figure]:
    """Signal parked jobs, and list the statements that take longest."""
    figures: list[Figure] = []
    with bench_cluster(_SETTINGS) as cluster:
        url = await install(cluster, "bench")
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE EXTENSION pg_stat_statements")
        job_ids = iter(await enqueue(url, PARKED * len(TASKS), worker="bench.Worker", park=True))
        for tasks in TASKS:
            figures += await _top(url, connection, job_ids, tasks, options.seconds)
        await connection.close()
    return figures


async def _top(
    url: str, connection: asyncpg.Connection, job_ids: Iterator[int], tasks: int, seconds: float
) -> list[Figure]:
    sent = 0
    async with open_ledger(url) as ledger:

        async def send() -> bool:
            nonlocal sent
            job_id = next(job_ids, None)
            if job_id is None:
                return False
            await ledger.signal(job_id, PAYLOAD, source="bench")
            sent += 1
            return True

        await measure([send] * tasks, seconds / 4, warm_s=0.0)
        await connection.execute("SELECT pg_stat_statements_reset()")
        sent = 0
        await measure([send] * tasks, seconds, warm_s=0.0)
    return [
        Figure(
            name=f"{tasks} task{'s' if tasks > 1 else ''}: {' '.join(row['query'].split())[:NAME_MAX]}",
            unit=f"µs/signal, {row['calls'] / sent:.2f} calls",
            rounds=(row["ms"] * 1000 / sent,),
        )
        for row in await connection.fetch(_TOP, TOP)
    ]
