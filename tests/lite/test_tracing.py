"""Traces of the embedded engine's jobs."""

import contextlib
import sqlite3

import pytest

from tests.callers import make_engine, sqlalchemy_connection, with_aiosqlite
from tests.tracing import TracingContract


class TestTracingOnLite(TracingContract):
    @pytest.fixture(params=["aiosqlite", "AsyncConnection"])
    async def caller(self, request, it, url, path):
        ways = {"aiosqlite": lambda: with_aiosqlite(path)}
        async with ways.get(request.param, lambda: sqlalchemy_connection(make_engine(url, "aiosqlite")))() as caller:
            yield caller

    def sql(self, it, sql, *parameters):
        with contextlib.closing(sqlite3.connect(it.url.removeprefix("sqlite:///"))) as connection, connection:
            return connection.execute(sql, parameters).fetchall()

    def traces(self, it):
        return self.sql(it, "SELECT * FROM signal_ledger_traces")

    async def let_pass_a_week(self, it, *, but_for):
        self.sql(
            it,
            "UPDATE signal_ledger_traces SET noted_at = '2026-01-01T12:00:00.000000Z' "
            "WHERE rowid > (SELECT min(rowid) FROM signal_ledger_traces) + ? - 1",
            but_for,
        )

    @contextlib.asynccontextmanager
    async def without_the_table(self, it):
        self.sql(it, "ALTER TABLE signal_ledger_traces RENAME TO gone")
        yield
        self.sql(it, "ALTER TABLE gone RENAME TO signal_ledger_traces")

    async def upkeep(self, it):
        assert await it.engine._forget_traces() == 2
