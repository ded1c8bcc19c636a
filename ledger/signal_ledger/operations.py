"""What the ledger does in a transaction: deliver, take, and the snooze and close that go with a job's own changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar, assert_never

from signal_ledger.causes import Cause
from signal_ledger.commands import Close, Deliver, Snooze, Take
from signal_ledger.constructors import constructor
from signal_ledger.decide import decide
from signal_ledger.decisions import (
    Accepted,
    DeliverReply,
    GotSignal,
    Refused,
    SnoozeRefusal,
    SnoozeReply,
    Stored,
    TakeRefusal,
    TakeReply,
)
from signal_ledger.errors import KeyConflict
from signal_ledger.events import DeliveryOutcome, Event
from signal_ledger.evolve import evolve
from signal_ledger.facts import NO_FACTS
from signal_ledger.names import JobId
from signal_ledger.stored import to_stored
from signal_ledger.unit import LedgerUnit
from signal_ledger.upcast import NewerEventError
from signal_ledger.wait_state import WaitState


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverCall:
    """One call of `signal`: deliveries to different jobs, all or none (promise D2).

    Args:
        deliveries: One for each job.
    """

    deliveries: tuple[Deliver, ...]

    @property
    def job_ids(self) -> list[JobId]:
        """The jobs that are signalled."""
        return [delivery.job_id for delivery in self.deliveries]

    @property
    def size_bytes(self) -> int:
        """The payloads."""
        size = 0
        for delivery in self.deliveries:
            size += len(delivery.payload)
        return size

    def again(self) -> "DeliverCall":
        """Return the same call as another try, which an earlier one may have stored."""
        return DeliverCall(deliveries=tuple([replace(delivery, is_first_try=False) for delivery in self.deliveries]))

    def run(self, unit: LedgerUnit) -> list[DeliverReply]:
        """Deliver, or raise `KeyConflict` with nothing written."""
        # All are decided before the first is recorded: a refusal leaves nothing behind.
        decided = [_decide_delivery(unit, delivery) for delivery in self.deliveries]
        replies = [_record_delivery(unit, state, accepted, now) for state, accepted, now in decided]
        if self.deliveries[0].traceparent is not None:
            _note_traces(unit, self.deliveries, replies)
        return replies


new_deliver_call = constructor(DeliverCall)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeCall:
    """An execution's question for the outcome of a wait."""

    size_bytes: ClassVar[int] = 0
    take: Take

    @property
    def job_ids(self) -> list[JobId]:
        """The job that waits."""
        return [self.take.job_id]

    def run(self, unit: LedgerUnit) -> TakeReply | TakeRefusal:
        """Take, or say why not."""
        state = unit.state(self.take.job_id)
        facts = unit.facts(self.take, state)
        now = _stream_time(unit, state)
        match decide(state, unit.view(self.take.job_id), self.take, facts, now):
            case Accepted(events=events, reply=reply):
                _record(unit, state, events, now)
                if self.take.wants_trace and isinstance(reply, GotSignal) and reply.recorded_at is not None:
                    return replace(reply, traceparent=unit.take_trace(self.take.job_id, reply.signal_id))
                return reply
            case Refused(refusal=refusal):
                return refusal
            case unreachable:
                assert_never(unreachable)


def snooze(unit: LedgerUnit, command: Snooze) -> SnoozeReply | SnoozeRefusal:
    """Append the snooze of a wait. The caller then schedules the job as the reply says, in the same transaction."""
    state = unit.state(command.job_id)
    now = _stream_time(unit, state)
    match decide(state, unit.view(command.job_id), command, unit.facts(command, state), now):
        case Accepted(events=events, reply=reply):
            _record(unit, state, events, now)
            return reply
        case Refused(refusal=refusal):
            return refusal
        case unreachable:
            assert_never(unreachable)


def close(unit: LedgerUnit, job_id: JobId, cause: Cause) -> None:
    """Append the end of a job's run, if the run left events. Belongs before the change of the job that ends it.

    A stream that a newer library has written to cannot be folded here: it is noted for repair, since the job must
    be able to end all the same.
    """
    try:
        state = unit.state(job_id)
    except NewerEventError:
        unit.note_repair(job_id, cause.value)
        return
    now = _stream_time(unit, state)
    accepted = decide(state, unit.view(job_id), Close(job_id=job_id, cause=cause), NO_FACTS, now)
    _record(unit, state, accepted.events, now)


def append(unit: LedgerUnit, job_id: JobId, event: Callable[[int], Event]) -> None:
    """Append an event that no decision stands behind, but another job's end, say.

    Args:
        unit: The transaction.
        job_id: The stream.
        event: Makes the event for the run that it belongs to.

    Raises:
        NewerEventError: A newer version of this library has written to the stream.
    """
    state = unit.state(job_id)
    _record(unit, state, [event(state.open_run)], _stream_time(unit, state))


def _decide_delivery(unit: LedgerUnit, delivery: Deliver) -> tuple[WaitState, Accepted[DeliverReply], datetime]:
    job_id = delivery.job_id
    state = unit.state(job_id)
    is_new = delivery.is_first_try and delivery.key is None
    facts = NO_FACTS if is_new else unit.facts(delivery, state)
    now = _stream_time(unit, state)
    match decide(state, unit.view(job_id), delivery, facts, now):
        case Accepted() as accepted:
            return state, accepted, now
        case Refused(refusal=conflict):
            raise KeyConflict(
                job_id=job_id, key=conflict.key, signal_id=conflict.signal_id, difference=conflict.difference
            )
        case unreachable:
            assert_never(unreachable)


def _record_delivery(
    unit: LedgerUnit, state: WaitState, accepted: Accepted[DeliverReply], now: datetime
) -> DeliverReply:
    reply = accepted.reply
    if accepted.events:
        _record(unit, state, accepted.events, now)
        if isinstance(reply, Stored) and reply.outcome is DeliveryOutcome.WOKEN:
            unit.wake(state.job_id)
    return reply


def _note_traces(unit: LedgerUnit, deliveries: Sequence[Deliver], replies: Sequence[DeliverReply]) -> None:
    """Keep the trace of a call beside what it has stored."""
    for delivery, reply in zip(deliveries, replies, strict=True):
        if isinstance(reply, Stored) and delivery.traceparent is not None:
            unit.note_trace(delivery.job_id, delivery.signal_id, delivery.traceparent)


def _stream_time(unit: LedgerUnit, state: WaitState) -> datetime:
    """The time of the next event: the clock's, but never before the stream's last event (promise W7)."""
    now, last = unit.now, state.recorded_at
    return now if last is None or now > last else last


def _record(unit: LedgerUnit, state: WaitState, events: Sequence[Event], now: datetime) -> None:
    if not events:
        return
    rows = []
    for event in events:
        version = state.version + 1
        state = evolve(state, event, version=version, recorded_at=now)
        rows.append(to_stored(event, job_id=state.job_id, version=version, recorded_at=now))
    unit.append(rows, state)
