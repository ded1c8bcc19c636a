"""Installing the ledger's schema beside Oban's tables, and saying what is wrong with the one that is there.

The tables come by numbered steps, each applied once. The functions and triggers are put in place anew by every
migration that finds others, and what no longer belongs to them goes, so that an upgraded schema is a fresh one.
"""

import asyncio
import logging
import shlex
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from signal_ledger.errors import SchemaError
from signal_ledger_adapters.postgres.asking import TIMEOUT_S, Asking
from signal_ledger_adapters.postgres.connection import connected, create_engine, dispose, driver_of
from signal_ledger_adapters.postgres.pooler import PooledConnection
from signal_ledger_adapters.postgres.schema import (
    Index,
    Names,
    functions_digest,
    functions_sql,
    guards,
    literal,
    migrations,
    triggers,
)

logger = logging.getLogger(__name__)

_DEADLOCKS_MAX = 10

_LOCK_TIMEOUT_S = 1
_GIVE_WAY_S = 1.0

_REQUIRE = """
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

# The schema may have been made by somebody who has more rights.
_REGISTER = """
DO $$
BEGIN
    IF to_regnamespace(quote_ident(<'ledger'>)) IS NULL THEN
        CREATE SCHEMA <ledger>;
    END IF;
END;
$$;
CREATE TABLE IF NOT EXISTS ledger.settings (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id          uuid    NOT NULL DEFAULT gen_random_uuid(),
    version     integer NOT NULL,
    functions   text    NOT NULL,
    oban_prefix text    NOT NULL,
    testing     boolean NOT NULL
);
"""

_OBAN_PREFIX = """
CREATE OR REPLACE FUNCTION ledger.oban_prefix() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT <'oban'>::text $$;
"""

_TESTING = """
CREATE TABLE IF NOT EXISTS ledger.test_clock (now timestamptz);
CREATE OR REPLACE FUNCTION ledger.clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE SET jit = off
AS $$ SELECT coalesce((SELECT c.now FROM ledger.test_clock AS c), clock_timestamp()) $$;
CREATE OR REPLACE FUNCTION ledger.refuse_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'signal_ledger L1: the log is append-only, % is refused', TG_OP;
END;
$$;
"""

# Not by to_regclass, which within a transaction may still know nothing of a schema that was made meanwhile.
_HAS_SETTINGS = """
SELECT EXISTS (
    SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = 'settings')
