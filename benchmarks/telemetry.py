"""What telemetry costs a delivery: with nobody who listens, beside the same code without any place that tells."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from dataclasses import asdict

from benchmarks.cluster import bench_cluster, enqueue, install
from benchmarks.deliver import enqueue_waiting
from benchmarks.figures import Figure
from benchmarks.load import Load
from benchmarks.options import Options
from signal_ledger import lite

TASKS = 32
JOBS = 2_000

WAYS: Mapping[str, str] = {
    "bare": "without any place that tells",
    "unheard": "nobody listens",
    "heard": "somebody listens to all events",
    "traced": "every signal is traced",
}
"""What `benchmarks.telemetry_load` does, each in a process of its own."""

UNHEARD_AT_MOST = 1.03
"""Of the processor time: that of the client is what could grow, and others on the machine disturb it least."""


async def telemetry(options: Options) -> list[Figure]:
    """Signal jobs that do not wait yet, in each way, one after the other."""
    template = options.folder / "template.db"
    async with lite(f"sqlite:///{template}", queues={}) as engine:
        jobs = await enqueue_waiting(engine)
    loads: dict[tuple[str, str], list[Load]] = {}
    with bench_cluster() as cluster:
        url = await install(cluster, "template_of_bench")
        rows = await enqueue(url, JOBS, worker="bench.Worker")
        for number in range(options.rounds):
            for way in _in_turn(number):
                path = options.folder / f"{way}-{number}.db"
                path.write_bytes(template.read_bytes())
                load = await _load(way, f"sqlite:///{path}", jobs, options.seconds)
                loads.setdefault(("SQLite", way), []).append(load)
                name = f"{way}_{number}"
                load = await _load(
                    way, cluster.create_database(name, template="template_of_bench"), rows, options.seconds
                )
                loads.setdefault(("PostgreSQL", way), []).append(load)
                cluster.drop_database(name)
    return [figure for database in ("SQLite", "PostgreSQL") for figure in _figures(database, loads)]


def _in_turn(number: int) -> list[str]:
    """Each round begins with another one: what comes later may find the machine in another state."""
    ways = list(WAYS)
    first = number % len(ways)
    return ways[first:] + ways[:first]


def _figures(database: str, loads: Mapping[tuple[str, str], list[Load]]) -> list[Figure]:
    figures: list[Figure] = []
    for unit in ("signals/s", "µs"):
        beside: Figure | None = None
        for way, told in WAYS.items():
            found = loads[database, way]
            is_rate = unit == "signals/s"
            figure = Figure(
                name=f"signal(), {database}, {TASKS} tasks, {told}{'' if is_rate else ': client CPU'}",
                unit=unit,
                rounds=tuple([load.per_s if is_rate else load.client_us for load in found]),
                yardstick=beside,
                at_most=UNHEARD_AT_MOST if way == "unheard" and not is_rate else None,
            )
            beside = beside or figure
            figures.append(figure)
    return figures


async def _load(way: str, url: str, job_ids: list[int], seconds: float) -> Load:
    asked = json.dumps({"way": way, "url": url, "job_ids": job_ids, "tasks": TASKS, "seconds": seconds})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.telemetry_load", stdin=PIPE, stdout=PIPE
    )
    answer, _ = await process.communicate(asked.encode())
    if process.returncode != 0:
        raise RuntimeError(f"{way}: the process that signals ended with {process.returncode}")
    return Load(**json.loads(answer))


def as_json(load: Load) -> str:
    """Write what `_load` reads."""
    return json.dumps(asdict(load))
