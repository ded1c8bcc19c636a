"""What a run of one worker is given, and what it tells: its signals, and how it ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from oban import Job

from signal_ledger.arguments import to_channel, to_duration, to_optional_text, type_name
from signal_ledger.ports import WaitingJob
from signal_ledger.receipt import Receipt
from signal_ledger.recorded import RecordedEvent
from signal_ledger_adapters.testing.telling import error_told, told_history, until_told, wait_told


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that `signal_ledger.testing.run` sends.

    Args:
        payload: What is sent. Never shown by ``repr``.
        channel: The channel; None is the default channel.
        key: Makes it idempotent.
        source: Who or what signals.
        after: When: so long after the job was enqueued, in seconds or as a timedelta, once everything that is due by
            then has run. None is before the job first runs, so that its await finds the signal there; 0 is when it has
            come to its first await, and wakes it.

    Raises:
        TypeError: An argument is of another type than expected.
        ValueError: An argument is out of range.

    Example:
        >>> from datetime import timedelta
        >>> from signal_ledger.testing import Signal
        >>>
        >>> Signal({"decision": "approved"}, channel="approval", after=timedelta(hours=2))
        Signal(channel='approval', key=None, source=None, after=datetime.timedelta(seconds=7200))
    """

    payload: object = field(repr=False)
    channel: str | None = field(default=None, kw_only=True)
    key: str | None = field(default=None, kw_only=True)
    source: str | None = field(default=None, kw_only=True)
    after: float | timedelta | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check it, before anything runs."""
        to_channel(self.channel)
        to_optional_text("key", self.key)
        to_optional_text("source", self.source)
        if self.after is not None:
            to_duration("after", self.after)

    @property
    def delay(self) -> timedelta | None:
        """``after`` as a timedelta."""
        return None if self.after is None else to_duration("after", self.after)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Run:
    """What became of a worker's job. Its text shows the job's history, but no payloads.

    Args:
        state: ``completed``, ``cancelled`` or ``discarded``; ``waiting`` if it waits for a signal that nobody sends;
            ``deleted`` if somebody deleted it; else as Oban calls it, if ``until`` came first: ``scheduled`` or
            ``retryable``.
        result: What its `process` returned, if it was completed; of a `Record` the value.
        reason: Why it was cancelled, if its `process` said so.
        error: The exception that failed its last execution; None if that did not fail.
        waiting: The wait that it sleeps on, with ``channel`` and ``deadline_at``; None if it does not wait.
        job: The job as it is now.
        history: Its recorded events.
        receipts: Those of the signals, in the order in which they were sent.
        took: From being enqueued until it ended, or until now, by the engine's clock; in whole milliseconds.
        executions: How often it was executed.
    """

    state: str
    result: object
    reason: str | None
    error: BaseException | None
    waiting: WaitingJob | None
    job: Job
    history: tuple[RecordedEvent, ...]
    receipts: tuple[Receipt, ...]
    took: timedelta
    executions: int

    def __repr__(self) -> str:
        kinds = ", ".join(recorded.kind.value for recorded in self.history)
        return f"<Run of {self._told()}; events: {kinds or 'none'}>"

    def __str__(self) -> str:
        return "\n".join([self._told(), *told_history(self.history)])

    def _told(self) -> str:
        worker = self.job.worker.rpartition(".")[-1]
        how = (
            f"waiting {wait_told(self.waiting.channel)}{until_told(self.waiting.deadline_at)}"
            if self.waiting
            else self.state
        )
        failed = "" if self.error is None else f", failed by {error_told(self.error)}"
        times = "1 execution" if self.executions == 1 else f"{self.executions} executions"
        return f"job {self.job.id} ({worker}): {how}{failed}, after {times} in {self.took}"


def to_signals(signals: object) -> list[Signal]:
    """Check what a run is to send, and put it in the order of the times.

    Raises:
        TypeError: It is one payload, and no list of them.
    """
    if isinstance(signals, str | bytes | Mapping | Signal) or not isinstance(signals, Iterable):
        raise TypeError(f"signals: expected a list of payloads or Signal values, got {type_name(signals)}")
    made = [each if isinstance(each, Signal) else Signal(each) for each in signals]
    return sorted(made, key=lambda each: timedelta(-1) if each.delay is None else each.delay)
