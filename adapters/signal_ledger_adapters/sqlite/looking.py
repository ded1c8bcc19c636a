"""Looking at a file and changing nothing at all: neither the file nor the names beside it.

A reader of a file with write-ahead logging makes the log and its index beside it, where there are none. One that may
write takes them away when it closes; one that may not leaves them, or cannot even make them. But where there is no log,
nobody has the file open, and it can be read as it lies there.

That is the last resort: it is done without locks, and closing the file then drops those that this process may have on
it by other connections, as closing any descriptor of it does. So it is only done where this process cannot write.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from signal_ledger_adapters.sqlite.connection import BUSY_TIMEOUT_S, open_error

# What the header of a file says that has write-ahead logging.
_VERSIONS_PLACE = slice(18, 20)
_WITH_LOG = b"\x02\x02"

_AS_IT_LIES = "mode=ro&immutable=1"


def look[T](path: Path, ask: Callable[[sqlite3.Connection], T], *, busy_timeout_s: float | None = None) -> T:
    """Ask a file something.

    Args:
        path: The file, which is there.
        ask: Reads by the connection that it is given, and may be called again.
        busy_timeout_s: How long to wait for the locks of a program that does without write-ahead logging, if not for
            `BUSY_TIMEOUT_S`.

    Returns:
        What ``ask`` has returned.

    Raises:
        SchemaError: The file cannot be read.
    """
    timeout_s = BUSY_TIMEOUT_S if busy_timeout_s is None else busy_timeout_s
    try:
        while True:
            way = _way(path)
            uri = f"{path.as_uri()}?{way}"
            try:
                with closing(sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)) as connection:
                    connection.execute("PRAGMA query_only = 1")
                    answer = ask(connection)
            except sqlite3.Error:
                if way == _AS_IT_LIES and _has_open_log(path):
                    continue
                raise
            # Else somebody has opened it meanwhile, and may have written to it.
            if way != _AS_IT_LIES or not _has_open_log(path):
                return answer
    except (sqlite3.Error, OSError) as error:
        raise open_error(path, error, busy_timeout_s=busy_timeout_s) from error


def journal_of(path: Path, *, busy_timeout_s: float | None = None) -> str:
    """Return the journal mode of a file, such as ``wal``.

    Raises:
        SchemaError: The file cannot be read.
    """
    try:
        if _way(path) == _AS_IT_LIES:
            # So it was found to be; the connection itself would have no journal at all.
            return "wal"
    except OSError as error:
        raise open_error(path, error) from error
    return look(path, _journal, busy_timeout_s=busy_timeout_s)


def can_write(path: Path) -> bool:
    """Say whether this process may write a file, and make others beside it."""
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def _journal(connection: sqlite3.Connection) -> str:
    [mode] = connection.execute("PRAGMA journal_mode").fetchone()
    return str(mode)


def _way(path: Path) -> str:
    if _has_open_log(path):
        # A writer that closes as the last one would write the log back.
        return "mode=ro"
    if can_write(path):
        return "mode=rw"
    with path.open("rb") as file:
        header = file.read(_VERSIONS_PLACE.stop)
    return _AS_IT_LIES if header[_VERSIONS_PLACE] == _WITH_LOG else "mode=ro"


def _has_open_log(path: Path) -> bool:
    return path.with_name(f"{path.name}-wal").exists()
