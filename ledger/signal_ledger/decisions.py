"""How commands are answered: replies, refusals, and the decisions that carry them."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from signal_ledger.constructors import constructor
from signal_ledger.events import DeliveryOutcome, Event
from signal_ledger.names import SignalId

# Replies


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The delivery was recorded, now or by an earlier try of the same call."""

    outcome: DeliveryOutcome
    version: int


new_stored = constructor(Stored)


class Fate(StrEnum):
    """What became of a delivery."""

    PENDING = "pending"
    CONSUMED = "consumed"
    ENDED = "ended with its run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """The key is taken by an equal delivery; nothing was written.

    Args:
        signal_id: The first delivery's id.
        version: The version of its event.
        fate: What became of it.
    """

    signal_id: SignalId
    version: int
    fate: Fate


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """The job cannot get signals; nothing was written (promise D3).

    Args:
        reason: ``missing`` if there is no such job, or the terminal state that it is in.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GotSignal:
    """The wait ended with a signal.

    Args:
        signal_id: The delivery's id.
        payload: Encoded; None if it was erased.
        delivered_at: When the signal was delivered; None if the wait had ended before, and this is its replay.
        recorded_at: When the wait ended; None as well.
        traceparent: The trace of who signalled, if the taker has asked for it and it is known.
    """

    signal_id: SignalId
    payload: bytes | None = field(repr=False)
    delivered_at: datetime | None = None
    recorded_at: datetime | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GotTimeout:
    """The wait ended at its deadline.

    Args:
        deadline_at: The deadline.
        recorded_at: When the wait ended; None if it had ended before, and this is its replay.
    """

    deadline_at: datetime
    recorded_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A live window is open.

    Args:
        left: How long until the wait's deadline, by the store's clock; None if the window is not cut short by one.
    """

    left: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MustSnooze:
    """No signal, and no live window: end the execution with a snooze."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asleep:
    """The job sleeps until a signal or ``until``; None is indefinitely."""

    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runnable:
    """The wait can end already: the job must run again at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The run is closed."""


type DeliverReply = Stored | Duplicate | Ignored
type TakeReply = GotSignal | GotTimeout | Waiting | MustSnooze
type SnoozeReply = Asleep | Runnable
type Reply = DeliverReply | TakeReply | SnoozeReply | Ended

# Refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """A newer execution owns the job, or none does (promise W13)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """The job was cancelled while it executed: end it (promise W12)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfOrder:
    """The await is not the next one on its channel. ``expected`` is."""

    expected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """The key is taken by a delivery that differs (promise D6).

    Args:
        key: The key.
        signal_id: The first delivery's id.
        difference: ``payload`` or ``channel``.
    """

    key: str
    signal_id: SignalId
    difference: str


type SnoozeRefusal = Stale | CancelRequested
type TakeRefusal = SnoozeRefusal | OutOfOrder
type Refusal = TakeRefusal | Conflict

# Decisions


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted[R: Reply]:
    """Append these events, then give this reply."""

    events: tuple[Event, ...]
    reply: R


new_accepted = constructor(Accepted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused[X: Refusal]:
    """Write nothing; this is why."""

    refusal: X


type Decision[R: Reply, X: Refusal] = Accepted[R] | Refused[X]
