"""Receipts: what a caller of `signal` learns (promise D5)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from signal_ledger.constructors import constructor
from signal_ledger.decisions import DeliverReply, Duplicate, Ignored, Stored
from signal_ledger.events import DeliveryOutcome
from signal_ledger.names import JobId, SignalId


class Outcome(StrEnum):
    """What became of a signal when it was sent."""

    WOKEN = "woken"
    """The job was snoozed and was made runnable."""
    LIVE = "live"
    """The job was in its live window and was told."""
    BUFFERED = "buffered"
    """Kept until the job asks for it."""
    DUPLICATE = "duplicate"
    """The key, or the same call, has already delivered it."""
    IGNORED = "ignored"
    """The job does not exist or has ended."""
    STORED = "stored"
    """Kept with the caller's own transaction (``conn=``), and relayed to the job after its commit."""


_OUTCOMES = {outcome: Outcome(outcome.value) for outcome in DeliveryOutcome}


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What happened to one delivery.

    Args:
        job_id: The job that was signalled.
        outcome: What happened.
        signal_id: The delivery's id; for a duplicate the first delivery's; None if it was ignored.
        version: The place of its event in the job's stream; None without one, and as long as it is only stored.
        reason: Why it was ignored (``missing`` or the job's state), or what became of the first delivery
            (``pending``, ``consumed``, ``ended with its run``); else None.
    """

    job_id: JobId
    outcome: Outcome
    signal_id: SignalId | None
    version: int | None
    reason: str | None = None


_new_receipt = constructor(Receipt)


def stored_receipt(job_id: JobId, signal_id: SignalId) -> Receipt:
    """Return the receipt of a signal that is stored in its caller's own transaction (promise D8)."""
    return Receipt(job_id=job_id, outcome=Outcome.STORED, signal_id=signal_id, version=None)


def to_receipt(job_id: JobId, signal_id: SignalId, reply: DeliverReply) -> Receipt:
    """Turn a store's reply into a receipt."""
    match reply:
        case Stored(outcome=outcome, version=version):
            return _new_receipt(job_id=job_id, outcome=_OUTCOMES[outcome], signal_id=signal_id, version=version)
        case Duplicate(signal_id=first, version=version, fate=fate):
            return Receipt(
                job_id=job_id, outcome=Outcome.DUPLICATE, signal_id=first, version=version, reason=fate.value
            )
        case Ignored(reason=reason):
            return Receipt(job_id=job_id, outcome=Outcome.IGNORED, signal_id=None, version=None, reason=reason)
        case _:
            assert_never(reply)
