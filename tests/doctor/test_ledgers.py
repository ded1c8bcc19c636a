"""The doctor on ledgers on PostgreSQL: schemas that do not fit, what was switched off or taken away, and rights."""

from pathlib import Path

import psycopg
import pytest
from oban.schema import install_sql

from signal_ledger import migrate
from signal_ledger_adapters.doctor import Status
from signal_ledger_adapters.doctor.postgres_schema import OBAN_COLUMNS, OBAN_STATES
from signal_ledger_adapters.postgres.schema import Names, functions_digest, migrations
from tests.docs.test_rights import GRANTS
from tests.doctor.looked import looked
from tests.doctor.test_servers import ALL
from tests.postgres.conftest import install_oban
from tests.postgres.engine.conftest import query

NEWEST = migrations()[-1].version
OF_LEDGER = ["triggers", "indexes", "rights", "repairs", "outbox", "waits", "engines"]
WITHOUT_LEDGER = [name for name in ALL if name not in OF_LEDGER]
RELEASED = Path(__file__).parents[1] / "postgres" / "released"


async def test_a_database_without_anything_is_found(database):
    found = await looked(database)
    assert list(found) == WITHOUT_LEDGER
    assert found["schema"].found == "there is no ledger in schema 'signal_ledger'"
    assert "run migrate(url, schema='signal_ledger', oban_prefix='public')" in found["schema"].advice
    assert "but oban_jobs, oban_leaders, oban_producers are not there" in found["oban"].found
    assert "python -m oban install" in found["oban"].advice
    # A channel of its own can be tried all the same.
    assert found["hints"].status is Status.OK


async def test_a_ledger_under_another_name_is_pointed_at(database):
    await install_oban(database)
    await migrate(database, schema="audit")
    found = await looked(database)
    assert found["schema"].found == "there is no ledger in schema 'signal_ledger', but in 'audit'"
    assert found["schema"].advice.startswith("use schema='audit'")
    assert (await looked(database, schema="audit"))["schema"].status is Status.OK


async def test_a_ledger_belongs_to_its_obans_prefix(database):
    await install_oban(database, "Our Jobs")
    await migrate(database, oban_prefix="Our Jobs")
    found = await looked(database)
    assert list(found) == ALL
    assert "for the Oban in 'Our Jobs'" in found["schema"].found
    assert found["oban"].found == "Oban's tables are there, in schema 'Our Jobs'"
    assert found["hints"].found.endswith("on Our Jobs.oban_signal_ledger")
    query(database, 'ALTER SCHEMA "Our Jobs" RENAME TO "Their Jobs"')
    found = await looked(database)
    assert {"oban", "triggers"} <= set(found.problems())
    assert "expected Oban's tables in schema 'Our Jobs'" in found["oban"].found


async def test_an_oban_with_two_ledgers_is_found(fresh_url):
    await install_oban(fresh_url, "other")
    await migrate(fresh_url, schema="audit", oban_prefix="other")
    query(fresh_url, "UPDATE audit.settings SET oban_prefix = 'public', functions = %s", digest("audit", "public"))
    found = await looked(fresh_url, schema="audit")
    assert "schema" in found.problems()
    assert "belongs to the Oban in 'public', whose jobs are another ledger's, in schema 'signal_ledger'" in (
        found["schema"].found
    )


def digest(schema, prefix):
    return functions_digest(Names(schema=schema, oban_prefix=prefix))


@pytest.mark.parametrize(
    ("change", "told", "advised"),
    [
        (f"version = {NEWEST - 1}", f"has version {NEWEST - 1}, expected {NEWEST}", "run migrate(url"),
        (f"version = {NEWEST + 1}", f"has version {NEWEST + 1}, newer than {NEWEST}", "upgrade signal-ledger"),
        ("functions = 'others'", "the functions of another release", "if this library is the newer one, run migrate("),
    ],
)
async def test_another_version_is_found(fresh_url, change, told, advised):
    query(fresh_url, f"UPDATE signal_ledger.settings SET {change}")
    found = await looked(fresh_url)
    assert list(found) == WITHOUT_LEDGER
    assert "schema" in found.problems()
    assert told in found["schema"].found
    assert advised in found["schema"].advice


