"""What one call of an engine for tests does: run what may run, move the clock, run what may run then."""

from collections import Counter
from datetime import datetime, timedelta

from signal_ledger.embedded.job_row import INDEFINITELY
from signal_ledger.embedded.operations import SeeUpcoming
from signal_ledger.jobs import JobState
from signal_ledger.names import JobId
from signal_ledger.ports import EmbeddedStore
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.lite.queue import Queue, make_queues
from signal_ledger_adapters.lite.runner import Performed, Runner
from signal_ledger_adapters.lite.watch import Watch

_FAILED = (JobState.RETRYABLE, JobState.DISCARDED)

# A wait times out once its deadline lies behind: the first microsecond for that is the next one.
_MICROSECOND = timedelta(microseconds=1)

# What is due later waits without a deadline: such a job is scheduled for when it would be fifty years old.
_NEVER = INDEFINITELY / 2


class Work:
    """One call's work.

    Args:
        store: Where jobs come from.
        runner: Executes them.
        watch: Sees to what transactions of callers and other engines have left.
        queues: The runner's queues; those that jobs name are added.
        clock: The time.
        errors: What jobs have failed with, to be kept up to date.
        executions_max: How many executions the call may need.
        raising: Whether a job's failure ends the call.
    """

    def __init__(
        self,
        *,
        store: EmbeddedStore,
        runner: Runner,
        watch: Watch,
        queues: dict[str, Queue],
        clock: ManualClock,
        errors: dict[JobId, BaseException],
        executions_max: int,
        raising: bool,
    ) -> None:
        self._store = store
        self._runner = runner
        self._watch = watch
        self._queues = queues
        self._clock = clock
        self._errors = errors
        self._executions_max = executions_max
        self._raising = raising
        self._by_job: Counter[tuple[JobId, str]] = Counter()
        self.total = 0

    async def settle(self) -> list[Performed]:
        """Run what may run now, until nothing may, and return the executions in their order."""
        settled = []
        while (performed := await self._run_next()) is not None:
            settled.append(performed)
            self._note(performed)
        return settled

    async def move_to(self, instant: datetime) -> list[Performed]:
        """Move the clock forward, and settle what may run then."""
        self._clock.move_to(max(instant, self._clock()))
        return await self.settle()

    async def pass_by(self, target: datetime) -> None:
        """Move the clock to an instant, and settle on the way what falls due; deadlines at the very end, too."""
        while (due_at := await self.next_due_at()) is not None and due_at <= target + _MICROSECOND:
            await self.move_to(due_at)
        await self.move_to(target)

    async def next_due_at(self) -> datetime | None:
        """Return when the next scheduled job, retry or deadline is due; None if that is never."""
        due_at = (await self._store.read(SeeUpcoming())).next_due_at
        return None if due_at is None or due_at - self._clock() > _NEVER else due_at

    async def _run_next(self) -> Performed | None:
        has_changed = True
        while has_changed:
            has_changed = await self._watch.look()
            for queue in (await self._store.read(SeeUpcoming())).queues:
                if queue not in self._queues:
                    self._queues.update(make_queues({queue: 1}, self._store, live_share=0))
                performed = await self._runner.run_next(queue)
                if performed is not None:
                    return performed
        return None

    def _note(self, performed: Performed) -> None:
        job = performed.job
        job_id = JobId(job.id or 0)
        self._errors.pop(job_id, None)
        if _has_failed(performed) and isinstance(performed.result, BaseException):
            self._errors[job_id] = performed.result
            if self._raising:
                _raise(performed, performed.result)
        self._by_job[job_id, job.worker] += 1
        self.total += 1
        if self.total > self._executions_max:
            raise RuntimeError(self._unsettled())

    def _unsettled(self) -> str:
        by_worker: Counter[str] = Counter()
        for (_, worker), times in self._by_job.items():
            by_worker[worker] += times
        [(most, times)] = by_worker.most_common(1)
        job_ids = [job_id for job_id, worker in self._by_job if worker == most]
        who = f"job {job_ids[0]} ({most})" if len(job_ids) == 1 else f"{len(job_ids)} jobs of {most}"
        return (
            f"expected the jobs to come to rest, they have not in {self.total} executions; {who} had {times} of them: "
            "does it snooze again and again, or do jobs enqueue one another without an end? run(..., until=) ends "
            "earlier; if so much is to be done, engine(executions_max=) allows more"
        )


def _has_failed(performed: Performed) -> bool:
    return performed.after is not None and performed.after.state in _FAILED


def _raise(performed: Performed, error: BaseException) -> None:
    job = performed.job
    told = f"job {job.id} ({job.worker}) failed in attempt {job.attempt} of {job.max_attempts}"
    if isinstance(error, Exception):
        error.add_note(f"{told}; raising=False keeps this for engine.error_of(job)")
        raise error
    # A stray CancelledError, say: here it would cancel the test.
    raise RuntimeError(f"{told}, by {type(error).__name__}") from error
