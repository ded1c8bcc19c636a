"""Figures of an operator: how long decisions take, what timed out, which signals came too late."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from statistics import fmean
from typing import Self, assert_never

from signal_ledger.errors import SchemaError
from signal_ledger.events import Awaited, Closed, Consumed, Delivered, DeliveryOutcome, Kind, Snoozed, TimedOut
from signal_ledger.names import SignalId
from signal_ledger.ports import UnreadableEvent, WaitingJob
from signal_ledger.recorded import RecordedEvent, from_stored
from signal_ledger.stored import StoredEvent
from signal_ledger.verify_stream import require_columns

COUNTED = (Kind.DELIVERED, Kind.CONSUMED, Kind.TIMED_OUT)
"""The kinds that are counted. The others tell when waits began and runs ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long something took, over many times that it happened.

    Args:
        count: How many times.
        mean_s: The mean, in seconds; None if there is none, as for those below.
        median_s: Half of them took no longer.
        p95_s: Of twenty, nineteen took no longer.
        max_s: The longest.
    """

    count: int
    mean_s: float | None = None
    median_s: float | None = None
    p95_s: float | None = None
    max_s: float | None = None

    @classmethod
    def of(cls, durations_s: Sequence[float]) -> Self:
        """Sum some durations up, in seconds.

        >>> Durations.of([3.0, 1.0, 2.0])
        Durations(count=3, mean_s=2.0, median_s=2.0, p95_s=3.0, max_s=3.0)
        """
        if not durations_s:
            return cls(count=0)
        ordered = sorted(durations_s)
        return cls(
            count=len(ordered),
            mean_s=fmean(ordered),
            median_s=_nearest_rank(ordered, Fraction(1, 2)),
            p95_s=_nearest_rank(ordered, Fraction(95, 100)),
            max_s=ordered[-1],
        )


def _nearest_rank(ordered: Sequence[float], share: Fraction) -> float:
    """Return the smallest of them that so many are not above."""
    return ordered[max(0, -(-len(ordered) * share.numerator // share.denominator) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What `Ledger.stats` counted.

    Args:
        since: Only what was recorded at this instant or later was counted; None is from the beginning.
        until: Only what was recorded before this instant; None is up to the end.
        events: How many events were read.
        streams: How many jobs they are of.
        open_waits: How many waits are open now, by channel; None is the default channel.
        oldest: The wait that has been open for longest; None if none is.
        delivered: How many signals were delivered, by what that did at once.
        consumed: How many waits ended with a signal.
        timed_out: How many waits ended without one.
        late: How many signals came after the deadline of the wait that they could have ended: one that no signal before
            them had ended.
        time_to_decision: From the beginning of a wait to the signal that ended it. A wait whose signal was there
            before it began is not among them.
        time_to_resume: From that signal to its consumption: how long the job took to go on.
    """

    since: datetime | None
    until: datetime | None
    events: int
    streams: int
    open_waits: Mapping[str | None, int]
    oldest: WaitingJob | None
    delivered: Mapping[DeliveryOutcome, int]
    consumed: int
    timed_out: int
    late: int
    time_to_decision: Durations
    time_to_resume: Durations


@dataclass(slots=True)
class _Wait:
    ordinal: int
    begun_at: datetime
    deadline_at: datetime | None
    is_decided: bool = False
    """Whether a signal came in time, though it may not be consumed yet."""


