"""One scratch cluster for each worker of pytest, and a database of its own for each test."""

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess

import psycopg
import pytest
from oban._query import Query
from oban.schema import install_sql
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool

from signal_ledger_adapters.postgres.binaries import PostgresMissingError
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.migrate import migrate
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.scratch import scratch_cluster
from signal_ledger_adapters.postgres.store import PostgresStore
from tests.postgres.bench import DatabaseClock, PostgresBench
from tests.postgres.version import wanted_version

numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster():
    """A cluster that outlives the test: leave it running. Its commits survive its crash, but not one of the machine."""
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(scratch_cluster(wanted_version(), durable=False))
        except PostgresMissingError as missing:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(missing))
        yield cluster


@pytest.fixture
def database(cluster):
    """The URL of a fresh, empty database."""
    name = f"test_{next(numbers)}"
    yield cluster.create_database(name)
    cluster.drop_database(name)


async def install(url, *, testing):
    """Install Oban's schema and the ledger's."""
    await install_oban(url)
    await migrate(to_url(url), Names(), testing=testing)


async def install_oban(url, schema="public"):
    """Install Oban's tables. It puts the name of its schema into SQL as it is, so the schema is renamed later."""
    async with AsyncConnectionPool(url, min_size=1, open=False) as pool:
        if schema == "public":
            await Query(pool).install()
            return
        async with pool.connection() as connection:
            await connection.execute("CREATE SCHEMA made_by_oban; SET search_path = made_by_oban")
            await connection.execute(install_sql("made_by_oban"))
            await connection.execute(SQL("ALTER SCHEMA made_by_oban RENAME TO {}").format(Identifier(schema)))


@pytest.fixture(scope="session")
def psql(cluster):
    """Run SQL by psql, all or nothing, and return what it prints."""
    beside = cluster._programs / "psql"
    program = beside if beside.exists() else shutil.which("psql")
    if program is None:
        pytest.skip("psql is not here")

    def run(url, sql, *, one_transaction=True):
        done = subprocess.run(
            [program, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file=-"]
            + ["--single-transaction"] * one_transaction
            + [f"--dbname={url}"],
            input=sql,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    return run


@pytest.fixture(scope="session")
def template(cluster):
    """A database to copy: Oban's tables and a ledger for testing."""
    asyncio.run(install(cluster.create_database("template_of_tests"), testing=True))
    return "template_of_tests"


@pytest.fixture(scope="session")
def template_of_fresh(cluster):
    """A database with Oban's tables and a ledger as users have it."""
    asyncio.run(install(cluster.create_database("template_of_fresh"), testing=False))
    return "template_of_fresh"


@pytest.fixture
def ledger_url(cluster, template):
    """The URL of a fresh database with Oban's tables and a ledger for testing."""
    name = f"ledger_{next(numbers)}"
    yield cluster.create_database(name, template=template)
    cluster.drop_database(name)


@pytest.fixture
async def bench(ledger_url):
    """The store on such a database, with a clock that tests move."""
    store = await PostgresStore.open(to_url(ledger_url), Names())
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        yield PostgresBench(store, connection, DatabaseClock(connection))
    await store.close()
