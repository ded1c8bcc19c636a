"""The bench that stores are tested on: a store, its clock, and somebody who does to jobs what an engine would do."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from signal_ledger.commands import Deliver, Snooze, Take
from signal_ledger.decisions import DeliverReply, TakeRefusal, TakeReply
from signal_ledger.delivery import Sender
from signal_ledger.embedded.job_row import WAIT_UNTIL, Acknowledgement, NewJob
from signal_ledger.embedded.operations import (
    Acknowledge,
    CancelJobs,
    DeleteJobs,
    FetchJobs,
    GetJobs,
    InsertJobs,
    PruneJobs,
    RelayOutbox,
    RescueJobs,
    RetryJobs,
)
from signal_ledger.jobs import JobState
from signal_ledger.names import Execution, JobId, SignalId
from signal_ledger.operations import DeliverCall
from signal_ledger.plan import Plan
from signal_ledger.ports import DeliveryStore, EmbeddedStore, LedgerStore
from signal_ledger.receipt import Receipt, to_receipt
from signal_ledger.testing.clock import ManualClock


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """What a test sees of a job.

    Args:
        state: Its state.
        attempt: Its attempt.
        wait_until: ``meta.wait_until`` (promise W14).
    """

    state: JobState
    attempt: int
    wait_until: object


class Signaller:
    """Sends signals to a store, with ids that count: 00000000-…-000000000001, and so on.

    Args:
        store: Where they go.
    """

    def __init__(self, store: DeliveryStore) -> None:
        self._store = store
        self._sender = Sender(store=self, new_id=self._new_id)
        self._calls = 0
        self._last: DeliverCall | None = None

    def go_on_with(self, store: DeliveryStore) -> None:
        """Send to another store from now on; the ids go on counting."""
        self._store = store

    async def send(
        self, job_id: int, payload: object = None, *, channel: str | None = None, key: str | None = None
    ) -> Receipt:
        """Send one signal."""
        receipt = await self._sender.send(job_id, payload, channel=channel, key=key, source="test", timeout=10)
        assert isinstance(receipt, Receipt)  # noqa: S101 - one target, one receipt
        return receipt

    async def send_all(
        self, job_ids: Sequence[int], payload: object = None, *, channel: str | None = None, key: str | None = None
    ) -> list[Receipt]:
        """Send one signal to several jobs."""
        receipts = await self._sender.send(job_ids, payload, channel=channel, key=key, source="test", timeout=10)
        assert isinstance(receipts, list)  # noqa: S101 - several targets, several receipts
        return receipts

    async def store(
        self,
        conn: object,
        job_id: int,
        payload: object = None,
        *,
        channel: str | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Store one signal in a caller's transaction."""
        receipt = await self._sender.send(
            job_id, payload, channel=channel, key=key, source="test", conn=conn, timeout=10
        )
        assert isinstance(receipt, Receipt)  # noqa: S101 - one target, one receipt
        return receipt

    async def store_all(
        self,
        conn: object,
        job_ids: Sequence[int],
        payload: object = None,
        *,
        channel: str | None = None,
        key: str | None = None,
    ) -> list[Receipt]:
        """Store one signal for several jobs in a caller's transaction."""
        receipts = await self._sender.send(
            job_ids, payload, channel=channel, key=key, source="test", conn=conn, timeout=10
        )
        assert isinstance(receipts, list)  # noqa: S101 - several targets, several receipts
        return receipts

    async def repeat_last(self) -> list[Receipt]:
        """Try the last call again, as the library does when its answer was lost."""
        assert self._last is not None  # noqa: S101 - there was one
        replies = await self._store.deliver(self._last.again(), timeout_s=10)
        return [
            to_receipt(delivery.job_id, delivery.signal_id, reply)
            for delivery, reply in zip(self._last.deliveries, replies, strict=True)
        ]

    async def deliver(self, call: DeliverCall, *, timeout_s: float) -> list[DeliverReply]:
        """Remember the call and pass it on."""
        self._last = call
        return await self._store.deliver(call, timeout_s=timeout_s)

    async def store_with(self, connection: object, deliveries: Sequence[Deliver]) -> None:
        """Pass it on."""
        await self._store.store_with(connection, deliveries)

    def _new_id(self) -> SignalId:
        self._calls += 1
        return SignalId(str(UUID(int=self._calls)))


class Bench(Protocol):
    """What the contract asks of a store's binding. Jobs go the way that the engine on the store would make them go."""

    @property
    def store(self) -> LedgerStore:
        """The store under test."""
        ...

    @property
    def clock(self) -> ManualClock:
        """The clock that it reads."""
        ...

    @property
    def signaller(self) -> Signaller:
        """Sends signals to it."""
        ...

    async def insert(
        self, *, scheduled_in: float | None = None, max_attempts: int = 20, plan: Plan | None = None
    ) -> JobId:
        """Enqueue a job, to run now or in so many seconds; as a step of a workflow if there is a plan.

        Its worker is ``tests.Worker``, its priority 0; it has no args, tags or errors, and no meta but a plan's.
        """
        ...

    async def fetch(self, job_id: JobId) -> Execution | None:
        """Let a worker pick the job up if it may run, after staging what is due. Return the execution's token."""
        ...

    async def finish(self, job_id: JobId, execution: Execution, state: JobState, *, delay: float = 0) -> bool:
        """Acknowledge an execution: completed, cancelled, discarded; retryable or scheduled after a delay.

        Return whether it was taken: an older execution's is not.
        """
        ...

    async def sleep(
        self, job_id: JobId, execution: Execution, *, channel: str = "", ordinal: int = 1, wait_for: float | None = None
    ) -> bool:
        """Acknowledge an execution that ends in a wait. Return whether it was taken."""
        ...

    async def cancel(self, job_id: JobId) -> None:
        """Cancel the job."""
        ...

    async def retry(self, job_id: JobId) -> None:
        """Retry the job by hand."""
        ...

    async def delete(self, job_id: JobId) -> None:
        """Delete the job."""
        ...

    async def rescue(self) -> None:
        """Take all executing jobs from their workers, as if those were dead."""
        ...

    async def prune(self) -> None:
        """Delete all jobs that have ended."""
        ...

    async def job(self, job_id: JobId) -> JobSeen | None:
        """Look at the job."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Open a transaction on a connection of a caller's own, for ``conn=``. An exception rolls it back."""
        ...

    async def relay(self) -> None:
        """Relay what callers have stored, until nothing is left that can be relayed."""
        ...