"""

# Every change of one gives it another xmin.
_ROUTINES = """
SELECT format('TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass) AS thing, t.oid, t.xmin::text
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE p.pronamespace = to_regnamespace(quote_ident(<'ledger'>))
UNION ALL
SELECT format('ROUTINE %s', p.oid::regprocedure), p.oid, p.xmin::text
FROM pg_proc AS p
WHERE p.pronamespace = to_regnamespace(quote_ident(<'ledger'>))
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


type _Routines = Mapping[str, tuple[int, str]]
"""What to drop a trigger or a function by, and what tells whether it has been changed; triggers first."""


async def migrate(url: URL, names: Names, *, testing: bool = False) -> int:
    """Bring the schema up to this version, in one transaction. Does nothing if it is.

    New indexes on tables that may be large are made before it, while everybody works on.

    Args:
        url: The database.
        names: Where things are to be.
        testing: Make a schema for tests: its log may be emptied by TRUNCATE, and its clock set.

    Returns:
        The version of the tables.

    Raises:
        SchemaError: Oban's tables are missing or have another ledger; the schema is newer, belongs to another Oban, or
            is (not) for testing; or this user may not do it.
    """
    engine = create_engine(url, names)
    try:
        await Asking(engine, TIMEOUT_S).require_sessions()
        await _make_indexes(engine, names, testing=testing)
        deadlocks = 0
        while True:
            try:
                return await _migrate_once(engine, names, testing=testing)
            except asyncpg.DeadlockDetectedError as error:
                # The system may be running, and some lock the log before Oban's table.
                deadlocks += 1
                if deadlocks == _DEADLOCKS_MAX:
                    raise
                logger.warning("the migration is tried again: %s", error)
            except asyncpg.LockNotAvailableError:
                # Who waits for a lock on Oban's table holds up all who come after, so it gives way to them.
                logger.warning("the migration waits for a transaction that has written to Oban's table")
                await asyncio.sleep(_GIVE_WAY_S)
    finally:
        await dispose(engine)


async def check(asking: Asking, names: Names, *, can_write: bool = True) -> None:
    """Check that the schema is there and of this version; and Oban's tables with the triggers on them, to write to it.

    Raises:
        SchemaError: It is not; the message says what to do.
    """
    async with asking.connection() as connection, _rights_required(names):
        driver = await driver_of(connection)
        found = await _settings(driver, names)
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
            await driver.execute(names.put_into(_REQUIRE))
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
    async with _rights_required(names):
        found = await _settings(driver, names)
    if found is None:
        return None
    of_its_oban = Names(schema=names.schema, oban_prefix=found["oban_prefix"])
    return Installed(
        version=found["version"],
        has_own_functions=found["functions"] == functions_digest(of_its_oban),
        oban_prefix=found["oban_prefix"],
        testing=found["testing"],
    )


def script(names: Names) -> str:
    """Return the SQL of a fresh installation, to be run by the user's own migrations in one transaction."""
    steps = migrations()
    settings = (
        "INSERT INTO ledger.settings (version, functions, oban_prefix, testing) "  # noqa: S608 - no value of a user
        f"VALUES ({steps[-1].version}, {literal(functions_digest(names))}, <'oban'>, false);\n"
    )
    parts = [_REQUIRE, _REGISTER, _OBAN_PREFIX, *[step.sql for step in steps], functions_sql(), settings]
    return "\n".join(names.put_into(part.strip("\n") + "\n") for part in parts)


async def _make_indexes(engine: AsyncEngine, names: Names, *, testing: bool) -> None:
    """Make the indexes of the steps to come on the tables that are there, concurrently. Outside of a transaction."""
    async with connected(engine) as connection, _rights_required(names):
        driver = await driver_of(connection)
        found = await _settings(driver, names)
        if found is None:
            return
        _check_fits(found, names, testing=testing)
        wanted = [
            index
            for step in migrations()[found["version"] :]
            for index in step.indexes
            if await driver.fetchval("SELECT to_regclass($1) IS NOT NULL", names.put_into(index.table))
        ]
        if not wanted:
            return
        # Behind a pooler the session is another's next; the limits of the role hold there.
        if not issubclass(type(driver), PooledConnection):
            await driver.execute("SET statement_timeout = 0; SET lock_timeout = 0")
        async with _alone(engine):
            for index in wanted:
                await _make_index(driver, names, index)


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncGenerator[None, None]:
    """Wait until nobody else makes indexes, and have nobody else make them meanwhile.

    What keeps the others out is a transaction, since behind a pooler there are no sessions. It has no snapshot, so an
    index does not wait for it; and nobody waits for it inside of the database, since an index would wait for them.
    """
    async with connected(engine) as connection:
        driver = await driver_of(connection)
        is_told = False
        while True:
            async with driver.transaction(isolation="read_committed"):
                if await driver.fetchval("SELECT pg_try_advisory_xact_lock(hashtext('signal_ledger.indexes'))"):
                    # Also ends the portal of the statement before, and with it the snapshot that this had.
                    await driver.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                    yield
                    return
            if not is_told:
                logger.info("another migration makes the indexes; waiting for it")
                is_told = True
            await asyncio.sleep(_GIVE_WAY_S)


async def _make_index(driver: asyncpg.Connection, names: Names, index: Index) -> None:
    is_valid = await driver.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", names.put_into(index.qualified_name)
    )
    if is_valid:
        return
    if is_valid is not None:
        # Left behind by one who was interrupted.
        await driver.execute(names.put_into(f"DROP INDEX CONCURRENTLY {index.qualified_name}"))
    logger.info("making the index %s; everybody works on meanwhile", index.name)
    await driver.execute(names.put_into(index.concurrently))


