"""Signals in the outbox: stored in a caller's own transaction, and relayed after its commit (promise D8)."""

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from signal_ledger.decisions import DeliverReply, Duplicate, Ignored, Stored
from signal_ledger.errors import KeyConflict
from signal_ledger.names import JobId, SignalId


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSignal:
    """A signal that is in the outbox, and in no stream.

    Args:
        signal_id: The delivery's id, as in its receipt.
        job_id: The job that it is for.
        channel: The channel; None is the default channel.
        key: The caller's idempotency key, if one was given.
        source: Who or what signalled, if that was said.
        stored_at: When `signal` was called.
        refusal: None if it is yet to be relayed. Otherwise why the relay refused it: ``missing`` or the terminal state
            of its job, as in the receipt of an ignored signal; or ``conflict: payload`` or ``conflict: channel``, if
            its key belongs to another signal.
        cursor: Pass it as ``after=`` to get the page behind this row.
    """

    signal_id: SignalId
    job_id: JobId
    channel: str | None
    key: str | None
    source: str | None
    stored_at: datetime
    refusal: str | None
    cursor: str


def refusal_of(reply: DeliverReply) -> str | None:
    """Return why a delivery was refused at relay; None if its row is done with."""
    match reply:
        case Stored() | Duplicate():
            return None
        case Ignored(reason=reason):
            return reason
        case _:
            assert_never(reply)


def refusal_by_conflict(conflict: KeyConflict) -> str:
    """Return the same for a key that belongs to another signal."""
    return f"conflict: {conflict.difference}"
