"""Promise L1: the database refuses every way of cheating, with a message that names the rule. A cheat each."""

import sqlite3

import pytest

from signal_ledger.testing.bench import take
from signal_ledger_adapters.sqlite.rows import event_columns
from signal_ledger_adapters.sqlite.statements import statement


@pytest.fixture
async def cheat(bench, path):
    """A connection that knows nothing of us, to a log with one delivery, consumed, and one pending."""
    job_id = await bench.insert()
    await bench.signaller.send(job_id, "one", key="k")
    await take(bench, job_id, await bench.fetch(job_id))
    await bench.signaller.send(job_id, "two")
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


COLUMNS = (
    "job_id, version, run, kind, schema_version, recorded_at, execution, attempt, channel, ordinal, signal_id, "
    "delivery_version, key, source, deadline_at, cause, outcome, payload, payload_digest, dep, plan, checksum"
)


def insert(connection, verb="INSERT", **changes):
    """Insert a copy of the first event with other columns."""
    names = COLUMNS.split(", ")
    row = dict(
        zip(names, connection.execute(f"SELECT {COLUMNS} FROM signal_ledger_events LIMIT 1").fetchone(), strict=True)
    )
    row |= {"version": 4, "signal_id": "new", "key": None} | changes
    connection.execute(
        f"{verb} INTO signal_ledger_events ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values())
    )


def test_the_copy_itself_is_accepted(cheat):
    insert(cheat)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE signal_ledger_events SET source = 'forged'",
        "UPDATE signal_ledger_events SET version = version",
        "UPDATE OR REPLACE signal_ledger_events SET version = 1",
        "UPDATE OR IGNORE signal_ledger_events SET source = 'forged'",
    ],
)
def test_l1_update_is_refused(cheat, sql):
    with pytest.raises(sqlite3.IntegrityError, match="L1: the log is append-only, UPDATE is refused"):
        cheat.execute(sql)


@pytest.mark.parametrize(
    "sql", ["DELETE FROM signal_ledger_events", "DELETE FROM signal_ledger_events WHERE version = 2"]
)
def test_l1_delete_is_refused_also_of_everything(cheat, sql):
    with pytest.raises(sqlite3.IntegrityError, match="L1: the log is append-only, DELETE is refused"):
        cheat.execute(sql)


@pytest.mark.parametrize("version", [1, 2, 3, 5, 99])
def test_l1_a_version_gap_or_repetition_is_refused(cheat, version):
    with pytest.raises(sqlite3.IntegrityError, match="L1: versions have no gaps"):
        insert(cheat, version=version)


@pytest.mark.parametrize("verb", ["REPLACE", "INSERT OR REPLACE"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "L1: versions have no gaps"),
        ({"position": 1}, "L1: the log is append-only, REPLACE is refused"),
        ({"position": 3}, "L1: the log is append-only, REPLACE is refused"),
        ({"signal_id": "00000000-0000-0000-0000-000000000001"}, "D6: the delivery is in the log already"),
        ({"key": "k"}, "D6: the key is in the log already"),
        (
            {
                "kind": "consumed",
                "execution": 1,
                "ordinal": 1,
                "delivery_version": 3,
                "signal_id": "00000000-0000-0000-0000-000000000002",
            },
            "W8: the wait has an outcome already",
        ),
        (
            {
                "kind": "consumed",
                "execution": 1,
                "ordinal": 2,
                "delivery_version": 1,
                "signal_id": "00000000-0000-0000-0000-000000000001",
            },
            "W8: the delivery is consumed already",
        ),
        (
            {
                "kind": "timed_out",
                "execution": 1,
                "ordinal": 1,
                "deadline_at": "2026-01-01T12:00:00.000000Z",
            },
            "W8: the wait has an outcome already",
        ),
    ],
)
def test_l1_replace_is_refused_by_whatever_it_collides(cheat, verb, changes, message):
    before = cheat.execute("SELECT * FROM signal_ledger_events").fetchall()
    with pytest.raises(sqlite3.IntegrityError, match=message):
        insert(cheat, verb, **changes)
    assert cheat.execute("SELECT * FROM signal_ledger_events").fetchall() == before


