"""What is installed of the ledger beside Oban's tables, and what is wrong with it, in words."""

import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from sqlalchemy.engine import URL

from signal_ledger.errors import SchemaError
from signal_ledger_adapters.postgres.asking import TIMEOUT_S, Asking
from signal_ledger_adapters.postgres.connection import create_engine, dispose, driver_of
from signal_ledger_adapters.postgres.schema import Names, functions_digest, guards, migrations, triggers

REQUIRE = """
DO $$
DECLARE
    jobs  regclass := to_regclass(format('%I.oban_jobs', <'oban'>));
    owner text;
BEGIN
    IF jobs IS NULL THEN
        RAISE EXCEPTION 'there is no table oban_jobs in schema %; install Oban''s schema first, or say where it is: '
            'oban_prefix= (--oban-prefix)', quote_literal(<'oban'>);
    END IF;
    SELECT n.nspname INTO owner
    FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE t.tgrelid = jobs AND t.tgname = 'signal_ledger_moved' AND n.nspname <> <'ledger'>;
    IF FOUND THEN
        RAISE EXCEPTION 'the Oban in schema % has a ledger, in schema %; use schema=% (--schema) for it, or drop that '
            'one first, and its log with it', quote_literal(<'oban'>), quote_literal(owner), quote_literal(owner);
    END IF;
END;
$$;
"""
"""Fails unless Oban's tables are there and have no other ledger."""

# Not by to_regclass, which within a transaction may still know nothing of a schema that was made meanwhile.
_HAS_SETTINGS = """
SELECT EXISTS (
    SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = 'settings')
"""

_TRIGGERS = """
SELECT array_agg(t.tgname::text)
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE t.tgrelid = to_regclass(format('%I.oban_jobs', <'oban'>)) AND t.tgenabled IN ('O', 'A')
  AND p.pronamespace = to_regnamespace(quote_ident(<'ledger'>))
"""

_GUARDS = """
SELECT array_agg(t.tgname::text)
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = to_regnamespace(quote_ident(<'ledger'>)) AND t.tgenabled IN ('O', 'A')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What is installed in a schema.

    Args:
        version: The version of the tables.
        has_own_functions: Whether the functions are those of this release.
        oban_prefix: The schema of the Oban that it belongs to.
        testing: Whether it was made for tests.
    """

    version: int
    has_own_functions: bool
    oban_prefix: str
    testing: bool


async def check(asking: Asking, names: Names, *, can_write: bool = True) -> None:
    """Check that the schema is there and of this version; and Oban's tables with the triggers on them, to write to it.

    Raises:
        SchemaError: It is not; the message says what to do.
    """
    async with asking.connection() as connection, rights_required(names):
        driver = await driver_of(connection)
        found = await settings_in(driver, names)
        if found is None:
            raise SchemaError(f"{_told(names)} is missing; {advice(names)}")
        newest = migrations()[-1].version
        _check_owner(found, names)
        _check_version(found, names)
        if found["version"] < newest:
            raise SchemaError(f"{_told(names)} is of an older version of this library; {advice(names)}")
        if found["functions"] != functions_digest(names):
            raise SchemaError(
                f"{_told(names)} has the functions of another release of this library: if this process is the newer "
                f"one, {advice(names)}; if the schema was upgraded, start the new release, and do not migrate back"
            )
        if can_write:
            await driver.execute(names.put_into(REQUIRE))
            if missing := await missing_triggers(driver, names):
                raise SchemaError(
                    f"{_told(names)} has no working triggers {', '.join(missing)} on Oban's table; {advice(names)}"
                )


async def find_names(url: URL, schema: str, timeout_s: float = TIMEOUT_S) -> Names:
    """Return where the things of a ledger are, given its own schema; a missing one is left to `check`."""
    found = await find_installed(url, schema, timeout_s)
    return Names(schema=schema) if found is None else Names(schema=schema, oban_prefix=found.oban_prefix)


