"""What an idle worker asks of the database and of its machine, with few and with many jobs parked."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.cluster import bench_cluster, enqueue, install
from benchmarks.figures import Figure
from benchmarks.oban_engine import PATIENT, attached
from benchmarks.options import Options
from benchmarks.usage import resident_bytes

PARKED = (10, 1_000, 100_000)
SETTLE_S = 2.0
IDLE_S = 10.0

FLAT_AT_MOST = 1.1

_READY = b"ready\n"

# Oban and the ledger commit each of their statements.
_STATEMENTS = """
SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()
"""
_CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""

_UNITS = {"statements": "statem./s", "connections": "connections", "memory": "MiB"}


async def idle(options: Options) -> list[Figure]:
    """Let a worker that has nothing to do run in a process of its own, beside more and more parked jobs."""
    found: dict[tuple[str, int], list[float]] = {}
    with bench_cluster() as cluster:
        urls = {}
        for parked in PARKED:
            urls[parked] = await install(cluster, f"idle_{parked}")
            await enqueue(urls[parked], parked, worker=PATIENT, args='{"wait_timeout": 5}', park=True)
        for _ in range(options.rounds):
            for parked, url in urls.items():
                for name, value in (await _measure(url)).items():
                    found.setdefault((name, parked), []).append(value)
    figures = []
    for name, unit in _UNITS.items():
        few: Figure | None = None
        for parked in PARKED:
            figure = Figure(
                name=f"idle worker, {parked:,} parked jobs: {name}",
                unit=unit,
                rounds=tuple(found[name, parked]),
                yardstick=few,
                series=name,
                at=parked,
                at_most=None if few is None else FLAT_AT_MOST,
            )
            few = few or figure
            figures.append(figure)
    return figures


async def _measure(url: str) -> dict[str, float]:
    async with _worker(url) as process:
        connection = await asyncpg.connect(url)
        await asyncio.sleep(SETTLE_S)
        before = await connection.fetchval(_STATEMENTS)
        await asyncio.sleep(IDLE_S)
        # The first look was a statement, too.
        statements = await connection.fetchval(_STATEMENTS) - before - 1
        connections = await connection.fetchval(_CONNECTIONS)
        memory = resident_bytes(process) or 0
        await connection.close()
    return {"statements": statements / IDLE_S, "connections": connections, "memory": memory / 2**20}


@asynccontextmanager
async def _worker(url: str) -> AsyncGenerator[int, None]:
    """Run the engine in another process, and return its id when it has started."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.idle", url, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == _READY
        yield process.pid
    finally:
        process.stdin.close()
        await process.wait()


async def _run(url: str) -> None:
    async with attached(url, {"default": 10}):
        sys.stdout.buffer.write(_READY)
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1]))
