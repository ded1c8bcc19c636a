"""Writing in a caller's own transaction: through SQLAlchemy's or aiosqlite's connection to the same file."""

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from signal_ledger.arguments import type_name
from signal_ledger.commands import Deliver
from signal_ledger.embedded.job_row import JobRow, NewJob, inserted
from signal_ledger.embedded.operations import InsertJobs
from signal_ledger.instants import to_text
from signal_ledger.names import JobId
from signal_ledger.unit import Operation
from signal_ledger_adapters.sqlite.rows import Columns, job_insert_columns, outbox_columns, to_json
from signal_ledger_adapters.sqlite.statements import statement
from signal_ledger_adapters.sqlite.unit import GivenIds, Known, SqliteUnit

_FULL = 2
_LEVELS = {0: "OFF", 1: "NORMAL"}

_SETTINGS = """
SELECT (SELECT file FROM pragma_database_list WHERE name = 'main'), (SELECT synchronous FROM pragma_synchronous),
       (SELECT query_only FROM pragma_query_only)
"""


async def insert_jobs(
    connection: object, path: Path, jobs: Sequence[NewJob], now: datetime, given: GivenIds
) -> list[JobRow]:
    """Insert jobs; they exist once the caller has committed. Their ids are noted, and are not given again.

    Raises:
        TypeError: It is no connection of SQLAlchemy or aiosqlite.
        ValueError: It is a connection to another file, or may not write.
    """
    caller = await _Caller.of(connection)
    await caller.check_file(path)
    # Takes the write lock: of this process, who had it has told by now which ids were given, and may have been rolled
    # back.
    await caller.run("job_ids_begin", ())
    if any("workflow_id" in job.meta for job in jobs):
        # A step is more than a row, and there is one piece of code for that.
        rows = await caller.transact(InsertJobs(jobs=tuple(jobs)), now, given)
    else:
        rows = [await _insert(caller, inserted(JobId(0), job, now), given) for job in jobs]
    for row in rows:
        given.add(row.id)
    return rows


async def _insert(caller: "_Caller", row: JobRow, given: GivenIds) -> JobRow:
    [[job_id]] = await caller.run("job_insert", job_insert_columns(row, given.highest))
    return replace(row, id=JobId(job_id))


async def store_signals(connection: object, path: Path, deliveries: Sequence[Deliver], now: datetime) -> None:
    """Put signals into the outbox; they are relayed once the caller has committed (promise D8).

    A connection that has no open transaction, and commits each statement by itself, commits this one, too.

    Raises:
        TypeError: It is no connection of SQLAlchemy or aiosqlite.
        ValueError: It is a connection to another file, does not sync its commits, or may not write.
    """
    caller = await _Caller.of(connection)
    synchronous = await caller.check_file(path)
    if synchronous < _FULL:
        raise ValueError(
            "conn: expected a connection with PRAGMA synchronous = FULL, which is the default: the signal must survive "
            f"a power cut; got one with {_LEVELS.get(synchronous, synchronous)}"
        )
    await caller.run("outbox_store", outbox_columns(deliveries, now))
    traceparent = deliveries[0].traceparent
    if traceparent is not None:
        traced = to_json([(delivery.signal_id, delivery.job_id) for delivery in deliveries])
        await caller.run("traces_store", (traceparent, to_text(now), traced))


class _Caller:
    """A caller's connection.

    SQLAlchemy's is used through SQLAlchemy: its transactions begin with their first statement, in whatever way the
    application has chosen.

    Args:
        driver: Aiosqlite's.
        connection: SQLAlchemy's above it, if there is one.
    """

    def __init__(self, driver: aiosqlite.Connection, connection: AsyncConnection | None) -> None:
        self._driver = driver
        self._connection = connection

    @classmethod
    async def of(cls, connection: object) -> "_Caller":
        driver: Any = connection
        if isinstance(connection, AsyncSession):
            connection = await connection.connection()
        if isinstance(connection, AsyncConnection):
            driver = (await connection.get_raw_connection()).driver_connection
        if not isinstance(driver, aiosqlite.Connection):
            raise TypeError(
                "conn: expected a SQLAlchemy AsyncSession or AsyncConnection with aiosqlite, or an aiosqlite "
                f"Connection, got {type_name(driver)}"
            )
        return cls(driver, connection if isinstance(connection, AsyncConnection) else None)

    async def check_file(self, path: Path) -> int:
        """Check that it can write to the ledger's own file, and return how it syncs its commits."""
        [[file, synchronous, query_only]] = await self._execute(_SETTINGS, ())
        if not file or Path(file).resolve() != path:
            raise ValueError(
                f"conn: expected a connection to {path}, the ledger's own file, got one to another database"
            )
        if query_only:
            raise ValueError("conn: expected a connection that can write, got one with PRAGMA query_only = ON")
        return int(synchronous)

    async def run(self, name: str, parameters: tuple[object, ...]) -> Sequence[Columns]:
        """Run a statement of ours and return its rows."""
        return await self._execute(statement(name), parameters)

    async def transact[R](self, operation: Operation[SqliteUnit, R], now: datetime, given: GivenIds) -> R:
        """Run an operation inside of the caller's transaction, which is begun if it is not open yet."""
        if self._connection is not None:
            # SQLAlchemy begins it with its first statement, in whatever way the application has chosen.
            await self._execute("SELECT 1", ())
        driver: Any = self._driver

        def run() -> R:
            connection: sqlite3.Connection = driver._conn  # noqa: SLF001 - aiosqlite has no other way to its own thread
            if not connection.in_transaction:
                connection.execute("BEGIN IMMEDIATE")
            unit = SqliteUnit(connection, now, Known(given))
            result = operation.run(unit)
            unit.flush()
            return result

        result: R = await driver._execute(run)  # noqa: SLF001
        return result

    async def _execute(self, sql: str, parameters: tuple[object, ...]) -> Sequence[Columns]:
        if self._connection is None:
            async with self._driver.execute(sql, parameters) as cursor:
                return [tuple(row) for row in await cursor.fetchall()]
        try:
            result = await self._connection.exec_driver_sql(sql, parameters)
        except DBAPIError as error:
            # A payload may be among the parameters, and does not belong into a message.
            error.hide_parameters = True
            raise
        return result.all() if result.returns_rows else []
