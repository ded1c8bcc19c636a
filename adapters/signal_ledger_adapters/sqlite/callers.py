"""Writing in a caller's own transaction: through SQLAlchemy's or aiosqlite's connection to the same file."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from signal_ledger.embedded.job_row import JobRow, NewJob, inserted
from signal_ledger.names import JobId
from signal_ledger_adapters.sqlite.rows import job_insert_columns
from signal_ledger_adapters.sqlite.statements import statement


async def insert_jobs(connection: object, path: Path, jobs: Sequence[NewJob], now: datetime) -> list[JobRow]:
    """Insert jobs; they exist once the caller has committed.

    Raises:
        TypeError: It is no connection of SQLAlchemy or aiosqlite.
        ValueError: It is a connection to another file.
    """
    driver = await _driver_connection(connection)
    await _check_file(driver, path)
    rows = []
    for job in jobs:
        row = inserted(JobId(0), job, now)
        async with driver.execute(statement("job_insert"), job_insert_columns(row)) as cursor:
            [job_id] = await cursor.fetchone() or [0]
        rows.append(replace(row, id=JobId(job_id)))
    return rows


async def _driver_connection(connection: object) -> aiosqlite.Connection:
    if isinstance(connection, AsyncSession):
        connection = await connection.connection()
    driver: Any = connection
    if isinstance(connection, AsyncConnection):
        driver = (await connection.get_raw_connection()).driver_connection
    if not isinstance(driver, aiosqlite.Connection):
        raise TypeError(
            "conn: expected a SQLAlchemy AsyncSession or AsyncConnection with aiosqlite, or an aiosqlite Connection, "
            f"got {type(driver).__name__}"
        )
    return driver


async def _check_file(driver: aiosqlite.Connection, path: Path) -> None:
    async with driver.execute("PRAGMA database_list") as cursor:
        files = [Path(file).resolve() for _, name, file in await cursor.fetchall() if name == "main" and file]
    if files != [path]:
        raise ValueError(f"conn: expected a connection to {path}, the ledger's own file, got one to another database")