@pytest.mark.parametrize("verb", ["REPLACE", "INSERT OR REPLACE"])
@pytest.mark.parametrize("guard", ["signal_ledger_events_append_delivered", "signal_ledger_events_append_outcome"])
def test_l1_without_the_guards_replace_would_rewrite_the_log(cheat, verb, guard):
    """Why they are there: delete triggers do not run for the rows that REPLACE removes."""
    cheat.execute(f"DROP TRIGGER {guard}")
    changes = {"signal_id": "00000000-0000-0000-0000-000000000001"}
    if "outcome" in guard:
        changes |= {"kind": "consumed", "execution": 1, "ordinal": 1, "delivery_version": 1}
    insert(cheat, verb, **changes)
    assert cheat.execute("SELECT min(version), count(*) FROM signal_ledger_events").fetchone() != (1, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"signal_id": None},
        {"channel": None},
        {"payload_digest": None},
        {"payload_digest": "short"},
        {"outcome": None},
        {"kind": "consumed", "execution": None, "ordinal": 9, "delivery_version": 1},
        {"kind": "consumed", "execution": 1, "ordinal": None, "delivery_version": 1},
        {"kind": "consumed", "execution": 1, "ordinal": 9, "delivery_version": None},
        {"kind": "consumed", "execution": 1, "ordinal": 9, "delivery_version": 1, "signal_id": None},
        {"kind": "consumed", "execution": 1, "ordinal": 9, "delivery_version": 1, "channel": None},
        {"kind": "timed_out", "execution": 1, "ordinal": 9, "deadline_at": None},
        {"kind": "awaited", "execution": 1, "ordinal": None},
        {"kind": "snoozed", "execution": None, "ordinal": 1},
        {"kind": "closed", "cause": None},
        {"run": 0},
        {"schema_version": 0},
        {"recorded_at": "yesterday"},
        {"recorded_at": None},
        {"checksum": None},
        {"checksum": "short"},
        {"version": "four"},
    ],
    ids=str,
)
def test_w8_columns_that_unique_indexes_stand_on_are_never_null_and_have_their_form(cheat, changes):
    with pytest.raises(sqlite3.IntegrityError):
        insert(cheat, **changes)


def test_w8_the_unique_indexes_hold_though_all_triggers_are_gone(cheat):
    """The database enforces at-most-once twice; neither half relies on the other."""
    for (trigger,) in cheat.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        cheat.execute(f"DROP TRIGGER {trigger}")
    for changes in (
        {"version": 1},
        {"signal_id": "00000000-0000-0000-0000-000000000001"},
        {"key": "k"},
        {"kind": "consumed", "execution": 1, "ordinal": 1, "delivery_version": 3},
        {
            "kind": "consumed",
            "execution": 1,
            "ordinal": 2,
            "delivery_version": 1,
            "signal_id": "00000000-0000-0000-0000-000000000001",
        },
    ):
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed"):
            insert(cheat, **changes)


def test_the_statement_that_appends_names_the_columns_of_a_stored_event():
    from signal_ledger.stored import StoredEvent

    assert ", ".join(StoredEvent._fields) == COLUMNS
    text = statement("append_event")
    assert [line.strip(" ,") for line in text.splitlines()[1:-1]] == list(StoredEvent._fields)
    assert text.count("?") == len(StoredEvent._fields)
    assert callable(event_columns)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("args", "[1]"),
        ("args", "null"),
        ("meta", "[1]"),
        ("errors", "{}"),
        ("tags", "1"),
        ("attempted_by", "null"),
        ("scheduled_at", "2026-01-01 12:00:00"),
        ("scheduled_at", "2026-13-45T12:00:00.000000Z"),
        ("scheduled_at", "2026-02-30T12:00:00.000000Z"),
        ("inserted_at", "yesterday"),
        ("attempted_at", "2026-01-01T12:00:00.000000"),
        ("attempted_at", "2026-01-01T12:00:00.5Z"),
        ("attempted_at", "2026-01-01T12:00:00+00:00.000000Z"),
        ("attempted_at", "2026-01-01T12:00:60.000000Z"),
    ],
)
async def test_a_job_that_no_engine_could_read_is_refused_whoever_writes_it(bench, path, column, value):
    await bench.insert()
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError, match=column):
        connection.execute(f"UPDATE oban_jobs SET {column} = ?", (value,))
    # As SQLite itself writes the time.
    connection.execute("UPDATE oban_jobs SET scheduled_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')")
    connection.close()


@pytest.mark.parametrize("fraction", ["000000", "000001", "499999", "999499", "999500", "999999", "000", "999"])
@pytest.mark.parametrize("second", ["2026-12-31T23:59:59", "2028-02-29T00:00:00", "9999-12-31T23:59:59"])
async def test_every_instant_can_be_written(bench, path, second, fraction):
    """SQLite rounds instants to milliseconds, into the second after, where it reads them itself."""
    await bench.insert()
    connection = sqlite3.connect(path, isolation_level=None)
    for column in (
        "inserted_at",
        "scheduled_at",
        "attempted_at",
        "cancelled_at",
        "completed_at",
        "discarded_at",
    ):
        connection.execute(f"UPDATE oban_jobs SET {column} = ?", (f"{second}.{fraction}Z",))
    connection.close()
