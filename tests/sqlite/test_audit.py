"""Audit on SQLite: tampering is named, questions go through indexes, rebuilding goes on beside the work."""

import asyncio
import re
import sqlite3

import pytest
from sqlalchemy import Engine, event

from signal_ledger.codec import encode
from signal_ledger.errors import SchemaError
from signal_ledger.jobs import JobState
from signal_ledger.ledger import Ledger
from signal_ledger.testing.bench import take
from signal_ledger_adapters.sqlite import rebuild
from signal_ledger_adapters.sqlite.statements import statement
from tests.core.given import a_plan

UNGUARD = "DROP TRIGGER signal_ledger_events_no_update; DROP TRIGGER signal_ledger_events_no_delete;"


@pytest.fixture
async def tamper(bench, path):
    """A log with a wait that was consumed, and a way behind the database's back."""
    job_id = await bench.insert()
    await take(bench, job_id, await bench.fetch(job_id))
    await bench.signaller.send(job_id, {"decision": "approved"})

    def change(script, *, unguarded=True):
        connection = sqlite3.connect(path)
        connection.executescript((UNGUARD if unguarded else "") + script)
        connection.close()

    return change


async def rules(bench):
    report = await Ledger(bench.store, None).verify()
    return [(finding.version, finding.rule) for finding in report.findings]


async def test_an_untouched_log_is_ok(bench, tamper):
    assert await rules(bench) == []


@pytest.mark.parametrize(
    "change",
    [
        "source = 'somebody else'",
        "recorded_at = '2026-01-01T12:00:00.000001Z'",
        "key = 'k'",
        "outcome = 'buffered'",
        "channel = 'other'",
    ],
)
async def test_l7_a_row_altered_behind_the_databases_back_is_found_and_named(bench, tamper, change):
    tamper(f"UPDATE signal_ledger_events SET {change} WHERE version = 2")
    assert (2, "L7 checksum") in await rules(bench)


async def test_l7_an_altered_payload_is_found(bench, tamper):
    forged = encode({"decision": "declined"}).hex()
    tamper(f"UPDATE signal_ledger_events SET payload = x'{forged}' WHERE version = 2")
    assert await rules(bench) == [(2, "L7 payload")]


async def test_l1_a_deleted_event_is_found(bench, tamper):
    tamper("DELETE FROM signal_ledger_events WHERE version = 1")
    assert (2, "L1 version") in await rules(bench)
    tamper("DELETE FROM signal_ledger_events", unguarded=False)
    assert await rules(bench) == [(None, "L3 projection")]


async def test_an_event_that_cannot_be_read_is_no_error_of_the_caller(bench, path, tamper):
    tamper("UPDATE signal_ledger_events SET recorded_at = '2026-13-01T12:00:00.000000Z' WHERE version = 2")
    ledger = Ledger(bench.store, None)
    for ask in (ledger.history, ledger.replay, lambda job_id: ledger.events(job_id=job_id)):
        with pytest.raises(SchemaError, match=re.escape(f"{path}: an event is damaged")):
            await list_of(ask(1))


async def test_l3_a_wait_state_that_cannot_be_read_is_folded_and_its_wait_is_no_error_of_the_caller(
    bench, path, tamper
):
    job_id = await bench.insert()
    await take(bench, job_id, await bench.fetch(job_id))
    ledger = Ledger(bench.store, None)
    right = await ledger.state(job_id)
    for change in ("waits = '[[1]]'", "waits = '{'", "inboxes = '[1]'", "status = 'nonsense'"):
        tamper(f"UPDATE signal_ledger_waits SET {change} WHERE job_id = {job_id}", unguarded=False)
        assert await ledger.state(job_id) == right
        await bench.store.rebuild()
    tamper("UPDATE signal_ledger_waits SET since = 'nonsense' WHERE since IS NOT NULL", unguarded=False)
    with pytest.raises(SchemaError, match=re.escape(f"{path}: a stored wait state is damaged")):
        await ledger.waiting()
    await bench.store.rebuild()
    assert job_id in [wait.job_id for wait in await ledger.waiting()]


