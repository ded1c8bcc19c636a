"""PostgreSQL: what a signal costs with few and with many events in the log."""

import itertools

import asyncpg

from benchmarks.cluster import bench_cluster, enqueue, install
from benchmarks.figures import Figure
from benchmarks.load import Load, measure
from benchmarks.options import Options
from benchmarks.postgres import PAYLOAD, ROW
from signal_ledger import open_ledger
from signal_ledger_adapters.postgres.scratch import Cluster

TASKS = (1, 32)
SIGNALS = {1: 1_000, 32: 5_000}
"""How many signals are sent, warming up included; so many parked jobs are needed in each round."""

WARM_S = 0.1

EVENTS_A_JOB = 4
JOBS_AT_ONCE = 25_000

FLAT_AT_MOST = 1.25

# Jobs that waited for a signal, had it, completed and were pruned long ago. The triggers, which look at one row at a
# time, are off meanwhile. $1 and $2 are the first and the last job; $3 is the signal's payload.
_LOAD = (
    """INSERT INTO signal_ledger.events (
        turn, job_id, version, run, kind, schema_version, recorded_at, execution, attempt, channel, ordinal, signal_id,
        delivery_version, cause, outcome, payload, payload_digest, checksum)
    SELECT pg_current_xact_id()::text::bigint, e.job_id, e.version, e.run, e.kind, e.schema_version, e.recorded_at,
           e.execution, e.attempt, e.channel, e.ordinal, e.signal_id, e.delivery_version, e.cause, e.outcome, e.payload,
           e.payload_digest, signal_ledger.checksum_of(
               e.job_id, e.version, e.run, e.kind, e.schema_version, e.recorded_at, e.execution, e.attempt, e.channel,
               e.ordinal, e.signal_id, e.delivery_version, e.key, e.source, e.deadline_at, e.cause, e.outcome,
               e.payload_digest)
    FROM generate_series($1::bigint, $2::bigint) AS job (id)
    CROSS JOIN LATERAL (SELECT md5(job.id::text)::uuid::text AS signal_id,
                               timestamptz '2026-01-01 00:00Z' + job.id * interval '1 millisecond' AS began) AS its
    CROSS JOIN LATERAL (VALUES
        (1, 'snoozed', 1, 1, '', 1, NULL, NULL::integer, NULL, NULL, NULL::bytea),
        (2, 'delivered', NULL, NULL, '', NULL, its.signal_id, NULL, NULL, 'woken', $3::bytea),
        (3, 'consumed', 2, 1, '', 1, its.signal_id, 2, NULL, NULL, NULL),
        (4, 'closed', 2, 1, NULL, NULL, NULL, NULL, 'completed', NULL, NULL)
    ) AS event (
        version, kind, execution, attempt, channel, ordinal, signal_id, delivery_version, cause, outcome, payload)
    CROSS JOIN LATERAL (SELECT (ROW(
        NULL, NULL, job.id, event.version, 1, event.kind, 1, its.began + event.version * interval '1 second',
        event.execution, event.attempt, event.channel, event.ordinal, event.signal_id, event.delivery_version, NULL,
        NULL, NULL, event.cause, event.outcome, event.payload, encode(sha256(event.payload), 'hex'), NULL, NULL,
        NULL
    )::signal_ledger.events).*) AS e
    ORDER BY job.id, event.version""",
    # What signal_ledger.fold makes of such a stream; a test has `verify` compare them.
    """INSERT INTO signal_ledger.waits (
        job_id, run, version, recorded_at, status, execution, waits, inboxes, schema_version)
    SELECT e.job_id, 1, e.version, e.recorded_at, 'closed', 0, '{}', '{}', 1
    FROM signal_ledger.events AS e WHERE e.job_id BETWEEN $1 AND $2 AND e.kind = 'closed' ORDER BY e.job_id""",
)


async def log_size(options: Options) -> list[Figure]:
    """Signal parked jobs in databases that differ in the length of their history."""
    loads: dict[tuple[int, int], list[Load]] = {}
    with bench_cluster(wal_mb=500 * options.rounds * min(1.0, options.seconds)) as cluster:
        parked = {}
        for events in options.events:
            url = await install(cluster, f"log_{events}")
            await load_history(url, events)
            wanted = sum(SIGNALS[tasks] for tasks in TASKS) * options.rounds
            parked[events] = (url, iter(await enqueue(url, wanted, worker="bench.Worker", park=True)))
        for _, events, tasks in itertools.product(range(options.rounds), options.events, TASKS):
            url, job_ids = parked[events]
            own = itertools.islice(job_ids, SIGNALS[tasks])
            loads.setdefault((tasks, events), []).append(await _signals(cluster, url, list(own), tasks))
    figures = []
    for tasks in TASKS:
        few: Figure | None = None
        for events in options.events:
            found = loads[tasks, events]
            figure = Figure(
                name=f"signal(), parked, {tasks} task{'s' if tasks > 1 else ''}, {events:,} events in the log",
                unit="µs/signal",
                # Of one task the median, which a lone pause of the machine does not move.
                rounds=tuple(load.latency_ms * 1e3 if tasks == 1 else 1e6 / load.per_s for load in found),
                yardstick=few,
                series=f"{tasks} tasks",
                at=events,
                at_most=None if few is None else FLAT_AT_MOST,
            )
            few = few or figure
            figures.append(figure)
    return figures


async def load_history(url: str, events: int) -> None:
    """Fill the log with the history of jobs that are gone; later jobs get higher ids.

    Args:
        url: A database with an empty ledger made for testing.
        events: About how many.
    """
    jobs = events // EVENTS_A_JOB
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER TABLE signal_ledger.events DISABLE TRIGGER USER")
        for first in range(1, jobs + 1, JOBS_AT_ONCE):
            last = min(first + JOBS_AT_ONCE - 1, jobs)
            async with connection.transaction():
                await connection.execute(_LOAD[0], first, last, ROW)
                await connection.execute(_LOAD[1], first, last)
        await connection.execute("ALTER TABLE signal_ledger.events ENABLE TRIGGER USER")
        await connection.execute("SELECT setval(pg_get_serial_sequence('oban_jobs', 'id'), $1)", jobs + 1)
        for table in ("signal_ledger.events", "signal_ledger.waits"):
            await connection.execute(f"VACUUM (ANALYZE) {table}")
    finally:
        await connection.close()


async def _signals(cluster: Cluster, url: str, job_ids: list[int], tasks: int) -> Load:
    async with open_ledger(url) as ledger:
        left = iter(job_ids)

        async def send() -> bool:
            job_id = next(left, None)
            if job_id is None:
                return False
            await ledger.signal(job_id, PAYLOAD, source="bench")
            return True

        return await measure([send] * tasks, 60.0, warm_s=WARM_S, postmaster=cluster.postmaster_pid)
