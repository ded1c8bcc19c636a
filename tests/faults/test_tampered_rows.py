"""Each column of each kind of event, changed underneath: `verify` names it, and never fails itself (promise L7)."""

import sqlite3

import pytest

from signal_ledger import open_ledger
from signal_ledger.stored import StoredEvent
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.tampering import KINDS, VALUES, check, fill


@pytest.fixture
async def filled(tmp_path):
    """A log with an event of each kind, in each of two streams; and the second stream's job."""
    path = tmp_path / "signals.db"
    clock = ManualClock()
    store = await SqliteStore.open(path, clock=clock, create=True)
    [_, job_id] = await fill(EmbeddedBench(store, clock))
    await store.close()
    return path, job_id


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
async def test_l7_each_changed_column_of_each_kind_is_named(filled, kind, request, record_property):
    path, job_id = filled
    connection = unguarded(path)
    request.addfinalizer(connection.close)
    changes = 0
    async with open_ledger(f"sqlite:///{path}", read_only=True) as ledger:
        for column, values in VALUES.items():
            for value in values:
                found = change(connection, job_id, kind, column, value)
                if found is None:
                    continue
                version, after, undo = found
                changes += 1
                report = await ledger.verify()
                check(report, job_id, column, version, after, f"{kind}.{column} = {value!r}: {report}")
                undo()
        assert (await ledger.verify()).ok
    record_property("changes, all named", changes)
    assert set(VALUES) == set(StoredEvent._fields)
    assert changes > 60


def change(connection, job_id, kind, column, value):
    """Change a column of the second stream's event; return its version, what is there now, and how to undo it."""
    position, version, before = connection.execute(
        f"SELECT position, version, {column} FROM signal_ledger_events WHERE job_id = ? AND kind = ?",
        (job_id, kind),
    ).fetchone()

    def store(stored):
        # What is no text cannot be bound as one.
        as_text = isinstance(stored, bytes) and column != "payload"
        connection.execute(
            f"UPDATE signal_ledger_events SET {column} = {'CAST(? AS TEXT)' if as_text else '?'} WHERE position = ?",
            (stored, position),
        )

    try:
        store(value)
    except sqlite3.IntegrityError as refused:
        assert "NOT NULL" in str(refused)
        return None
    [after] = connection.execute(f"SELECT {column} FROM signal_ledger_events WHERE position = {position}").fetchone()
    return None if after == before else (version, after, lambda: store(before))
