"""Plays one worker through its waits: signals are sent and the clock jumps, until nothing is left that could happen."""

from datetime import datetime, timedelta

from oban import Cancel, Job, Record

from signal_ledger.arguments import to_job_id, type_name
from signal_ledger.jobs import TERMINAL, JobState
from signal_ledger.receipt import Receipt
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.lite.engine import LiteEngine
from signal_ledger_adapters.lite.runner import Performed
from signal_ledger_adapters.testing.run import Run, Signal
from signal_ledger_adapters.testing.work import Work

_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)


def to_new_job(worker: object, args: object) -> Job:
    """Make the job of a run: of a worker and its args, or the one that is given.

    Raises:
        TypeError: It is neither; or a job with args beside it.
        ValueError: The job has been enqueued already.
    """
    if isinstance(worker, Job):
        if args is not None:
            raise TypeError("args: expected None beside a job, which has its own")
        if worker.id is not None:
            raise ValueError(f"worker: expected a job that is not enqueued yet, this one has id {worker.id}")
        return worker
    new = getattr(worker, "new", None)
    if new is None:
        raise TypeError(
            f"worker: expected a class with @worker, or a job that its new() has made, got {_named(worker)}"
        )
    job: Job = new(args)
    return job


def _named(worker: object) -> str:
    return f"{worker.__module__}.{worker.__qualname__}" if isinstance(worker, type) else type_name(worker)


class Play:
    """One worker's run.

    Args:
        engine: Where it runs.
        clock: The engine's.
        work: Runs what may run.
        job: The job, which is not enqueued yet.
        signals: What to send, in the order of the times.
    """

    def __init__(self, engine: LiteEngine, clock: ManualClock, work: Work, job: Job, signals: list[Signal]) -> None:
        self._engine = engine
        self._clock = clock
        self._work = work
        self._job = job
        self._to_send = signals
        self._receipts: list[Receipt] = []
        self._executions: list[Performed] = []
        self._started_at = clock()

    async def to_the_end(self, limit: timedelta | None) -> Run:
        """Enqueue the job, and let happen what can happen; for so long at most."""
        await self._engine.enqueue(self._job)
        while self._to_send and self._to_send[0].delay is None:
            await self._send()
        self._note(await self._work.settle())
        while (next_at := await self._next_at()) is not None:
            if limit is not None and next_at > self._started_at + limit + _MICROSECOND:
                self._note(await self._work.move_to(self._started_at + limit))
                break
            self._note(await self._work.move_to(next_at))
            while (send_at := self._send_at()) is not None and send_at <= self._clock():
                await self._send()
            self._note(await self._work.settle())
        return await self._told()

    async def _send(self) -> None:
        signal = self._to_send.pop(0)
        receipt = await self._engine.signal(
            self._job, signal.payload, channel=signal.channel, key=signal.key, source=signal.source
        )
        self._receipts.append(receipt)

    def _note(self, executions: list[Performed]) -> None:
        self._executions += [performed for performed in executions if performed.job.id == self._job.id]

    async def _next_at(self) -> datetime | None:
        """When something is to come that may concern the job; None if nothing is."""
        send_at = self._send_at()
        if send_at is None and await self._has_ended():
            return None
        known = [instant for instant in (send_at, await self._work.next_due_at()) if instant is not None]
        return min(known, default=None)

    def _send_at(self) -> datetime | None:
        """When the next signal is to be sent."""
        delay = self._to_send[0].delay if self._to_send else None
        return None if delay is None else self._started_at + delay

    async def _has_ended(self) -> bool:
        job = await self._found()
        return job is None or JobState(job.state) in TERMINAL

    async def _found(self) -> Job | None:
        return await self._engine.get_job(to_job_id(self._job))

    async def _told(self) -> Run:
        found = await self._found()
        job = self._job if found is None else found
        waits = await self._engine.ledger.waits_of([to_job_id(job)])
        state = "deleted" if found is None else "waiting" if waits else str(found.state)
        result = self._executions[-1].result if self._executions else None
        return Run(
            state=state,
            result=_returned(result) if state == "completed" else None,
            reason=result.reason if isinstance(result, Cancel) and state == "cancelled" else None,
            error=result if isinstance(result, BaseException) else None,
            waiting=waits[0] if waits else None,
            job=job,
            history=tuple(await self._engine.ledger.history(job)),
            receipts=tuple(self._receipts),
            took=(self._ended_at(job) - self._started_at) // _MILLISECOND * _MILLISECOND,
            executions=len(self._executions),
        )

    def _ended_at(self, job: Job) -> datetime:
        has_ended = JobState(job.state) in TERMINAL
        ended_at: datetime | None = getattr(job, f"{job.state}_at") if has_ended else None
        return self._clock() if ended_at is None else ended_at


def _returned(result: object) -> object:
    return result.value if isinstance(result, Record) else result
