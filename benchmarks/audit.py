"""The questions of auditors: a page of each kind in a long log beside one in a short log, on both databases."""

import asyncio
import resource
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

from benchmarks import lite_engine, log_size
from benchmarks.audit_logs import CHANNELS, SOURCES, fill_postgres, fill_sqlite, instant_of
from benchmarks.cluster import bench_cluster, install
from benchmarks.figures import Figure
from benchmarks.options import Options
from signal_ledger import lite, open_ledger
from signal_ledger.ledger import Ledger
from signal_ledger_adapters.postgres.scratch import Cluster

PAGE = 500
"""What `Ledger.events` reads at once."""

FLAT_AT_MOST = 1.25
REPEATS = 7

type Question = Callable[[Ledger], Awaitable[object]]


async def audit(options: Options) -> list[Figure]:
    """Ask the same questions of a short log and of a long one."""
    few, many = options.audited
    figures = []
    with bench_cluster({"maintenance_work_mem": "256MB"}) as cluster:
        for database in ("SQLite", "PostgreSQL"):
            found: dict[tuple[str, int], list[float]] = {}
            for events in (few, many):
                if database == "SQLite":
                    path = options.folder / f"audit-{events}.db"
                    async with lite(f"sqlite:///{path}", queues={}):
                        pass
                    url = f"sqlite:///{path}"
                    await asyncio.to_thread(fill_sqlite, path, events, _waits(events, options))
                else:
                    url = await install(cluster, f"audit_{events}")
                    await fill_postgres(url, events, _waits(events, options))
                for name, ask in questions(events).items():
                    found[name, events] = [await _ms(url, ask) for _ in range(options.rounds)]
                (options.folder / f"audit-{events}.db").unlink(missing_ok=True)
            figures += _figures(database, few, many, found)
            figures += await _verified(database, options, cluster)
    return figures


def questions(events: int) -> Mapping[str, Question]:
    """Return what is asked; times lie in the middle of the log."""
    middle, later = instant_of(events // 2), instant_of(events // 2) + timedelta(seconds=2)
    job = events // 8
    filters = {
        "plain": {},
        "kind": {"kinds": {"timed_out"}},
        "kind delivered": {"kinds": {"delivered"}},
        "three kinds": {"kinds": {"delivered", "consumed", "closed"}},
        "rare channel": {"channel": CHANNELS[-1]},
        "default channel": {"channel": ""},
        "rare channel, kind": {"channel": CHANNELS[-1], "kinds": {"delivered"}},
        "rare source": {"source": SOURCES[-1]},
        "source": {"source": SOURCES[0]},
        "since": {"since": middle},
        "since, until": {"since": middle, "until": later},
        "since, kind": {"since": middle, "kinds": {"timed_out"}},
        "since, rare source": {"since": middle, "source": SOURCES[-1]},
        "job": {"job_id": job},
    }
    asked: dict[str, Question] = {
        "history of a job": lambda ledger: ledger.history(job),
        "state of a job": lambda ledger: ledger.state(job),
        "state as of a time": lambda ledger: ledger.state(job, at=instant_of(4 * job)),
        "state as of a cursor": _state_as_of_a_cursor(job),
    }
    for name, wanted in filters.items():
        asked[f"events, {name}"] = _page_of(wanted)
    soon = datetime(2027, 1, 1, tzinfo=UTC)
    asked |= {
        "waiting": lambda ledger: ledger.waiting(),
        "waiting, rare channel": lambda ledger: ledger.waiting(channel=CHANNELS[-1]),
        "waiting, early deadline": lambda ledger: ledger.waiting(deadline_before=soon),
        "outbox": lambda ledger: ledger.outbox(),
        "follow, from the end": _follow,
    }
    return asked


def _waits(events: int, options: Options) -> int:
    """Return how many jobs wait beside a log: a tenth of them beside the short one."""
    return options.waits // 10 if events == options.audited[0] else options.waits


def _page_of(wanted: Mapping[str, object]) -> Question:
    async def ask(ledger: Ledger) -> int:
        return await _first(ledger.events(**wanted))  # type: ignore[arg-type]

    return ask


async def _first(events: AsyncIterator[object]) -> int:
    count = 0
    async for _ in events:
        count += 1
        if count == PAGE:
            break
    return count


def _state_as_of_a_cursor(job: int) -> Question:
    async def ask(ledger: Ledger) -> object:
        history = await ledger.history(job)
        return await ledger.state(job, cursor=history[1].cursor)

    return ask


async def _follow(ledger: Ledger) -> object:
    """What one look of a follower costs that finds nothing new."""
    return [recorded async for recorded in ledger.events(after=await ledger._store.end())]


async def _ms(url: str, ask: Question) -> float:
    async with open_ledger(url, read_only=True) as ledger:
        await ask(ledger)
        taken = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            await ask(ledger)
            taken.append((time.perf_counter() - started) * 1000)
        return statistics.median(taken)


def _figures(database: str, few: int, many: int, found: dict[tuple[str, int], list[float]]) -> list[Figure]:
    figures = []
    for name in dict.fromkeys(name for name, _ in found):
        short = Figure(name=f"{database}: {name}, {few:,} events", unit="ms", rounds=tuple(found[name, few]))
        long = Figure(
            name=f"{database}: {name}, {many:,} events",
            unit="ms",
            rounds=tuple(found[name, many]),
            yardstick=short,
            at_most=FLAT_AT_MOST,
        )
        figures += [short, long]
    return figures


# Verify


async def _verified(database: str, options: Options, cluster: Cluster) -> list[Figure]:
    """Measure what `verify` takes of time and memory, in a process of its own."""
    figures: list[Figure] = []
    for events in options.verified:
        path = options.folder / f"verify-{events}.db"
        url = f"sqlite:///{path}"
        if database == "SQLite":
            async with lite(url, queues={}):
                pass
            await asyncio.to_thread(lite_engine.load_history, path, events)
        else:
            url = await install(cluster, f"verify_{events}")
            await log_size.load_history(url, events)
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.audit", url, stdout=PIPE)
        said, _ = await process.communicate()
        seconds, grown_mb = map(float, said.split())
        path.unlink(missing_ok=True)
        of = f"{database}: verify, {events:,} events"
        time_of = Figure(name=f"{of}: time", unit="µs/event", rounds=(seconds / events * 1e6,))
        figures += [time_of, Figure(name=f"{of}: memory", unit="MiB more", rounds=(grown_mb,))]
    return figures


async def _verify(url: str) -> None:
    async with open_ledger(url, read_only=True) as ledger:
        await ledger.history(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        report = await ledger.verify()
        if not report.ok:
            raise RuntimeError(str(report)[:500])
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(time.perf_counter() - started, grown / 1024)


if __name__ == "__main__":
    asyncio.run(_verify(sys.argv[1]))