async def find_installed(url: URL, schema: str, timeout_s: float = TIMEOUT_S) -> Installed | None:
    """Return what is installed in a ledger's own schema; None if there is no ledger. Changes nothing.

    Raises:
        SchemaError: This user may not look; or the connection leads to a pooler that the URL does not tell of.
        TimeoutError: There was no answer in time.
        StoreUnavailableError: The database could not be reached.
    """
    names = Names(schema=schema)
    engine = create_engine(url, names)
    try:
        asking = Asking(engine, timeout_s)
        await asking.require_sessions()
        async with asking.connection() as connection:
            return await installed_in(await driver_of(connection), names)
    finally:
        await dispose(engine)


async def installed_in(driver: asyncpg.Connection, names: Names) -> Installed | None:
    """Return the same, given a connection.

    Raises:
        SchemaError: This user may not look.
    """
    async with rights_required(names):
        found = await settings_in(driver, names)
    if found is None:
        return None
    of_its_oban = Names(schema=names.schema, oban_prefix=found["oban_prefix"])
    return Installed(
        version=found["version"],
        has_own_functions=found["functions"] == functions_digest(of_its_oban),
        oban_prefix=found["oban_prefix"],
        testing=found["testing"],
    )


async def settings_in(driver: asyncpg.Connection, names: Names) -> asyncpg.Record | None:
    """Return the row of the ledger's settings; None if there is no ledger."""
    if not await driver.fetchval(_HAS_SETTINGS, names.schema):
        return None
    return await driver.fetchrow(names.put_into("SELECT * FROM ledger.settings"))


async def missing_triggers(driver: asyncpg.Connection, names: Names) -> list[str]:
    """Return the triggers that are gone, maybe with the table that Oban made anew, or are switched off."""
    return sorted(triggers().difference(await driver.fetchval(names.put_into(_TRIGGERS)) or ()))


async def missing_guards(driver: asyncpg.Connection, names: Names) -> list[str]:
    """Return the triggers on the ledger's own tables that are gone, or are switched off."""
    return sorted(guards().difference(await driver.fetchval(names.put_into(_GUARDS)) or ()))


@asynccontextmanager
async def rights_required(names: Names) -> AsyncGenerator[None, None]:
    """Turn what the database and `REQUIRE` refuse into a SchemaError."""
    try:
        yield
    except asyncpg.RaiseError as error:
        raise SchemaError(str(error)) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise SchemaError(f"{_told(names)}: {error}; ask its owner for the right, or do this as its owner") from error


def check_fits(found: asyncpg.Record, names: Names, *, testing: bool) -> None:
    """Check that a ledger, of which these are the settings, may be migrated.

    Raises:
        SchemaError: It is another Oban's, newer, or was made with another ``testing``.
    """
    _check_owner(found, names)
    _check_version(found, names)
    if found["testing"] != testing:
        raise SchemaError(
            f"{_told(names)} was made with testing={found['testing']}, expected testing={testing}; that cannot be "
            "changed: use another database, or drop the schema first, and its log with it"
        )


def _check_owner(found: asyncpg.Record, names: Names) -> None:
    if found["oban_prefix"] != names.oban_prefix:
        raise SchemaError(
            f"{_told(names)} belongs to Oban's prefix {found['oban_prefix']!r}, "
            f"expected {names.oban_prefix!r}; use another schema= (--schema) for it"
        )


def _check_version(found: asyncpg.Record, names: Names) -> None:
    newest = migrations()[-1].version
    if found["version"] > newest:
        raise SchemaError(
            f"{_told(names)} has version {found['version']}, this library knows {newest}; upgrade the library"
        )


def _told(names: Names) -> str:
    return f"the ledger's schema {names.schema!r}"


def advice(names: Names) -> str:
    """Say how to install or upgrade the schema."""
    call = f"migrate(url, schema={names.schema!r}, oban_prefix={names.oban_prefix!r})"
    options = "".join(
        f" {option} {shlex.quote(name)}"
        for option, name, default in (
            ("--schema", names.schema, Names().schema),
            ("--oban-prefix", names.oban_prefix, Names().oban_prefix),
        )
        if name != default
    )
    return f"run {call} or `signal-ledger migrate{options}`"
