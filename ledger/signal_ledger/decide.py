"""The rule book: from a state, a job and a command to events and a reply, or to a refusal.

Pure. The store holds the job's lock, looks up the facts, reads the clock and appends what is decided here; on
PostgreSQL the same rules run as database functions, held to these by a test that drives both.
"""

from datetime import datetime
from typing import assert_never, overload

from signal_ledger.commands import Close, Command, Deliver, Snooze, Take
from signal_ledger.decisions import (
    Accepted,
    Asleep,
    CancelRequested,
    Conflict,
    Decision,
    DeliverReply,
    Duplicate,
    Ended,
    Fate,
    GotSignal,
    GotTimeout,
    Ignored,
    MustSnooze,
    OutOfOrder,
    Refused,
    Runnable,
    SnoozeRefusal,
    SnoozeReply,
    Stale,
    Stored,
    TakeRefusal,
    TakeReply,
    Waiting,
    new_accepted,
    new_stored,
)
from signal_ledger.events import Awaited, Closed, Consumed, DeliveryOutcome, Snoozed, TimedOut, new_delivered
from signal_ledger.facts import Facts, PriorDelivery
from signal_ledger.jobs import TERMINAL, JobState, JobView
from signal_ledger.names import NO_EXECUTION
from signal_ledger.wait_state import OpenWait, Status, WaitState


@overload
def decide(
    state: WaitState, job: JobView | None, command: Deliver, facts: Facts, now: datetime
) -> Decision[DeliverReply, Conflict]: ...
@overload
def decide(
    state: WaitState, job: JobView | None, command: Take, facts: Facts, now: datetime
) -> Decision[TakeReply, TakeRefusal]: ...
@overload
def decide(
    state: WaitState, job: JobView | None, command: Snooze, facts: Facts, now: datetime
) -> Decision[SnoozeReply, SnoozeRefusal]: ...
@overload
def decide(state: WaitState, job: JobView | None, command: Close, facts: Facts, now: datetime) -> Accepted[Ended]: ...


def decide(
    state: WaitState, job: JobView | None, command: Command, facts: Facts, now: datetime
) -> (
    Decision[DeliverReply, Conflict]
    | Decision[TakeReply, TakeRefusal]
    | Decision[SnoozeReply, SnoozeRefusal]
    | Accepted[Ended]
):
    """Decide a command.

    Args:
        state: The job's wait state.
        job: The job as it is under its lock; None if there is none.
        command: What is asked.
        facts: What `signal_ledger.facts.look_up` finds for the command.
        now: The store's clock, read under the lock; never before ``state.recorded_at``.
    """
    match command:
        case Deliver():
            return _deliver(state, job, command, facts, now)
        case Take():
            return _take(state, job, command, facts, now)
        case Snooze():
            return _snooze(state, job, command, facts, now)
        case Close():
            return _close(state, job, command)
        case _:
            assert_never(command)


# Deliver


def _deliver(
    state: WaitState, job: JobView | None, command: Deliver, facts: Facts, now: datetime
) -> Decision[DeliverReply, Conflict]:
    # The key comes first: a repeated call is told what became of the first one, whatever the job does now (D6).
    if facts.prior is not None:
        return _repeated(state, command, facts.prior)
    if job is None:
        return Accepted(events=(), reply=Ignored(reason="missing"))
    if job.state in TERMINAL:
        return Accepted(events=(), reply=Ignored(reason=job.state.value))
    outcome = _outcome_of_delivery(state, job, command.channel, now)
    delivered = new_delivered(
        run=state.open_run,
        channel=command.channel,
        signal_id=command.signal_id,
        payload=command.payload,
        payload_digest=command.payload_digest,
        key=command.key,
        source=command.source,
        outcome=outcome,
    )
    return new_accepted(events=(delivered,), reply=new_stored(outcome=outcome, version=state.version + 1))


def _repeated(state: WaitState, command: Deliver, prior: PriorDelivery) -> Decision[DeliverReply, Conflict]:
    if not command.is_first_try and (prior.signal_id, prior.key) == (command.signal_id, command.key):
        return Accepted(events=(), reply=Stored(outcome=prior.outcome, version=prior.version))
    if prior.channel != command.channel:
        return _conflict(command, prior, "channel")
    if prior.payload_digest != command.payload_digest:
        return _conflict(command, prior, "payload")
    if prior.consumed:
        fate = Fate.CONSUMED
    elif prior.run != state.open_run:
        fate = Fate.ENDED
    else:
        fate = Fate.PENDING
    return Accepted(events=(), reply=Duplicate(signal_id=prior.signal_id, version=prior.version, fate=fate))


def _conflict(command: Deliver, prior: PriorDelivery, difference: str) -> Refused[Conflict]:
    return Refused(refusal=Conflict(key=command.key or "", signal_id=prior.signal_id, difference=difference))


def _outcome_of_delivery(state: WaitState, job: JobView, channel: str, now: datetime) -> DeliveryOutcome:
    """A wait is resumed only by a signal on its channel, by its deadline, and by the execution that it belongs to.

    A job scheduled for later, snoozed by its own code or backing off after an error has run since its last wait was
    snoozed, or waits for nothing: it keeps its schedule (W5).
    """
    wait = state.wait
    if wait is None or wait.channel != channel or job.execution != state.execution or _has_passed(wait, now):
        return DeliveryOutcome.BUFFERED
    if state.status is Status.SNOOZED and job.state is JobState.SCHEDULED:
        return DeliveryOutcome.WOKEN
    if state.status is Status.LIVE and job.state is JobState.EXECUTING:
        return DeliveryOutcome.LIVE
    return DeliveryOutcome.BUFFERED


