"""Delivering signals: 1, 8 and 32 tasks, beside raw SQLite commits of as many rows."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from oban import worker

from benchmarks import raw
from benchmarks.figures import Figure
from benchmarks.load import Load, measure
from benchmarks.options import Options
from signal_ledger import LiteEngine, codec, lite
from signal_ledger.events import Delivered, DeliveryOutcome
from signal_ledger.evolve import evolve
from signal_ledger.names import JobId, SignalId
from signal_ledger.stored import to_stored
from signal_ledger.wait_state import WaitState
from signal_ledger_adapters.sqlite.rows import event_columns, state_columns

TASKS = (1, 8, 32)
PAYLOAD = {"decision": "approved"}

SAME_AT_LEAST = {32: 0.5}


@worker()
class Waiting:
    """Is never run: its jobs only get signals."""

    async def process(self, _job: object) -> None:
        """Do nothing."""


async def deliver(options: Options) -> list[Figure]:
    """Signal jobs that do not wait yet."""
    folder, seconds = options.folder, options.seconds
    template = folder / "template.db"
    async with lite(f"sqlite:///{template}", queues={}) as engine:
        await enqueue_waiting(engine)
    figures: list[Figure] = []
    for tasks in TASKS:
        rows = _rows(tasks)
        bare, same, ours = [], [], []
        for number in range(options.rounds):
            bare.append(raw.bare_rows_per_s(folder / f"bare-{tasks}-{number}.db", tasks, seconds))
            same.append(raw.same_rows_per_s(template, folder / f"same-{tasks}-{number}.db", tasks, rows))
            ours.append(await _signals(folder / f"ours-{tasks}-{number}.db", tasks, seconds))
        commits = "single commits" if tasks == 1 else f"commits of {tasks}"
        on_bare = Figure(
            name=f"raw SQLite, {commits}, bare rows", unit="rows/s", rounds=tuple(bare), series="bare", at=tasks
        )
        on_same = Figure(
            name=f"raw SQLite, {commits}, the same rows", unit="signals/s", rounds=tuple(same), series="same", at=tasks
        )
        name = f"signal(), {tasks} task{'s' if tasks > 1 else ''}"
        figures += [
            on_bare,
            on_same,
            Figure(
                name=name,
                unit="signals/s",
                rounds=tuple(load.per_s for load in ours),
                yardstick=on_same,
                series="signal",
                at=tasks,
                at_least=SAME_AT_LEAST.get(tasks),
            ),
            Figure(name=f"{name}: client CPU", unit="µs", rounds=tuple(load.client_us for load in ours)),
        ]
    return figures


async def _signals(path: Path, tasks: int, seconds: float) -> Load:
    async with lite(f"sqlite:///{path}", queues={}) as engine:
        job_ids = await enqueue_waiting(engine)
        count = 0

        async def send() -> bool:
            nonlocal count
            count += 1
            await engine.signal(job_ids[count % raw.JOBS], PAYLOAD)
            return True

        return await measure([send] * tasks, seconds)


async def enqueue_waiting(engine: LiteEngine) -> list[int]:
    """Insert jobs that only get signals, and return their ids."""
    jobs = await engine.enqueue_many(Waiting.new({}) for _ in range(raw.JOBS))  # type: ignore[attr-defined]
    return [job.id for job in jobs if job.id is not None]


def _rows(tasks: int) -> list[raw.Rows]:
    """What the library writes for some thousand signals."""
    now = datetime.now(UTC)
    payload, digest = codec.encode_with_digest(PAYLOAD)
    states = {JobId(number): WaitState(job_id=JobId(number)) for number in range(1, raw.JOBS + 1)}
    rows: list[raw.Rows] = []
    for number in range(tasks * max(200, 4000 // tasks)):
        job_id = JobId(number % raw.JOBS + 1)
        event = Delivered(
            run=1,
            channel="",
            signal_id=SignalId(str(uuid4())),
            payload=payload,
            payload_digest=digest,
            key=None,
            source=None,
            outcome=DeliveryOutcome.BUFFERED,
        )
        version = states[job_id].version + 1
        states[job_id] = evolve(states[job_id], event, version=version, recorded_at=now)
        row = to_stored(event, job_id=job_id, version=version, recorded_at=now)
        rows.append((event_columns(row), state_columns(states[job_id])))
    return rows
