"""Code that runs offline: what a rerun would write goes into a notebook, and to no database.

Which code that is, the context tells (`contextvars`): the rerun's own task and those that it begins. The other tasks of
the process go on as ever.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from signal_ledger.codec import decode
from signal_ledger.commands import Deliver
from signal_ledger.decisions import DeliverReply, Ignored
from signal_ledger.names import JobId, SignalId, public_channel
from signal_ledger.operations import DeliverCall
from signal_ledger.turns import give_way

IGNORED = "rerun: nothing is sent"
"""The reason in the receipts of signals that a rerun did not send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsentSignal:
    """A signal that a rerun would have sent.

    Args:
        job_id: The job that it is for. Below zero for one that exists in the rerun only.
        target: Who that is, in words.
        channel: The channel; None is the default channel.
        key: The idempotency key, if one was given.
        source: Who or what signals.
        encoded: The payload, encoded. Never shown by ``repr``.
    """

    job_id: JobId
    target: str
    channel: str | None
    key: str | None
    source: str | None
    encoded: bytes = field(repr=False)

    @property
    def payload(self) -> Any:  # noqa: ANN401 - whatever was sent, as with json.loads
        """The payload, decoded."""
        return decode(self.encoded)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnwrittenJob:
    """A job that a rerun would have enqueued.

    Args:
        id: Counts from -1 down; such an id exists in the rerun only.
        worker: The worker's path.
        queue: The queue.
        args: The arguments. Not shown by ``repr``.
        meta: The meta. Not shown by ``repr``.
        scheduled_at: When it would run; None is at once.
    """

    id: JobId
    worker: str
    queue: str
    args: Mapping[str, object] = field(repr=False)
    meta: Mapping[str, object] = field(repr=False)
    scheduled_at: datetime | None


class Notebook:
    """Takes down what a rerun would write. A place to send signals to (`signal_ledger.ports.DeliveryStore`)."""

    def __init__(self) -> None:
        self.signals: list[UnsentSignal] = []
        self.jobs: list[UnwrittenJob] = []
        self._names: dict[JobId, str] = {}
        self._ids: dict[tuple[str, str], JobId] = {}

    async def deliver(self, call: DeliverCall, *, timeout_s: float) -> list[DeliverReply]:  # noqa: ARG002
        """Take the signals down; each is ignored."""
        await give_way()
        for delivery in call.deliveries:
            self.signals.append(
                UnsentSignal(
                    job_id=delivery.job_id,
                    target=self._names.get(delivery.job_id, f"job {delivery.job_id}"),
                    channel=public_channel(delivery.channel),
                    key=delivery.key,
                    source=delivery.source,
                    encoded=delivery.payload,
                )
            )
        return [Ignored(reason=IGNORED) for _ in call.deliveries]

    async def store_with(self, connection: object, deliveries: Sequence[Deliver]) -> None:
        """Nothing is stored in a caller's transaction either: signals come by `deliver`, whatever their ``conn``."""
        raise AssertionError(connection, deliveries)

    def new_id(self) -> SignalId:
        """Return an id for a call; nobody gets to see it."""
        return SignalId(str(UUID(int=len(self.signals))))

    def add_job(
        self,
        *,
        worker: str,
        queue: str,
        args: Mapping[str, object],
        meta: Mapping[str, object],
        scheduled_at: datetime | None,
    ) -> JobId:
        """Take a job down, and return the id that it has in the rerun."""
        job_id = self._name(f"the new job of {worker}")
        self.jobs.append(
            UnwrittenJob(id=job_id, worker=worker, queue=queue, args=args, meta=meta, scheduled_at=scheduled_at)
        )
        return job_id

    def step_id(self, workflow_id: str, name: str) -> JobId:
        """Return an id for the job of a step: nobody knows the real one without the ledger."""
        step = workflow_id, name
        if step not in self._ids:
            self._ids[step] = self._name(f"step {name!r} of workflow {workflow_id}")
        return self._ids[step]

    def _name(self, target: str) -> JobId:
        job_id = JobId(-1 - len(self._names))
        self._names[job_id] = target
        return job_id


_notebook: ContextVar[Notebook | None] = ContextVar("signal_ledger_notebook", default=None)


def current_notebook() -> Notebook | None:
    """Return what takes down the writes of the calling task; None if it does not run offline."""
    return _notebook.get()


@contextmanager
def offline(notebook: Notebook) -> Generator[None, None, None]:
    """What runs inside is offline."""
    token = _notebook.set(notebook)
    try:
        yield
    finally:
        _notebook.reset(token)


def refuse_offline(what: str) -> None:
    """Refuse what a rerun can neither do nor take down.

    Raises:
        RuntimeError: The calling task runs offline.
    """
    if _notebook.get() is not None:
        raise offline_error(what)


def offline_error(what: str) -> RuntimeError:
    """Return what refuses such a call."""
    return RuntimeError(f"{what}: expected no such call in a rerun, which reaches no database; patch what makes it")
