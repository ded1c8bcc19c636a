"""Another process that watches a SQLite file: connections of one process share their memory in any case."""

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

WATCH_S = 1.0
"""How long a commit is waited for."""

# It says when it watches, and when it sees a commit of somebody else.
_WATCH = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], uri=True, isolation_level=None)
connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
mark = connection.execute("PRAGMA data_version").fetchone()
print("watching", flush=True)
ends = time.monotonic() + float(sys.argv[2])
while time.monotonic() < ends:
    if connection.execute("PRAGMA data_version").fetchone() != mark:
        print("seen", flush=True)
        break
    time.sleep(0.001)
"""


class Watcher:
    """A process that watches a file. It ends by itself, and at the latest with the ``with`` block.

    Args:
        path: The file.
        timeout_s: How long it may take to begin, and to see a commit, if that is less than `WATCH_S`.

    Raises:
        OSError: It could not be started.
        ValueError: It did not begin to watch.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._watch_s = min(WATCH_S, timeout_s)
        self._process = subprocess.Popen(  # noqa: S603 - this very Python
            [sys.executable, "-I", "-c", _WATCH, f"{path.as_uri()}?mode=ro", str(self._watch_s)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None  # noqa: S101
        self._says: IO[str] = self._process.stdout
        if self._says.readline() != "watching\n":
            self.close()
            raise ValueError(f"it ended with status {self._process.returncode}")

    def seen_after_s(self) -> float | None:
        """Return how long from now it takes until it sees a commit; None if it sees none."""
        began = time.perf_counter()
        return time.perf_counter() - began if self._says.readline() == "seen\n" else None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._says.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
