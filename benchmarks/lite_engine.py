"""The embedded engine as a whole: many parked jobs, an idle worker, and a long log, each beside few of them."""

import asyncio
import resource
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from oban import Job, worker

from benchmarks.figures import Figure
from benchmarks.load import measure
from benchmarks.options import Options
from benchmarks.usage import resident_bytes
from signal_ledger import await_signal, codec, lite
from signal_ledger.causes import Cause
from signal_ledger.events import Closed, Consumed, Delivered, DeliveryOutcome, Event, Kind, Snoozed
from signal_ledger.evolve import fold
from signal_ledger.names import Execution, JobId, SignalId
from signal_ledger.recorded import RecordedEvent, from_stored
from signal_ledger.stored import StoredEvent, to_stored
from signal_ledger_adapters.sqlite.rows import event_columns, state_columns
from signal_ledger_adapters.sqlite.statements import statement

MANY = 2_000
SLOTS = 50
PARKED = (10, 10_000)
SIGNALS = 2_000
IDLE_S = 5.0
SETTLE_S = 1.0

PAYLOAD = {"decision": "approved"}
EVENTS_A_JOB = 4
JOBS_AT_ONCE = 5_000
# Far above those of the jobs that the engine enqueues.
FIRST_ID = 10_000_000_000

FLAT_AT_MOST = 1.25

_READY = b"ready\n"


@worker(max_attempts=1000)
class Patient:
    """Waits once, asleep."""

    async def process(self, _job: Job) -> None:
        """Wait."""
        await await_signal(wait_timeout=0)


@worker()
class Trivial:
    """Does nothing."""

    async def process(self, _job: Job) -> None:
        """Do nothing."""


async def lite_engine(options: Options) -> list[Figure]:
    """Measure the embedded engine."""
    trivial, parked = [], []
    for number in range(options.rounds):
        trivial.append(await _trivial_per_s(options.folder / f"trivial-{number}.db"))
        parked.append(await _parked_per_s(options.folder / f"parked-{number}.db"))
    beside = Figure(name=f"{MANY:,} trivial jobs", unit="jobs/s", rounds=tuple(trivial))
    return [
        beside,
        Figure(
            name=f"{MANY:,} parked jobs, signalled and completed",
            unit="jobs/s",
            rounds=tuple(parked),
            yardstick=beside,
        ),
        *await _idle(options),
        *await _log(options),
    ]


# Many parked jobs


async def _trivial_per_s(path: Path) -> float:
    async with lite(f"sqlite:///{path}", queues={}) as engine:
        await engine.enqueue_many(Trivial.new({}) for _ in range(MANY))  # type: ignore[attr-defined]
    started = time.perf_counter()
    async with lite(f"sqlite:///{path}", queues={"default": SLOTS}):
        await _until_completed(path)
        return MANY / (time.perf_counter() - started)


async def _parked_per_s(path: Path) -> float:
    job_ids = await _park(path, MANY)
    started = time.perf_counter()
    async with lite(f"sqlite:///{path}", queues={"default": SLOTS}) as engine:
        await engine.signal(job_ids, PAYLOAD)
        await _until_completed(path)
        return MANY / (time.perf_counter() - started)


async def _park(path: Path, count: int) -> list[int]:
    """Return jobs that sleep on their first wait."""
    async with lite(f"sqlite:///{path}", queues={"default": SLOTS}) as engine:
        jobs = await engine.enqueue_many(Patient.new({}) for _ in range(count))  # type: ignore[attr-defined]
        left = count
        async for recorded in engine.ledger.follow():
            left -= recorded.kind is Kind.SNOOZED
            if not left:
                break
    return [job.id for job in jobs if job.id is not None]


