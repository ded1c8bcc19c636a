"""The log defends itself: cheating is refused, with a message that names the rule (promises L1, W8, D6)."""

import psycopg
import pytest


@pytest.fixture
async def cheat(bench, ledger_url):
    """A database with a job of two events, and a superuser's connection."""
    job_id = await bench.insert()
    for number in range(2):
        await bench.signaller.send(job_id, number, key=f"k{number}")
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE signal_ledger.events SET source = 'somebody else'", "L1.*UPDATE is refused"),
        ("UPDATE signal_ledger.events SET payload = NULL WHERE version = 1", "L1.*UPDATE is refused"),
        ("DELETE FROM signal_ledger.events", "L1.*DELETE is refused"),
        (
            (
                "INSERT INTO signal_ledger.events (job_id, version, run, kind, schema_version, "
                "recorded_at, cause, checksum) "
                "SELECT job_id, version, run, 'closed', 1, now(), 'completed', checksum FROM signal_ledger.events "
                "WHERE version = 2 ON CONFLICT (job_id, version) DO UPDATE SET cause = 'completed'"
            ),
            "L1: versions have no gaps",
        ),
        (
            (
                "INSERT INTO signal_ledger.events (job_id, version, run, kind, schema_version, "
                "recorded_at, cause, checksum) "
                "SELECT job_id, 4, run, 'closed', 1, now(), 'completed', checksum FROM signal_ledger.events LIMIT 1"
            ),
            "L1: versions have no gaps",
        ),
        (
            (
                "INSERT INTO signal_ledger.events (job_id, version, run, kind, schema_version, recorded_at, channel, "
                "signal_id, payload_digest, outcome, checksum) "
                "SELECT job_id, 3, run, kind, 1, now(), channel, signal_id, "
                "payload_digest, outcome, checksum FROM signal_ledger.events WHERE version = 2"
            ),
            "events_delivered",
        ),
        (
            (
                "INSERT INTO signal_ledger.events (job_id, version, run, kind, schema_version, recorded_at, "
                "channel, key, "
                "signal_id, payload_digest, outcome, checksum) "
                "SELECT job_id, 3, run, kind, 1, now(), channel, key, 'new', "
                "payload_digest, outcome, checksum FROM signal_ledger.events WHERE version = 2"
            ),
            "events_key",
        ),
        (
            (
                "INSERT INTO signal_ledger.events (job_id, version, run, kind, schema_version, recorded_at, execution, "
                "ordinal, signal_id, delivery_version, checksum) SELECT job_id, 3, run, 'consumed', 1, now(), 1, 1, "
                "signal_id, 2, checksum FROM signal_ledger.events WHERE version = 2"
            ),
            "W8: an event of kind consumed lacks a column",
        ),
    ],
)
async def test_l1_cheating_is_refused(cheat, statement, rule):
    before = cheat.execute("SELECT * FROM signal_ledger.events").fetchall()
    with pytest.raises(psycopg.Error, match=rule):
        cheat.execute(statement)
    assert cheat.execute("SELECT * FROM signal_ledger.events").fetchall() == before


COMPLETE = {
    "delivered": {"channel": "''", "signal_id": "'new'", "payload_digest": "repeat('a', 64)", "outcome": "'buffered'"},
    "consumed": {"execution": "1", "channel": "''", "ordinal": "1", "signal_id": "'k'", "delivery_version": "2"},
    "timed_out": {"execution": "1", "channel": "''", "ordinal": "1", "deadline_at": "now()"},
    "awaited": {"execution": "1", "channel": "''", "ordinal": "1"},
    "snoozed": {"execution": "1", "channel": "''", "ordinal": "1"},
    "closed": {"cause": "'completed'"},
    "planned": {"plan": "'{}'"},
    "released": {"dep": "'before'"},
    "skipped": {"dep": "'before'", "cause": "'cancelled'"},
    "cascaded": {"dep": "'before'", "cause": "'cancelled'"},
}


