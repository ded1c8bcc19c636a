"""Looking at a file and changing nothing at all: neither the file nor the names beside it.

A reader of a file with write-ahead logging makes the log and its index beside it, where there are none, and cannot read
where it may not make them. But where there is no log, nobody has the file open, and it can be read as it lies there.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from signal_ledger_adapters.sqlite.connection import BUSY_TIMEOUT_S, open_error

# What the header of a file says that has write-ahead logging.
_VERSIONS_PLACE = slice(18, 20)
_WITH_LOG = b"\x02\x02"


def look[T](path: Path, ask: Callable[[sqlite3.Connection], T], *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> T:
    """Ask a file something.

    Args:
        path: The file, which is there.
        ask: Reads by the connection that it is given, and may be called again.
        busy_timeout_s: How long to wait for the locks of a program that does without write-ahead logging.

    Returns:
        What ``ask`` has returned.

    Raises:
        SchemaError: The file cannot be read.
    """
    try:
        while True:
            lies_still = _lies_still(path)
            uri = f"{path.as_uri()}?mode=ro{'&immutable=1' if lies_still else ''}"
            try:
                with closing(
                    sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, isolation_level=None)
                ) as connection:
                    answer = ask(connection)
            except sqlite3.Error:
                if lies_still and not _lies_still(path):
                    continue
                raise
            # Else somebody has opened it meanwhile, and may have written to it.
            if not lies_still or _lies_still(path):
                return answer
    except (sqlite3.Error, OSError) as error:
        raise open_error(path, error) from error


def _lies_still(path: Path) -> bool:
    """Say whether a file has write-ahead logging and nobody has opened it."""
    with path.open("rb") as file:
        header = file.read(_VERSIONS_PLACE.stop)
    return header[_VERSIONS_PLACE] == _WITH_LOG and not path.with_name(f"{path.name}-wal").exists()