async def list_of(asked):
    return [each async for each in asked] if hasattr(asked, "__aiter__") else await asked


async def test_l3_an_altered_projection_is_found_and_rebuilt(bench, tamper):
    for change in (
        "UPDATE signal_ledger_waits SET status = 'idle'",
        "UPDATE signal_ledger_waits SET waits = 'nonsense'",
        "UPDATE signal_ledger_waits SET ordinal = coalesce(ordinal, 0) + 1",
        "UPDATE signal_ledger_waits SET since = '2026-11-23T12:30:00.000000Z'",
        "UPDATE signal_ledger_waits SET since = 'nonsense'",
        "UPDATE signal_ledger_waits SET deadline_at = '2026-11-23T12:30:00.000000Z'",
        "DELETE FROM signal_ledger_waits",
        """INSERT INTO signal_ledger_waits
           SELECT 99, run, version, recorded_at, status, current, ordinal, since, deadline_at, execution, waits,
                  inboxes, schema_version
           FROM signal_ledger_waits""",
        "DROP TABLE signal_ledger_repairs; CREATE TABLE signal_ledger_repairs (job_id INTEGER PRIMARY KEY, cause TEXT)",
    ):
        tamper(change, unguarded=False)
        found = await rules(bench)
        assert found == ([] if "DROP" in change else [(None, "L3 projection")]), change
        assert await bench.store.rebuild() == 1
        assert await rules(bench) == []


@pytest.fixture
async def steps(bench):
    """A workflow with a step that has ended, one that was released, and one that is held."""
    first = await bench.insert(plan=a_plan("first"))
    await bench.insert(plan=a_plan("second", ["first"]))
    await bench.insert(plan=a_plan("third", ["first", "second"]))
    await bench.finish(first, await bench.fetch(first), JobState.COMPLETED)
    return await bench.store.steps("w")


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ("DELETE FROM signal_ledger_steps WHERE name = 'first'", 1),
        ("DELETE FROM signal_ledger_steps", 3),
        ("DELETE FROM signal_ledger_edges", 1),
        ("UPDATE signal_ledger_steps SET held = 7 WHERE name = 'second'", 1),
        ("UPDATE signal_ledger_steps SET ended_as = 'cancelled' WHERE name = 'second'", 1),
        ("UPDATE signal_ledger_steps SET ended_as = NULL WHERE name = 'first'", 1),
        ("UPDATE signal_ledger_steps SET ended_as = 'gone' WHERE name = 'first'", 1),
        ("UPDATE signal_ledger_steps SET plan = 'nonsense' WHERE name = 'second'", 1),
        ("UPDATE signal_ledger_steps SET plan = replace(plan, 'second', 'other') WHERE name = 'second'", 1),
        ("UPDATE signal_ledger_steps SET job_id = 99 WHERE name = 'second'", 2),
        ("UPDATE signal_ledger_edges SET ended_as = NULL", 2),
    ],
)
async def test_f5_altered_steps_are_found_and_rebuilt(bench, path, steps, change, count):
    connection = sqlite3.connect(path)
    connection.executescript(change)
    connection.close()
    assert await rules(bench) == [(None, "L3 projection")] * count
    await bench.store.rebuild()
    assert await rules(bench) == []
    assert await bench.store.steps("w") == steps


async def test_f5_rebuilding_drops_what_the_log_does_not_tell_of(bench, path, steps):
    job_id = await bench.insert()
    await bench.signaller.send(job_id)
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO signal_ledger_steps SELECT 'v', name, ?, plan, held, planned_at, ended_as, ended_at "
        "FROM signal_ledger_steps WHERE name = 'first'",
        (job_id,),
    )
    connection.execute("INSERT INTO signal_ledger_edges VALUES ('u', 'a', 'b', NULL)")
    connection.commit()
    assert await rules(bench) == [(None, "L3 projection")]
    await bench.store.rebuild()
    assert await rules(bench) == []
    assert connection.execute("SELECT DISTINCT workflow_id FROM signal_ledger_edges").fetchall() == [("w",)]
    connection.close()