@pytest.mark.parametrize("version", [1, 2])
async def test_a_schema_of_an_earlier_release_is_found(database, version):
    await install_oban(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute((RELEASED / f"{version}.sql").read_text(encoding="utf-8"))
    found = await looked(database)
    assert f"has version {version}, expected {NEWEST}" in found["schema"].found
    assert list(found) == WITHOUT_LEDGER


async def test_settings_that_cannot_be_understood_are_found(fresh_url):
    query(fresh_url, "UPDATE signal_ledger.settings SET oban_prefix = ''")
    found = await looked(fresh_url)
    assert list(found) == WITHOUT_LEDGER
    assert found["schema"].found == "expected something that can be understood, but found what leads to a ValueError"


async def test_a_ledger_for_tests_is_noted(ledger_url):
    found = (await looked(ledger_url))["schema"]
    assert (found.status, found.advice) == (Status.NOTE, "nothing, if this is for tests")
    assert "its log may be emptied" in found.found


async def test_what_is_built_upon_is_what_oban_installs(database):
    query(database, install_sql())
    columns = query(
        database,
        "SELECT table_name::text, column_name::text FROM information_schema.columns WHERE table_schema = 'public'",
    )
    assert set(columns) == {(table, column) for table, names in OBAN_COLUMNS.items() for column in names}
    assert set(query(database, "SELECT unnest(enum_range(NULL::oban_job_state))::text")) == {
        (state,) for state in OBAN_STATES
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DROP TABLE oban_producers", "but oban_producers is not there"),
        ("ALTER TABLE oban_jobs RENAME COLUMN attempted_by TO by", "but oban_jobs.attempted_by is not there"),
        (
            "ALTER TYPE oban_job_state RENAME VALUE 'suspended' TO 'held'",
            "but the state suspended is not there",
        ),
    ],
)
async def test_an_oban_that_does_not_fit_is_found(fresh_url, change, told):
    query(fresh_url, change)
    found = await looked(fresh_url)
    assert "oban" in found.problems()
    assert told in found["oban"].found


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("ALTER TABLE oban_jobs DISABLE TRIGGER signal_ledger_moved", "signal_ledger_moved"),
        ("ALTER TABLE oban_jobs ENABLE REPLICA TRIGGER signal_ledger_moved", "signal_ledger_moved"),
        ("DROP TRIGGER signal_ledger_planned ON oban_jobs", "signal_ledger_planned"),
        ("ALTER TABLE signal_ledger.events DISABLE TRIGGER no_update", "no_update"),
        ("DROP TRIGGER append_in_turn ON signal_ledger.events", "append_in_turn"),
        ("DROP TRIGGER tell_ends ON signal_ledger.ends", "tell_ends"),
    ],
)
async def test_triggers_that_do_not_work_are_found_and_made_up_for_by_a_migration(fresh_url, change, missing):
    query(fresh_url, change)
    found = await looked(fresh_url)
    assert [name for name in found.problems() if name in OF_LEDGER] == ["triggers"]
    assert f"to be there and switched on, but {missing} is not" in found["triggers"].found
    assert "run migrate(url" in found["triggers"].advice
    await migrate(fresh_url)
    assert (await looked(fresh_url))["triggers"].status is Status.OK


async def test_indexes_that_are_not_valid_are_found(fresh_url):
    query(
        fresh_url, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'signal_ledger.events_channel'::regclass"
    )
    found = await looked(fresh_url)
    assert "indexes" in found.problems()
    assert 'expected valid indexes, but "signal_ledger"."events_channel" is not' in found["indexes"].found
    query(fresh_url, found["indexes"].advice)
    assert (await looked(fresh_url))["indexes"].status is Status.OK


