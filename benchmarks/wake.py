"""From `signal` to the payload in the job: live and snoozed, in one process."""

import asyncio
import statistics
import time
from pathlib import Path

from oban import Job, worker

from benchmarks import raw
from benchmarks.figures import Figure
from benchmarks.options import Options
from signal_ledger import LiteEngine, await_signal, lite

SAMPLES = 60

_got: dict[int, "asyncio.Future[float]"] = {}


@worker(max_attempts=1000)
class Patient:
    """Says when it got its signal."""

    async def process(self, job: Job) -> None:
        """Wait once."""
        await await_signal(wait_timeout=job.args["wait_timeout"])
        assert job.id is not None
        _got[job.id].set_result(time.perf_counter())


async def wake(options: Options) -> list[Figure]:
    """Measure the time from the call of `signal` to the return of `await_signal`."""
    folder = options.folder
    commits, live, snoozed = [], [], []
    for number in range(options.rounds):
        commits.append(1000 / raw.bare_rows_per_s(folder / f"commit-{number}.db", 1, 0.3))
        live.append(await _latency_ms(folder / f"live-{number}.db", wait_timeout=60.0, status="live"))
        snoozed.append(await _latency_ms(folder / f"snoozed-{number}.db", wait_timeout=0.0, status="snoozed"))
    commit = Figure(name="raw SQLite, one commit", unit="ms", rounds=tuple(commits))
    return [
        commit,
        Figure(name="signal to payload, live", unit="ms", rounds=tuple(live), yardstick=commit),
        Figure(name="signal to payload, snoozed", unit="ms", rounds=tuple(snoozed), yardstick=commit),
    ]


async def _latency_ms(path: Path, *, wait_timeout: float, status: str) -> float:
    async with lite(f"sqlite:///{path}", queues={"default": SAMPLES}, live_share=1) as engine:
        args = {"wait_timeout": wait_timeout}
        jobs = await engine.enqueue_many(Patient.new(args) for _ in range(SAMPLES))  # type: ignore[attr-defined]
        job_ids = [job.id for job in jobs if job.id is not None]
        await _until_all(engine, status)
        latencies = []
        for job_id in job_ids:
            _got[job_id] = asyncio.get_running_loop().create_future()
            started = time.perf_counter()
            await engine.signal(job_id, "go")
            latencies.append(await _got[job_id] - started)
        return statistics.median(latencies) * 1000


async def _until_all(engine: LiteEngine, status: str) -> None:
    """Follow the log until every job waits as it should."""
    kind = "awaited" if status == "live" else "snoozed"
    waiting: set[int] = set()
    async for recorded in engine.ledger.follow():
        if recorded.kind == kind:
            waiting.add(recorded.job_id)
        if len(waiting) == SAMPLES:
            return
