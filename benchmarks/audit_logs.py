"""Long logs for questions, made by a few statements: jobs that waited, were signalled or not, and have ended.

Each job has four events. Some 600 of the jobs, spread over the log, have what is rare: a channel, a source, a wait that
timed out. Checksums are none, as only `verify` reads them. Beside them many jobs wait, some 600 of them on the rare
channel, and some 600 until an early deadline.
"""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
EVENTS_A_JOB = 4
CHANNELS = ("", "approval", "rare")
SOURCES = ("ada", "rare")
RARE = 600
JOBS_AT_ONCE = 50_000

# One event each millisecond. The jobs that wait have higher ids, and begin when the log ends.
_EVENTS = """
SELECT job_id, version, 1 AS run, kind, 1 AS schema_version, at, 1 AS execution, 1 AS attempt,
       CASE WHEN kind <> 'closed' THEN
           CASE WHEN job_id % {every} = 2 THEN 'rare' WHEN job_id % 2 = 0 THEN 'approval' ELSE '' END
       END AS channel,
       CASE WHEN kind NOT IN ('closed', 'delivered') THEN 1 END AS ordinal,
       CASE WHEN kind IN ('delivered', 'consumed') THEN {id} END AS signal_id,
       CASE WHEN kind = 'consumed' THEN 2 END AS delivery_version,
       CASE WHEN kind = 'delivered' THEN CASE WHEN job_id % {every} = 3 THEN 'rare' ELSE 'ada' END END AS source,
       CASE WHEN kind IN ('snoozed', 'timed_out') THEN {deadline} END AS deadline_at,
       CASE WHEN kind = 'closed' THEN 'completed' END AS cause,
       CASE WHEN kind = 'delivered' THEN 'woken' END AS outcome,
       CASE WHEN kind = 'delivered' THEN {payload} END AS payload,
       CASE WHEN kind = 'delivered' THEN {digest} END AS payload_digest
FROM (
    SELECT job.id AS job_id, event.version, 4 * (job.id - 1) + event.version AS at,
           CASE WHEN job.id % {every} = 1 THEN event.of_late ELSE event.kind END AS kind
    FROM {jobs} CROSS JOIN (
        SELECT 1 AS version, 'snoozed' AS kind, 'awaited' AS of_late UNION ALL SELECT 2, 'delivered', 'snoozed'
        UNION ALL SELECT 3, 'consumed', 'timed_out' UNION ALL SELECT 4, 'closed', 'closed'
    ) AS event
) AS told
ORDER BY job_id, version
"""

_COLUMNS = """job_id, version, run, kind, schema_version, recorded_at, execution, attempt, channel, ordinal, signal_id,
    delivery_version, source, deadline_at, cause, outcome, payload, payload_digest, checksum"""

_PAYLOAD = "836d0000000861707072"
_DIGEST = "'" + "0" * 64 + "'"


def instant_of(position: int) -> datetime:
    """Return when the event at a position was recorded."""
    return BEGIN + timedelta(milliseconds=position)


def fill_sqlite(path: Path, events: int, waits: int) -> None:
    """Fill the log of a file."""
    jobs = events // EVENTS_A_JOB
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -1000000")
    guards = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'signal_ledger_events' "
        "AND name NOT LIKE '%_block'"
    ).fetchall()
    for name, _ in guards:
        connection.execute(f"DROP TRIGGER {name}")
    selected = _EVENTS.format(
        every=max(4, jobs // RARE), id="printf('00000000-0000-4000-8000-%012x', job_id)",
        payload=f"x'{_PAYLOAD}'", digest=_DIGEST, jobs="numbers AS job", deadline="'2026-01-01T00:00:00.000000Z'",
    )  # fmt: skip
    for first in range(1, jobs + 1, JOBS_AT_ONCE):
        connection.execute(
            f"""WITH RECURSIVE numbers (id) AS (SELECT :first UNION ALL SELECT id + 1 FROM numbers WHERE id < :last)
            INSERT INTO signal_ledger_events ({_COLUMNS})
            SELECT job_id, version, run, kind, schema_version,
                   strftime('%Y-%m-%dT%H:%M:%S', 1767225600 + at / 1000, 'unixepoch') || printf('.%03d000Z', at % 1000),
                   execution, attempt, channel, ordinal, signal_id, delivery_version, source, deadline_at, cause,
                   outcome, payload, payload_digest, {_DIGEST}
            FROM ({selected})""",
            {"first": first, "last": min(first + JOBS_AT_ONCE - 1, jobs)},
        )
    for _, sql in guards:
        connection.execute(sql)
    connection.execute(
        """WITH RECURSIVE numbers (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM numbers WHERE id < :waits)
        INSERT INTO signal_ledger_waits
        SELECT :jobs + id, 1, 1, NULL, 'snoozed', iif(id % :every = 1, 'rare', ''), 1,
               strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1767225600 + :jobs / 250 + id, 'unixepoch'),
               iif(id % :every = 2, '2026-06-01T00:00:00.000000Z', '2030-01-01T00:00:00.000000Z'), 1, '[]', '[]', 1
        FROM numbers WHERE :waits > 0""",
        {"waits": waits, "jobs": jobs, "every": max(4, waits // RARE)},
    )
    connection.close()


async def fill_postgres(url: str, events: int, waits: int) -> None:
    """Fill the log of a database."""
    jobs = events // EVENTS_A_JOB
    selected = _EVENTS.format(
        every=max(4, jobs // RARE), id="'00000000-0000-4000-8000-' || lpad(to_hex(job_id), 12, '0')",
        payload=f"'\\x{_PAYLOAD}'::bytea", digest=_DIGEST, deadline="timestamptz '2026-01-01 00:00Z'",
        jobs="generate_series($1::bigint, $2::bigint) AS job (id)",
    )  # fmt: skip
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER TABLE signal_ledger.events DISABLE TRIGGER USER")
        for first in range(1, jobs + 1, JOBS_AT_ONCE):
            await connection.execute(
                f"""INSERT INTO signal_ledger.events (turn, {_COLUMNS})
                SELECT pg_current_xact_id()::text::bigint, job_id, version, run, kind, schema_version,
                       timestamptz '2026-01-01 00:00Z' + at * interval '1 ms', execution, attempt, channel,
                       ordinal, signal_id, delivery_version, source, deadline_at, cause, outcome, payload,
                       payload_digest,
                       {_DIGEST}
                FROM ({selected}) AS e""",
                first,
                min(first + JOBS_AT_ONCE - 1, jobs),
            )
        await connection.execute("ALTER TABLE signal_ledger.events ENABLE TRIGGER USER")
        while await connection.fetchval("SELECT signal_ledger.write_blocks(1000)"):
            pass
        await connection.execute(
            """INSERT INTO signal_ledger.waits
            SELECT $2::bigint + id, 1, 1, NULL, 'snoozed', CASE id % $3::bigint WHEN 1 THEN 'rare' ELSE '' END, 1,
                   timestamptz '2026-01-01 00:00Z' + ($2::bigint / 250 + id) * interval '1 s',
                   CASE id % $3::bigint WHEN 2 THEN timestamptz '2026-06-01 00:00Z'
                                            ELSE timestamptz '2030-01-01 00:00Z' END, 1, '{}', '{}', 1
            FROM generate_series(1, $1::bigint) AS number (id)""",
            waits,
            jobs,
            max(4, waits // RARE),
        )
        for table in ("signal_ledger.events", "signal_ledger.waits", "signal_ledger.blocks"):
            await connection.execute(f"VACUUM (ANALYZE) {table}")
    finally:
        await connection.close()
