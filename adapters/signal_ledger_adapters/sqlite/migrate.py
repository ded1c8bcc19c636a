"""The schema: numbered SQL files, applied in one transaction when a file is opened."""

import asyncio
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from signal_ledger.errors import SchemaError
from signal_ledger_adapters.sqlite.connection import connect, create_engine, open_error
from signal_ledger_adapters.sqlite.looking import look

_VERSIONS = """
CREATE TABLE IF NOT EXISTS signal_ledger_schema (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT
"""

_HAS_VERSIONS = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'signal_ledger_schema'"
_VERSION = "SELECT max(version) FROM signal_ledger_schema"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema.

    Args:
        version: Its number, from 1.
        name: Its file.
        sql: Its statements.
    """

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Lower-case hex SHA-256 of the file, so that it can be told what was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return all steps in their order."""
    folder = files(__package__).joinpath("migrations")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [
        Migration(version=int(name[:4]), name=name, sql=folder.joinpath(name).read_text(encoding="utf-8"))
        for name in names
    ]


async def migrate_file(path: Path) -> int:
    """Make a file with the newest schema, or bring the one that is there to it, and close it again.

    Returns:
        The version of the schema.

    Raises:
        SchemaError: The file cannot serve; the message says why.
    """
    steps = migrations()
    connection = await asyncio.to_thread(connect, path)
    try:
        engine = create_engine(path, read_only=False)
        try:
            await migrate(engine, path, steps)
        finally:
            await engine.dispose()
    finally:
        connection.close()
    return steps[-1].version


def installed_version(path: Path) -> int | None:
    """Return the version of a file's schema; None if there is no file, or no ledger in it. Changes nothing.

    Raises:
        SchemaError: It is no database, or cannot be read.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise open_error(path, error) from error
    return look(path, version_of)


def version_of(connection: sqlite3.Connection) -> int | None:
    """Return the version of the schema that a connection leads to; None if there is no ledger."""
    if not connection.execute(_HAS_VERSIONS).fetchone()[0]:
        return None
    version: int | None = connection.execute(_VERSION).fetchone()[0]
    return version


async def migrate(engine: AsyncEngine, path: Path, steps: Sequence[Migration]) -> None:
    """Bring a file to the newest schema. All steps are one transaction; another process may do the same meanwhile.

    Args:
        engine: Opened for writing.
        path: The file, for messages.
        steps: All steps there are.

    Raises:
        SchemaError: The file is newer than this library, is no database, is read-only or is locked.
    """
    try:
        async with engine.connect() as connection:
            if await _version(connection, path, steps) == len(steps):
                return
            await connection.rollback()
            # Looked at again under the lock: another process may have been faster.
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                await connection.exec_driver_sql(_VERSIONS)
                done = await _version(connection, path, steps)
                for step in steps[done:]:
                    await _apply(connection, step)
                await connection.exec_driver_sql("COMMIT")
            except BaseException:
                await connection.exec_driver_sql("ROLLBACK")
                raise
    except DBAPIError as error:
        raise open_error(path, error.orig or error) from error


async def check(engine: AsyncEngine, path: Path, steps: Sequence[Migration], *, may_upgrade: bool) -> None:
    """Check that a file holds a ledger that this library can use, without changing it.

    Args:
        engine: Reads the file.
        path: The file, for messages.
        steps: All steps there are.
        may_upgrade: An old schema will do.

    Raises:
        SchemaError: It has none, an old one or a newer one; or it cannot be read.
    """
    try:
        async with engine.connect() as connection:
            version = await _version(connection, path, steps)
    except DBAPIError as error:
        raise open_error(path, error.orig or error) from error
    if version == 0:
        raise SchemaError(f"{path} holds no ledger; `signal-ledger migrate` or lite(url) makes one in it")
    if version < len(steps) and not may_upgrade:
        raise SchemaError(
            f"{path} has schema version {version}, expected {len(steps)}; `signal-ledger migrate` upgrades it, "
            "or open it once for writing"
        )


async def _version(connection: AsyncConnection, path: Path, steps: Sequence[Migration]) -> int:
    if not await connection.scalar(text(_HAS_VERSIONS)):
        return 0
    version = await connection.scalar(text(_VERSION)) or 0
    if version > len(steps):
        raise SchemaError(
            f"{path} has schema version {version}, newer than {len(steps)}, which this library knows; "
            "upgrade signal-ledger; nothing was changed"
        )
    return int(version)


async def _apply(connection: AsyncConnection, step: Migration) -> None:
    for statement in _statements(step.sql):
        await connection.exec_driver_sql(statement)
    await connection.exec_driver_sql(
        "INSERT INTO signal_ledger_schema (version, name, checksum) VALUES (?, ?, ?)",
        (step.version, step.name, step.checksum),
    )


def _statements(script: str) -> Iterator[str]:
    """Split a script where SQLite itself sees a statement end, so that trigger bodies stay whole."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
