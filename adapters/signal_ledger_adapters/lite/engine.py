"""The embedded engine: Oban's workers on one SQLite file, without a server."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self
from uuid import uuid4

from oban import Job

from signal_ledger import engines
from signal_ledger.arguments import to_job_id, to_seconds, to_share
from signal_ledger.codec import Limits
from signal_ledger.delivery import Sender
from signal_ledger.embedded.operations import (
    CancelJobs,
    DeleteJobs,
    ForgetTraces,
    GetJobs,
    InsertJobs,
    PruneJobs,
    RetryJobs,
)
from signal_ledger.ledger import Ledger
from signal_ledger.names import JobId, SignalId
from signal_ledger.offline import current_notebook, refuse_offline
from signal_ledger.ports import EmbeddedStore, StoreUnavailableError
from signal_ledger.receipt import Outcome
from signal_ledger.telemetry.tracing import KEPT_DAYS
from signal_ledger_adapters.enqueueing import require_job, require_jobs
from signal_ledger_adapters.lite.conversion import to_job, to_new_job, update_job
from signal_ledger_adapters.lite.queue import Queue, QueueConfig, check_queues, make_queues
from signal_ledger_adapters.lite.runner import Runner
from signal_ledger_adapters.lite.watch import Watch
from signal_ledger_adapters.oban_api import cron_workers, hook_workers, instances, take_down
from signal_ledger_adapters.this_process import OwnProcess, process_id

logger = logging.getLogger(__name__)

_PRUNE_EVERY_S = 60.0
_PRUNE_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteConfig:
    """How an embedded engine runs.

    Args:
        queues: Queue names and their limits.
        name: The name that ``@worker(oban=...)`` finds it by.
        shutdown_grace_period: How long a stop waits for running jobs, in seconds; None waits as long as it takes.
        live_share: Which share of a queue's slots may be live waits, 0 to 1; rounded up.
        prune_after: How long finished jobs are kept, in seconds; None keeps them for ever. Their history stays.
        limits: Bounds on payloads.
        clock: Returns the present time as an aware UTC datetime.
        new_id: Draws an id for a signal: a random UUID as text.
    """

    queues: Mapping[str, QueueConfig]
    name: str
    shutdown_grace_period: float | None
    live_share: float
    prune_after: float | None
    limits: Limits
    clock: Callable[[], datetime]
    new_id: Callable[[], SignalId]

    def __post_init__(self) -> None:
        """Check it all, before anything is opened."""
        check_queues(self.queues)
        if not self.name.strip():
            raise ValueError(f"name: expected a name that is not blank, got {self.name!r}")
        to_share("live_share", self.live_share)
        for option in ("shutdown_grace_period", "prune_after"):
            value = getattr(self, option)
            if value is not None:
                to_seconds(option, value)


class LiteEngine(engines.Engine):
    """Runs workers on one file. Get one from `signal_ledger.lite` and use it with ``async with``.

    It has the methods of ``oban.Oban`` that one machine needs, under the same names.

    Args:
        config: How it runs.
        open_store: Opens the file.
    """

    _made_by = "lite(...)"

    def __init__(self, config: LiteConfig, open_store: Callable[[], Awaitable[EmbeddedStore]]) -> None:
        self._config = config
        self._open_store = open_store
        self._store: EmbeddedStore | None = None
        self._queues: dict[str, Queue] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Lock()
        self._own_process = self._this_process()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    @property
    def name(self) -> str:
        """The name that ``@worker(oban=...)`` finds it by."""
        return self._config.name

    @property
    def ledger(self) -> Ledger:
        """The log and its questions."""
        return Ledger(self._opened, self._signals)

    def present(self) -> datetime:
        """The present time, by the clock that it was given."""
        return self._config.clock()

    async def start(self) -> Self:
        """Open the file and begin to run jobs.

        Raises:
            SchemaError: The file cannot serve; the message says why.
            RuntimeError: It is open already, or another engine of this name is.
        """
        if self._store is not None:
            self._own_process.require()
            raise RuntimeError(f"engine {self.name!r}: expected to be started once, it is open already")
        other = instances.get(self.name)
        if isinstance(other, LiteEngine) and not other._own_process.is_this_one:  # noqa: SLF001 - its own class
            # A fork has a copy of an engine whose tasks and connections it has not.
            other = None
        if isinstance(other, LiteEngine):
            raise RuntimeError(f"an engine named {self.name!r} is open already; give this one another name=")  # noqa: TRY004
        hook_workers()
        config = self._config
        store = await self._open_store()
        node_name = f"{socket.gethostname()}.{process_id()}"
        try:
            self._node = await store.join(node_name)
        except BaseException:
            await store.close()
            raise
        self._store = store
        self._own_process = self._this_process()
        self._loop = asyncio.get_running_loop()
        self._sender = Sender(store=store, new_id=config.new_id, limits=config.limits, delivered=self._delivered)
        self._queues = make_queues(config.queues, store, config.live_share)
        self._runner = Runner(
            engine=self,
            store=store,
            queues=self._queues,
            node=self._node,
            attempted_by=(node_name, str(uuid4())),
            clock=config.clock,
        )
        self._watch = Watch(store=store, runner=self._runner, queues=list(self._queues.values()), node=self._node)
        self._start_tasks()
        self._replaced = other
        instances[self.name] = self
        engines.register(self)
        self._say_what_is_missing()
        return self

    async def stop(self) -> None:
        """Stop gracefully: live waits snooze at once, running jobs get the grace period, what is left is cancelled."""
        async with self._stopping:
            await self._stop()

    async def _stop(self) -> None:
        if self._store is None:
            return
        self._own_process.require()
        self._unregister()
        await self._runner.stop(self._config.shutdown_grace_period)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._store.leave(self._node)
        await self._store.close()
        # Last: a stop that was cancelled on its way is done by the next one.
        self._store = None

    async def enqueue(self, job: Job, *, conn: object = None) -> Job:
        """Insert a job.

        Args:
            job: A job from ``Worker.new()``.
            conn: A SQLAlchemy session or connection, or an aiosqlite connection, on the same file: the job is
                inserted in its transaction and runs after its commit.

        Returns:
            The same job, with its id, state and times.

        Raises:
            TypeError: It is no job, or its args hold what JSON cannot.
            ValueError: The connection is on another file.
        """
        [inserted] = await self.enqueue_many(require_job(job), conn=conn)
        return inserted

    async def enqueue_many(self, jobs_or_first: Iterable[Job] | Job, /, *rest: Job, conn: object = None) -> list[Job]:
        """Insert several jobs in order, all or none; as `enqueue`.

        Args:
            jobs_or_first: The jobs, such as those of a `signal_ledger.Workflow`; or the first one.
            rest: More jobs.
            conn: As for `enqueue`.
        """
        jobs = require_jobs(jobs_or_first, rest)
        new_jobs = tuple(to_new_job(job) for job in jobs)
        if (notebook := current_notebook()) is not None:
            return take_down(notebook, jobs)
        if conn is not None:
            rows = await self._opened.insert_with(conn, new_jobs)
        else:
            rows = await self._opened.transact(InsertJobs(jobs=new_jobs)) if new_jobs else []
            self._in_loop(self._runner.kick)
        return [update_job(job, row) for job, row in zip(jobs, rows, strict=True)]

    async def get_job(self, job_id: int) -> Job | None:
        """Return a job; None if there is none of this id."""
        rows = await self._opened.read(GetJobs(job_ids=(to_job_id(job_id),)))
        return to_job(rows[0]) if rows else None

    async def cancel_job(self, job: Job | int) -> None:
        """Cancel a job. A waiting one ends; an executing one is asked to stop (``job.cancelled()``)."""
        await self.cancel_many_jobs([job])

    async def cancel_many_jobs(self, jobs: Iterable[Job | int]) -> int:
        """Cancel several jobs and return how many had not ended yet."""
        cancelled = await self._opened.transact(CancelJobs(job_ids=_job_ids(jobs)))
        for job_id in cancelled.executing:
            self._in_loop(self._runner.cancel, job_id)
        # Steps that were held for them may have been released.
        self._in_loop(self._runner.kick)
        return cancelled.count

    async def retry_job(self, job: Job | int) -> None:
        """Make a job run now that is neither available nor executing. A finished one begins a new run."""
        await self.retry_many_jobs([job])

    async def retry_many_jobs(self, jobs: Iterable[Job | int]) -> int:
        """Retry several jobs and return how many."""
        count = await self._opened.transact(RetryJobs(job_ids=_job_ids(jobs)))
        self._in_loop(self._runner.kick)
        return count

    async def delete_job(self, job: Job | int) -> None:
        """Delete a job that is not executing. Its history stays."""
        await self.delete_many_jobs([job])

    async def delete_many_jobs(self, jobs: Iterable[Job | int]) -> int:
        """Delete several jobs and return how many."""
        count = await self._opened.transact(DeleteJobs(job_ids=_job_ids(jobs)))
        self._in_loop(self._runner.kick)
        return count

    def _unregister(self) -> None:
        """Be found no more. Who has its name by now keeps it: a stop that was cancelled on its way is done again."""
        if not engines.unregister(self) or instances.get(self.name) is not self:
            return
        if self._replaced is None:
            instances.pop(self.name, None)
        else:
            instances[self.name] = self._replaced

    @property
    def _signals(self) -> Sender:
        self._require_open()
        return self._sender

    @property
    def _opened(self) -> EmbeddedStore:
        return self._require_open()

    def _require_open(self) -> EmbeddedStore:
        refuse_offline(f"engine {self.name!r}")
        if self._store is None:
            raise RuntimeError(f"engine {self.name!r}: expected to be open; use it inside `async with {self._made_by}`")
        self._own_process.require()
        return self._store

    def _this_process(self) -> OwnProcess:
        return OwnProcess(f"engine {self.name!r}", "open one in the fork with lite(...)")

    def _start_tasks(self) -> None:
        self._tasks = [
            asyncio.create_task(self._runner.run(), name="signal-ledger-runner"),
            asyncio.create_task(self._watch.run(), name="signal-ledger-watch"),
            asyncio.create_task(self._prune(), name="signal-ledger-pruner"),
        ]

    async def _prune(self) -> None:
        while True:
            try:
                pruned = max(await self._prune_jobs(), await self._forget_traces())
            except StoreUnavailableError as error:
                logger.warning("finished jobs could not be pruned yet: %s", error)
                pruned = 0
            except Exception:
                logger.exception("finished jobs could not be pruned; trying again")
                pruned = 0
            if pruned < _PRUNE_MAX:
                await asyncio.sleep(_PRUNE_EVERY_S)

    async def _prune_jobs(self) -> int:
        if self._config.prune_after is None:
            return 0
        before = self._config.clock() - timedelta(seconds=self._config.prune_after)
        return await self._opened.transact(PruneJobs(before=before, limit=_PRUNE_MAX))

    async def _forget_traces(self) -> int:
        before = self._config.clock() - timedelta(days=KEPT_DAYS)
        return await self._opened.transact(ForgetTraces(before=before, limit=_PRUNE_MAX))

    def _delivered(self, job_id: JobId, outcome: Outcome) -> None:
        """A signal sent by this process has woken a job or reached it live: there is no need to wait for the watch."""
        if outcome is Outcome.WOKEN:
            self._in_loop(self._runner.kick)
        for queue in self._queues.values():
            self._in_loop(queue.room.give_hint, job_id)

    def _in_loop[*A](self, function: Callable[[*A], None], *arguments: *A) -> None:
        """Call a function in the engine's event loop; signals may be sent from any."""
        if asyncio.get_running_loop() is self._loop:
            function(*arguments)
        else:
            self._loop.call_soon_threadsafe(function, *arguments)

    def _say_what_is_missing(self) -> None:
        cron = cron_workers()
        level = logging.WARNING if cron else logging.INFO
        ignored = f"; not scheduled: {', '.join(cron)}" if cron else ""
        logger.log(level, "the embedded engine has no cron and no unique jobs%s", ignored)


def _job_ids(jobs: Iterable[Job | int]) -> tuple[JobId, ...]:
    return tuple(to_job_id(job) for job in jobs)
