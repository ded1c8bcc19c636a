"""The yardstick: what SQLite itself does with the same durability and, for one of the two, with the same rows."""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from signal_ledger_adapters.sqlite.statements import statement

JOBS = 256

type Rows = tuple[tuple[object, ...], tuple[object, ...]]


def connect(path: Path) -> sqlite3.Connection:
    """Open a file as the library does: write-ahead log, FULL."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def bare_rows_per_s(path: Path, batch: int, seconds: float) -> float:
    """Commit batches of rows of two columns into a table without an index."""
    connection = connect(path)
    connection.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY AUTOINCREMENT, job_id INTEGER, payload BLOB) STRICT")
    rows = [
        (job_id, b"\x83t\x00\x00\x00\x01m\x00\x00\x00\x08decisionm\x00\x00\x00\x08approved") for job_id in range(batch)
    ]
    count, ends = 0, time.perf_counter() + seconds
    started = time.perf_counter()
    while time.perf_counter() < ends:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO bare (job_id, payload) VALUES (?, ?)", rows)
        connection.execute("COMMIT")
        count += batch
    taken = time.perf_counter() - started
    connection.close()
    return count / taken


def same_rows_per_s(template: Path, path: Path, batch: int, rows: Sequence[Rows]) -> float:
    """Commit the rows that the library has written, in batches, through its own statements and no line of its code.

    Args:
        template: A file with the ledger's schema and the jobs, but no events.
        path: Where to write.
        batch: How many signals share a commit.
        rows: For each signal, the parameters of the event and of the projection.
    """
    with sqlite3.connect(template) as source, sqlite3.connect(path) as target:
        source.backup(target)
    source.close()
    target.close()
    connection = connect(path)
    started = time.perf_counter()
    for first in range(0, len(rows), batch):
        events, states = zip(*rows[first : first + batch], strict=True)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(statement("append_event"), events)
        connection.executemany(statement("save_state"), states)
        connection.execute("COMMIT")
    taken = time.perf_counter() - started
    connection.close()
    return len(rows) / taken
