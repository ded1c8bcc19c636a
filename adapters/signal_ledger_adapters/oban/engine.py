"""The ledger under an Oban."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from oban import Job, Oban
from psycopg import Error, errors

from signal_ledger import engines
from signal_ledger.arguments import to_share
from signal_ledger.codec import Limits
from signal_ledger.delivery import Sender
from signal_ledger.errors import SchemaError
from signal_ledger.ledger import Ledger
from signal_ledger.names import JobId, SignalId
from signal_ledger.offline import current_notebook, refuse_offline
from signal_ledger.receipt import Outcome
from signal_ledger_adapters.enqueueing import require_job, require_jobs
from signal_ledger_adapters.oban import hooks
from signal_ledger_adapters.oban.attachment import Attached, attachment_of
from signal_ledger_adapters.oban.home import AtHome
from signal_ledger_adapters.oban.store import DistributedStore, Statements
from signal_ledger_adapters.oban.watch import Watch
from signal_ledger_adapters.oban_api import (
    is_started,
    name_of,
    query_of,
    rescue_after,
    start,
    stop,
    transaction,
    was_started_before_fork,
    was_stopped,
)
from signal_ledger_adapters.this_process import OwnProcess

_DETACH_GRACE_S = 5.0

_IDENTIFY_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObanConfig:
    """How the ledger is attached.

    Args:
        live_share: Which share of a queue's slots may be live waits, 0 to 1; rounded up.
        limits: Bounds on payloads.
        statements: What runs on Oban's own connections.
        new_id: Draws an id for a signal: a random UUID as text.
    """

    live_share: float
    limits: Limits
    statements: Statements
    new_id: Callable[[], SignalId]

    def __post_init__(self) -> None:
        """Check it, before anything is opened."""
        to_share("live_share", self.live_share)


class ObanEngine(engines.Engine):
    """An Oban with the ledger under it. Get one from `signal_ledger.attach` and use it with ``async with``.

    Its methods for jobs are those of ``oban.Oban``.

    Args:
        oban: The Oban. It is started, and stopped in the end, if it is not started yet.
        config: How the ledger is attached.
        open_store: Connects to Oban's database.
    """

    def __init__(self, oban: Oban, config: ObanConfig, open_store: Callable[[], Awaitable[DistributedStore]]) -> None:
        self._oban = oban
        self._config = config
        self._open_store = open_store
        self._attachment = attachment_of(query_of(oban))
        self._store: DistributedStore | None = None
        self._has_started_oban = False
        self._own_process = self._this_process()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_exception: object) -> None:
        await self.stop()

    @property
    def name(self) -> str:
        """The name of the Oban, by which ``@worker(oban=...)`` finds it."""
        return name_of(self._oban)

    @property
    def oban(self) -> Oban:
        """The Oban."""
        return self._oban

    @property
    def ledger(self) -> Ledger:
        """The log and its questions."""
        return Ledger(self._opened, self._signals)

    async def start(self) -> Self:
        """Attach the ledger, and start Oban if it is not started.

        Raises:
            SchemaError: The database holds no ledger for this Oban; the message says what to run.
            RuntimeError: It is attached already; or this Oban has been stopped, or started by another process, of
                which this one is a fork.
        """
        self._require_own_process()
        async with self._attachment.changing:
            if self._store is not None or self._attachment.attached is not None:
                raise RuntimeError(f"engine {self.name!r}: expected to be attached once, it is attached already")
            if was_stopped(self._oban):
                raise RuntimeError(f"engine {self.name!r}: expected an Oban that runs or is new, this one was stopped")
            hooks.install()
            store = await self._open_store()
            try:
                await self._require_one_database(store)
            except BaseException:
                await store.close()
                raise
            await self._start(store)
        engines.register(self)
        return self

    async def _start(self, store: DistributedStore) -> None:
        config = self._config
        self._loop = asyncio.get_running_loop()
        self._own_process = self._this_process()
        at_home = AtHome(store, self._loop, self._own_process)
        self._sender = Sender(store=at_home, new_id=config.new_id, limits=config.limits, delivered=self._delivered)
        self._attachment.attach(Attached(self, store, config.statements, config.live_share, rescue_after(self._oban)))
        self._store = store
        self._has_started_oban = False
        try:
            if not is_started(self._oban):
                await start(self._oban)
                self._has_started_oban = True
            self._watch = Watch(self._oban, self._attachment, store)
            await self._watch.start()
        except BaseException:
            await self._undo()
            raise

    async def stop(self) -> None:
        """Let live waits snooze and detach the ledger; stop Oban first if it was started here."""
        if self._store is not None:
            # Before the lock, which another task of the parent may have held when this process was forked.
            self._own_process.require()
        async with self._attachment.changing:
            if self._store is None:
                return
            engines.unregister(self)
            try:
                await self._watch.stop()
            finally:
                await self._undo()

    async def _undo(self) -> None:
        """Stop Oban if it was started here, detach and close: each, whatever becomes of the others."""
        store = self._opened
        async with AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            stack.callback(self._forget_store)
            stack.push_async_callback(self._attachment.detach, _DETACH_GRACE_S)
            if self._has_started_oban:
                stack.push_async_callback(stop, self._oban)

    def _forget_store(self) -> None:
        self._store = None

    async def enqueue(self, job: Job, *, conn: object = None) -> Job:
        """Insert a job; see ``oban.Oban.enqueue``.

        Raises:
            TypeError: It is no job.
        """
        [inserted] = await self.enqueue_many(require_job(job), conn=conn)
        return inserted

    async def enqueue_many(self, jobs_or_first: Iterable[Job] | Job, /, *rest: Job, conn: object = None) -> list[Job]:
        """Insert several jobs in order, all or none.

        Args:
            jobs_or_first: The jobs, such as those of a `signal_ledger.Workflow`; or the first one.
            rest: More jobs, which Oban's own method forgets after several.
            conn: As for ``oban.Oban.enqueue_many``.

        Raises:
            TypeError: One is no job.
            ValueError: One is a step of a workflow, and cannot be inserted as such.
        """
        jobs = require_jobs(jobs_or_first, rest)
        try:
            return await self._recording.enqueue_many(jobs, conn=conn)
        except (errors.UniqueViolation, errors.InvalidParameterValue) as error:
            if (reason := _reason_of_refusal(error)) is None:
                raise
            raise ValueError(reason) from error

    async def get_job(self, job_id: int) -> Job | None:
        """Return a job; None if there is none of this id."""
        return await self._online.get_job(job_id)

    async def cancel_job(self, job: Job | int) -> None:
        """Cancel a job. A waiting one ends; an executing one is asked to stop (``job.cancelled()``)."""
        await self._online.cancel_job(job)

    async def cancel_many_jobs(self, jobs: Iterable[Job | int]) -> int:
        """Cancel several jobs and return how many had not ended yet."""
        return await self._online.cancel_many_jobs(list(jobs))

    async def retry_job(self, job: Job | int) -> None:
        """Make a job run now that is neither available nor executing. A finished one begins a new run."""
        await self._online.retry_job(job)

    async def retry_many_jobs(self, jobs: Iterable[Job | int]) -> int:
        """Retry several jobs and return how many."""
        return await self._online.retry_many_jobs(list(jobs))

    async def delete_job(self, job: Job | int) -> None:
        """Delete a job that is not executing. Its history stays."""
        await self._online.delete_job(job)

    async def delete_many_jobs(self, jobs: Iterable[Job | int]) -> int:
        """Delete several jobs and return how many."""
        return await self._online.delete_many_jobs(list(jobs))

    async def _require_one_database(self, store: DistributedStore) -> None:
        """Compare what Oban's connections lead to with what the ledger's do: each is made in its own way."""
        identifying = asyncio.create_task(self._identify())
        try:
            await asyncio.wait([identifying], timeout=_IDENTIFY_S)
        finally:
            # Nobody waits for the driver to cancel its statement, which a frozen server would never do.
            identifying.cancel()
            identifying.add_done_callback(_forget)
        if not identifying.done():
            raise TimeoutError(f"engine {self.name!r}: no answer on Oban's connections within {_IDENTIFY_S:g} s")
        if identifying.result() != store.ledger_id:
            raise SchemaError(
                f"engine {self.name!r}: the ledger was found in another database than the one that Oban's pool leads "
                "to; say host, port and dbname in the conninfo of the pool"
            )

    async def _identify(self) -> object:
        try:
            async with transaction(query_of(self._oban)) as connection:
                cursor = await connection.execute(self._config.statements.identify.encode())
                found = await cursor.fetchone()
        except (errors.InvalidSchemaName, errors.UndefinedFunction):
            return None
        return None if found is None else found[0]

    @property
    def _recording(self) -> Oban:
        """The Oban, for what a rerun takes down by a hook."""
        if current_notebook() is None:
            self._require_own_process()
        return self._oban

    @property
    def _online(self) -> Oban:
        """The Oban, for what a rerun can neither do nor take down."""
        refuse_offline(f"engine {self.name!r}")
        self._require_own_process()
        return self._oban

    @property
    def _signals(self) -> Sender:
        refuse_offline(f"engine {self.name!r}")
        self._require_open()
        return self._sender

    @property
    def _opened(self) -> DistributedStore:
        return self._require_open()

    def _require_open(self) -> DistributedStore:
        if self._store is None:
            raise RuntimeError(f"engine {self.name!r}: expected to be open; use it inside `async with attach(...)`")
        self._own_process.require()
        return self._store

    def _require_own_process(self) -> None:
        """Refuse an engine that was opened, or an Oban that was started, by a process of which this one is a fork."""
        if self._store is not None:
            self._own_process.require()
        elif was_started_before_fork(self._oban):
            raise self._own_process.refusal()

    def _this_process(self) -> OwnProcess:
        return OwnProcess(f"engine {self.name!r}", "open one in the fork with attach(...) and an Oban of its own")

    def _delivered(self, job_id: JobId, outcome: Outcome) -> None:
        """A signal sent by this process has reached a live wait: there is no need to wait for the notification."""
        if outcome is Outcome.LIVE:
            # The signal may have been sent from another thread.
            self._loop.call_soon_threadsafe(self._attachment.give_hint, job_id)


def _reason_of_refusal(error: Error) -> str | None:
    """Return why the ledger's trigger did not take a step; None if it was not the trigger that failed."""
    rule, _, reason = (error.diag.message_primary or "").partition(": ")
    return reason if rule.startswith("signal_ledger F") else None


def _forget(identifying: "asyncio.Task[object]") -> None:
    """Look at what became of a statement that was given up, lest asyncio complains that nobody did."""
    if not identifying.cancelled():
        identifying.exception()