# Take


def _take(
    state: WaitState, job: JobView | None, command: Take, facts: Facts, now: datetime
) -> Decision[TakeReply, TakeRefusal]:
    if job is None or job.state is not JobState.EXECUTING or job.execution != command.execution:
        return Refused(refusal=Stale())
    if job.cancel_requested:
        return Refused(refusal=CancelRequested())
    if facts.outcome is not None:
        return Accepted(events=(), reply=facts.outcome)
    if command.ordinal != facts.outcomes + 1:
        return Refused(refusal=OutOfOrder(expected=facts.outcomes + 1))
    wait = state.wait_on(command.channel)
    ended = _judge(state, job, command, wait, facts, now)
    if ended is not None:
        return ended
    if not command.window or (wait is not None and wait.was_snoozed):
        return Accepted(events=(), reply=MustSnooze())
    return _open_window(state, job, command, wait, now)


def _judge(
    state: WaitState, job: JobView, command: Take, wait: OpenWait | None, facts: Facts, now: datetime
) -> Accepted[TakeReply] | None:
    """End the wait if the log says how: by its oldest pending signal, else by its deadline (W7)."""
    oldest = facts.oldest
    if oldest is not None and (wait is None or not _has_passed(wait, oldest.recorded_at)):
        consumed = Consumed(
            run=state.open_run,
            execution=command.execution,
            attempt=job.attempt,
            channel=command.channel,
            ordinal=command.ordinal,
            signal_id=oldest.signal_id,
            delivery_version=oldest.version,
        )
        return Accepted(
            events=(consumed,),
            reply=GotSignal(
                signal_id=oldest.signal_id, payload=oldest.payload, delivered_at=oldest.recorded_at, recorded_at=now
            ),
        )
    if wait is not None and wait.deadline_at is not None and now > wait.deadline_at:
        timed_out = TimedOut(
            run=state.open_run,
            execution=command.execution,
            attempt=job.attempt,
            channel=command.channel,
            ordinal=command.ordinal,
            deadline_at=wait.deadline_at,
        )
        return Accepted(events=(timed_out,), reply=GotTimeout(deadline_at=wait.deadline_at, recorded_at=now))
    return None


def _open_window(
    state: WaitState, job: JobView, command: Take, wait: OpenWait | None, now: datetime
) -> Accepted[TakeReply]:
    deadline_at = None if wait is None else wait.deadline_at
    if deadline_at is None and command.in_place and command.wait_for is not None:
        deadline_at = now + command.wait_for
    reply = Waiting(left=None if deadline_at is None else deadline_at - now)
    is_open = state.status is Status.LIVE and state.current == command.channel and state.execution == command.execution
    if is_open and wait is not None and wait.deadline_at == deadline_at:
        return Accepted(events=(), reply=reply)
    awaited = Awaited(
        run=state.open_run,
        execution=command.execution,
        attempt=job.attempt,
        channel=command.channel,
        ordinal=command.ordinal,
        deadline_at=deadline_at,
    )
    return Accepted(events=(awaited,), reply=reply)


# Snooze


def _snooze(
    state: WaitState, job: JobView | None, command: Snooze, facts: Facts, now: datetime
) -> Decision[SnoozeReply, SnoozeRefusal]:
    if job is None or job.state is not JobState.EXECUTING or job.execution != command.execution:
        return Refused(refusal=Stale())
    if job.cancel_requested:
        return Refused(refusal=CancelRequested())
    if facts.outcome is not None:
        return Accepted(events=(), reply=Runnable())
    wait = state.wait_on(command.channel)
    if wait is not None and wait.deadline_is_final:
        deadline_at = wait.deadline_at
    else:
        deadline_at = None if command.wait_for is None else now + command.wait_for
    snoozed = Snoozed(
        run=state.open_run,
        execution=command.execution,
        attempt=job.attempt,
        channel=command.channel,
        ordinal=command.ordinal,
        deadline_at=deadline_at,
    )
    # A pending signal ends the wait at once: it is in time, or it came after a deadline that has passed with it.
    is_over = facts.oldest is not None or (deadline_at is not None and now > deadline_at)
    return Accepted(events=(snoozed,), reply=Runnable() if is_over else Asleep(until=deadline_at))


# Close


def _close(state: WaitState, job: JobView | None, command: Close) -> Accepted[Ended]:
    if state.version == 0 or state.status is Status.CLOSED:
        return Accepted(events=(), reply=Ended())
    closed = Closed(
        run=state.run,
        execution=NO_EXECUTION if job is None else job.execution,
        attempt=0 if job is None else job.attempt,
        cause=command.cause,
    )
    return Accepted(events=(closed,), reply=Ended())


def _has_passed(wait: OpenWait, instant: datetime) -> bool:
    """Say whether an instant lies behind the wait's deadline. The deadline itself does not (W7)."""
    return wait.deadline_at is not None and instant > wait.deadline_at