@pytest.mark.parametrize(
    ("kind", "wrong", "value"),
    [
        *((kind, column, "NULL") for kind, columns in COMPLETE.items() for column in columns),
        *((kind, "ordinal", "0") for kind, columns in COMPLETE.items() if "ordinal" in columns),
        ("delivered", "payload_digest", "'short'"),
        ("closed", "checksum", "'short'"),
        ("closed", "run", "0"),
        ("closed", "schema_version", "0"),
    ],
)
async def test_w8_an_event_has_the_columns_of_its_kind(cheat, kind, wrong, value):
    columns = {
        "job_id": "(SELECT max(job_id) FROM signal_ledger.events)",
        "version": "3",
        "run": "1",
        "kind": f"'{kind}'",
        "schema_version": "1",
        "recorded_at": "now()",
        "checksum": "repeat('b', 64)",
        **COMPLETE[kind],
    }

    def append(values):
        cheat.execute(
            f"INSERT INTO signal_ledger.events ({', '.join(values)}) VALUES ({', '.join(values.values())})",
        )

    with pytest.raises(psycopg.errors.CheckViolation, match=f"W8: an event of kind {kind} lacks"):
        append({**columns, wrong: value})
    append(columns)


async def test_w8_a_delivery_has_one_consumption_and_a_wait_one_outcome(cheat):
    consume = (
        "INSERT INTO signal_ledger.events (job_id, version, run, kind, schema_version, recorded_at, execution, "
        "channel, "
        "ordinal, signal_id, delivery_version, checksum) SELECT job_id, %s, run, 'consumed', 1, now(), 1, channel, %s, "
        "signal_id, version, checksum FROM signal_ledger.events WHERE version = %s"
    )
    cheat.execute(consume, [3, 1, 1])
    with pytest.raises(psycopg.errors.UniqueViolation, match="events_consumed"):
        cheat.execute(consume, [4, 2, 1])
    with pytest.raises(psycopg.errors.UniqueViolation, match="events_outcome"):
        cheat.execute(consume, [4, 1, 2])


async def test_l1_only_a_schema_made_for_testing_can_be_emptied(cheat, database):
    from tests.postgres.conftest import install

    cheat.execute("TRUNCATE signal_ledger.events")
    await install(database, testing=False)
    with (
        psycopg.connect(database, autocommit=True) as real,
        pytest.raises(psycopg.errors.RaiseException, match="L1: the log is append-only, TRUNCATE is refused"),
    ):
        real.execute("TRUNCATE signal_ledger.events")


@pytest.mark.parametrize("meta", ["5", "null", '"text"', "[1]", "{}"])
async def test_l3_a_job_with_any_meta_can_be_rescued(bench, ledger_url, meta):
    job_id = await bench.insert()
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute("UPDATE oban_jobs SET state = 'executing', meta = %s WHERE id = %s", [meta, job_id])
        connection.execute("UPDATE oban_jobs SET cancelled_at = now() WHERE id = %s", [job_id])
        connection.execute("UPDATE oban_jobs SET state = 'available' WHERE id = %s", [job_id])
        found = connection.execute("SELECT state::text, meta::text FROM oban_jobs").fetchall()
    assert found == [("cancelled", meta)]


async def test_l3_no_fault_of_the_ledger_stops_obans_own_statements(bench, ledger_url):
    """Its triggers catch their errors: what could not be appended is noted, and made up for."""
    job_ids = [await bench.insert() for _ in range(3)]
    await bench.signaller.send_all(job_ids)
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute("ALTER FUNCTION signal_ledger.close RENAME TO elsewhere")
        await bench.cancel(job_ids[0])
        await bench.delete(job_ids[1])
        connection.execute("ALTER TABLE signal_ledger.repairs RENAME TO gone")
        await bench.cancel(job_ids[2])
        assert (await bench.job(job_ids[2])).state == "cancelled"
        connection.execute("ALTER TABLE signal_ledger.gone RENAME TO repairs")
        connection.execute("ALTER FUNCTION signal_ledger.elsewhere RENAME TO close")
        assert connection.execute("SELECT job_id, cause FROM signal_ledger.repairs ORDER BY 1").fetchall() == [
            (job_ids[0], "cancelled"),
            (job_ids[1], "deleted"),
        ]
        connection.execute("SELECT signal_ledger.repair(10)")
        assert connection.execute("SELECT count(*) FROM signal_ledger.repairs").fetchone() == (0,)
    assert [(await bench.store.history(job_id))[-1].cause for job_id in job_ids[:2]] == ["cancelled", "deleted"]
