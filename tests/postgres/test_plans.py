"""What is done for a few jobs looks at the rows of a few jobs, however many there are and whatever the planner thinks.

Statistics are old when they matter most: after an import, on a new installation, and for connections that were opened,
and have planned their statements, when the tables were empty.
"""

import json
from datetime import timedelta

import asyncpg
import psycopg
import pytest

from benchmarks.cluster import put_to_sleep
from signal_ledger_adapters.postgres.connection import FOR_LANES

JOBS = 3000
STEPS = 400
BATCH = 10
# For each job there are several rows, and older versions of them that nobody has vacuumed.
ROWS_MAX = 10 * BATCH

TABLES = {"oban_jobs", "events", "waits", "steps", "edges", "ends"}

NO_UPKEEP = ";".join(
    f"ALTER TABLE {table} SET (autovacuum_enabled = false)"
    for table in ("oban_jobs", "signal_ledger.events", "signal_ledger.waits")
)

EXPLAIN = """
LOAD 'auto_explain';
SET auto_explain.log_min_duration = 0;
SET auto_explain.log_nested_statements = on;
SET auto_explain.log_analyze = on;
SET auto_explain.log_timing = off;
SET auto_explain.log_format = json;
SET auto_explain.log_level = notice;
SET client_min_messages = notice;
"""

DELIVER = """
SELECT outcome FROM signal_ledger.deliver(
    %(calls)s::integer[], %(first_tries)s::boolean[], %(job_ids)s::bigint[], %(ids)s::text[], %(channels)s::text[],
    %(payloads)s::bytea[], %(digests)s::text[], %(keys)s::text[], %(key_ids)s::text[], %(sources)s::text[],
    %(patience)s)
"""

TAKE = """
SELECT reply FROM signal_ledger.take(
    %(job_ids)s::bigint[], %(executions)s::bigint[], %(channels)s::text[], %(ordinals)s::integer[],
    %(wait_fors)s::interval[], %(in_places)s::boolean[], %(windows)s::boolean[], %(patience)s)
"""

SNOOZE = """
SELECT reply FROM signal_ledger.snooze(
    %(job_ids)s::bigint[], %(executions)s::bigint[], %(channels)s::text[], %(ordinals)s::integer[],
    %(wait_fors)s::interval[], 'cancelled')
"""

EXECUTE = """
UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_at = timezone('UTC', clock_timestamp())
FROM unnest(%s::bigint[]) AS wanted (id) WHERE oban_jobs.id = wanted.id
RETURNING oban_jobs.id, signal_ledger.to_execution(attempted_at)
"""

CHANGE = "UPDATE oban_jobs SET state = %s FROM unnest(%s::bigint[]) AS wanted (id) WHERE oban_jobs.id = wanted.id"


class Session:
    """A connection whose statements, and those of the functions they call, tell their plans.

    Args:
        connection: The connection, of a superuser.
    """

    def __init__(self, connection):
        self.plans = []
        self._connection = connection
        connection.execute(EXPLAIN)
        for name, value in FOR_LANES.items():
            connection.execute(f"SET {name} = {value}")
        connection.add_notice_handler(self._keep)

    def _keep(self, notice):
        _, is_plan, plan = notice.message_primary.partition("plan:\n")
        if is_plan:
            self.plans.append(json.loads(plan))

    def run(self, sql, parameters=None):
        cursor = self._connection.execute(sql, parameters, prepare=True)
        return [row[0] if len(row) == 1 else row for row in cursor.fetchall()] if cursor.description else []

    def deliver(self, job_ids, *, key=None, first_try=True, payload=b"\x83\x6a"):
        count = len(job_ids)
        return self.run(
            DELIVER,
            {
                "calls": list(range(1, count + 1)),
                "first_tries": [first_try] * count,
                "job_ids": job_ids,
                "ids": [f"{key}-{number}-{len(self.plans)}" for number in range(count)],
                "channels": [""] * count,
                "payloads": [payload] * count,
                "digests": ["0" * 64] * count,
                "keys": [key] * count,
                "key_ids": [""] * count,
                "sources": ["test"] * count,
                "patience": 0,
            },
        )

    def execute(self, job_ids):
        return {job_id: execution for job_id, execution in self.run(EXECUTE, (job_ids,))}  # noqa: C416

    def take(self, executions, ordinal=1):
        return self.run(TAKE, self._waits(executions, ordinal))

    def snooze(self, executions, ordinal=1):
        self.run(CHANGE, ("scheduled", sorted(executions)))
        return self.run(SNOOZE, self._waits(executions, ordinal))

    def end(self, job_ids):
        self.run(CHANGE, ("completed", job_ids))

    def _waits(self, executions, ordinal):
        count = len(executions)
        job_ids = sorted(executions)
        return {
            "job_ids": job_ids,
            "executions": [executions[job_id] for job_id in job_ids],
            "channels": [""] * count,
            "ordinals": [ordinal] * count,
            "wait_fors": [timedelta(days=1)] * count,
            "in_places": [False] * count,
            "windows": [True] * count,
            "patience": 0,
        }


def play(session, job_ids):
    """Let each hot function do all that it does, for sleeping jobs."""
    assert set(session.deliver(job_ids)) == {"woken"}
    assert set(session.deliver(job_ids)) == {"buffered"}
    for outcome in ("buffered", "duplicate"):
        assert set(session.deliver(job_ids, key="key")) == {outcome}
    assert set(session.deliver(job_ids, first_try=False)) == {"buffered"}
    executions = session.execute(job_ids)
    for ordinal in (1, 1, 2, 3, 4):
        assert set(session.take(executions, ordinal)) == {"signal"}
    assert set(session.take(executions, 5)) == {"waiting"}
    assert session.run("SELECT signal_ledger.look(%s::bigint[], %s::bigint[])", (job_ids, [*executions.values()])) == []
    assert set(session.deliver(job_ids)) == {"live"}
    assert set(session.take(executions, 5)) == {"signal"}
    assert set(session.take(executions, 6)) == {"waiting"}
    assert set(session.snooze(executions, 6)) == {"asleep"}
    session.run("SELECT signal_ledger.tick(1000)")
    session.run("SELECT signal_ledger.relay(250, NULL)")
    session.end(job_ids)


