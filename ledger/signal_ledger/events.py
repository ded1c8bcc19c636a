"""The events of the log: ten kinds, immutable, each a fact in the past tense.

They are all that the fold and the decisions need (promise L2). Where they come from is told in `decide`, what they add
up to in `evolve`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from signal_ledger.causes import Cause
from signal_ledger.constructors import constructor
from signal_ledger.names import Execution, SignalId
from signal_ledger.plan import Plan


class DeliveryOutcome(StrEnum):
    """What a delivery did when it was recorded (promise D5)."""

    WOKEN = "woken"
    """A snoozed job was made runnable."""
    LIVE = "live"
    """A job that waits in its live window was told."""
    BUFFERED = "buffered"
    """Kept until the job asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """An execution opened a live window for a wait.

    Args:
        run: The job's run, from 1.
        execution: The execution that waits.
        attempt: The job's attempt at the time.
        channel: The channel; the default one is "".
        ordinal: Which await on the channel within the run, from 1.
        deadline_at: The wait's deadline, if it is decided already: when ``wait_for`` fits in the live window.
    """

    run: int
    execution: Execution
    attempt: int
    channel: str
    ordinal: int
    deadline_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snoozed:
    """The live window was over; the execution ended and the job sleeps until a signal or its deadline.

    Args:
        run: As in `Awaited`, and so are the fields up to ``ordinal``.
        deadline_at: The wait's deadline, final from now on; None waits indefinitely.
    """

    run: int
    execution: Execution
    attempt: int
    channel: str
    ordinal: int
    deadline_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A signal was stored for the job.

    Args:
        run: The run it belongs to; it ends with it.
        channel: The channel it was sent on.
        signal_id: The delivery's id, unique within the job.
        payload: The encoded payload; None once erased. Never shown by ``repr``.
        payload_digest: Lower-case hex SHA-256 of the payload's canonical encoding.
        key: The caller's idempotency key, if one was given. Unique within the job, for ever.
        source: Who or what signalled, in the caller's words.
        outcome: What the delivery did at once.
    """

    run: int
    channel: str
    signal_id: SignalId
    payload: bytes | None = field(repr=False)
    payload_digest: str
    key: str | None
    source: str | None
    outcome: DeliveryOutcome


new_delivered = constructor(Delivered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """A wait ended with a signal.

    Args:
        run: As in `Awaited`, and so are the fields up to ``ordinal``.
        signal_id: The delivery that it got.
        delivery_version: The version of that delivery's event.
    """

    run: int
    execution: Execution
    attempt: int
    channel: str
    ordinal: int
    signal_id: SignalId
    delivery_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut:
    """A wait ended without a signal.

    Args:
        run: As in `Awaited`, and so are the fields up to ``ordinal``.
        deadline_at: The deadline that had passed.
    """

    run: int
    execution: Execution
    attempt: int
    channel: str
    ordinal: int
    deadline_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The run ended; its open waits and pending signals ended with it.

    Args:
        run: The run that ended.
        execution: The job's last execution; 0 if it never ran.
        attempt: The job's attempt at the time.
        cause: How it ended.
    """

    run: int
    execution: Execution
    attempt: int
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The job is a step of a workflow. The first event of each of its runs.

    Args:
        run: The job's run.
        plan: The step.
    """

    run: int
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The last dep that a step was held for has ended; the job may run.

    Args:
        run: As in `Planned`.
        dep: The dep that ended last.
    """

    run: int
    dep: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A dep ended without being completed, and the step ignores that.

    Args:
        run: As in `Planned`.
        dep: The dep.
        cause: How it ended.
    """

    run: int
    dep: str
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascaded:
    """A dep ended without being completed, and so the step, which was held for it, was cancelled.

    Args:
        run: As in `Planned`.
        dep: The dep.
        cause: How it ended.
    """

    run: int
    dep: str
    cause: Cause


type Event = Awaited | Snoozed | Delivered | Consumed | TimedOut | Closed | Planned | Released | Skipped | Cascaded


class Kind(StrEnum):
    """The stored names of the events."""

    AWAITED = "awaited"
    SNOOZED = "snoozed"
    DELIVERED = "delivered"
    CONSUMED = "consumed"
    TIMED_OUT = "timed_out"
    CLOSED = "closed"
    PLANNED = "planned"
    RELEASED = "released"
    SKIPPED = "skipped"
    CASCADED = "cascaded"


KIND_OF: dict[type[Event], Kind] = {
    Awaited: Kind.AWAITED,
    Snoozed: Kind.SNOOZED,
    Delivered: Kind.DELIVERED,
    Consumed: Kind.CONSUMED,
    TimedOut: Kind.TIMED_OUT,
    Closed: Kind.CLOSED,
    Planned: Kind.PLANNED,
    Released: Kind.RELEASED,
    Skipped: Kind.SKIPPED,
    Cascaded: Kind.CASCADED,
}
