"""Runs jobs: fetches them when there is something to fetch, executes them with Oban's executor, acknowledges them."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from oban import Job

from signal_ledger.embedded.job_row import Acknowledgement, JobRow
from signal_ledger.embedded.operations import Acknowledge, Fetched, FetchJobs
from signal_ledger.engines import Engine
from signal_ledger.execution import Execution, Sleep, Superseded, snoozed
from signal_ledger.jobs import JobState
from signal_ledger.names import JobId
from signal_ledger.ports import EmbeddedStore, StoreUnavailableError
from signal_ledger.telemetry.names import SNOOZED
from signal_ledger.telemetry.registry import execute, observed
from signal_ledger_adapters.lite.conversion import to_acknowledgement, to_job
from signal_ledger_adapters.lite.queue import Queue
from signal_ledger_adapters.oban_api import (
    AckAction,
    Executor,
    acknowledgement_of,
    attach_execution,
    execution_of,
    failure_of,
    make_cancellable,
    request_cancel,
)

logger = logging.getLogger(__name__)

_RETRY_DELAY_S = 0.2

_CANCELLED_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """One execution of a job that has ended and is acknowledged.

    Args:
        job: The job as it was executed.
        result: What its `process` returned; or the exception that failed it.
        after: Its row afterwards; None if a newer execution owns it and nothing was written.
    """

    job: Job
    result: object
    after: JobRow | None


class Runner:
    """The queues at work.

    Args:
        engine: What jobs send signals with.
        store: Where jobs come from.
        queues: What to run.
        node: The engine's id in the store.
        attempted_by: What Oban's column of that name says of the engine.
        clock: Returns the present time as an aware UTC datetime.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        store: EmbeddedStore,
        queues: Mapping[str, Queue],
        node: int,
        attempted_by: tuple[str, ...],
        clock: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._store = store
        self._queues = queues
        self._node = node
        self._attempted_by = attempted_by
        self._clock = clock
        self._tasks: set[asyncio.Task[Performed]] = set()
        self._has_ended = asyncio.Event()
        self._has_ended.set()
        self._kicked = asyncio.Event()
        self._next_due_at: datetime | None = None
        self._is_stopping = False
        self._is_cancelling = False

    def kick(self) -> None:
        """There may be a job to fetch."""
        self._kicked.set()

    def due_at(self, next_due_at: datetime | None) -> None:
        """The next scheduled job is due then."""
        if next_due_at != self._next_due_at:
            self._next_due_at = next_due_at
            self._kicked.set()

    @property
    def free_queues(self) -> tuple[str, ...]:
        """The queues that could start a job."""
        return tuple(queue.name for queue in self._queues.values() if queue.slots > 0)

    @property
    def executing(self) -> tuple[JobId, ...]:
        """The jobs that execute here."""
        return tuple(job_id for queue in self._queues.values() for job_id, _ in queue.running)

    def cancel(self, job_id: JobId) -> None:
        """Tell a job that executes here, in the way of ``job.cancelled()``, that it was cancelled."""
        for queue in self._queues.values():
            for (running_id, _), job in queue.running.items():
                if running_id == job_id:
                    request_cancel(job)
            queue.room.give_hint(job_id)

    async def run(self) -> None:
        """Fetch and start jobs until `stop`."""
        self._has_ended.clear()
        self._kicked.set()
        try:
            while not self._is_stopping:
                await self._next_kick()
                self._kicked.clear()
                await self._fetch()
        finally:
            self._has_ended.set()

    async def run_next(self, queue: str) -> Performed | None:
        """Fetch one job of a queue and run it to its end, for an engine that does not `run`.

        Return None if the queue has none that may run now, or if the job ended without a trace: a newer execution owns
        it.
        """
        fetched = await self._store.transact(
            FetchJobs(slots={queue: 1}, node=self._node, attempted_by=self._attempted_by)
        )
        self._start_all(fetched)
        tasks = list(self._tasks)
        try:
            if tasks:
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            # The job has failed by that, as it does by any stray cancellation.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_CANCELLED_S)
            raise
        return next((task.result() for task in tasks if not task.cancelled()), None)

    async def stop(self, grace_s: float | None) -> None:
        """Start no more jobs, let live waits snooze, wait for the rest, then cancel what is left.

        Args:
            grace_s: How long to wait, in seconds; None waits as long as it takes.
        """
        self._is_stopping = True
        self._kicked.set()
        for queue in self._queues.values():
            queue.room.close()
        # A fetch that is under way has jobs executing already: they are started, and waited for as well.
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._has_ended.wait()
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=grace_s)
        self._is_cancelling = True
        for task in pending:
            task.cancel()
        if pending:
            # Their jobs stay `executing` and are rescued by the next engine on the file.
            logger.warning("%d job(s) did not end within %s s and were cancelled", len(pending), grace_s)
            await asyncio.wait(pending, timeout=1.0)

    async def _next_kick(self) -> None:
        if self._next_due_at is None:
            await self._kicked.wait()
            return
        left_s = (self._next_due_at - self._clock()).total_seconds()
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                await self._kicked.wait()
        except TimeoutError:
            return

    async def _fetch(self) -> None:
        slots = {queue.name: queue.slots for queue in self._queues.values() if queue.slots > 0}
        if not slots or self._is_stopping:
            self._next_due_at = None
            return
        try:
            fetched = await self._store.transact(
                FetchJobs(slots=slots, node=self._node, attempted_by=self._attempted_by)
            )
        except StoreUnavailableError as error:
            logger.warning("jobs could not be fetched yet: %s", error)
            await self._fetch_later()
        except Exception:
            logger.exception("jobs could not be fetched; trying again")
            await self._fetch_later()
        else:
            self._start_all(fetched)

    async def _fetch_later(self) -> None:
        await asyncio.sleep(_RETRY_DELAY_S)
        self._kicked.set()

    def _start_all(self, fetched: Fetched) -> None:
        self._next_due_at = fetched.next_due_at
        for row in fetched.jobs:
            queue = self._queues[row.queue]
            job = to_job(row)
            task = asyncio.create_task(self._execute(queue, row, job), name=f"signal-ledger-job-{row.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            queue.running[row.id, row.execution] = job

    async def _execute(self, queue: Queue, row: JobRow, job: Job) -> Performed:
        make_cancellable(job)
        attach_execution(
            job,
            lambda ends_by: Execution(
                job_id=row.id,
                token=row.execution,
                engine=self._engine,
                room=queue.room,
                ends_by=ends_by,
                worker=row.worker,
            ),
        )
        try:
            action, result = await self._run_executor(job)
        finally:
            # The slot is free at once: the acknowledgement is in the writer's queue before the next fetch is.
            del queue.running[row.id, row.execution]
            self._kicked.set()
        try:
            ack = to_acknowledgement(action, row.id, row.execution)
        except (TypeError, ValueError, OverflowError) as error:
            # A Snooze for no number of seconds, say, or a meta that is no JSON.
            ack = to_acknowledgement(failure_of(job, error), row.id, row.execution)
            result = error
        after = await self._acknowledge(row, ack, execution_of(job))
        return Performed(job=job, result=result, after=after)

    async def _run_executor(self, job: Job) -> tuple[AckAction, object]:
        """Execute a job and return how it ended, and with what. Raises if it must end without a trace."""
        executor = Executor(job=job, safe=True)
        try:
            return acknowledgement_of(await executor.execute()), executor.result
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            execution = execution_of(job)
            if self._is_cancelling or (execution is not None and isinstance(execution.ending, Superseded)):
                # Cancelled by `stop`, and rescued by the next engine; or a newer execution owns the job.
                raise
            # What Oban's executor lets through: a stray CancelledError, a backoff() that raises. The job has failed.
            return failure_of(job, error), error

    async def _acknowledge(self, row: JobRow, ack: Acknowledgement, execution: Execution | None) -> JobRow | None:
        ending = None if execution is None else execution.ending
        acknowledge = Acknowledge(ack=ack, wait=ending.wait if isinstance(ending, Sleep) else None)
        while True:
            try:
                after = await self._store.transact(acknowledge)
            except StoreUnavailableError as error:
                logger.warning("job %d could not be acknowledged yet: %s", row.id, error)
                await asyncio.sleep(_RETRY_DELAY_S)
            except Exception:
                if acknowledge.without_log:
                    raise
                logger.exception("job %d: the ledger failed; the job is acknowledged without it", row.id)
                acknowledge = replace(acknowledge, without_log=True)
            else:
                if after is not None and not after.is_terminal:
                    self.kick()
                if SNOOZED in observed:
                    _tell_snoozed(acknowledge, after)
                return after


def _tell_snoozed(acknowledge: Acknowledge, after: JobRow | None) -> None:
    """Tell of a job that sleeps now; not of one that its acknowledgement has let run again at once, or cancelled."""
    wait = acknowledge.wait
    sleeps = after is not None and after.state is JobState.SCHEDULED and not acknowledge.without_log
    if wait is not None and sleeps:
        execute(SNOOZED, snoozed(wait))