async def test_f5_rebuilding_goes_on_while_steps_end(bench, steps, monkeypatch):
    monkeypatch.setattr(rebuild, "STREAMS_AT_ONCE", 1)
    by_name = {seen.name: seen.step.job_id for seen in steps}

    async def run_on():
        for name in ("second", "third"):
            job_id = by_name[name]
            assert await bench.finish(job_id, await bench.fetch(job_id), JobState.COMPLETED)

    await asyncio.gather(bench.store.rebuild(), run_on(), bench.store.rebuild())
    assert await rules(bench) == []
    assert [seen.state for seen in await bench.store.steps("w")] == ["completed"] * 3


async def test_l3_what_other_programs_do_to_jobs_is_noted_for_repair(bench, path):
    ended, deleted, quiet = [await bench.insert() for _ in range(3)]
    for job_id in (ended, deleted):
        await bench.signaller.send(job_id)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE oban_jobs SET state = 'cancelled' WHERE id IN (?, ?)", (ended, quiet))
    connection.execute("DELETE FROM oban_jobs WHERE id = ?", (deleted,))
    connection.commit()
    connection.close()
    report = await Ledger(bench.store, None).verify()
    assert [(finding.job_id, finding.rule) for finding in report.findings] == [
        (ended, "L3 repair"),
        (deleted, "L3 repair"),
    ]
    from signal_ledger.embedded.operations import Repair

    assert await bench.store.transact(Repair()) == 2
    assert (await Ledger(bench.store, None).verify()).ok
    assert (await bench.store.history(ended))[-1].cause == "cancelled"
    assert (await bench.store.history(deleted))[-1].cause == "deleted"
    assert await bench.store.history(quiet) == []


async def test_l3_rebuilding_goes_on_while_signals_arrive(bench, monkeypatch):
    monkeypatch.setattr(rebuild, "STREAMS_AT_ONCE", 2)
    job_ids = [await bench.insert() for _ in range(9)]
    for job_id in job_ids:
        await bench.signaller.send(job_id)

    async def keep_signalling():
        for number in range(30):
            await bench.signaller.send(job_ids[number % 9], number)

    counts = await asyncio.gather(bench.store.rebuild(), keep_signalling(), bench.store.rebuild())
    assert (counts[0], counts[2]) == (9, 9)
    assert (await Ledger(bench.store, None).verify()).ok


async def test_a_snapshot_is_of_one_moment(bench):
    job_ids = [await bench.insert() for _ in range(3)]
    await bench.signaller.send_all(job_ids)
    async with bench.store.snapshot() as snapshot:
        rows = snapshot.rows()
        first = await anext(rows)
        await bench.signaller.send_all(job_ids, "meanwhile")
        rest = [row async for row in rows]
        states = [state async for _, state in snapshot.states()]
    assert len([first, *rest]) == 3
    assert [state.version for state in states] == [1, 1, 1]


async def test_figures_of_a_time_take_no_statement_for_each_job(bench):
    asked = []

    def note(_connection, _cursor, query, *_more):
        asked.append(query)

    counts = []
    for _ in range(2):
        await bench.signaller.send_all([await bench.insert() for _ in range(40)])
        asked.clear()
        event.listen(Engine, "before_cursor_execute", note)
        try:
            found = await Ledger(bench.store, None).stats(since=bench.clock())
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        counts.append((found.streams, len(asked)))
    [(few, statements), (more, as_many)] = counts
    assert (few, more) == (40, 80)
    assert 0 < statements == as_many < 20


async def test_l5_an_instant_is_settled_once_nobody_can_write_at_it(bench, path):
    job_id = await bench.insert()
    await bench.signaller.send(job_id)
    [event] = await bench.store.history(job_id)
    bench.clock.advance(10)
    assert await bench.store.is_settled(event.recorded_at)
    assert not await bench.store.is_settled(bench.clock())
    await bench.signaller.send(job_id)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    # Behind a newer event there is nothing to wait for; otherwise the one who has the lock might still write.
    assert await bench.store.is_settled(event.recorded_at)
    bench.clock.advance(10)
    asking = asyncio.create_task(bench.store.is_settled(bench.clock()))
    await asyncio.sleep(0.02)
    assert not asking.done()
    other.execute("ROLLBACK")
    other.close()
    assert not await asking


