"""Each column of each kind of event, changed underneath on PostgreSQL, as its superuser can: `verify` names it (L7)."""

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from signal_ledger import open_ledger
from tests.postgres.engine.conftest import query
from tests.tampering import KINDS, VALUES, check, fill

# Not of the column's type, or longer than it: no change of a column comes to that.
IMPOSSIBLE = (
    psycopg.errors.DataError,
    psycopg.errors.NotNullViolation,
    psycopg.errors.DatatypeMismatch,
)


@pytest.fixture
async def job_ids(bench):
    """The jobs of two streams with an event of each kind."""
    return await fill(bench)


@pytest.fixture
def unguarded(job_ids, ledger_url):
    """A connection without triggers, constraints and unique indexes: those would refuse most of it."""
    del job_ids
    for [constraint] in query(
        ledger_url,
        "SELECT conname FROM pg_constraint WHERE conrelid = 'signal_ledger.events'::regclass AND contype <> 'n'",
    ):
        query(ledger_url, f"ALTER TABLE signal_ledger.events DROP CONSTRAINT {constraint}")
    for [index] in query(
        ledger_url, "SELECT indexname FROM pg_indexes WHERE schemaname = 'signal_ledger' AND tablename = 'events'"
    ):
        query(ledger_url, f"DROP INDEX signal_ledger.{index}")
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


@pytest.mark.parametrize("kind", KINDS)
async def test_l7_each_changed_column_of_each_kind_is_named(unguarded, job_ids, ledger_url, kind, record_property):
    changes = impossible = 0
    async with open_ledger(ledger_url, read_only=True) as ledger:
        assert (await ledger.verify()).ok
        for column, values in VALUES.items():
            for value in values:
                found = change(unguarded, job_ids[1], kind, column, value)
                if found is None:
                    impossible += 1
                    continue
                version, after, undo = found
                changes += 1
                report = await ledger.verify()
                check(report, job_ids[1], column, version, after, f"{kind}.{column} = {value!r}: {report}")
                undo()
        assert (await ledger.verify()).ok
    record_property("changes, all named", changes)
    record_property("refused by types, or no change", impossible)
    assert changes > 60


def change(connection, job_id, kind, column, value):
    """Change a column of a stream's event; return its version, what is there now, and how to undo it."""
    row = "FROM signal_ledger.events WHERE position = %s"
    position, version = connection.execute(
        "SELECT position, version FROM signal_ledger.events WHERE job_id = %s AND kind = %s", (job_id, kind)
    ).fetchone()
    read = SQL("SELECT {} " + row).format(Identifier(column))
    [before] = connection.execute(read, (position,)).fetchone()

    def store(stored):
        connection.execute(
            SQL("UPDATE signal_ledger.events SET {} = %s WHERE position = %s").format(Identifier(column)),
            (stored, position),
        )

    try:
        store(value)
    except IMPOSSIBLE:
        return None
    [after] = connection.execute(read, (position,)).fetchone()
    return None if after == before else (version, after, lambda: store(before))
