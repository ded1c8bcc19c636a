"""The engine on Oban and PostgreSQL: wake-ups, many jobs at once, and what an idle worker asks of the database."""

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from oban import Job, Oban, worker
from psycopg_pool import AsyncConnectionPool

from benchmarks.figures import Figure
from benchmarks.postgres import PARK, install
from signal_ledger import attach, await_signal
from signal_ledger_adapters.oban.engine import ObanEngine
from signal_ledger_adapters.postgres.scratch import scratch_cluster

MANY = 2000
PARKED = (10, 100_000)
SAMPLES = 40
IDLE_S = 5.0

_got: dict[int, "asyncio.Future[float]"] = {}


@worker(max_attempts=1000)
class Patient:
    """Says when it got its signal."""

    async def process(self, job: Job) -> None:
        """Wait once."""
        await await_signal(wait_timeout=job.args["wait_timeout"])
        if job.id in _got:
            _got[job.id].set_result(time.perf_counter())


@worker()
class Trivial:
    """Does nothing."""

    async def process(self, _job: Job) -> None:
        """Do nothing."""


async def oban_engine(_folder: Path, rounds: int, seconds: float) -> list[Figure]:
    """Measure the engine under a real Oban."""
    del seconds
    figures: dict[str, list[float]] = {}
    with scratch_cluster() as cluster:
        for number in range(rounds):
            url = await install(cluster, f"bench_{number}")
            for name, value in (
                ("commit", await _commit_ms(url)),
                ("live", await _latency_ms(url, wait_timeout=60.0, kind="awaited")),
                ("snoozed", await _latency_ms(url, wait_timeout=0.0, kind="snoozed")),
                ("trivial", await _trivial_per_s(url)),
                ("parked", await _parked_per_s(url)),
            ):
                figures.setdefault(name, []).append(value)
            for parked in PARKED:
                figures.setdefault(f"idle {parked}", []).append(await _idle_statements_per_s(url, parked))
            cluster.drop_database(f"bench_{number}")
    commit = Figure(name="bare INSERT and COMMIT", unit="ms", rounds=tuple(figures["commit"]))
    trivial = Figure(name=f"plain Oban, {MANY} trivial jobs", unit="jobs/s", rounds=tuple(figures["trivial"]))
    few, many = (
        Figure(name=f"idle worker, {parked:,} parked jobs", unit="statem./s", rounds=tuple(figures[f"idle {parked}"]))
        for parked in PARKED
    )
    return [
        commit,
        Figure(name="signal to payload, live", unit="ms", rounds=tuple(figures["live"]), yardstick=commit),
        Figure(name="signal to payload, snoozed", unit="ms", rounds=tuple(figures["snoozed"]), yardstick=commit),
        trivial,
        Figure(
            name=f"{MANY} parked jobs, signalled and completed",
            unit="jobs/s",
            rounds=tuple(figures["parked"]),
            yardstick=trivial,
        ),
        few,
        Figure(name=many.name, unit=many.unit, rounds=many.rounds, yardstick=few),
    ]


@asynccontextmanager
async def _engine(url: str, queues: dict[str, int]) -> AsyncGenerator[ObanEngine, None]:
    async with (
        AsyncConnectionPool(url, min_size=2, max_size=10, open=False) as pool,
        attach(Oban(pool=pool, queues=queues), live_share=1) as engine,
    ):
        yield engine


async def _commit_ms(url: str) -> float:
    connection = await asyncpg.connect(url)
    started = time.perf_counter()
    for number in range(SAMPLES):
        await connection.execute("INSERT INTO bare (job_id) VALUES ($1)", number)
    taken = time.perf_counter() - started
    await connection.close()
    return taken / SAMPLES * 1000


async def _latency_ms(url: str, *, wait_timeout: float, kind: str) -> float:
    async with _engine(url, {"default": SAMPLES}) as engine:
        jobs = await engine.enqueue_many(
            Patient.new({"wait_timeout": wait_timeout})  # type: ignore[attr-defined]
            for _ in range(SAMPLES)
        )
        job_ids = {job.id for job in jobs if job.id is not None}
        waiting: set[int] = set()
        async for recorded in engine.ledger.follow():
            if recorded.kind == kind and recorded.job_id in job_ids:
                waiting.add(recorded.job_id)
            if waiting == job_ids:
                break
        latencies = []
        for job_id in sorted(job_ids):
            _got[job_id] = asyncio.get_running_loop().create_future()
            started = time.perf_counter()
            await engine.signal(job_id, "go")
            latencies.append(await _got[job_id] - started)
        _got.clear()
        return statistics.median(latencies) * 1000


async def _trivial_per_s(url: str) -> float:
    connection = await _emptied(url)
    async with AsyncConnectionPool(url, min_size=2, max_size=10, open=False) as pool:
        await connection.execute(
            "INSERT INTO oban_jobs (worker) SELECT $1 FROM generate_series(1, $2::integer)",
            f"{Trivial.__module__}.{Trivial.__qualname__}",
            MANY,
        )
        started = time.perf_counter()
        async with Oban(pool=pool, queues={"default": 50}):
            await _until_completed(connection)
            taken = time.perf_counter() - started
    await connection.close()
    return MANY / taken


async def _parked_per_s(url: str) -> float:
    connection = await _emptied(url)
    job_ids = await _park(connection, MANY)
    async with _engine(url, {"default": 50}) as engine:
        started = time.perf_counter()
        await engine.signal(job_ids, "go")
        await _until_completed(connection)
        taken = time.perf_counter() - started
    await connection.close()
    return MANY / taken


async def _idle_statements_per_s(url: str, parked: int) -> float:
    """Count what Oban and the ledger ask of the database, by its own statistics."""
    connection = await _emptied(url)
    await _park(connection, parked)
    async with _engine(url, {"default": 10}):
        await asyncio.sleep(1)
        before = await _transactions(connection)
        await asyncio.sleep(IDLE_S)
        count = await _transactions(connection) - before
    await connection.close()
    return count / IDLE_S


async def _transactions(connection: asyncpg.Connection) -> int:
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    count: int = await connection.fetchval(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    )
    return count


async def _park(connection: asyncpg.Connection, count: int) -> list[int]:
    """Make jobs that sleep on their first wait, as their snooze leaves them."""
    rows = await connection.fetch(
        """INSERT INTO oban_jobs (worker, args) SELECT $1, '{"wait_timeout": 5}' FROM generate_series(1, $2::integer)
        RETURNING id""",
        f"{Patient.__module__}.{Patient.__qualname__}",
        count,
    )
    await connection.execute(PARK)
    await connection.execute("VACUUM (ANALYZE) oban_jobs")
    return [row["id"] for row in rows]


async def _emptied(url: str) -> asyncpg.Connection:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "TRUNCATE signal_ledger.events, signal_ledger.waits, signal_ledger.cancels; TRUNCATE oban_jobs"
    )
    return connection


async def _until_completed(connection: asyncpg.Connection) -> None:
    # Each look is a look at the database, which tells nobody.
    while await connection.fetchval("SELECT EXISTS (SELECT FROM oban_jobs WHERE state <> 'completed')"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