async def _until_completed(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    while connection.execute("SELECT 1 FROM oban_jobs WHERE state <> 'completed' LIMIT 1").fetchone():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    connection.close()


# An idle worker


async def _idle(options: Options) -> list[Figure]:
    found: dict[tuple[str, int], list[float]] = {}
    paths = {}
    for parked in PARKED:
        paths[parked] = options.folder / f"idle-{parked}.db"
        await _park(paths[parked], parked)
    for _ in range(options.rounds):
        for parked, path in paths.items():
            for name, value in (await _measure(path)).items():
                found.setdefault((name, parked), []).append(value)
    figures = []
    for name, unit in (("CPU", "ms/s"), ("memory", "MiB")):
        few: Figure | None = None
        for parked in PARKED:
            figure = Figure(
                name=f"idle worker, {parked:,} parked jobs: {name}",
                unit=unit,
                rounds=tuple(found[name, parked]),
                yardstick=few,
                at_most=None if few is None else FLAT_AT_MOST,
            )
            few = few or figure
            figures.append(figure)
    return figures


async def _measure(path: Path) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.lite_engine", str(path), stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == _READY
    memory = resident_bytes(process.pid) or 0
    used_s = float(await process.stdout.readline())
    process.stdin.close()
    await process.wait()
    return {"CPU": used_s / IDLE_S * 1000, "memory": memory / 2**20}


async def _be_idle(path: str) -> None:
    """In a process of its own: say when it is open, and then how much of the processor it has used for a while."""
    async with lite(f"sqlite:///{path}", queues={"default": SLOTS}):
        await asyncio.sleep(SETTLE_S)
        print(_READY.decode(), end="", flush=True)
        before = _used_s()
        await asyncio.sleep(IDLE_S)
        print(_used_s() - before, flush=True)
        await asyncio.to_thread(sys.stdin.read)


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# A long log


async def _log(options: Options) -> list[Figure]:
    """Signal jobs that do not wait yet, beside the history of jobs that are gone."""
    found: dict[int, list[float]] = {events: [] for events in options.events}
    for events in options.events:
        path = options.folder / f"log-{events}.db"
        async with lite(f"sqlite:///{path}", queues={}):
            pass
        load_history(path, events)
    for _ in range(options.rounds):
        for events, values in found.items():
            values.append(await _signal_us(options.folder / f"log-{events}.db", options.seconds))
    figures = []
    few: Figure | None = None
    for events, values in found.items():
        figure = Figure(
            name=f"signal(), 32 tasks, {events:,} events in the log",
            unit="µs/signal",
            rounds=tuple(values),
            yardstick=few,
            at_most=None if few is None else FLAT_AT_MOST,
        )
        few = few or figure
        figures.append(figure)
    return figures


async def _signal_us(path: Path, seconds: float) -> float:
    async with lite(f"sqlite:///{path}", queues={}) as engine:
        jobs = await engine.enqueue_many(Trivial.new({}) for _ in range(SIGNALS))  # type: ignore[attr-defined]
        count = 0

        async def send() -> bool:
            nonlocal count
            count += 1
            await engine.signal(jobs[count % SIGNALS], PAYLOAD)
            return True

        return 1e6 / (await measure([send] * 32, seconds)).per_s


def load_history(path: Path, events: int) -> None:
    """Fill the log of a file with the history of jobs that waited, were signalled, completed and are gone.

    Args:
        path: A file with the ledger's schema.
        events: About how many.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    for first in range(0, events // EVENTS_A_JOB, JOBS_AT_ONCE):
        connection.execute("BEGIN IMMEDIATE")
        for number in range(first, min(first + JOBS_AT_ONCE, events // EVENTS_A_JOB)):
            job_id = JobId(FIRST_ID + number)
            stream = list(_stream(job_id, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)))
            connection.executemany(statement("append_event"), [event_columns(row) for row, _ in stream])
            state = fold(job_id, [recorded for _, recorded in stream])
            connection.execute(statement("save_state"), state_columns(state))
        connection.execute("COMMIT")
    connection.close()


def _stream(job_id: JobId, began: datetime) -> Iterable[tuple[StoredEvent, RecordedEvent]]:
    payload, digest = codec.encode_with_digest(PAYLOAD)
    signal_id = SignalId(f"00000000-0000-4000-8000-{job_id:012x}")
    execution, run = Execution(1), 1
    facts: tuple[Event, ...] = (
        Snoozed(run=run, execution=execution, attempt=1, channel="", ordinal=1, deadline_at=None),
        Delivered(
            run=run, channel="", signal_id=signal_id, payload=payload, payload_digest=digest, key=None, source=None,
            outcome=DeliveryOutcome.WOKEN,
        ),
        Consumed(
            run=run, execution=Execution(2), attempt=1, channel="", ordinal=1, signal_id=signal_id, delivery_version=2
        ),
        Closed(run=run, execution=Execution(2), attempt=1, cause=Cause.COMPLETED),
    )  # fmt: skip
    for version, event in enumerate(facts, start=1):
        row = to_stored(event, job_id=job_id, version=version, recorded_at=began + timedelta(milliseconds=version))
        yield row, from_stored(row, position=version, cursor="")


if __name__ == "__main__":
    asyncio.run(_be_idle(sys.argv[1]))
