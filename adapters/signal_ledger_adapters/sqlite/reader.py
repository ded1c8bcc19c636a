"""Small reads in the event loop, which wait for nobody, and a look whether anybody has written."""

import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from signal_ledger.unit import Operation
from signal_ledger_adapters.sqlite.connection import unavailable_error
from signal_ledger_adapters.sqlite.unit import Known, SqliteUnit

# Readers wait for nobody in write-ahead logging, but for the moment in which the log of a crashed process is recovered.
_RECOVERY_TIMEOUT_S = 1.0


class Reader:
    """A connection that cannot write.

    Args:
        path: The file.
        clock: Returns the present time as an aware UTC datetime.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self._connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro",
            uri=True,
            timeout=_RECOVERY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        self._path = path
        self._clock = clock

    def run[R](self, operation: Operation[SqliteUnit, R]) -> R:
        """Run an operation that only reads. All that it reads is of one moment.

        Raises:
            StoreUnavailableError: The database could not be read.
        """
        try:
            self._connection.execute("BEGIN")
            return operation.run(SqliteUnit(self._connection, self._clock(), Known()))
        except sqlite3.Error as error:
            raise unavailable_error(self._path, error) from error
        finally:
            self._connection.rollback()

    def mark(self) -> int:
        """Return a number that is another one after each commit of another connection. Takes two microseconds.

        Raises:
            StoreUnavailableError: The database could not be read.
        """
        try:
            [data_version] = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            raise unavailable_error(self._path, error) from error
        return int(data_version)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
