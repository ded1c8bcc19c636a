"""Other libraries that let a program wait durably, or that keep events, on the same database in the same run.

They come with the dependency group ``peers``. Each is used as its own documentation shows: its asynchronous interface
where it has one, as many connections as there are tasks, its own way to send to many at once, and its defaults for all
else. Commits are as durable as ours.
"""

from benchmarks.cluster import bench_cluster, enqueue, install
from benchmarks.figures import Figure
from benchmarks.oban_engine import MANY, parked
from benchmarks.options import Options
from benchmarks.peers import absurd, dbos, replay
from benchmarks.postgres import signals_of_copy

TASKS = 32
PARKED = 30_000

SEND_AT_LEAST = {"dbos": 15.0, "absurd": 5.0}
COMPLETE_AT_LEAST = {"dbos": 7.0, "absurd": 2.5}


async def peers(options: Options) -> list[Figure]:
    """Measure them and the library one after the other, in each round."""
    sent: dict[str, list[float]] = {}
    completed: dict[str, list[float]] = {}
    with bench_cluster(wal_mb=1000 * options.rounds * min(1.0, options.seconds)) as cluster:
        url = await install(cluster, "template_of_bench")
        job_ids = await enqueue(url, PARKED, worker="bench.Worker", park=True)
        engine_url = await install(cluster, "engine")
        for _ in range(options.rounds):
            load = await signals_of_copy(cluster, job_ids, TASKS, options.seconds, again=False)
            sent.setdefault("ours", []).append(load.per_s)
            completed.setdefault("ours", []).append((await parked(engine_url))[0])
            sent.setdefault("dbos", []).append(await dbos.sends_per_s(cluster, TASKS, options.seconds))
            completed.setdefault("dbos", []).append(await dbos.completed_per_s(cluster, MANY))
            if options.absurd_schema is not None:
                schema = options.absurd_schema.read_text(encoding="utf-8")
                sent.setdefault("absurd", []).append(await absurd.emits_per_s(cluster, schema, TASKS, options.seconds))
                completed.setdefault("absurd", []).append(await absurd.completed_per_s(cluster, schema, MANY))
        replayed = await replay.replay(options, cluster)
    return [
        *_compare(f"sent by {TASKS} tasks", "signals/s", sent, SEND_AT_LEAST),
        *_compare(f"{MANY:,} parked, signalled and completed", "jobs/s", completed, COMPLETE_AT_LEAST),
        *replayed,
    ]


def _compare(what: str, unit: str, found: dict[str, list[float]], aims: dict[str, float]) -> list[Figure]:
    """Give a line to each peer, and one to the library beside each."""
    figures = []
    for name, values in found.items():
        if name == "ours":
            continue
        theirs = Figure(name=f"{name}: {what}", unit=unit, rounds=tuple(values), series=what, at=0)
        ours = Figure(
            name=f"signal-ledger: {what}",
            unit=unit,
            rounds=tuple(found["ours"]),
            yardstick=theirs,
            at_least=aims[name],
        )
        figures += [theirs, ours]
    return figures
