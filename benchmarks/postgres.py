"""PostgreSQL: delivering signals, beside a bare INSERT and COMMIT through asyncpg at as many connections."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.cluster import bench_cluster, enqueue, install
from benchmarks.figures import Figure
from benchmarks.load import Call, Load, measure
from benchmarks.options import Options
from signal_ledger import Ledger, open_ledger
from signal_ledger_adapters.postgres.scratch import Cluster

TASKS = (1, 8, 32, 256)
CONNECTIONS_MAX = 32
PARKED = 30_000
FRESH = 2_000
LIST = 1_000
LISTS = 5
PAYLOAD = {"decision": "approved"}
ROW = b"\x83t\x00\x00\x00\x01m\x00\x00\x00\x08decisionm\x00\x00\x00\x08approved"

PARKED_AT_LEAST = {32: 0.8, 256: 1.5}
FRESH_AT_LEAST = {32: 2.0}
LATENCY_AT_MOST = 2.5
LIST_AT_LEAST = 8.0


async def postgres(options: Options) -> list[Figure]:
    """Signal jobs that do not wait yet, and parked ones. No worker runs: what is measured is the delivery."""
    with bench_cluster(wal_mb=1000 * options.rounds * min(1.0, options.seconds)) as cluster:
        figures: list[Figure] = []
        bare_url = await install(cluster, "bare")
        url = await install(cluster, "template_of_bench")
        parked = await enqueue(url, PARKED, worker="bench.Worker", park=True)
        fresh = await enqueue(url, FRESH, worker="bench.Worker")
        for tasks in TASKS:
            bare, to_fresh, to_parked = [], [], []
            for _ in range(options.rounds):
                bare.append(await _inserts(cluster, bare_url, min(tasks, CONNECTIONS_MAX), options.seconds))
                to_fresh.append(await signals_of_copy(cluster, fresh, tasks, options.seconds, again=True))
                to_parked.append(await signals_of_copy(cluster, parked, tasks, options.seconds, again=False))
            figures += _figures(tasks, bare, to_fresh, to_parked)
        single, lists = [], []
        for _ in range(options.rounds):
            single.append((await _inserts(cluster, bare_url, 1, options.seconds)).per_s)
            lists.append(await _list_per_s(cluster, parked))
        yardstick = Figure(name="bare INSERT and COMMIT, one task", unit="rows/s", rounds=tuple(single))
        return [
            *figures,
            yardstick,
            Figure(
                name=f"signal(), lists of {LIST} parked jobs, one task",
                unit="signals/s",
                rounds=tuple(lists),
                yardstick=yardstick,
                at_least=LIST_AT_LEAST,
            ),
        ]


def _figures(tasks: int, bare: list[Load], fresh: list[Load], parked: list[Load]) -> list[Figure]:
    connections = min(tasks, CONNECTIONS_MAX)
    of_bare = f"bare INSERT and COMMIT, {connections} connection{'s' if connections > 1 else ''}"
    of_tasks = f"{tasks} task{'s' if tasks > 1 else ''}"

    def figure(
        name: str, unit: str, rounds: list[float], *, series: str, yardstick: Figure | None = None,
        at_least: float | None = None, at_most: float | None = None,
    ) -> Figure:  # fmt: skip
        return Figure(
            name=name, unit=unit, rounds=tuple(rounds), yardstick=yardstick, series=series, at=tasks,
            at_least=at_least, at_most=at_most,
        )  # fmt: skip

    rate = figure(of_bare, "rows/s", [load.per_s for load in bare], series="bare")
    latency = figure(f"{of_bare}: median", "ms", [load.latency_ms for load in bare], series="bare latency")
    client = figure(f"{of_bare}: client CPU", "µs", [load.client_us for load in bare], series="bare client")
    server = figure(f"{of_bare}: server CPU", "µs", [load.server_us for load in bare], series="bare server")
    return [
        rate,
        figure(
            f"signal(), not waiting, {of_tasks}", "signals/s", [load.per_s for load in fresh],
            series="fresh", yardstick=rate, at_least=FRESH_AT_LEAST.get(tasks),
        ),
        figure(
            f"signal(), parked, {of_tasks}", "signals/s", [load.per_s for load in parked],
            series="parked", yardstick=rate, at_least=PARKED_AT_LEAST.get(tasks),
        ),
        latency,
        figure(
            f"signal(), parked, {of_tasks}: median", "ms", [load.latency_ms for load in parked],
            series="parked latency", yardstick=latency, at_most=LATENCY_AT_MOST if tasks == 1 else None,
        ),
        client,
        figure(
            f"signal(), parked, {of_tasks}: client CPU", "µs", [load.client_us for load in parked],
            series="parked client", yardstick=client,
        ),
        server,
        figure(
            f"signal(), parked, {of_tasks}: server CPU", "µs", [load.server_us for load in parked],
            series="parked server", yardstick=server,
        ),
    ]  # fmt: skip


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncGenerator[list[asyncpg.Connection], None]:
    """Hold connections open."""
    held = [await asyncpg.connect(url) for _ in range(count)]
    try:
        yield held
    finally:
        for connection in held:
            await connection.close()


async def _inserts(cluster: Cluster, url: str, count: int, seconds: float) -> Load:
    async with connections(url, count) as held:
        calls: list[Call] = []
        for connection in held:
            statement = await connection.prepare("INSERT INTO bare (job_id, payload) VALUES ($1, $2)")

            async def insert(statement: asyncpg.prepared_stmt.PreparedStatement = statement) -> bool:
                await statement.fetch(1, ROW)
                return True

            calls.append(insert)
        return await measure(calls, seconds, postmaster=cluster.postmaster_pid)


@asynccontextmanager
async def _copy(cluster: Cluster) -> AsyncGenerator[Ledger, None]:
    """Open the ledger of a fresh copy of the database: a parked job is parked once."""
    url = cluster.create_database("copy", template="template_of_bench")
    async with open_ledger(url) as ledger:
        yield ledger
    cluster.drop_database("copy")


async def signals_of_copy(cluster: Cluster, job_ids: Sequence[int], tasks: int, seconds: float, *, again: bool) -> Load:
    """Signal parked jobs, each once, or any jobs again and again, in a copy of ``template_of_bench``."""
    async with _copy(cluster) as ledger:
        place = 0

        async def send() -> bool:
            nonlocal place
            if place >= len(job_ids) and not again:
                return False
            job_id = job_ids[place % len(job_ids)]
            place += 1
            await ledger.signal(job_id, PAYLOAD, source="bench")
            return True

        return await measure([send] * tasks, seconds, postmaster=cluster.postmaster_pid)


async def _list_per_s(cluster: Cluster, job_ids: Sequence[int]) -> float:
    async with _copy(cluster) as ledger:
        lists = [job_ids[place : place + LIST] for place in range(0, LIST * (LISTS + 1), LIST)]
        await ledger.signal(lists.pop(), PAYLOAD, source="warm")
        started = time.perf_counter()
        for job_ids_of_list in lists:
            await ledger.signal(job_ids_of_list, PAYLOAD, source="bench")
        return LIST * LISTS / (time.perf_counter() - started)
