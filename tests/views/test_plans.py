"""What the views of a file cost: the rows of a job, or a page, are found through indexes, however long it is."""

import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from benchmarks.audit_logs import fill_sqlite
from signal_ledger import lite
from signal_ledger.jobs import JobState
from signal_ledger.testing.bench import take
from tests.view_answers import PREFIX, VIEWS

STEPS_AT_ONCE = 100

# A job that has ended, and one that waits. The outbox has no index by job: what is in it was stored a moment ago, or
# was refused.
OF_A_JOB = [
    f"SELECT * FROM {PREFIX}{view} WHERE job_id = {job_id}"
    for view, columns in VIEWS.items()
    if "job_id" in columns.split() and view != "outbox"
    for job_id in (1234, "(SELECT max(job_id) FROM signal_ledger_waits)")
]
PAGES = [f"SELECT * FROM {PREFIX}{view} LIMIT 101" for view in VIEWS if view != "inboxes"] + [
    f"SELECT * FROM {PREFIX}{tail} LIMIT 101"
    for tail in (
        "waiting ORDER BY since",
        "waiting WHERE channel = 'rare' ORDER BY since",
        "waiting WHERE deadline_at < '2026-07' ORDER BY deadline_at",
        "timeline ORDER BY position DESC",
        # As the index has it: https://www.sqlite.org/partialindex.html#queries_using_partial_indexes
        "timeline WHERE kind = 'timed_out' AND kind <> 'delivered' ORDER BY position DESC",
        "signals WHERE position < 5000 ORDER BY position DESC",
        "signals WHERE source = 'rare' ORDER BY position DESC",
        "waits WHERE outcome = 'consumed' AND position < 5000 ORDER BY position DESC",
        "waits WHERE position BETWEEN 4000 AND 5000 ORDER BY position DESC",
        "runs WHERE position BETWEEN 4000 AND 5000 ORDER BY position DESC",
        "workflows WHERE workflow_id = 'w00000100'",
        "steps WHERE workflow_id = 'w00000100'",
    )
]
# Each looks at every job that there is: an index would cost every signal an entry.
OF_EVERY_JOB = [PREFIX + "inboxes", PREFIX + "waits WHERE outcome = 'open'"]

# The tables, as the views call them; what is left to be scanned is JSON, or the rows that were found.
TABLES = {"signal_ledger_events", "signal_ledger_edges"}
TABLES |= {"state", "job", "step", "delivered", "consumed", "told", "began", "latest", "closed", "oldest"}


def fill(path, events, waits):
    """Fill a log as the benchmarks do, and what is beside it."""
    fill_sqlite(path, events, waits)
    connection = sqlite3.connect(path, isolation_level=None)
    triggers = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'signal_ledger_events_%'"
    for (name,) in connection.execute(triggers).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.executescript(
        """BEGIN;
        INSERT INTO signal_ledger_events (job_id, version, run, kind, schema_version, recorded_at, execution, attempt,
                                          channel, ordinal, deadline_at, checksum)
        SELECT job_id, 1, 1, 'snoozed', 1, since, 1, 1, current, 1, deadline_at, printf('%064d', 0)
        FROM signal_ledger_waits;
        UPDATE signal_ledger_waits
        SET waits = json_array(json_array(current, 1, since, json('true'), deadline_at, json('true')));
        INSERT INTO signal_ledger_waits
        SELECT job_id, 1, 4, recorded_at, 'closed', NULL, NULL, NULL, NULL, 1, '[]', '[]', 1
        FROM signal_ledger_events WHERE kind = 'closed';
        INSERT INTO oban_jobs (id, state, queue, worker, inserted_at, scheduled_at)
        SELECT job_id, iif(status = 'closed', 'completed', 'scheduled'), 'default', 'shop.Approval',
               '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z'
        FROM signal_ledger_waits;
        INSERT INTO signal_ledger_steps
        SELECT printf('w%08d', job_id / 5), 's' || (job_id % 5), job_id,
               json_object('workflow_name', 'order', 'deps', json_array()), 0, '2026-01-01T00:00:00.000000Z',
               NULL, NULL
        FROM signal_ledger_waits;
        INSERT INTO signal_ledger_edges
        SELECT workflow_id, 's0', name, NULL FROM signal_ledger_steps WHERE name <> 's0';
        COMMIT;"""
    )
    connection.close()


