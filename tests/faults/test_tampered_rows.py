"""Each column of each kind of event, changed underneath: `verify` names it, and never fails itself (promise L7)."""

import re
import sqlite3

import pytest

from signal_ledger import open_ledger
from signal_ledger.jobs import JobState
from signal_ledger.stored import StoredEvent
from signal_ledger.testing.bench import EmbeddedBench, take
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.sqlite.store import SqliteStore

TEXT = ["'nonsense'", "''", "NULL", "CAST(x'ff00ff' AS TEXT)", "char(0)", "replace(hex(zeroblob(500)), '0', 'x')"]
INTEGER = ["99", "0", "-1", "9223372036854775807", "NULL"]
INSTANT = ["'2027-01-01T12:00:00.000000Z'", "'2001-01-01T12:00:00.000000Z'", *TEXT]
VALUES = {
    "job_id": INTEGER[:-1],
    "version": INTEGER[:-1],
    "run": INTEGER[:-1],
    "kind": ["'delivered'", "'consumed'", "'timed_out'", "'awaited'", "'snoozed'", "'closed'", *TEXT],
    "schema_version": ["2", "0", "-1"],
    "recorded_at": INSTANT,
    "execution": INTEGER,
    "attempt": INTEGER,
    "channel": ["'other'", *TEXT],
    "ordinal": INTEGER,
    "signal_id": TEXT,
    "delivery_version": INTEGER,
    "key": TEXT,
    "source": TEXT,
    "deadline_at": INSTANT,
    "cause": ["'deleted'", *TEXT],
    "outcome": ["'woken'", "'live'", "'buffered'", *TEXT],
    "payload": ["x'836101'", "x''", "x'ff'", "x'83680000'"],
    "payload_digest": TEXT,
    "checksum": TEXT,
}
KINDS = ["awaited", "snoozed", "delivered", "consumed", "timed_out", "closed"]


@pytest.fixture
async def path(tmp_path):
    """A log with an event of each kind, in each of two streams."""
    path = tmp_path / "signals.db"
    clock = ManualClock()
    store = await SqliteStore.open(path, clock=clock, create=True)
    bench = EmbeddedBench(store, clock)
    for _ in range(2):
        job_id = await bench.insert()
        execution = await bench.fetch(job_id)
        await take(bench, job_id, execution)
        await bench.sleep(job_id, execution, wait_for=60)
        clock.advance(1)
        await bench.signaller.send(job_id, {"secret": "swordfish"}, key=f"key {job_id}")
        execution = await bench.fetch(job_id)
        await take(bench, job_id, execution)
        await take(bench, job_id, execution, ordinal=2, wait_for=1, in_place=True)
        clock.advance(2)
        await take(bench, job_id, execution, ordinal=2, wait_for=1, in_place=True)
        await bench.finish(job_id, execution, JobState.COMPLETED)
    await store.close()
    return path


def unguarded(path):
    """Open a file without triggers, checks and unique indexes: those would refuse most of it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    things = connection.execute(
        "SELECT type, name FROM sqlite_schema WHERE tbl_name = 'signal_ledger_events' AND sql IS NOT NULL"
    ).fetchall()
    for kind, name in things:
        if kind in ("trigger", "index"):
            connection.execute(f"DROP {kind} {name}")
    return connection


@pytest.mark.parametrize("kind", KINDS)
async def test_l7_each_changed_column_of_each_kind_is_named(path, kind, request, record_property):
    connection = unguarded(path)
    request.addfinalizer(connection.close)
    changes = 0
    async with open_ledger(f"sqlite:///{path}", read_only=True) as ledger:
        for column, values in VALUES.items():
            for value in values:
                found = change(connection, kind, column, value)
                if found is None:
                    continue
                version, after, undo = found
                changes += 1
                report = await ledger.verify()
                check(report, column, version, after, f"{kind}.{column} = {value}: {report}")
                undo()
        assert (await ledger.verify()).ok
    record_property("changes, all named", changes)
    assert set(VALUES) == set(StoredEvent._fields)
    assert changes > 60


def change(connection, kind, column, value):
    """Change a column of the second stream's event; return its version, what is there now, and how to undo it."""
    position, version, before = connection.execute(
        f"SELECT position, version, {column} FROM signal_ledger_events WHERE job_id = 2 AND kind = ?", (kind,)
    ).fetchone()

    def store(expression, *parameters):
        connection.execute(
            f"UPDATE signal_ledger_events SET {column} = {expression} WHERE position = {position}", parameters
        )

    try:
        store(value)
    except sqlite3.IntegrityError as refused:
        assert "NOT NULL" in str(refused)
        return None
    [after] = connection.execute(f"SELECT {column} FROM signal_ledger_events WHERE position = {position}").fetchone()
    return None if after == before else (version, after, lambda: store("?", before))


def check(report, column, version, after, what):
    assert not report.ok, what
    where = {(finding.job_id, finding.version) for finding in report.findings}
    if column == "job_id":
        assert (after, version) in where, what
        assert any(job_id == 2 for job_id, _ in where), what
    elif column == "version":
        assert (2, after) in where, what
    else:
        assert (2, version) in where, what
        assert {job_id for job_id, _ in where} == {2}, what
    assert all(finding.expected and finding.found for finding in report.findings), what
    assert re.search(r"job -?\d+, version -?\d+: \w\d+ .*: expected .*, found ", str(report)), what
    assert "swordfish" not in str(report), what