async def _migrate_once(engine: AsyncEngine, names: Names, *, testing: bool) -> int:
    async with connected(engine) as connection, _rights_required(names):
        driver = await driver_of(connection)
        # Whatever the database's default is: what the migration before has committed must be seen.
        async with driver.transaction(isolation="read_committed"):
            # Whatever the limits of the role are.
            await driver.execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
            # One at a time, whoever else migrates.
            await driver.execute("SELECT pg_advisory_xact_lock(hashtext('signal_ledger.migrate'))")
            await driver.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'")
            return await _migrate(driver, names, testing=testing)


async def _migrate(driver: asyncpg.Connection, names: Names, *, testing: bool) -> int:
    steps = migrations()
    version = 0
    found = await _settings(driver, names)
    if found is not None:
        _check_fits(found, names, testing=testing)
        version = found["version"]
    await driver.execute(names.put_into(_REQUIRE))
    newest, digest = steps[-1].version, functions_digest(names)
    if found is not None:
        missing = await missing_triggers(driver, names) + await missing_guards(driver, names)
        if (version, found["functions"]) == (newest, digest) and not missing:
            return version
        # What locks jobs, and then the log, has to be through before the triggers are locked the other way round.
        await driver.execute(names.put_into("LOCK TABLE oban.oban_jobs IN EXCLUSIVE MODE"))
    before = await _routines(driver, names)
    await driver.execute(names.put_into(_REGISTER))
    await _put_functions(driver, names, before, [step.sql for step in steps[version:]], testing=testing)
    await driver.execute(
        names.put_into(
            "INSERT INTO ledger.settings (version, functions, oban_prefix, testing) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (only_one) DO UPDATE SET version = $1, functions = $2"
        ),
        newest,
        digest,
        names.oban_prefix,
        testing,
    )
    return newest


async def _put_functions(
    driver: asyncpg.Connection, names: Names, before: _Routines, steps: list[str], *, testing: bool
) -> None:
    """Apply the steps and put the functions and triggers in place; drop those of before that are no longer among them.

    They are replaced where that is possible, so that what was granted on them stays.
    """
    texts = [*steps, _OBAN_PREFIX, functions_sql(), *([_TESTING] if testing else [])]
    sql = "\n".join(map(names.put_into, texts))
    try:
        async with driver.transaction():
            await driver.execute(sql)
    except (asyncpg.InvalidFunctionDefinitionError, asyncpg.WrongObjectTypeError):
        # A function returns something else now, or its parameters have other names.
        await _drop(driver, before)
        await driver.execute(sql)
    else:
        after = await _routines(driver, names)
        await _drop(driver, [thing for thing, known in before.items() if after.get(thing) == known])


async def _drop(driver: asyncpg.Connection, things: Mapping[str, object] | list[str]) -> None:
    for thing in things:
        await driver.execute(f"DROP {thing}")


async def _routines(driver: asyncpg.Connection, names: Names) -> _Routines:
    rows = await driver.fetch(names.put_into(_ROUTINES) + "ORDER BY thing DESC")
    return {row["thing"]: (row["oid"], row["xmin"]) for row in rows}


async def _settings(driver: asyncpg.Connection, names: Names) -> asyncpg.Record | None:
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
async def _rights_required(names: Names) -> AsyncGenerator[None, None]:
    """Turn what the database and `_REQUIRE` refuse into a SchemaError."""
    try:
        yield
    except asyncpg.RaiseError as error:
        raise SchemaError(str(error)) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise SchemaError(f"{_told(names)}: {error}; ask its owner for the right, or do this as its owner") from error


def _check_fits(found: asyncpg.Record, names: Names, *, testing: bool) -> None:
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
