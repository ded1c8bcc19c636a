"""Where the demo is played: on one SQLite file, or on Oban and PostgreSQL."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from oban import Job, Oban
from psycopg_pool import AsyncConnectionPool

from signal_ledger import Ledger, attach, lite

QUEUE = "purchases"
SLOTS = 5

RESCUE_AFTER_S = 6.0
"""How long Oban lets a job execute before it takes the worker for dead: minutes in production."""


class DemoEngine(Protocol):
    """What the director asks of either engine."""

    @property
    def ledger(self) -> Ledger:
        """The log."""
        ...

    async def enqueue_many(self, jobs_or_first: Iterable[Job] | Job, /, *rest: Job) -> list[Job]:
        """Insert jobs."""
        ...

    async def get_job(self, job_id: int) -> Job | None:
        """Look at a job."""
        ...


class Stage(ABC):
    """A database and the engine on it.

    Args:
        url: The database.
        folder: For what is not in it.
    """

    workers: int
    """How many worker processes there are at first."""
    has_spare: bool
    """Whether another one takes the place of the one that is killed."""
    rescue: str
    """When the job that was running there is taken up again."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    @abstractmethod
    def director(self) -> AbstractAsyncContextManager[DemoEngine]:
        """Open an engine that runs no jobs: it enqueues, looks and asks."""

    @abstractmethod
    def worker(self) -> AbstractAsyncContextManager[object]:
        """Open an engine that runs the queue."""


class LiteStage(Stage):
    """One SQLite file: the file outlives the killed worker, and another one goes on with it."""

    workers = 1
    has_spare = True
    rescue = "its job is taken up within a second"

    def director(self) -> AbstractAsyncContextManager[DemoEngine]:
        """See `Stage`."""
        return lite(self.url, queues={})

    def worker(self) -> AbstractAsyncContextManager[object]:
        """See `Stage`."""
        return lite(self.url, queues={QUEUE: SLOTS}, live_share=1)


class ObanStage(Stage):
    """Oban on PostgreSQL: two worker nodes, of which one is killed and the other goes on."""

    workers = 2
    has_spare = False
    rescue = f"Oban gives its job to the other one after {RESCUE_AFTER_S:g} s"

    @asynccontextmanager
    async def director(self) -> AsyncGenerator[DemoEngine, None]:
        """See `Stage`. It is the leader, which takes jobs from dead workers."""
        lifeline = {"interval": 0.5, "rescue_after": RESCUE_AFTER_S}
        async with AsyncConnectionPool(self.url, open=False) as pool:
            oban = Oban(pool=pool, leadership=True, lifeline=lifeline)
            async with attach(oban) as engine:
                yield engine

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[object, None]:
        """See `Stage`."""
        async with AsyncConnectionPool(self.url, open=False) as pool:
            oban = Oban(pool=pool, queues={QUEUE: SLOTS}, leadership=False)
            async with attach(oban, live_share=1) as engine:
                yield engine


def stage_of(url: str, folder: Path) -> Stage:
    """Return the stage for a database URL."""
    return LiteStage(url, folder) if url.startswith("sqlite:") else ObanStage(url, folder)