async def test_an_index_of_obans_that_is_not_valid_is_found(fresh_url):
    query(fresh_url, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'oban_jobs_staging_index'::regclass")
    assert "indexes" in (await looked(fresh_url)).problems()


async def test_indexes_that_are_gone_are_found(fresh_url):
    query(fresh_url, "DROP INDEX signal_ledger.events_consumed, signal_ledger.blocks_dip")
    found = await looked(fresh_url)
    assert "indexes" in found.problems()
    assert "but blocks_dip, events_consumed are not" in found["indexes"].found


@pytest.fixture
def role(fresh_url):
    """Make a role with the rights that are given, and return its URL."""
    with psycopg.connect(fresh_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS application")
        connection.execute("CREATE ROLE application LOGIN")

        def make(*grants):
            for grant in grants:
                connection.execute(grant)
            return fresh_url.replace("postgres@", "application@")

        yield make
        connection.execute("DROP OWNED BY application")
        connection.execute("DROP ROLE application")


USAGE = "GRANT USAGE ON SCHEMA signal_ledger TO application"
AUDITOR = "GRANT SELECT ON ALL TABLES IN SCHEMA signal_ledger TO application"


async def test_the_rights_that_the_reference_lists_for_an_application_are_enough(role):
    ours = "GRANT SELECT, INSERT, UPDATE, DELETE ON oban_jobs, oban_leaders, oban_producers TO application"
    found = await looked(role(*GRANTS, ours))
    assert found["rights"].found == "the role 'application' may run jobs, signal and read"
    assert found["transactions"].status is Status.NOTE
    assert "grant pg_read_all_stats" in found["transactions"].advice
    assert (await looked(role("GRANT pg_read_all_stats TO application")))["transactions"].status is Status.OK


async def test_a_role_that_signals_is_told_from_one_that_runs_jobs(role):
    found = await looked(
        role(
            USAGE,
            "GRANT SELECT ON signal_ledger.settings TO application",
            "GRANT SELECT, INSERT ON signal_ledger.events TO application",
            "GRANT SELECT, INSERT, UPDATE ON signal_ledger.waits TO application",
            "GRANT SELECT, UPDATE ON oban_jobs TO application",
        )
    )
    assert found["rights"].status is Status.NOTE
    assert "the role 'application' may signal, and not run jobs: it lacks DELETE on signal_ledger.waits" in (
        found["rights"].found
    )
    # What it may not look at is said, and is no finding.
    for name in ("repairs", "outbox", "engines"):
        assert found[name].status is Status.NOTE
        assert found[name].found.startswith("this cannot be told: permission denied for table")


async def test_a_role_that_only_reads_is_noted(role):
    found = await looked(role(USAGE, AUDITOR))
    assert found["rights"].status is Status.NOTE
    assert "the role 'application' may only read: to signal it lacks INSERT on signal_ledger.events" in (
        found["rights"].found
    )
    assert found["outbox"].status is Status.OK


async def test_a_role_whose_transactions_only_read_is_noted(role):
    found = await looked(role(*GRANTS, "ALTER ROLE application SET default_transaction_read_only = on"))
    assert found["rights"].status is Status.NOTE
    assert "its transactions are read-only (default_transaction_read_only)" in found["rights"].found


async def test_a_role_that_may_do_nothing_is_found(role):
    found = await looked(role(USAGE, "GRANT SELECT ON signal_ledger.settings TO application"))
    assert "rights" in found.problems()
    assert "it lacks SELECT on signal_ledger.events" in found["rights"].found
    assert "to signal SELECT on signal_ledger.events, INSERT on signal_ledger.events" in found["rights"].found


async def test_a_role_that_may_not_even_enter_is_found(role):
    found = await looked(role())
    assert "schema" in found.problems()
    assert "permission denied for schema signal_ledger" in found["schema"].found
    assert list(found) == WITHOUT_LEDGER
