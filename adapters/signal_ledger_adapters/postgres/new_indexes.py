"""Making the indexes of a migration on tables that hold something, while everybody works on."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from signal_ledger_adapters.postgres.connection import connected, driver_of
from signal_ledger_adapters.postgres.installed import check_fits, rights_required, settings_in
from signal_ledger_adapters.postgres.pooler import PooledConnection
from signal_ledger_adapters.postgres.schema import Index, Names, migrations

logger = logging.getLogger(__name__)

GIVE_WAY_S = 1.0
"""A migration that finds others in its way tries again after so long."""


async def make_indexes(engine: AsyncEngine, names: Names, *, testing: bool) -> None:
    """Make the indexes of the steps to come on the tables that are there, concurrently. Outside of a transaction."""
    async with connected(engine) as connection, rights_required(names):
        driver = await driver_of(connection)
        found = await settings_in(driver, names)
        if found is None:
            return
        check_fits(found, names, testing=testing)
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
            await asyncio.sleep(GIVE_WAY_S)


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
