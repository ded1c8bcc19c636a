"""The engine on Oban and PostgreSQL: wake-ups, many live waits at once, and many parked jobs beside plain Oban."""

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from oban import Job, Oban, worker
from psycopg_pool import AsyncConnectionPool

from benchmarks.cluster import bench_cluster, empty, enqueue, install, until
from benchmarks.figures import Figure
from benchmarks.options import Options
from benchmarks.usage import Usage
from signal_ledger import attach, await_signal
from signal_ledger_adapters.oban.engine import ObanEngine

MANY = 2000
SLOTS = 50
LIVE = 1000
SAMPLES = 40

COMPLETED_AT_LEAST = 0.8
LIST_AT_MOST = 0.25

# As Oban's own staging does: one statement, and one notification for the queue.
_MAKE_AVAILABLE = """
UPDATE oban_jobs SET state = 'available', scheduled_at = timezone('UTC', now()) WHERE state = 'scheduled';
SELECT pg_notify('public.oban_insert', '{"queue": "default"}');
"""

_COMPLETED = "SELECT NOT EXISTS (SELECT FROM oban_jobs WHERE state <> 'completed')"

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


PATIENT = f"{Patient.__module__}.{Patient.__qualname__}"
TRIVIAL = f"{Trivial.__module__}.{Trivial.__qualname__}"


async def oban_engine(options: Options) -> list[Figure]:
    """Measure the engine under a real Oban."""
    found: dict[str, list[float]] = {}
    with bench_cluster(wal_mb=200 * options.rounds * min(1.0, options.seconds)) as cluster:
        url = await install(cluster, "bench")
        for _ in range(options.rounds):
            trivial_per_s, trivial_us = await _trivial(url)
            parked_per_s, parked_us = await parked(url)
            for name, value in (
                ("commit", await _commit_ms(url)),
                ("live", await _latency_ms(url, wait_timeout=60.0, kind="awaited")),
                ("snoozed", await _latency_ms(url, wait_timeout=0.0, kind="snoozed")),
                ("one by one", await _live_ms(url, as_list=False)),
                ("list", await _live_ms(url, as_list=True)),
                ("trivial", trivial_per_s),
                ("parked", parked_per_s),
                ("trivial CPU", trivial_us),
                ("parked CPU", parked_us),
            ):
                found.setdefault(name, []).append(value)
    rounds = {name: tuple(values) for name, values in found.items()}
    commit = Figure(name="bare INSERT and COMMIT", unit="ms", rounds=rounds["commit"])
    one_by_one = Figure(name=f"{LIVE:,} live waits, signalled one by one", unit="ms", rounds=rounds["one by one"])
    trivial = Figure(name=f"plain Oban, {MANY:,} trivial jobs", unit="jobs/s", rounds=rounds["trivial"])
    trivial_cpu = Figure(name=f"{trivial.name}: client CPU", unit="µs/job", rounds=rounds["trivial CPU"])
    return [
        commit,
        Figure(name="signal to payload, live", unit="ms", rounds=rounds["live"], yardstick=commit),
        Figure(name="signal to payload, snoozed", unit="ms", rounds=rounds["snoozed"], yardstick=commit),
        one_by_one,
        Figure(
            name=f"{LIVE:,} live waits, signalled as one list",
            unit="ms",
            rounds=rounds["list"],
            yardstick=one_by_one,
            at_most=LIST_AT_MOST,
        ),
        trivial,
        Figure(
            name=f"{MANY:,} parked jobs, signalled and completed",
            unit="jobs/s",
            rounds=rounds["parked"],
            yardstick=trivial,
            at_least=COMPLETED_AT_LEAST,
        ),
        trivial_cpu,
        Figure(
            name=f"{MANY:,} parked jobs, signalled and completed: client CPU",
            unit="µs/job",
            rounds=rounds["parked CPU"],
            yardstick=trivial_cpu,
        ),
    ]


@asynccontextmanager
async def attached(url: str, queues: dict[str, int]) -> AsyncGenerator[ObanEngine, None]:
    """Run the engine, with all of a queue's slots for live waits."""
    async with (
        AsyncConnectionPool(url, min_size=2, max_size=10, open=False) as pool,
        attach(Oban(pool=pool, queues=queues), live_share=1) as engine,
    ):
        yield engine


