"""The engine for tests: it does nothing until it is told to, and its time is a clock's that tests move."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from signal_ledger.arguments import to_duration, to_job_id
from signal_ledger.codec import DEFAULT_LIMITS, Limits
from signal_ledger.delivery import HasId
from signal_ledger.execution import current_execution
from signal_ledger.memory import MemoryStore
from signal_ledger.names import JobId
from signal_ledger.ports import EmbeddedStore
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.given import new_id, utc_now
from signal_ledger_adapters.lite.engine import LiteConfig, LiteEngine
from signal_ledger_adapters.oban_api import schedule_by, schedule_no_more_by
from signal_ledger_adapters.sqlite.connection import to_path
from signal_ledger_adapters.sqlite.store import SqliteStore
from signal_ledger_adapters.testing.play import Play, to_new_job
from signal_ledger_adapters.testing.run import Run, to_signals
from signal_ledger_adapters.testing.work import Work


def make_manual(
    url: str | None, *, name: str, clock: ManualClock | None, limits: Limits, executions_max: int
) -> "ManualEngine":
    """Put an engine for tests together; see `signal_ledger.testing.engine`."""
    if clock is not None and not isinstance(clock, ManualClock):
        raise TypeError(f"clock: expected a ManualClock, got {type(clock).__name__}")
    own_clock = ManualClock(utc_now()) if clock is None else clock
    path = None if url is None else to_path(url)

    async def open_store() -> EmbeddedStore:
        if path is None:
            return MemoryStore(own_clock)
        return await SqliteStore.open(path, clock=own_clock, create=True)

    return ManualEngine(own_clock, open_store, name=name, limits=limits, executions_max=executions_max)


class ManualEngine(LiteEngine):
    """Runs jobs when it is told to, and only then. Get one from `signal_ledger.testing.engine`; use ``async with``.

    It is a `signal_ledger.LiteEngine` without the tasks that go on in its background: it has the same methods, and
    `Worker.enqueue`, `signal_ledger.signal` and `signal_ledger.Workflow` find it as they find that one. Jobs run one
    after the other: queue by queue in the order of their names, and in each as Oban orders them. An await snoozes its
    job at once, whatever its ``wait_timeout``, so that nothing ever waits for real time.

    Args:
        clock: Its time.
        open_store: Opens its store.
        name: The name that ``@worker(oban=...)`` finds it by.
        limits: Bounds on payloads.
        executions_max: How many executions one call may need until all jobs have come to rest.
    """

    _made_by = "testing.engine(...)"

    def __init__(
        self,
        clock: ManualClock,
        open_store: Callable[[], Awaitable[EmbeddedStore]],
        *,
        name: str = "Oban",
        limits: Limits = DEFAULT_LIMITS,
        executions_max: int = 10_000,
    ) -> None:
        if type(executions_max) is not int or executions_max < 1:
            raise ValueError(f"executions_max: expected an int of 1 or more, got {executions_max!r}")
        config = LiteConfig(
            queues={},
            name=name,
            shutdown_grace_period=1.0,
            live_share=0,
            prune_after=None,
            limits=limits,
            clock=clock,
            new_id=new_id,
        )
        super().__init__(config, open_store)
        self._manual_clock = clock
        self._executions_max = executions_max
        self._errors: dict[JobId, BaseException] = {}
        self._at_work = asyncio.Lock()

    @property
    def clock(self) -> ManualClock:
        """Its time. `advance` moves it and lets happen on the way what falls due; moved by itself, nothing happens."""
        return self._manual_clock

    @property
    def is_open(self) -> bool:
        """Whether it has been started and not stopped."""
        return self._store is not None

    async def drain(self, *, raising: bool = True) -> int:
        """Run every job that may run now, again and again, until none may.

        That includes the jobs that jobs enqueue, those that signals wake, released steps of workflows, and what
        signals with ``conn=`` set off once they are committed. Scheduled jobs, retries and deadlines stay for
        `advance`.

        Args:
            raising: Let the exception of a job that fails end the call. The job's failure is recorded before that, and
                the next call goes on with the others. False keeps it for `error_of` and ``job.errors``.

        Returns:
            How many executions there were.

        Raises:
            Exception: Whatever a job raised.
            RuntimeError: The jobs do not come to rest; or this was called inside a job.
        """
        async with self._working("drain", raising=raising) as work:
            await work.settle()
        return work.total

    async def advance(self, duration: float | timedelta, *, raising: bool = True) -> int:
        """Let time pass: move the clock, and run on the way what falls due, each at its own time and in that order.

        What falls due at the very end of the duration happens, too. For a deadline the clock is then a microsecond
        further than asked, since a wait times out when its deadline has passed.

        Args:
            duration: Seconds or a timedelta, 0 to 50 years.
            raising: As for `drain`. The clock stands at the time of the failure then.

        Returns:
            How many executions there were.

        Raises:
            Exception: As `drain`.
            TypeError: The duration is none.
            ValueError: It is out of range.
        """
        target = self.clock() + to_duration("duration", duration)
        async with self._working("advance", raising=raising) as work:
            await work.settle()
            await work.pass_by(target)
        return work.total

    async def advance_to_next(self, *, raising: bool = True) -> datetime | None:
        """Run what may run now, then move the clock to the next deadline, retry or scheduled job, and run that.

        Args:
            raising: As for `drain`.

        Returns:
            The time that the clock shows then; None if it was not moved, since all that is left waits without a
            deadline.

        Raises:
            Exception: As `drain`.
        """
        async with self._working("advance_to_next", raising=raising) as work:
            await work.settle()
            due_at = await work.next_due_at()
            if due_at is not None:
                await work.move_to(due_at)
        return due_at

    async def run(
        self,
        worker: object,
        args: object = None,
        *,
        signals: Iterable[object] = (),
        until: float | timedelta | None = None,
    ) -> Run:
        """Run one worker through its waits; see `signal_ledger.testing.run`. Other jobs run on the way, as they would.

        Raises:
            RuntimeError: The jobs do not come to rest; or this was called inside a job.
        """
        job = to_new_job(worker, args)
        to_send = to_signals(signals)
        limit = None if until is None else to_duration("until", until)
        async with self._working("run", raising=False) as work:
            return await Play(self, self.clock, work, job, to_send).to_the_end(limit)

    def error_of(self, job: int | HasId) -> BaseException | None:
        """Return the exception that a job's last execution ended with, itself and not its text; None if it did not."""
        return self._errors.get(to_job_id(job))

    def abandon(self) -> None:
        """Be found no more, although nobody has closed it: it must not be in the way of the next test's engine."""
        if self._store is not None:
            self._unregister()

    def _start_tasks(self) -> None:
        self._errors.clear()
        schedule_by(self.clock)

    def _say_what_is_missing(self) -> None:
        """Tests need not be told."""

    def _unregister(self) -> None:
        super()._unregister()
        schedule_no_more_by(self.clock)

    @asynccontextmanager
    async def _working(self, call: str, *, raising: bool) -> AsyncGenerator[Work, None]:
        store = self._require_open()
        if current_execution() is not None:
            raise RuntimeError(
                f"{call}: expected to be called outside of jobs; it would wait for the job that calls it"
            )
        async with self._at_work:
            yield Work(
                store=store,
                runner=self._runner,
                watch=self._watch,
                queues=self._queues,
                clock=self.clock,
                errors=self._errors,
                executions_max=self._executions_max,
                raising=raising,
            )
