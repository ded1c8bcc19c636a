"""The library ``eventsourcing``: appending one event at a time, and replaying streams, on both databases."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.cluster import enqueue, install
from benchmarks.deliver import Waiting
from benchmarks.figures import Figure
from benchmarks.options import Options
from benchmarks.postgres import PAYLOAD
from signal_ledger import Ledger, lite, open_ledger
from signal_ledger_adapters.postgres.scratch import Cluster

STREAMS = 10
EVENTS = 200
REPLAYS = 5

REPLAY_AT_LEAST = 5.0


class Inbox(Aggregate):
    """What a job was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []

    @event("Told")
    def tell(self, payload: dict[str, str]) -> None:
        """Keep what was told."""
        self.told.append(payload)


async def replay(options: Options, cluster: Cluster) -> list[Figure]:
    """Append and replay the same number of events through both libraries."""
    figures = []
    for database in ("SQLite", "PostgreSQL"):
        theirs, ours = [], []
        for number in range(options.rounds):
            theirs.append(_theirs(database, options.folder / f"events-{number}.db", cluster))
            if database == "SQLite":
                ours.append(await _ours_on_sqlite(options.folder / f"ours-{number}.db"))
            else:
                ours.append(await _ours_on_postgres(cluster))
        for place, (what, at_least) in enumerate((("appended, one by one", None), ("replayed", REPLAY_AT_LEAST))):
            yardstick = Figure(
                name=f"eventsourcing: {what}, {database}", unit="events/s", rounds=tuple(each[place] for each in theirs)
            )
            figures += [
                yardstick,
                Figure(
                    name=f"signal-ledger: {what}, {database}",
                    unit="events/s",
                    rounds=tuple(each[place] for each in ours),
                    yardstick=yardstick,
                    at_least=at_least,
                ),
            ]
    return figures


def _theirs(database: str, path: Path, cluster: Cluster) -> tuple[float, float]:
    application: Application[UUID] = Application(
        env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
        if database == "SQLite"
        else {"PERSISTENCE_MODULE": "eventsourcing.postgres", **_parts(cluster.create_database("eventsourcing"))}
    )
    inboxes = [Inbox() for _ in range(STREAMS)]
    for inbox in inboxes:
        application.save(inbox)
    started = time.perf_counter()
    for inbox in inboxes:
        for _ in range(EVENTS - 1):
            inbox.tell(PAYLOAD)
            application.save(inbox)
    appended = STREAMS * (EVENTS - 1) / (time.perf_counter() - started)
    started = time.perf_counter()
    for _ in range(REPLAYS):
        for inbox in inboxes:
            found: Inbox = application.repository.get(inbox.id)
            assert len(found.told) == EVENTS - 1
    replayed = REPLAYS * STREAMS * EVENTS / (time.perf_counter() - started)
    application.close()
    cluster.drop_database("eventsourcing")
    return appended, replayed


def _parts(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    return {
        "POSTGRES_DBNAME": parts.path.removeprefix("/"),
        "POSTGRES_HOST": query["host"][0],
        "POSTGRES_PORT": query["port"][0],
        "POSTGRES_USER": "postgres",
        "POSTGRES_PASSWORD": "none is asked for",
    }


async def _ours_on_sqlite(path: Path) -> tuple[float, float]:
    async with lite(f"sqlite:///{path}", queues={}) as engine:
        jobs = await engine.enqueue_many(Waiting.new({}) for _ in range(STREAMS))  # type: ignore[attr-defined]
        return await _ours(engine.ledger, [job.id for job in jobs if job.id is not None], engine.signal)


async def _ours_on_postgres(cluster: Cluster) -> tuple[float, float]:
    url = await install(cluster, "replay")
    job_ids = await enqueue(url, STREAMS, worker="bench.Worker")
    async with open_ledger(url) as ledger:
        found = await _ours(ledger, job_ids, ledger.signal)
    cluster.drop_database("replay")
    return found


async def _ours(
    ledger: Ledger, job_ids: list[int], signal: Callable[[int, object], Awaitable[object]]
) -> tuple[float, float]:
    for job_id in job_ids:
        await signal(job_id, PAYLOAD)
    started = time.perf_counter()
    for job_id in job_ids:
        for _ in range(EVENTS - 1):
            await signal(job_id, PAYLOAD)
    appended = STREAMS * (EVENTS - 1) / (time.perf_counter() - started)
    ends = [(await ledger.history(job_id))[-1].cursor for job_id in job_ids]
    started = time.perf_counter()
    for _ in range(REPLAYS):
        for job_id, end in zip(job_ids, ends, strict=True):
            # As of a cursor: from the log alone, not from the stored state.
            state = await ledger.state(job_id, cursor=end)
            assert state.version == EVENTS
    return appended, REPLAYS * STREAMS * EVENTS / (time.perf_counter() - started)