async def parked(url: str) -> tuple[float, float]:
    """Wake parked jobs by one list; return how many completed a second, and microseconds of CPU for each."""
    await empty(url)
    job_ids = await enqueue(url, MANY, worker=PATIENT, args='{"wait_timeout": 5}', park=True)
    async with attached(url, {"default": SLOTS}) as engine:
        # The connections of the delivery are open, as those of the engine are.
        [warm] = await engine.enqueue_many([Trivial.new({}, scheduled_in=3600)])  # type: ignore[attr-defined]
        await engine.signal(warm, "warm")
        await engine.delete_job(warm)
        before = Usage.so_far()
        started = time.perf_counter()
        await engine.signal(job_ids, "go")
        await until(url, _COMPLETED)
        taken_s = time.perf_counter() - started
        used = Usage.so_far().since(before)
    return MANY / taken_s, used.client_s / MANY * 1e6


async def _trivial(url: str) -> tuple[float, float]:
    """The same of jobs that do nothing, once they become available to an Oban that knows nothing of the ledger."""
    await empty(url)
    await enqueue(url, MANY, worker=TRIVIAL, scheduled=True)
    connection = await asyncpg.connect(url)
    async with (
        AsyncConnectionPool(url, min_size=2, max_size=10, open=False) as pool,
        Oban(pool=pool, queues={"default": SLOTS}),
    ):
        before = Usage.so_far()
        started = time.perf_counter()
        await connection.execute(_MAKE_AVAILABLE)
        await until(url, _COMPLETED)
        taken_s = time.perf_counter() - started
        used = Usage.so_far().since(before)
    await connection.close()
    return MANY / taken_s, used.client_s / MANY * 1e6


async def _commit_ms(url: str) -> float:
    connection = await asyncpg.connect(url)
    started = time.perf_counter()
    for number in range(SAMPLES):
        await connection.execute("INSERT INTO bare (job_id) VALUES ($1)", number)
    taken_s = time.perf_counter() - started
    await connection.close()
    return taken_s / SAMPLES * 1000


async def _latency_ms(url: str, *, wait_timeout: float, kind: str) -> float:
    await empty(url)
    async with attached(url, {"default": SAMPLES}) as engine:
        job_ids = await _waiting(engine, SAMPLES, wait_timeout=wait_timeout, kind=kind)
        latencies = []
        for job_id in job_ids:
            _got[job_id] = asyncio.get_running_loop().create_future()
            started = time.perf_counter()
            await engine.signal(job_id, "go")
            latencies.append(await _got[job_id] - started)
        _got.clear()
        return statistics.median(latencies) * 1000


async def _live_ms(url: str, *, as_list: bool) -> float:
    """Measure from the first signal until the last of many live waits has its payload."""
    await empty(url)
    async with attached(url, {"default": LIVE}) as engine:
        job_ids = await _waiting(engine, LIVE, wait_timeout=60.0, kind="awaited")
        for job_id in job_ids:
            _got[job_id] = asyncio.get_running_loop().create_future()
        started = time.perf_counter()
        if as_list:
            await engine.signal(job_ids, "go")
        else:
            for job_id in job_ids:
                await engine.signal(job_id, "go")
        ended = max(await asyncio.gather(*_got.values()))
        _got.clear()
        return (ended - started) * 1000


async def _waiting(engine: ObanEngine, count: int, *, wait_timeout: float, kind: str) -> list[int]:
    """Enqueue jobs and return their ids when all of them wait."""
    jobs = await engine.enqueue_many(
        Patient.new({"wait_timeout": wait_timeout})  # type: ignore[attr-defined]
        for _ in range(count)
    )
    job_ids = {job.id for job in jobs if job.id is not None}
    waiting: set[int] = set()
    async for recorded in engine.ledger.follow():
        if recorded.kind == kind and recorded.job_id in job_ids:
            waiting.add(recorded.job_id)
        if waiting == job_ids:
            break
    return sorted(job_ids)