async def take(
    bench: Bench,
    job_id: JobId,
    execution: Execution,
    *,
    channel: str = "",
    ordinal: int = 1,
    wait_for: float | None = None,
    in_place: bool = False,
    window: bool = True,
    wants_trace: bool = False,
) -> TakeReply | TakeRefusal:
    """Ask for the outcome of a wait, as an execution would."""
    return await bench.store.take(
        Take(
            job_id=job_id,
            execution=execution,
            channel=channel,
            ordinal=ordinal,
            wait_for=None if wait_for is None else timedelta(seconds=wait_for),
            in_place=in_place,
            window=window,
            wants_trace=wants_trace,
        )
    )


class EmbeddedBench:
    """The bench of a store that keeps the embedded engine's jobs; see `Bench`.

    Args:
        store: The store under test.
        clock: The clock that it reads.
        begin: Opens a caller's transaction, for tests of the outbox.
    """

    def __init__(
        self,
        store: EmbeddedStore,
        clock: ManualClock,
        begin: Callable[[], AbstractAsyncContextManager[object]] | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self._begin = begin
        self.signaller = Signaller(store)
        self._inserted = 0

    def go_on_with(self, store: EmbeddedStore) -> None:
        """Go on with what another store has kept, after a crash of the one before."""
        self.store = store
        self.signaller.go_on_with(store)

    async def insert(
        self, *, scheduled_in: float | None = None, max_attempts: int = 20, plan: Plan | None = None
    ) -> JobId:
        """See `Bench`, as for all methods below."""
        # A queue of its own lets a test fetch just this job.
        self._inserted += 1
        job = NewJob(
            worker="tests.Worker",
            queue=f"queue-{self._inserted}",
            state=JobState.SUSPENDED if plan is not None and plan.deps else JobState.AVAILABLE,
            priority=0,
            max_attempts=max_attempts,
            args={},
            meta={} if plan is None else plan.to_meta(),
            tags=(),
            scheduled_at=None if scheduled_in is None else self.clock() + timedelta(seconds=scheduled_in),
            inserted_at=None,
        )
        [row] = await self.store.transact(InsertJobs(jobs=(job,)))
        return row.id

    async def fetch(self, job_id: JobId) -> Execution | None:
        rows = await self.store.read(GetJobs(job_ids=(job_id,)))
        slots = {row.queue: 1 for row in rows}
        fetched = await self.store.transact(FetchJobs(slots=slots, node=1, attempted_by=("bench",)))
        return fetched.jobs[0].execution if fetched.jobs else None

    async def finish(self, job_id: JobId, execution: Execution, state: JobState, *, delay: float = 0) -> bool:
        waits = state in (JobState.RETRYABLE, JobState.SCHEDULED)
        ack = Acknowledgement(
            job_id=job_id,
            execution=execution,
            state=state,
            attempt_change=-1 if state is JobState.SCHEDULED else 0,
            schedule_in=timedelta(seconds=delay) if waits else None,
        )
        return await self.store.transact(Acknowledge(ack=ack)) is not None

    async def sleep(
        self, job_id: JobId, execution: Execution, *, channel: str = "", ordinal: int = 1, wait_for: float | None = None
    ) -> bool:
        ack = Acknowledgement(job_id=job_id, execution=execution, state=JobState.SCHEDULED, attempt_change=-1)
        wait = Snooze(
            job_id=job_id,
            execution=execution,
            channel=channel,
            ordinal=ordinal,
            wait_for=None if wait_for is None else timedelta(seconds=wait_for),
        )
        return await self.store.transact(Acknowledge(ack=ack, wait=wait)) is not None

    async def cancel(self, job_id: JobId) -> None:
        await self.store.transact(CancelJobs(job_ids=(job_id,)))

    async def retry(self, job_id: JobId) -> None:
        await self.store.transact(RetryJobs(job_ids=(job_id,)))

    async def delete(self, job_id: JobId) -> None:
        await self.store.transact(DeleteJobs(job_ids=(job_id,)))

    async def rescue(self) -> None:
        await self.store.transact(RescueJobs(node=1))

    async def prune(self) -> None:
        await self.store.transact(PruneJobs(before=self.clock() + timedelta(seconds=1), limit=1000))

    async def job(self, job_id: JobId) -> JobSeen | None:
        rows = await self.store.read(GetJobs(job_ids=(job_id,)))
        if not rows:
            return None
        [row] = rows
        return JobSeen(state=row.state, attempt=row.attempt, wait_until=row.meta.get(WAIT_UNTIL))

    def transaction(self) -> AbstractAsyncContextManager[object]:
        assert self._begin is not None  # noqa: S101 - whoever tests the outbox has given it
        return self._begin()

    async def relay(self) -> None:
        while (await self.store.transact(RelayOutbox())).count:
            pass
