"""What became of a rerun, for people and for tests."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from signal_ledger.causes import Cause
from signal_ledger.errors import RerunDiverged
from signal_ledger.instants import to_text
from signal_ledger.names import SignalId
from signal_ledger.offline import UnsentSignal, UnwrittenJob


class RerunEnd(StrEnum):
    """How a rerun ended."""

    RETURNED = "returned"
    """`process` returned, after it had asked for all that the history holds."""
    RAISED = "raised"
    """`process` raised, after it had asked for all that the history holds."""
    STOPPED = "stopped"
    """`process` came to an await that had no outcome yet."""
    DIVERGED = "diverged"
    """`process` asked for what the history does not hold, or ended without asking for what it holds."""


class Got(StrEnum):
    """What an await got."""

    SIGNAL = "signal"
    """The payload of a signal."""
    TIMEOUT = "timeout"
    """`SignalTimeout`."""
    UNREADABLE = "unreadable"
    """`PayloadError`, since the payload of its signal was erased or cannot be decoded."""
    NOTHING = "nothing"
    """Nothing, since the history holds no outcome. The rerun ended there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedAwait:
    """An await of a rerun, or one that the history holds and that a rerun did not ask for.

    Args:
        channel: The channel; None is the default channel.
        ordinal: Which await on the channel within the run.
        got: What it got.
        version: The event in which the history holds that; None for nothing.
        signal_id: The delivery that it got.
        delivery_version: That delivery's event.
        source: Who or what signalled.
        deadline_at: The deadline that passed.
    """

    channel: str | None
    ordinal: int
    got: Got
    version: int | None = None
    signal_id: SignalId | None = None
    delivery_version: int | None = None
    source: str | None = None
    deadline_at: datetime | None = None

    def __str__(self) -> str:
        return f"{await_name(self.channel, self.ordinal)}: {self._outcome}"

    @property
    def _outcome(self) -> str:
        match self.got:
            case Got.SIGNAL | Got.UNREADABLE:
                source = "" if self.source is None else f" from {_one_line(self.source)}"
                unreadable = ", whose payload cannot be read: PayloadError" if self.got is Got.UNREADABLE else ""
                events = f"sent in event {self.delivery_version}, consumed in event {self.version}"
                return f"signal {self.signal_id}{source} ({events}){unreadable}"
            case Got.TIMEOUT:
                return f"timed out{_until(self.deadline_at)} (event {self.version})"
            case Got.NOTHING:
                return "no outcome in the history"
            case _:
                assert_never(self.got)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAwait:
    """An await that has no outcome in the history.

    Args:
        channel: The channel; None is the default channel.
        ordinal: Which await on the channel within the run.
        since: When the wait began; None if the history ends before it did.
        deadline_at: When it was to end without a signal; None if never, or if that was not decided.
        version: The last event that tells of it; None if the history ends before the wait began.
    """

    channel: str | None
    ordinal: int
    since: datetime | None = None
    deadline_at: datetime | None = None
    version: int | None = None

    def __str__(self) -> str:
        name = await_name(self.channel, self.ordinal)
        if self.since is None:
            return f"{name}, before which the history ends"
        return f"{name}, open since {to_text(self.since)}{_until(self.deadline_at)} (event {self.version})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunReport:
    """What became of a rerun. ``str()`` tells it to people.

    It shows no payloads by itself; the text of an exception, or of a ``Cancel``, is the worker's own.

    Args:
        worker: The worker that was run.
        job_id: The job whose history it was run on.
        run: The run.
        attempt: The attempt that it was run as.
        ended: How it ended.
        result: What `process` returned, such as Oban's ``Cancel``; None if it did not return.
        error: What `process` raised, if it did.
        stopped_at: The await without an outcome at which it stopped.
        divergence: What `process` did, and what the history holds instead; None if it did not diverge.
        awaits: The awaits in the order in which `process` asked for them.
        unasked: The outcomes in the history that it did not ask for, in their order.
        signals: The signals that it would have sent.
        jobs: The jobs that it would have enqueued.
        notes: What else there is to know.
        cause: How the run ended in the history; None if it has not.
        cause_version: The event that tells so.
        result_text: The result in words.
    """

    worker: str
    job_id: int
    run: int
    attempt: int
    ended: RerunEnd
    result: object = field(default=None, repr=False)
    error: BaseException | None = field(default=None, repr=False)
    stopped_at: OpenAwait | None = None
    divergence: str | None = None
    awaits: tuple[ReplayedAwait, ...] = ()
    unasked: tuple[ReplayedAwait, ...] = ()
    signals: tuple[UnsentSignal, ...] = ()
    jobs: tuple[UnwrittenJob, ...] = ()
    notes: tuple[str, ...] = ()
    cause: Cause | None = None
    cause_version: int | None = None
    result_text: str = field(default="None", repr=False)

    @property
    def ok(self) -> bool:
        """Whether `process` did not diverge. It may have returned, raised, or stopped at an open await."""
        return self.divergence is None

    def raise_for_divergence(self) -> None:
        """Do nothing if it did not diverge.

        Raises:
            RerunDiverged: It did. What `process` raised, if it did, is the cause.
        """
        if not self.ok:
            raise RerunDiverged(self) from self.error

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"Rerun of {self.worker} on the history of job {self.job_id}, run {self.run}, attempt {self.attempt}:"
        yield f"{self.ended.value}: {self._ending}"
        if self.ended is RerunEnd.DIVERGED:
            yield f"The code has changed since, or it is not deterministic{self._excuse}."
        yield f"In the history, {self._cause}."
        yield from _listed("Awaits, in the order in which process asked for them:", self.awaits)
        yield from _listed("Outcomes in the history that process did not ask for:", self.unasked)
        yield from _listed("Signals that it would have sent:", map(_signal, self.signals))
        yield from _listed("Jobs that it would have enqueued:", map(_job, self.jobs))
        yield from _listed("Notes:", self.notes)

    @property
    def _ending(self) -> str:
        match self.ended:
            case RerunEnd.RETURNED:
                return self.result_text
            case RerunEnd.RAISED:
                return error_text(self.error)
            case RerunEnd.STOPPED:
                return f"at {self.stopped_at}"
            case RerunEnd.DIVERGED:
                return f"process {self.divergence}."
            case _:
                assert_never(self.ended)

    @property
    def _excuse(self) -> str:
        """What else a divergence may come from."""
        if self.error is not None:
            return ", or what it calls did not fail then"
        if self.cause in (Cause.CANCELLED, Cause.DELETED):
            return f", or the job was {self.cause.value} from outside there"
        return ""

    @property
    def _cause(self) -> str:
        if self.cause is None:
            return "the run has not ended"
        return f"the run ended as {self.cause.value} (event {self.cause_version})"


