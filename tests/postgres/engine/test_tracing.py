"""Traces of Oban's jobs."""

import asyncio
import contextlib

import pytest

from tests.callers import make_engine, sqlalchemy_connection, with_asyncpg, with_psycopg
from tests.eventually import eventually
from tests.tracing import NAME, Spanning, TracingContract

WAYS = {
    "psycopg": with_psycopg,
    "asyncpg": with_asyncpg,
    "AsyncConnection, psycopg": lambda url: sqlalchemy_connection(make_engine(url, "psycopg")),
    "AsyncConnection, asyncpg": lambda url: sqlalchemy_connection(make_engine(url, "asyncpg")),
}


class TestTracingOnOban(TracingContract):
    @pytest.fixture(params=list(WAYS))
    async def caller(self, request, ledger_url):
        async with WAYS[request.param](ledger_url) as caller:
            yield caller

    def traces(self, it):
        return it.sql("SELECT * FROM signal_ledger.traces")

    async def let_pass_a_week(self, it, *, but_for):
        await it.change(
            "UPDATE signal_ledger.traces SET noted_at = noted_at - interval '8 days' WHERE noted_at > "
            "(SELECT noted_at FROM signal_ledger.traces ORDER BY noted_at OFFSET %s LIMIT 1)",
            but_for - 1,
        )

    async def test_d8_a_call_that_is_repeated_does_not_wait_for_a_callers_transaction(self, it, spans, ledger_url):
        """The first one got no answer in time, say, and its transaction is still open."""
        job = await Spanning.enqueue()
        await it.until_status(job, "snoozed")
        async with with_psycopg(ledger_url) as caller:
            stored = await it.engine.signal(job, "yes", conn=caller.conn)
            repeated = await asyncio.wait_for(it.engine.signal(job, "yes", key=stored.signal_id), 10)
            assert (repeated.outcome, repeated.signal_id) == ("woken", stored.signal_id)
            await it.until(job, "completed")
            await caller.commit()
        process = (await spans.until(NAME, 2))[1]
        assert process["links"] == [[*spans("signal")[1]["ids"], True]]

    async def test_l1_a_reset_empties_the_table_too(self, it, spans):
        job = await Spanning.enqueue({"channels": ["another"]})
        await it.until_status(job, "snoozed")
        await it.engine.signal(job, "yes")
        assert len(self.traces(it)) == len(spans("signal")) == 1
        await it.oban._query.reset()
        assert self.traces(it) == []

    @contextlib.asynccontextmanager
    async def without_the_table(self, it):
        await it.change("ALTER TABLE signal_ledger.traces RENAME TO gone")
        yield
        await it.change("ALTER TABLE signal_ledger.gone RENAME TO traces")

    async def upkeep(self, it):
        await eventually(lambda: len(self.traces(it)) == 1)