def work(path, query):
    """Return how many steps of SQLite's machine it takes, in hundreds, and how many rows it gives."""
    count = 0

    def step():
        nonlocal count
        count += 1

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(step, STEPS_AT_ONCE)
        rows = connection.execute(query).fetchall()
    return count, len(rows)


@pytest.fixture
async def short_and_long(tmp_path):
    """Two files, one of them ten times as long."""
    paths = []
    for name, times in (("short.db", 1), ("long.db", 10)):
        paths.append(tmp_path / name)
        async with lite(f"sqlite:///{paths[-1]}", queues={}):
            pass
        fill(paths[-1], 8_000 * times, 1_000 * times)
    return paths


@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_jobs_rows_and_a_page_take_the_same_work_in_a_long_file(short_and_long, analyzed):
    if analyzed:
        for path in short_and_long:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("ANALYZE")
    met = Counter()
    for query in OF_A_JOB + PAGES:
        (short, _), (long, count) = (work(path, query) for path in short_and_long)
        assert long <= 1.5 * short + 10, (query, short, long)
        met[query] += count
    # A question that finds nothing may be cheap for that. Nobody has stored a signal here.
    assert [query for query in PAGES if not met[query]] == [f"SELECT * FROM {PREFIX}outbox LIMIT 101"]
    assert sum(met[query] > 0 for query in OF_A_JOB) > len(OF_A_JOB) / 2


@pytest.mark.parametrize("analyzed", [False, True])
async def test_no_view_scans_a_table_for_the_rows_of_a_job(short_and_long, analyzed):
    [path, _] = short_and_long
    connection = sqlite3.connect(path)
    if analyzed:
        connection.execute("ANALYZE")
    for query in OF_A_JOB:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
        scans = [step for step in plan if step.startswith("SCAN") and step.split()[1] in TABLES]
        assert plan
        assert not scans, (query, scans)
    connection.close()


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("view", ["timeline", "signals"])
async def test_the_latest_rows_are_read_from_the_end_of_the_log(short_and_long, view, analyzed):
    [path, _] = short_and_long
    with closing(sqlite3.connect(path)) as connection:
        if analyzed:
            connection.execute("ANALYZE")
        query = f"EXPLAIN QUERY PLAN SELECT * FROM {PREFIX}{view} ORDER BY position DESC LIMIT 101"
        plan = [row[3] for row in connection.execute(query)]
    assert not [step for step in plan if "FOR ORDER BY" in step], plan


async def test_what_is_asked_of_every_job_takes_little_for_each(short_and_long):
    [_, path] = short_and_long
    for tail in OF_EVERY_JOB:
        count, _ = work(path, f"SELECT * FROM {tail} LIMIT 101")
        # Of the file's 30,000 jobs a page finds 101.
        assert STEPS_AT_ONCE * count < 10 * 30_000 + 1000 * 101, tail


async def test_a_long_stream_costs_by_its_length(bench, path):
    """And not by its square, though every wait is put together from its events."""
    job_id = await bench.insert()
    found = []
    for _ in range(2):
        for _ in range(100):
            execution = await bench.fetch(job_id)
            ordinal = 1 + sum(event.kind == "consumed" for event in await bench.store.history(job_id))
            await take(bench, job_id, execution, ordinal=ordinal, window=True)
            await bench.signaller.send(job_id)
            await take(bench, job_id, execution, ordinal=ordinal)
            await bench.finish(job_id, execution, JobState.SCHEDULED)
        found.append(
            [work(path, f"SELECT * FROM {PREFIX}{view} WHERE job_id = 1") for view in ("waits", "signals", "runs")]
        )
    for (once, rows), (twice, more) in zip(*found, strict=True):
        assert twice < 2.5 * once + 10
        assert more in (rows, 2 * rows)