def _one_line(text: str) -> str:
    """Quote a text that would break the line, or that a terminal would obey."""
    return text if text.isprintable() else repr(text)


def await_name(channel: str | None, ordinal: int) -> str:
    """Name an await for people.

    >>> await_name(None, 1), await_name("votes", 2)
    ('await 1 on the default channel', "await 2 on channel 'votes'")
    """
    return f"await {ordinal} on {'the default channel' if channel is None else f'channel {channel!r}'}"


def error_text(error: BaseException | None) -> str:
    """Tell an exception in one line.

    >>> error_text(ConnectionError("no route"))
    'ConnectionError: no route'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _until(deadline_at: datetime | None) -> str:
    return "" if deadline_at is None else f", deadline {to_text(deadline_at)}"


def _listed(title: str, items: Iterator[object] | tuple[object, ...]) -> Iterator[str]:
    numbered = [f"  {number}. {item}" for number, item in enumerate(items, start=1)]
    if numbered:
        yield title
        yield from numbered


def _signal(signal: UnsentSignal) -> str:
    channel = "the default channel" if signal.channel is None else f"channel {signal.channel!r}"
    key = "" if signal.key is None else f", key {signal.key!r}"
    source = "" if signal.source is None else f", source {signal.source!r}"
    return f"to {signal.target} on {channel}{key}{source}"


def _job(job: UnwrittenJob) -> str:
    scheduled = "" if job.scheduled_at is None else f", scheduled at {to_text(job.scheduled_at)}"
    return f"{job.worker} in queue {job.queue!r}{scheduled}"
