"""A job's wait state: the projection of its stream, as small as what is still open."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from signal_ledger.constructors import constructor
from signal_ledger.names import NO_EXECUTION, Execution, JobId, public_channel


class Status(StrEnum):
    """What a job does about its waits, as far as the log knows."""

    IDLE = "idle"
    """It waits for nothing, or what it waited for is there and the job is about to find it."""
    LIVE = "live"
    """An execution blocks in its live window."""
    SNOOZED = "snoozed"
    """It sleeps until a signal or its deadline."""
    CLOSED = "closed"
    """Its last run ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWait:
    """A wait that has begun and has no outcome yet. A channel has one at most.

    Args:
        channel: The channel; the default one is "".
        ordinal: Which await on the channel within the run.
        since: When its first event was recorded.
        deadline_is_final: Whether the log has decided the deadline.
        deadline_at: The deadline; None while undecided, or for a wait without one.
        was_snoozed: Whether it has had its live window: it gets no second one (promise W3).
    """

    channel: str
    ordinal: int
    since: datetime
    deadline_is_final: bool
    deadline_at: datetime | None
    was_snoozed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """The signals of a channel that nobody has consumed, first in, first out. Absent when empty.

    Args:
        channel: The channel; the default one is "".
        pending: How many there are.
        after: The oldest is the first delivery on the channel with a version above this one.
    """

    channel: str
    pending: int
    after: int


new_inbox = constructor(Inbox)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitState:
    """A job's wait state, folded from its stream. Two of them are compared by value.

    Args:
        job_id: The stream.
        run: The current run, or the last one if it is closed; from 1.
        version: The version of the last event folded in; 0 for an empty stream.
        recorded_at: When that event was recorded.
        status: What the job does about its waits.
        current: The channel of the wait that ``status`` speaks of, as stored; None if there is none.
        execution: The execution that last awaited or snoozed; 0 if none did.
        waits: The open waits, by channel.
        inboxes: The channels with pending signals, by channel.
        provisional: The answer to "as of" a time so recent that an event of that time may still come (promise L5).
            It is no part of the value.

    Example:
        >>> WaitState(job_id=JobId(7)).status
        <Status.IDLE: 'idle'>
    """

    job_id: JobId
    run: int = 1
    version: int = 0
    recorded_at: datetime | None = None
    status: Status = Status.IDLE
    current: str | None = None
    execution: Execution = NO_EXECUTION
    waits: tuple[OpenWait, ...] = ()
    inboxes: tuple[Inbox, ...] = ()
    provisional: bool = field(default=False, compare=False)

    @property
    def wait(self) -> OpenWait | None:
        """The open wait that ``status`` speaks of."""
        return None if self.current is None else self.wait_on(self.current)

    def wait_on(self, channel: str) -> OpenWait | None:
        """Return the open wait on a channel, named as stored."""
        for wait in self.waits:
            if wait.channel == channel:
                return wait
        return None

    def inbox_of(self, channel: str) -> Inbox | None:
        """Return the pending signals of a channel, named as stored."""
        for inbox in self.inboxes:
            if inbox.channel == channel:
                return inbox
        return None

    @property
    def channel(self) -> str | None:
        """The channel waited on; None is the default channel, and also what a job without a wait has."""
        return public_channel(self.current)

    @property
    def ordinal(self) -> int | None:
        """Which await on that channel within the run; None without a wait."""
        return None if self.wait is None else self.wait.ordinal

    @property
    def deadline_at(self) -> datetime | None:
        """The deadline of the wait; None without one, or while it is undecided."""
        return None if self.wait is None else self.wait.deadline_at

    @property
    def pending(self) -> dict[str | None, int]:
        """How many signals each channel holds; None is the default channel."""
        return {public_channel(inbox.channel): inbox.pending for inbox in self.inboxes}

    @property
    def open_run(self) -> int:
        """The run that the next event belongs to."""
        return self.run + 1 if self.status is Status.CLOSED else self.run


new_wait_state = constructor(WaitState)
