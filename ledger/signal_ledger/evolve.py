"""`evolve` and `fold`: what events add up to. Total: a recorded fact is never refused."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from signal_ledger.events import (
    Awaited,
    Cascaded,
    Closed,
    Consumed,
    Delivered,
    DeliveryOutcome,
    Event,
    Planned,
    Released,
    Skipped,
    Snoozed,
    TimedOut,
)
from signal_ledger.names import JobId
from signal_ledger.recorded import RecordedEvent
from signal_ledger.wait_state import Inbox, OpenWait, Status, WaitState, new_inbox, new_wait_state


def fold(job_id: JobId, events: Iterable[RecordedEvent]) -> WaitState:
    """Fold a stream, or the first part of one, into a wait state (promise L3).

    Args:
        job_id: The stream.
        events: Its events in the order of their versions.
    """
    state = WaitState(job_id=job_id)
    for recorded in events:
        state = evolve(state, recorded.event, version=recorded.version, recorded_at=recorded.recorded_at)
    return state


def evolve(state: WaitState, event: Event, *, version: int, recorded_at: datetime) -> WaitState:
    """Return the state after an event.

    Args:
        state: The state before it.
        event: The fact.
        version: Its version.
        recorded_at: When it was recorded.
    """
    if event.run != state.run or (state.status is Status.CLOSED and not isinstance(event, Closed)):
        state = WaitState(job_id=state.job_id, run=event.run)
    match event:
        case Awaited():
            return _awaited(state, event, version, recorded_at)
        case Snoozed():
            return _snoozed(state, event, version, recorded_at)
        case Delivered():
            return _delivered(state, event, version, recorded_at)
        case Consumed():
            return _consumed(state, event, version, recorded_at)
        case TimedOut():
            return _ended(state, event.channel, version, recorded_at)
        case Planned() | Released() | Skipped() | Cascaded():
            # They tell of the job's place in its workflow, not of its waits.
            return replace(state, version=version, recorded_at=recorded_at)
        case Closed():
            return WaitState(
                job_id=state.job_id, run=event.run, version=version, recorded_at=recorded_at, status=Status.CLOSED
            )
        case _:
            assert_never(event)


def _awaited(state: WaitState, event: Awaited, version: int, recorded_at: datetime) -> WaitState:
    before = state.wait_on(event.channel)
    wait = OpenWait(
        channel=event.channel,
        ordinal=event.ordinal,
        since=recorded_at if before is None else before.since,
        deadline_is_final=event.deadline_at is not None,
        deadline_at=event.deadline_at,
        was_snoozed=False,
    )
    return replace(
        state,
        version=version,
        recorded_at=recorded_at,
        status=Status.LIVE,
        current=event.channel,
        execution=event.execution,
        waits=_with_wait(state.waits, wait),
    )


def _snoozed(state: WaitState, event: Snoozed, version: int, recorded_at: datetime) -> WaitState:
    before = state.wait_on(event.channel)
    wait = OpenWait(
        channel=event.channel,
        ordinal=event.ordinal,
        since=recorded_at if before is None else before.since,
        deadline_is_final=True,
        deadline_at=event.deadline_at,
        was_snoozed=True,
    )
    # With a signal already there the job is made runnable in the same transaction: it does not sleep.
    sleeps = state.inbox_of(event.channel) is None
    return replace(
        state,
        version=version,
        recorded_at=recorded_at,
        status=Status.SNOOZED if sleeps else Status.IDLE,
        current=event.channel,
        execution=event.execution,
        waits=_with_wait(state.waits, wait),
    )


def _delivered(state: WaitState, event: Delivered, version: int, recorded_at: datetime) -> WaitState:
    before = state.inbox_of(event.channel)
    if before is None:
        inbox = new_inbox(channel=event.channel, pending=1, after=version - 1)
    else:
        inbox = new_inbox(channel=event.channel, pending=before.pending + 1, after=before.after)
    return new_wait_state(
        job_id=state.job_id,
        run=state.run,
        version=version,
        recorded_at=recorded_at,
        status=Status.IDLE if event.outcome is DeliveryOutcome.WOKEN else state.status,
        current=state.current,
        execution=state.execution,
        waits=state.waits,
        inboxes=_with_inbox(state.inboxes, inbox),
    )


def _consumed(state: WaitState, event: Consumed, version: int, recorded_at: datetime) -> WaitState:
    inboxes = tuple(inbox for inbox in state.inboxes if inbox.channel != event.channel)
    before = state.inbox_of(event.channel)
    if before is not None and before.pending > 1:
        left = Inbox(channel=event.channel, pending=before.pending - 1, after=event.delivery_version)
        inboxes = _with_inbox(inboxes, left)
    return replace(_ended(state, event.channel, version, recorded_at), inboxes=inboxes)


def _ended(state: WaitState, channel: str, version: int, recorded_at: datetime) -> WaitState:
    was_current = state.current == channel
    return replace(
        state,
        version=version,
        recorded_at=recorded_at,
        status=Status.IDLE if was_current else state.status,
        current=None if was_current else state.current,
        waits=tuple(wait for wait in state.waits if wait.channel != channel),
    )


def _with_wait(waits: tuple[OpenWait, ...], wait: OpenWait) -> tuple[OpenWait, ...]:
    others = [other for other in waits if other.channel != wait.channel]
    return tuple(sorted([*others, wait], key=lambda wait: wait.channel)) if others else (wait,)


def _with_inbox(inboxes: tuple[Inbox, ...], inbox: Inbox) -> tuple[Inbox, ...]:
    others = [other for other in inboxes if other.channel != inbox.channel]
    return tuple(sorted([*others, inbox], key=lambda inbox: inbox.channel)) if others else (inbox,)
