"""Facts: what a decision needs from the log beyond the state. Stores look them up under the job's lock."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import assert_never

from signal_ledger.commands import Close, Command, Deliver, Snooze, Take
from signal_ledger.decisions import GotSignal, GotTimeout
from signal_ledger.events import Consumed, Delivered, DeliveryOutcome, TimedOut
from signal_ledger.names import SignalId
from signal_ledger.recorded import RecordedEvent
from signal_ledger.wait_state import WaitState


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorDelivery:
    """The delivery that already has this key or id.

    Args:
        version: The version of its event.
        run: The run it belongs to.
        channel: The channel, as stored.
        signal_id: Its id.
        key: Its idempotency key.
        payload_digest: The digest of its payload.
        outcome: What it did when it was recorded.
        consumed: Whether a wait has got it.
    """

    version: int
    run: int
    channel: str
    signal_id: SignalId
    key: str | None
    payload_digest: str
    outcome: DeliveryOutcome
    consumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSignal:
    """The oldest pending signal of a channel, the only one that is ever judged (promise W7)."""

    version: int
    signal_id: SignalId
    recorded_at: datetime
    payload: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found in the log.

    Args:
        prior: For `Deliver`: an earlier delivery to the job with the same key or id.
        outcome: For `Take` and `Snooze`: the recorded outcome of the wait.
        outcomes: For `Take`: how many waits on the channel ended in this run.
        oldest: For `Take` and `Snooze`: the channel's oldest pending signal.
    """

    prior: PriorDelivery | None = None
    outcome: GotSignal | GotTimeout | None = None
    outcomes: int = 0
    oldest: PendingSignal | None = None


NO_FACTS = Facts()


def look_up(history: Sequence[RecordedEvent], state: WaitState, command: Command) -> Facts:
    """Find the facts for a command by reading a whole stream: the specification of what stores do with indexes.

    Args:
        history: The stream, in the order of its versions.
        state: Its fold.
        command: What is to be decided.
    """
    match command:
        case Deliver():
            return Facts(prior=_prior(history, command))
        case Take() | Snooze():
            ends = _ends(history, state.open_run, command.channel)
            outcome = next((end for end in ends if end.ordinal == command.ordinal), None)
            return Facts(
                outcome=None if outcome is None else _outcome(history, outcome),
                outcomes=len(ends),
                oldest=_oldest(history, state, command.channel),
            )
        case Close():
            return NO_FACTS
        case _:
            assert_never(command)


def _prior(history: Sequence[RecordedEvent], command: Deliver) -> PriorDelivery | None:
    for recorded in history:
        event = recorded.event
        if isinstance(event, Delivered) and (
            event.signal_id in (command.signal_id, *command.key_ids)
            or (event.key is not None and event.key == command.key)
        ):
            return PriorDelivery(
                version=recorded.version,
                run=event.run,
                channel=event.channel,
                signal_id=event.signal_id,
                key=event.key,
                payload_digest=event.payload_digest,
                outcome=event.outcome,
                consumed=any(
                    isinstance(other.event, Consumed) and other.event.signal_id == event.signal_id for other in history
                ),
            )
    return None


def _ends(history: Sequence[RecordedEvent], run: int, channel: str) -> list[Consumed | TimedOut]:
    events = [recorded.event for recorded in history if recorded.event.run == run]
    return [event for event in events if isinstance(event, Consumed | TimedOut) and event.channel == channel]


def _outcome(history: Sequence[RecordedEvent], end: Consumed | TimedOut) -> GotSignal | GotTimeout:
    match end:
        case TimedOut():
            return GotTimeout(deadline_at=end.deadline_at)
        case Consumed():
            delivery = history[end.delivery_version - 1].event
            assert isinstance(delivery, Delivered)  # noqa: S101 - versions have no gaps
            return GotSignal(signal_id=end.signal_id, payload=delivery.payload)
        case _:
            assert_never(end)


def _oldest(history: Sequence[RecordedEvent], state: WaitState, channel: str) -> PendingSignal | None:
    inbox = state.inbox_of(channel)
    if inbox is None:
        return None
    for recorded in history[inbox.after :]:
        event = recorded.event
        if isinstance(event, Delivered) and event.channel == channel:
            return PendingSignal(
                version=recorded.version,
                signal_id=event.signal_id,
                recorded_at=recorded.recorded_at,
                payload=event.payload,
            )
    return None
