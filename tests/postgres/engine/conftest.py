import asyncio
import contextlib

import psycopg
import pytest
from oban import Oban
from psycopg_pool import AsyncConnectionPool

from signal_ledger import attach, open_ledger
from signal_ledger_adapters.oban_api import instances, name_of
from tests.eventually import eventually
from tests.postgres.engine.workers import SEEN


class Node:
    """An engine under test, and what tests ask of it."""

    def __init__(self, url, oban, engine):
        self.url = url
        self.oban = oban
        self.engine = engine

    @property
    def ledger(self):
        return self.engine.ledger

    def sql(self, statement, *parameters):
        """Ask the database something. What changes something might wait for this very event loop: see `change`."""
        with psycopg.connect(self.url) as connection:
            connection.read_only = True
            return connection.execute(statement, parameters).fetchall()

    async def change(self, statement, *parameters):
        """Change something in it, which may have to wait for transactions of this very event loop."""
        return await asyncio.to_thread(query, self.url, statement, *parameters)

    async def until(self, job, *states):
        """Wait until a job is in one of these states, and return it."""

        async def there():
            # Not by a query of Oban's, which some tests get into trouble.
            [[state]] = self.sql("SELECT state::text FROM oban_jobs WHERE id = %s", job.id) or [[None]]
            return await self.oban.get_job(job.id) if state in states else None

        return await eventually(there, what=f"job {job.id} is {' or '.join(states)}")

    async def until_status(self, job, status):
        async def there():
            return (await self.ledger.state(job.id)).status == status

        await eventually(there, what=f"job {job.id} is {status}")

    async def until_it_listens(self):
        """Wait until the node is told of cancels; what comes before is lost."""
        await self.oban._notifier.listen("signal", lambda *_: None, wait=True, timeout=30)

    async def kinds(self, job):
        return [recorded.kind.value for recorded in await self.ledger.history(job.id)]

    async def prune(self):
        """Prune all jobs that have ended, and return how many."""
        return await self.oban._query.prune_jobs(-1, 100)

    async def until_consumed(self, job, count=None):
        """Wait until a job has consumed all that it was sent, or so many."""

        async def there():
            kinds = await self.kinds(job)
            return kinds.count("consumed") == (kinds.count("delivered") if count is None else count)

        await eventually(there, what=f"job {job.id} has consumed")


def query(url, statement, *parameters):
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else None


@contextlib.asynccontextmanager
async def an_oban(url, queues=None, *, pool_options=None, **options):
    """An Oban that is not started, with a pool of its own."""
    options = {"shutdown_grace_period": 5.0, "stager": {"interval": 0.2}, **options}
    async with AsyncConnectionPool(url, open=False, **{"min_size": 1, "max_size": 5, **(pool_options or {})}) as pool:
        oban = Oban(pool=pool, queues={"default": 5} if queues is None else queues, **options)
        yield oban
        if instances.get(name_of(oban)) is oban:
            del instances[name_of(oban)]


@pytest.fixture
async def start(ledger_url):
    """Start engines on one database, by name; all are stopped in the end and the log must be whole."""
    async with contextlib.AsyncExitStack() as stack:

        async def start_one(queues=None, *, live_share=0.5, schema="signal_ledger", **options):
            oban = await stack.enter_async_context(an_oban(ledger_url, queues, **options))
            engine = await stack.enter_async_context(attach(oban, live_share=live_share, schema=schema))
            return Node(ledger_url, oban, engine)

        start_one.expected_findings = set()
        yield start_one
    async with open_ledger(ledger_url, read_only=True) as ledger:
        report = await ledger.verify()
        assert {finding.rule for finding in report.findings} == start_one.expected_findings, str(report)


@pytest.fixture
async def it(start):
    return await start()


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()
