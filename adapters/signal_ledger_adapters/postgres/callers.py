"""Writing in a caller's own transaction: through SQLAlchemy's, asyncpg's or psycopg's connection to the database."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg
import psycopg
from psycopg.rows import tuple_row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from signal_ledger.arguments import type_name
from signal_ledger.commands import Deliver
from signal_ledger_adapters.postgres.rows import columns_of
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.statements import for_psycopg

_TYPES = ("text", "bigint[]", "text[]", "text[]", "text", "bytea", "text", "text", "text")


class _Statement(NamedTuple):
    """A statement in two paramstyles.

    Args:
        numbered: Asyncpg's.
        unnumbered: Psycopg's.
    """

    numbered: str
    unnumbered: str


def _call_of(function: str, types: Sequence[str]) -> _Statement:
    numbered = ", ".join([f"${number}::{name}" for number, name in enumerate(types, 1)])
    unnumbered = ", ".join([f"%s::{name}" for name in types])
    return _Statement(f"SELECT ledger.{function}({numbered})", f"SELECT ledger.{function}({unnumbered})")


_STORE = _call_of("store", _TYPES)
_STORE_TRACED = _call_of("store_traced", (*_TYPES, "text"))

# The schema or the function is missing: whatever database it is, it is not the ledger's.
_MISSING_ASYNCPG = (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedFunctionError, asyncpg.UndefinedTableError)
_MISSING_PSYCOPG = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
)


async def store_signals(connection: object, names: Names, ledger_id: str, deliveries: Sequence[Deliver]) -> None:
    """Put signals into the outbox; they are relayed once the caller has committed (promise D8).

    A connection that has no open transaction, and commits each statement by itself, commits this one, too.

    Args:
        connection: The caller's.
        names: Where things are.
        ledger_id: Which ledger it must be.
        deliveries: What to store. They differ in their jobs and ids alone.

    Raises:
        TypeError: It is no connection of SQLAlchemy, asyncpg or psycopg.
        ValueError: It is a connection to another database.
    """
    first = deliveries[0]
    parameters: tuple[Any, ...] = (
        ledger_id,
        *columns_of(deliveries, "job_id", "signal_id"),
        [",".join(delivery.key_ids) for delivery in deliveries],
        first.channel,
        first.payload,
        first.payload_digest,
        first.key,
        first.source,
    )
    statement = _STORE
    if first.traceparent is not None:
        statement, parameters = _STORE_TRACED, (*parameters, first.traceparent)
    if isinstance(connection, AsyncSession):
        connection = await connection.connection()
    try:
        is_there = await _call(connection, names, statement, parameters)
    except (*_MISSING_ASYNCPG, *_MISSING_PSYCOPG) as error:
        raise _elsewhere(names) from error
    except DBAPIError as error:
        # The payload is among the parameters, and does not belong into a message.
        error.hide_parameters = True
        if isinstance(error.driver_exception, (*_MISSING_ASYNCPG, *_MISSING_PSYCOPG)):
            raise _elsewhere(names) from error
        raise
    if not is_there:
        raise _elsewhere(names)


async def _call(connection: object, names: Names, statement: _Statement, parameters: tuple[Any, ...]) -> bool:
    """Run the one statement, in the way of the connection's kind.

    SQLAlchemy's is used through SQLAlchemy, which begins its transactions with their first statement.
    """
    driver: Any = connection
    if isinstance(connection, AsyncConnection):
        driver = (await connection.get_raw_connection()).driver_connection
    if isinstance(driver, asyncpg.Connection):
        sql = names.put_into(statement.numbered)
        if isinstance(connection, AsyncConnection):
            return bool((await connection.exec_driver_sql(sql, parameters)).scalar_one())
        return bool(await driver.fetchval(sql, *parameters))
    if isinstance(driver, psycopg.AsyncConnection):
        sql = for_psycopg(names, statement.unnumbered)
        if isinstance(connection, AsyncConnection):
            return bool((await connection.exec_driver_sql(sql, parameters)).scalar_one())
        async with psycopg.AsyncCursor(driver, row_factory=tuple_row) as cursor:
            await cursor.execute(sql.encode(), parameters)
            row = await cursor.fetchone()
        return bool(row and row[0])
    raise TypeError(
        "conn: expected a SQLAlchemy AsyncSession or AsyncConnection with asyncpg or psycopg, an asyncpg Connection, "
        f"or a psycopg AsyncConnection, got {type_name(driver)}"
    )


def _elsewhere(names: Names) -> ValueError:
    return ValueError(
        f"conn: expected a connection to the ledger's own database, with its schema {names.schema!r}, "
        "got one to another database"
    )
