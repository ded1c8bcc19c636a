"""Where the suites run: `--signal-ledger-url`. What they make there is theirs alone, and gone in the end."""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass

import psycopg
import pytest
from oban.schema import install_sql
from psycopg.sql import SQL, Identifier

from property_tests.stores import DatabaseAndMemory, FileAndMemory
from signal_ledger.errors import SchemaError
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.migrate import migrate
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.sqlite.connection import to_path

OPTION = "--signal-ledger-url"


@dataclass
class Site:
    """A place in a database.

    Args:
        url: The database, as libpq knows it.
        names: The schemas.
        connection: A connection to it, each statement of which is a transaction.
    """

    url: str
    names: Names
    connection: psycopg.Connection


@contextlib.contextmanager
def stores_at(url):
    """The class of stores for a URL; None is a SQLite file in a folder for temporary files."""
    scheme = (url or "sqlite://").partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        yield type("Files", (FileAndMemory,), {"parent": None if url is None else _folder_of(url)})
    elif scheme in ("postgresql", "postgres"):
        with _site(url) as site:
            yield type("Database", (DatabaseAndMemory,), {"site": site})
    else:
        _refuse(f"expected sqlite:///... or postgresql://..., got {scheme}://")


def _folder_of(url):
    folder = to_path(url).resolve().parent
    if not folder.is_dir():
        _refuse(f"expected a file in a folder that is there, to put others beside it; there is no {folder}")
    return str(folder)


@contextlib.contextmanager
def _site(url):
    """Schemas with random names, in which Oban and the ledger are installed."""
    libpq_url = to_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    mark = secrets.token_hex(4)
    names = Names(schema=f"signal_ledger_test_{mark}", oban_prefix=f"signal_ledger_test_{mark}_oban")
    with _connected(libpq_url) as connection:
        try:
            _install_oban(connection, names)
            _migrate(url, names)
            yield Site(libpq_url, names, connection)
        finally:
            for schema in (names.schema, names.oban_prefix):
                connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))


def _connected(url):
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        _refuse(f"expected a database that answers; {str(error).strip()}")


def _install_oban(connection, names):
    try:
        connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(names.oban_prefix)))
    except psycopg.errors.InsufficientPrivilege:
        database, user = connection.info.dbname, connection.info.user
        _refuse(
            f"expected the right to create schemas in database {database!r}, user {user!r} does not have it; "
            f"grant it (GRANT CREATE ON DATABASE {database} TO {user}), or use a database of your own"
        )
    # Oban looks into the current schema for what is there already.
    connection.execute(SQL("SET search_path = {}").format(Identifier(names.oban_prefix)))
    connection.execute(install_sql(names.oban_prefix))


def _migrate(url, names):
    try:
        asyncio.run(migrate(to_url(url), names, testing=True))
    except SchemaError as error:
        _refuse(str(error))


def _refuse(reason):
    pytest.fail(f"{OPTION}: {reason}", pytrace=False)
