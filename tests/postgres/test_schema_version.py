"""Which version of the schema a database has, asked for without changing anything."""

import psycopg
import pytest

from signal_ledger import SchemaError, SchemaVersion, migrate, schema_version
from signal_ledger.ports import StoreUnavailableError
from signal_ledger_adapters.postgres.schema import migrations
from tests.postgres.catalogue import catalogue
from tests.postgres.conftest import install_oban
from tests.postgres.engine.conftest import query

NEWEST = migrations()[-1].version


async def test_a_database_without_a_ledger_has_none_and_gets_none(database):
    assert await schema_version(database) == SchemaVersion(installed=None, newest=NEWEST)
    assert query(database, "SELECT to_regnamespace('signal_ledger')") == [(None,)]


async def test_a_schema_of_this_release_is_current_whatever_its_oban(database):
    await install_oban(database, "Our Jobs")
    await migrate(database, schema="Audit", oban_prefix="Our Jobs")
    before = catalogue(database, "Audit", "Our Jobs")
    found = await schema_version(database, schema="Audit")
    assert found == SchemaVersion(installed=NEWEST, newest=NEWEST)
    assert found.is_current
    assert (await schema_version(database)).installed is None
    assert catalogue(database, "Audit", "Our Jobs") == before


@pytest.mark.parametrize("version", [1, NEWEST + 1])
async def test_another_version_is_not_current(ledger_url, version):
    query(ledger_url, "UPDATE signal_ledger.settings SET version = %s", version)
    found = await schema_version(ledger_url)
    assert (found.installed, found.newest, found.is_current) == (version, NEWEST, False)


async def test_the_functions_of_another_release_are_not_current(ledger_url):
    query(ledger_url, "UPDATE signal_ledger.settings SET functions = 'others'")
    found = await schema_version(ledger_url)
    assert found == SchemaVersion(installed=NEWEST, newest=NEWEST, has_own_functions=False)
    assert not found.is_current


async def test_who_may_not_look_is_told_so(ledger_url):
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS nosy; CREATE ROLE nosy LOGIN")
        with pytest.raises(SchemaError, match="permission denied for schema signal_ledger; ask its owner"):
            await schema_version(ledger_url.replace("postgres@", "nosy@"))
        connection.execute("DROP ROLE nosy")


async def test_a_server_that_is_not_there_is_told_so(tmp_path):
    with pytest.raises(StoreUnavailableError, match="the database could not be reached"):
        await schema_version(f"postgresql://postgres@/none?host={tmp_path}")
