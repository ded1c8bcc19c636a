"""Opening the file: pragmas that are read back, and one clear sentence for each way in which it can fail."""

import errno
import os
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from signal_ledger.errors import SchemaError
from signal_ledger.ports import StoreUnavailableError

BUSY_TIMEOUT_S = 5.0
"""How long SQLite itself waits for a lock; whoever needs longer asks again."""

_FULL = 2


def is_sqlite(url: str) -> bool:
    """Say whether a URL is one of a SQLite file. What is no text is refused by who parses it."""
    return str(url).partition(":")[0].partition("+")[0] == "sqlite"


def to_path(url: str | URL) -> Path:
    """Return the file that a URL names, as an absolute path.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or the same with ``sqlite+aiosqlite``.

    Raises:
        ValueError: The URL is none, names another database, or names what is no file: opening a pipe would never end.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError("url: expected a database URL such as sqlite:///signals.db") from None
    if parsed.get_backend_name() != "sqlite":
        raise ValueError(f"url: expected sqlite:///<file>, got a {parsed.get_backend_name()} URL")
    if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
        raise ValueError(
            "url: expected the path of a file, such as sqlite:///signals.db; several connections share the database, "
            "which one in memory cannot"
        )
    # Resolved, because the files beside it must be the same ones under every name.
    path = Path(parsed.database).resolve()
    # Not those of Path, which fail where a folder may not be searched; opening it tells of that.
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        raise ValueError(f"url: expected the path of a file, but {path} is a folder, a pipe or a device")
    return path


def connect(path: Path, *, busy_timeout_s: float | None = None) -> sqlite3.Connection:
    """Open a connection for writing, outside of SQLAlchemy.

    Args:
        path: The file.
        busy_timeout_s: How long to wait for another program's lock, if not for `BUSY_TIMEOUT_S`.

    Raises:
        SchemaError: The file cannot be used.
    """
    connection = None
    timeout_s = BUSY_TIMEOUT_S if busy_timeout_s is None else busy_timeout_s
    try:
        connection = sqlite3.connect(
            path, timeout=timeout_s, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        _set_up(connection, path, read_only=False)
        # It must be free to write in, which only a write can tell; later nobody waits inside of SQLite for a lock.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE signal_ledger_probe (x)")
        connection.execute("ROLLBACK")
        connection.execute("PRAGMA busy_timeout = 0")
        _sync_folder(path)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise open_error(path, error, busy_timeout_s=busy_timeout_s) from error
        raise
    return connection


def create_engine(path: Path, *, read_only: bool) -> AsyncEngine:
    """Return the SQLAlchemy engine for schema and audit queries.

    Its transactions begin as readers; `migrate` alone asks for the write lock.
    """
    mode = "ro" if read_only else "rw"
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=f"{path.as_uri()}", query={"mode": mode, "uri": "true"}),
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_S},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        _set_up(connection, path, read_only=read_only)

    return engine


def _sync_folder(path: Path) -> None:
    """Have the disk keep the names of the database and its log. SQLite does that, too, but overlooks a failure of it.

    Raises:
        SchemaError: The disk has failed.
    """
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # A folder may be one that can be written but not listed, or that is on a file system without such a sync.
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise SchemaError(f"{path} cannot be used: its folder cannot be synced to the disk: {error}") from error


@asynccontextmanager
async def reading(engine: AsyncEngine, path: Path) -> AsyncGenerator[AsyncConnection, None]:
    """Take a connection for audit queries.

    Raises:
        StoreUnavailableError: The database could not be read.
    """
    try:
        async with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise unavailable_error(path, error.orig) from error
        raise


def _set_up(connection: sqlite3.Connection | DBAPIConnection, path: Path, *, read_only: bool) -> None:
    """Set the pragmas that durability stands on, and read them back: SQLite ignores what it cannot do."""
    cursor = connection.cursor()
    try:
        if not read_only:
            cursor.execute("PRAGMA journal_mode = WAL")
            row = cursor.fetchone()
            if row is None or row[0] != "wal":
                raise SchemaError(
                    f"{path}: expected a file system that can do write-ahead logging, found journal {row}"
                )
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA synchronous")
        row = cursor.fetchone()
        if row is None or row[0] != _FULL:
            raise SchemaError(f"{path}: expected synchronous = FULL ({_FULL}), found {row}")
    finally:
        cursor.close()


_EXPECTED = {
    sqlite3.SQLITE_FULL: "room on the disk",
    sqlite3.SQLITE_IOERR: "a disk that reads, writes and syncs",
    sqlite3.SQLITE_READONLY: "a file and a folder that can be written",
    sqlite3.SQLITE_BUSY: "other programs to release their locks",
    sqlite3.SQLITE_CORRUPT: "a whole database, which no other program has written over",
    sqlite3.SQLITE_NOTADB: "a whole database, which no other program has written over",
    sqlite3.SQLITE_CANTOPEN: "a folder that exists and can be written",
}


def unavailable_error(path: Path, error: sqlite3.Error) -> StoreUnavailableError:
    """Say in one sentence what an open file did not do. It may do it later."""
    code = getattr(error, "sqlite_errorcode", 0)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    expected = _EXPECTED.get(code & 0xFF, "a database that can be written")
    unavailable = StoreUnavailableError(f"{path}: expected {expected}, but SQLite says: {error} ({name})")
    unavailable.__cause__ = error
    return unavailable


def open_error(path: Path, error: Exception, *, busy_timeout_s: float | None = None) -> SchemaError:
    """Say in one sentence why a file cannot be opened, though locks were waited for, `BUSY_TIMEOUT_S` unless given."""
    waited_s = BUSY_TIMEOUT_S if busy_timeout_s is None else busy_timeout_s
    reason = str(error)
    if "not a database" in reason:
        return SchemaError(f"{path} is no SQLite database; nothing was changed")
    if "malformed" in reason:
        return SchemaError(f"{path} is damaged ({reason}); nothing was changed")
    if "locked" in reason or "busy" in reason:
        return SchemaError(
            f"{path} is locked by another program for more than {waited_s:g} s; close it there and try again"
        )
    if "readonly" in reason:
        return SchemaError(f"{path} cannot be written: the file or its folder is read-only")
    if "unable to open" in reason:
        return SchemaError(f"{path} cannot be opened: expected a file in a folder that exists and can be written")
    return SchemaError(f"{path} cannot be used: {reason}")
