import contextlib
import datetime as dt

import pytest

from signal_ledger import lite
from signal_ledger.embedded.operations import PruneJobs
from tests.eventually import eventually


@pytest.fixture
def path(tmp_path):
    return f"{tmp_path}/signals.db"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


class Lite:
    """An engine under test, and what tests ask of it."""

    def __init__(self, engine, url):
        self.engine = engine
        self.url = url

    async def state(self, job):
        found = await self.engine.get_job(getattr(job, "id", job))
        return found and str(found.state)

    async def until(self, job, *states):
        """Wait until a job is in one of these states, and return it."""

        async def there():
            found = await self.engine.get_job(job.id)
            return found if found and found.state in states else None

        return await eventually(there, what=f"job {job.id} is {' or '.join(states)}")

    async def until_status(self, job, status):
        async def there():
            return (await self.engine.ledger.state(job.id)).status == status

        await eventually(there, what=f"job {job.id} is {status}")

    async def kinds(self, job):
        return [recorded.kind.value for recorded in await self.engine.ledger.history(job.id)]

    async def prune(self):
        """Prune all jobs that have ended, and return how many."""
        tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        return await self.engine._store.transact(PruneJobs(before=tomorrow, limit=100))


@pytest.fixture
async def start(url):
    """Start engines on one file, by name; all are stopped in the end and the log must be whole."""
    async with contextlib.AsyncExitStack() as stack:

        async def start_one(queues=None, **options):
            options = {"name": "Oban", "shutdown_grace_period": 5.0, **options}
            engine = await stack.enter_async_context(
                lite(url, queues={"default": 5} if queues is None else queues, **options)
            )
            return Lite(engine, url)

        yield start_one
    from signal_ledger import open_ledger

    async with open_ledger(url, read_only=True) as ledger:
        report = await ledger.verify()
        assert report.ok, str(report)


@pytest.fixture
async def it(start):
    return await start()
