"""What the embedded engine tells of its jobs."""

import contextlib
import sqlite3

import pytest

from tests.callers import with_aiosqlite
from tests.telemetry import TelemetryContract


class TestTelemetryOnLite(TelemetryContract):
    batch = "write"

    @pytest.fixture
    async def caller(self, it, path):
        async with with_aiosqlite(path) as caller:
            yield caller

    def ask(self, it, sql, job_id):
        with contextlib.closing(sqlite3.connect(it.url.removeprefix("sqlite:///"))) as connection:
            return connection.execute(sql.format(waits="signal_ledger_waits", job_id=job_id)).fetchall()

    @contextlib.asynccontextmanager
    async def one_batch_fails(self, it):
        connection = it.engine._store._writing._connection
        failures = iter([ZeroDivisionError("once")])

        def fail_once():
            for failure in failures:
                raise failure

        connection.create_function("fail_once", 0, fail_once)
        connection.execute(
            "CREATE TEMPORARY TRIGGER fails BEFORE INSERT ON main.signal_ledger_events BEGIN SELECT fail_once(); END"
        )
        yield
        connection.execute("DROP TRIGGER fails")

    async def end_behind_the_librarys_back(self, it, job):
        with contextlib.closing(sqlite3.connect(it.url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute("UPDATE oban_jobs SET state = 'cancelled' WHERE id = ?", (job.id,))