async def add_sleeping(url, count):
    """Add jobs that sleep on their first wait, and return their ids."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "INSERT INTO oban_jobs (worker) SELECT 'tests.Worker' FROM generate_series(1, $1::integer) RETURNING id", count
    )
    job_ids = sorted(row["id"] for row in rows)
    await put_to_sleep(connection, job_ids)
    await connection.close()
    return job_ids


def scans(node, statement):
    """Find what a plan has looked at of the tables: the statement, the scan, and how many rows."""
    if node.get("Relation Name") in TABLES or "Index Name" in node:
        seen = (
            node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        )
        where = node.get("Relation Name") or node["Index Name"]
        yield f"{node['Node Type']} on {where} in {' '.join(statement.split())[:200]}", seen * node["Actual Loops"]
    for child in node.get("Plans", ()):
        yield from scans(child, statement)


def looked_at(session):
    return [scan for plan in session.plans for scan in scans(plan["Plan"], plan["Query Text"])]


@pytest.mark.parametrize("statistics", ["none", "of empty tables", "of few rows", "of empty tables, and plans as old"])
async def test_a_batch_looks_at_the_rows_of_its_jobs_only(ledger_url, statistics):
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(NO_UPKEEP)
        session = Session(connection)
        if statistics == "of few rows":
            await add_sleeping(ledger_url, 2)
        if statistics != "none":
            connection.execute("ANALYZE oban_jobs, signal_ledger.events, signal_ledger.waits")
        if statistics.endswith("as old"):
            # More than five times: plans for any parameters are made and kept after that.
            play(session, await add_sleeping(ledger_url, BATCH))
            connection.execute("SELECT signal_ledger.reset(); TRUNCATE oban_jobs")
            connection.execute("ANALYZE oban_jobs, signal_ledger.events, signal_ledger.waits")
            for _ in range(7):
                session.deliver([1, 2])
                session.take({1: 1, 2: 2})
                session.run("SELECT signal_ledger.tick(1000)")
        job_ids = await add_sleeping(ledger_url, JOBS)
        session.plans.clear()
        middle = JOBS // 2
        play(session, job_ids[middle : middle + BATCH])
    found = looked_at(session)
    assert len({what for what, _ in found}) > 20
    too_many = sorted({f"{rows:g} rows: {what}" for what, rows in found if rows > ROWS_MAX})
    assert not too_many, "\n".join(too_many)


def add_workflow(session, workflow, size):
    """Add a workflow: many steps on which one depends, on which as many depend. Return the jobs of each."""
    insert = "INSERT INTO oban_jobs (worker, state, meta) SELECT 'w', %s, m FROM unnest(%s::jsonb[]) AS m RETURNING id"
    metas = [
        ("available", [{"name": f"first {number}"} for number in range(size)]),
        ("suspended", [{"name": "middle", "deps": [f"first {number}" for number in range(size)]}]),
        ("suspended", [{"name": f"last {number}", "deps": ["middle"]} for number in range(size)]),
    ]
    return [
        session.run(insert, (state, [json.dumps({"workflow_id": workflow, **meta}) for meta in some]))
        for state, some in metas
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("statistics", ["none", "of empty tables", "of a small workflow, and plans as old", "of all"])
async def test_the_end_of_a_step_looks_at_its_own_edges_only(ledger_url, statistics):
    tables = "oban_jobs, signal_ledger.events, signal_ledger.waits, signal_ledger.steps, signal_ledger.edges"
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        for table in tables.split(", "):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        session = Session(connection)
        connection.execute("SET auto_explain.log_min_duration = -1")
        if statistics == "of empty tables":
            connection.execute(f"ANALYZE {tables}")
        if statistics.endswith("as old"):
            for number in range(7):
                [some, _, _] = add_workflow(session, f"small {number}", BATCH)
                session.run(CHANGE, ("completed", some))
            connection.execute(f"ANALYZE {tables}")
        [first, [middle], last] = add_workflow(session, "large", STEPS)
        [*_, joined] = add_workflow(session, "other", STEPS)
        if statistics == "of all":
            connection.execute(f"ANALYZE {tables}")
        session.run(CHANGE, ("completed", first[BATCH:]))
        connection.execute("SET auto_explain.log_min_duration = 0")
        session.run(CHANGE, ("completed", first[: BATCH - 1]))
        session.run(CHANGE, ("cancelled", joined[:BATCH]))
        session.run("SELECT signal_ledger.retry_steps('other', %s)", (["last 0", "last 1"],))
        session.run(
            "INSERT INTO oban_jobs (worker, state, meta) VALUES ('w', 'suspended', %s) RETURNING id",
            (json.dumps({"workflow_id": "other", "name": "late", "deps": ["first 0", "middle"]}),),
        )
        connection.execute("SET auto_explain.log_min_duration = -1")
        session.run(CHANGE, ("completed", [first[BATCH - 1]]))
        assert session.run("SELECT state::text FROM oban_jobs WHERE id = %s", (middle,)) == ["available"]
    found = looked_at(session)
    assert len({what for what, _ in found}) > 20
    too_many = sorted({f"{rows:g} rows: {what}" for what, rows in found if rows > ROWS_MAX})
    assert not too_many, "\n".join(too_many)
    assert len(last) == STEPS