async def test_l5_a_read_only_ledger_can_only_be_sure_of_what_lies_behind_an_event(bench, path):
    from signal_ledger import open_ledger

    job_id = await bench.insert()
    await bench.signaller.send(job_id)
    first = bench.clock()
    bench.clock.advance(10)
    async with open_ledger(f"sqlite:///{path}", read_only=True) as ledger:
        assert (await ledger.state(job_id, at=first)).provisional
        await bench.signaller.send(job_id)
        assert not (await ledger.state(job_id, at=first)).provisional


PLANS = {
    "append_event": [],
    "stream": ["USING INDEX signal_ledger_events_version (job_id=?)"],
    "load_jobs": [
        "SEARCH job USING INTEGER PRIMARY KEY",
        "SEARCH wait USING INTEGER PRIMARY KEY",
        "USING COVERING INDEX signal_ledger_events_version (job_id=?)",
    ],
    "save_state": [],
    "wake_job": ["USING INTEGER PRIMARY KEY"],
    "prior_by_key": ["signal_ledger_events_key (job_id=? AND key=?)", "signal_ledger_events_consumed (job_id=?"],
    "prior_by_id": ["signal_ledger_events_delivered (job_id=? AND signal_id=?)"],
    "outcome_of_wait": ["signal_ledger_events_outcome (job_id=? AND run=? AND channel=? AND ordinal=?)"],
    "outcomes_of_channel": ["signal_ledger_events_outcome (job_id=? AND run=? AND channel=?)"],
    "oldest_pending": ["signal_ledger_events_version (job_id=? AND version>?)"],
    "jobs_with_pending": ["SEARCH signal_ledger_waits USING INTEGER PRIMARY KEY"],
    "note_repair": [],
    "repairs": ["signal_ledger_repairs"],
    "clear_repair": ["USING INTEGER PRIMARY KEY"],
    "job_insert": ["SCAN sqlite_sequence"],  # one row for each table
    "job_ids_begin": ["SCAN sqlite_sequence"],
    "job_ids_pass": ["SCAN sqlite_sequence"],
    "job_get": ["USING INTEGER PRIMARY KEY"],
    "job_update": ["USING INTEGER PRIMARY KEY"],
    "job_delete": ["USING INTEGER PRIMARY KEY"],
    "jobs_due": ["oban_jobs_scheduled (queue=? AND scheduled_at<?)"],
    "jobs_next_due": ["oban_jobs_scheduled (queue=?)"],
    "jobs_available": ["oban_jobs_available (queue=?)"],
    "job_queues": ["oban_jobs_available", "oban_jobs_scheduled"],
    "executing_nodes": ["oban_jobs_executing (node>?)"],
    "jobs_executing_on": ["oban_jobs_executing (node=?)"],
    "jobs_cancels": ["SEARCH oban_jobs USING INTEGER PRIMARY KEY"],
    "jobs_finished": ["oban_jobs_completed", "oban_jobs_cancelled", "oban_jobs_discarded"],
    "node_insert": [],
    "streams_after": ["USING COVERING INDEX signal_ledger_events_version (job_id>?)"],
    "drop_orphans": ["signal_ledger_events_version (job_id=?)"],
    "outbox_store": [],
    "outbox_pending": ["USING INDEX signal_ledger_outbox_pending", "SEARCH state USING INTEGER PRIMARY KEY"],
    "outbox_has_pending": ["USING INDEX signal_ledger_outbox_pending", "SEARCH state USING INTEGER PRIMARY KEY"],
    "outbox_strike": ["USING INTEGER PRIMARY KEY"],
    "outbox_refuse": ["USING INTEGER PRIMARY KEY"],
    "step_insert": [],
    "step_update": ["signal_ledger_steps_job (job_id=?)"],
    "step_of_job": ["signal_ledger_steps_job (job_id=?)"],
    "steps_named": ["SEARCH step USING PRIMARY KEY (workflow_id=? AND name=?)"],
    "steps_of_workflow": ["SEARCH step USING PRIMARY KEY (workflow_id=?)", "SEARCH job USING INTEGER PRIMARY KEY"],
    "edges_insert": [],
    "edges_end": ["signal_ledger_edges USING PRIMARY KEY (workflow_id=? AND dep=?)"],
    "edges_to_steps": ["signal_ledger_edges_name (workflow_id=? AND name=?)"],
    "edges_reopen": ["signal_ledger_edges_name (workflow_id=? AND name=?)"],
    "edges_of_workflow": ["SEARCH signal_ledger_edges USING"],
    "edges_restore": [],
    "edges_forget": ["SEARCH signal_ledger_edges USING"],
    "edges_orphaned": ["SEARCH step USING PRIMARY KEY (workflow_id=? AND name=?)"],
    "edge_rewrite": [],
    "step_restore": ["signal_ledger_steps_job (job_id=?)"],
    "step_rewrite": ["signal_ledger_steps_job (job_id=?)"],
    "steps_orphaned": ["SEARCH event USING INDEX signal_ledger_events_version (job_id=?)"],
    "workflow_after": ["signal_ledger_steps USING PRIMARY KEY (workflow_id>?)"],
    "workflow_story": [
        "SEARCH step USING PRIMARY KEY (workflow_id=?)",
        "SEARCH event USING INDEX signal_ledger_events_version (job_id=?)",
    ],
    "places": [
        "signal_ledger_blocks_peak (peak>?)",
        "signal_ledger_blocks_crest (crest<?)",
        "SCAN signal_ledger_blocks USING INDEX signal_ledger_blocks_dip",
        "SEARCH signal_ledger_events USING INTEGER PRIMARY KEY (rowid>?)",
    ],
    "last_block": ["SEARCH signal_ledger_events"],
    "blocks_forget": ["SEARCH signal_ledger_blocks USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"],
    "blocks_rewrite": ["SEARCH signal_ledger_events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"],
    "blocks_wrong": ["SEARCH signal_ledger_events USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"],
    "jobs_get": ["SEARCH oban_jobs USING INTEGER PRIMARY KEY"],
    "trace_note": [],
    "traces_store": [],
    "trace_take": ["USING INDEX sqlite_autoindex_signal_ledger_traces_1 (job_id=? AND signal_id=?)"],
    "traces_forget": [
        "SEARCH signal_ledger_traces USING INTEGER PRIMARY KEY (rowid=?)",
        "signal_ledger_traces_noted (noted_at<?)",
    ],
}


