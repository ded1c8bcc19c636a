"""What can be asked of a job's stream."""

from dataclasses import dataclass, field
from datetime import timedelta

from signal_ledger.causes import Cause
from signal_ledger.constructors import constructor
from signal_ledger.names import Execution, JobId, SignalId


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Store a signal for a job.

    Args:
        job_id: The job.
        signal_id: The delivery's id, the same in each retry of the call.
        channel: The channel, as stored.
        payload: The encoded payload.
        payload_digest: The digest of its canonical encoding.
        key: The caller's idempotency key.
        key_ids: The ids that a delivery has if ``key`` is the id of an earlier call without a key; see
            `DeliveryUnknown`.
        source: Who or what signals.
        is_first_try: No earlier try of the same call can have stored it.
        traceparent: The trace of who signals, to be kept beside the log; None if it is not followed.
    """

    job_id: JobId
    signal_id: SignalId
    channel: str
    payload: bytes = field(repr=False)
    payload_digest: str
    key: str | None = None
    key_ids: tuple[SignalId, ...] = ()
    source: str | None = None
    is_first_try: bool = True
    traceparent: str | None = None


new_deliver = constructor(Deliver)


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """Ask for the outcome of a wait; open the wait if there is none yet.

    Args:
        job_id: The job.
        execution: The execution that asks.
        channel: The channel, as stored.
        ordinal: Which await on the channel within the run.
        wait_for: How long the wait may last; None is indefinitely. Counts from the first snooze, or from the start
            of the wait if ``in_place``.
        in_place: ``wait_for`` is not longer than the live window: the wait times out without a snooze (promise W6).
        window: Whether a live window may be opened. If not, the job is to snooze at once.
        wants_trace: Whether to look for the trace of who has signalled, if the wait ends with a signal now.
    """

    job_id: JobId
    execution: Execution
    channel: str
    ordinal: int
    wait_for: timedelta | None
    in_place: bool
    window: bool
    wants_trace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Snooze:
    """Put the job to sleep on a wait; belongs into the transaction of the acknowledgement.

    Args:
        job_id: The job.
        execution: The execution that ends.
        channel: The channel, as stored.
        ordinal: Which await on the channel within the run.
        wait_for: How long the wait may last, if its deadline is not decided yet; None is indefinitely.
    """

    job_id: JobId
    execution: Execution
    channel: str
    ordinal: int
    wait_for: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """End the job's run; belongs into the transaction that ends the job.

    Args:
        job_id: The job.
        cause: How it ended.
    """

    job_id: JobId
    cause: Cause


type Command = Deliver | Take | Snooze | Close
