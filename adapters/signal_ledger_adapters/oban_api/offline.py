"""Oban in a rerun: jobs that `process` enqueues are taken down instead, by whatever way they come."""

import functools
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from oban import Job, Oban
from oban._query import Query, _insert_jobs
from oban.job import JobState

from signal_ledger.offline import Notebook, current_notebook, offline_error
from signal_ledger.turns import give_way
from signal_ledger_adapters.enqueueing import require_job, require_jobs
from signal_ledger_adapters.oban_api.chain import chain

type Insert = Callable[[Query, list[Job], Any], Awaitable[list[Job]]]

_WRAPPED = "_signal_ledger_wrapped"


def hook_offline() -> None:
    """Hook into Oban, once for the process. What does not run offline goes on as ever."""
    chain("query.insert_jobs", _insert_jobs, lambda previous: functools.partial(_insert, previous))
    get_instance: Any = Oban.get_instance
    # A mock has every attribute.
    if getattr(get_instance, _WRAPPED, False) is True:
        return

    # A test of an application may have put a function of its own there.
    original = getattr(get_instance, "__func__", None) or (lambda _cls, name: get_instance(name))

    @functools.wraps(original)
    def wrapped(cls: type[Oban], name: str = "Oban") -> Any:  # noqa: ANN401 - an Oban, or what stands for one
        notebook = current_notebook()
        return original(cls, name) if notebook is None else _OfflineOban(notebook)

    setattr(wrapped, _WRAPPED, True)
    setattr(Oban, "get_instance", classmethod(wrapped))  # noqa: B010 - checkers know another type


def take_down(notebook: Notebook, jobs: Iterable[Job]) -> list[Job]:
    """Take jobs down, and give them what inserting would have given them."""
    taken = list(jobs)
    for job in taken:
        now = datetime.now(UTC)
        job.id = notebook.add_job(
            worker=job.worker, queue=job.queue, args=dict(job.args), meta=dict(job.meta), scheduled_at=job.scheduled_at
        )
        if job.state == JobState.AVAILABLE and job.scheduled_at is not None:
            job.state = JobState.SCHEDULED
        job.inserted_at = job.inserted_at or now
        job.scheduled_at = job.scheduled_at or now
    return taken


async def _insert(previous: Insert, query: Query, jobs: list[Job], conn: Any = None) -> list[Job]:  # noqa: ANN401
    notebook = current_notebook()
    if notebook is None:
        return await previous(query, jobs, conn)
    await give_way()
    return take_down(notebook, jobs)


class _OfflineOban:
    """What ``Oban.get_instance`` gives in a rerun, where ``Worker.enqueue()`` asks for it.

    Args:
        notebook: Takes down what is enqueued.
    """

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook

    async def enqueue(self, job: Job, *, conn: object = None) -> Job:
        """Take a job down."""
        [taken] = await self.enqueue_many(require_job(job), conn=conn)
        return taken

    async def enqueue_many(self, jobs_or_first: Iterable[Job] | Job, /, *rest: Job, conn: object = None) -> list[Job]:
        """Take jobs down, also those that would have been inserted in a transaction of the caller's."""
        del conn
        await give_way()
        return take_down(self._notebook, require_jobs(jobs_or_first, rest))

    def __getattr__(self, name: str) -> object:
        """Refuse everything else, by its name."""
        raise offline_error(name)