class Tally:
    """Counts events, stream after stream. Takes memory for the streams' open ends, and a number for each decision.

    Args:
        since: Counts what was recorded at this instant or later.
        until: Counts what was recorded before this instant.
        channel: Counts what is on this channel, named as stored; None is any.
    """

    def __init__(
        self, *, since: datetime | None = None, until: datetime | None = None, channel: str | None = None
    ) -> None:
        self.events = 0
        self.streams = 0
        self._since = since
        self._until = until
        self._channel = channel
        self._delivered: Counter[DeliveryOutcome] = Counter()
        self._consumed = 0
        self._timed_out = 0
        self._late = 0
        self._decisions_s: list[float] = []
        self._resumptions_s: list[float] = []
        self._open_waits: Counter[str | None] = Counter()
        self._oldest: WaitingJob | None = None
        self._job_id: int | None = None
        self._forget_run()

    def add(self, recorded: RecordedEvent) -> None:
        """Go on with the next event, of the same stream or of the next one."""
        if recorded.job_id != self._job_id:
            self._job_id = recorded.job_id
            self.streams += 1
            self._forget_run()
        self.events += 1
        event, at = recorded.event, recorded.recorded_at
        if isinstance(event, Closed):
            self._forget_run()
            return
        if not isinstance(event, Awaited | Snoozed | Delivered | Consumed | TimedOut):
            return
        counts = self._is_wanted(event.channel, at)
        match event:
            case Awaited() | Snoozed():
                self._begin(event, at)
            case Delivered():
                self._deliver(event, at, counts=counts)
            case Consumed():
                self._consume(event, at, counts=counts)
            case TimedOut():
                self._waits.pop(event.channel, None)
                self._timed_out_on.add(event.channel)
                self._timed_out += counts
            case _:
                assert_never(event)

    def _forget_run(self) -> None:
        self._waits: dict[str, _Wait] = {}
        self._timed_out_on: set[str] = set()
        """The channels whose last wait timed out, with none begun since."""
        self._pending: dict[SignalId, datetime] = {}

    def _is_wanted(self, channel: str, at: datetime) -> bool:
        return (
            (self._since is None or at >= self._since)
            and (self._until is None or at < self._until)
            and (self._channel is None or channel == self._channel)
        )

    def _begin(self, event: Awaited | Snoozed, at: datetime) -> None:
        wait = self._waits.get(event.channel)
        if wait is None or wait.ordinal != event.ordinal:
            wait = self._waits[event.channel] = _Wait(event.ordinal, at, None)
        wait.deadline_at = event.deadline_at
        self._timed_out_on.discard(event.channel)

    def _deliver(self, event: Delivered, at: datetime, *, counts: bool) -> None:
        self._pending[event.signal_id] = at
        is_late = self._is_late(event.channel, at)
        if counts:
            self._delivered[event.outcome] += 1
            self._late += is_late

    def _is_late(self, channel: str, at: datetime) -> bool:
        """Tell whether a signal is late, and if it is not, remember that it decides the wait."""
        wait = self._waits.get(channel)
        if wait is None:
            return channel in self._timed_out_on
        wait.is_decided = wait.is_decided or wait.deadline_at is None or at <= wait.deadline_at
        return not wait.is_decided

    def _consume(self, event: Consumed, at: datetime, *, counts: bool) -> None:
        delivered_at = self._pending.pop(event.signal_id, None)
        wait = self._waits.pop(event.channel, None)
        self._timed_out_on.discard(event.channel)
        if not counts:
            return
        self._consumed += 1
        if delivered_at is not None and wait is not None and wait.begun_at <= delivered_at:
            self._decisions_s.append((delivered_at - wait.begun_at).total_seconds())
            self._resumptions_s.append((at - delivered_at).total_seconds())

    def add_wait(self, wait: WaitingJob) -> None:
        """Go on with the next wait that is open now, the oldest first."""
        self._oldest = self._oldest or wait
        self._open_waits[wait.channel] += 1

    def result(self) -> Stats:
        """Sum up."""
        return Stats(
            since=self._since,
            until=self._until,
            events=self.events,
            streams=self.streams,
            open_waits=dict(self._open_waits),
            oldest=self._oldest,
            delivered=dict(self._delivered),
            consumed=self._consumed,
            timed_out=self._timed_out,
            late=self._late,
            time_to_decision=Durations.of(self._decisions_s),
            time_to_resume=Durations.of(self._resumptions_s),
        )


def to_recorded(row: StoredEvent | UnreadableEvent, position: int) -> RecordedEvent:
    """Read a row of a snapshot.

    Raises:
        SchemaError: It cannot be read.
    """
    try:
        if not isinstance(row, UnreadableEvent):
            recorded = from_stored(row, position=position, cursor="")
            require_columns(recorded.event)
            return recorded
    except ValueError:
        pass
    raise SchemaError(f"job {row.job_id}: event {row.version} cannot be read; verify() tells why")