def parameters_of(sql):
    numbers = [int(number) for number in re.findall(r"\?(\d+)", sql)]
    return ["1"] * max(numbers, default=sql.count("?"))


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("name", PLANS)
async def test_every_statement_finds_its_rows_through_an_index(bench, path, name, analyzed):
    connection = sqlite3.connect(path)
    if analyzed:
        # With statistics of a small file, which may tempt the planner to scan.
        connection.execute("ANALYZE")
    sql = statement(name)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters_of(sql))]
    connection.close()
    for index in PLANS[name]:
        assert any(index in step for step in plan), plan
    # Of the dips there are as many as clocks have stepped back.
    plan = [step for step in plan if not step.endswith("signal_ledger_blocks_dip")]
    if name not in ("drop_orphans", "repairs", "job_queues", "steps_orphaned", "edges_orphaned", "blocks_wrong"):
        scans = tuple(f"SCAN {table}" for table in ("oban_jobs", "signal_ledger_", "step", "edge", "event"))
        assert not any(step.startswith(scans) for step in plan), plan


def test_every_statement_has_a_header_and_a_plan():
    from importlib.resources import files

    folder = files("signal_ledger_adapters.sqlite") / "queries"
    names = {entry.name.removesuffix(".sql") for entry in folder.iterdir() if entry.name.endswith(".sql")}
    assert names == set(PLANS)
    for name in names:
        text = (folder / f"{name}.sql").read_text()
        assert text.startswith("-- ")
        assert "-- Parameters:" in text
        assert "-- Rows:" in text
