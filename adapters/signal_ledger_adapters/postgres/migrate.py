"""Installing the ledger's schema beside Oban's tables, and bringing it up to this version.

The tables come by numbered steps, each applied once. The functions and triggers are put in place anew by every
migration that finds others, and what no longer belongs to them goes, so that an upgraded schema is a fresh one.
"""

import asyncio
import logging
from collections.abc import Mapping

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from signal_ledger_adapters.postgres.asking import TIMEOUT_S, Asking
from signal_ledger_adapters.postgres.connection import connected, create_engine, dispose, driver_of
from signal_ledger_adapters.postgres.installed import (
    REQUIRE,
    check_fits,
    missing_guards,
    missing_triggers,
    rights_required,
    settings_in,
)
from signal_ledger_adapters.postgres.new_indexes import GIVE_WAY_S, make_indexes
from signal_ledger_adapters.postgres.schema import Names, functions_digest, functions_sql, literal, migrations

logger = logging.getLogger(__name__)

_DEADLOCKS_MAX = 10

_LOCK_TIMEOUT_S = 1

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
        await make_indexes(engine, names, testing=testing)
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
                await asyncio.sleep(GIVE_WAY_S)
    finally:
        await dispose(engine)


def script(names: Names) -> str:
    """Return the SQL of a fresh installation, to be run by the user's own migrations in one transaction."""
    steps = migrations()
    settings = (
        "INSERT INTO ledger.settings (version, functions, oban_prefix, testing) "  # noqa: S608 - no value of a user
        f"VALUES ({steps[-1].version}, {literal(functions_digest(names))}, <'oban'>, false);\n"
    )
    parts = [REQUIRE, _REGISTER, _OBAN_PREFIX, *[step.sql for step in steps], functions_sql(), settings]
    return "\n".join(names.put_into(part.strip("\n") + "\n") for part in parts)


async def _migrate_once(engine: AsyncEngine, names: Names, *, testing: bool) -> int:
    async with connected(engine) as connection, rights_required(names):
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
    found = await settings_in(driver, names)
    if found is not None:
        check_fits(found, names, testing=testing)
        version = found["version"]
    await driver.execute(names.put_into(REQUIRE))
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
