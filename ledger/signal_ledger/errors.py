"""The errors a caller of this library can meet.

Each is named for a situation, carries what it knows as attributes, and says what was expected and what was
found. None ever holds a payload, nor any part of one, but for `RerunDiverged`: it tells what a worker raised in its own
words.
"""

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signal_ledger.rerun_report import RerunReport


class SignalTimeout(Exception):  # noqa: N818 - the name is the reference API's
    """A wait ended because its deadline passed (promise W7).

    It is recorded in the log: the same await raises it again in every later execution of the run, so catch it.

    Attributes:
        job_id: The job that waited.
        channel: The channel it waited on; None is the default channel.
        ordinal: Which await on that channel, counted from 1 within the run.
        deadline_at: The deadline that passed, as an aware UTC datetime.
    """

    def __init__(self, *, job_id: int, channel: str | None, ordinal: int, deadline_at: datetime | None) -> None:
        self.job_id = job_id
        self.channel = channel
        self.ordinal = ordinal
        self.deadline_at = deadline_at
        name = "the default channel" if channel is None else f"channel {channel!r}"
        until = "" if deadline_at is None else f" by {deadline_at.isoformat(timespec='milliseconds')}"
        super().__init__(f"job {job_id}: no signal on {name}{until} (await {ordinal})")


class PayloadError(ValueError):
    """A payload cannot be encoded, or stored bytes cannot be decoded (promise D9).

    The message names the type and the place in the value, never the value.

    Attributes:
        path: Where in the value, such as ``payload["items"][3]``; None when bytes were being decoded.
        offset: At which byte, when bytes were being decoded; else None.
    """

    def __init__(self, message: str, *, path: str | None = None, offset: int | None = None) -> None:
        self.path = path
        self.offset = offset
        super().__init__(message)


class KeyConflict(ValueError):  # noqa: N818 - named for the situation
    """A key was used again for another payload or channel; nothing was written (promise D6).

    Attributes:
        job_id: The job whose stream holds the key.
        key: The key in question.
        signal_id: The delivery that the key belongs to.
    """

    def __init__(self, *, job_id: int, key: str, signal_id: str, difference: str) -> None:
        self.job_id = job_id
        self.key = key
        self.signal_id = signal_id
        self.difference = difference
        super().__init__(
            f"job {job_id}: key {key!r} already belongs to delivery {signal_id} with another {difference}; "
            "a key stands for one signal, so nothing was written"
        )


class DeliveryUnknown(RuntimeError):  # noqa: N818 - named for the situation
    """The call's time was up before the database answered: the signal may or may not be stored (promise D6).

    Attributes:
        signal_id: The id of the call. Repeating the call with it as ``key`` is safe: it is delivered at most once.
        timeout_s: The bound that was exceeded, in seconds.
        reason: What the database said last, such as that its disk is full; None if it said nothing.
    """

    def __init__(self, *, signal_id: str, timeout_s: float, reason: str | None = None) -> None:
        self.signal_id = signal_id
        self.timeout_s = timeout_s
        self.reason = reason
        why = "" if reason is None else f" ({reason})"
        super().__init__(
            f"no answer from the database within {timeout_s:g} s{why}: the signal may or may not have been stored; "
            f"repeat the call with key={signal_id!r} to deliver it at most once"
        )


class SchemaError(RuntimeError):
    """A database cannot serve as a ledger: missing, too new, damaged, locked, read-only or no database at all."""


class RerunDiverged(AssertionError):  # noqa: N818 - named for the situation
    """A rerun did not go as its history has it: the code has changed since, or is not deterministic.

    Its text is that of the report, which quotes what `process` raised.

    Attributes:
        report: The `RerunReport`.
    """

    def __init__(self, report: "RerunReport") -> None:
        self.report = report
        super().__init__(str(report))


class StaleExecution(BaseException):
    """A newer execution of the job has begun; this one may no longer wait or write (promise W13).

    It derives from ``BaseException`` so that ``except Exception`` in a worker does not keep a superseded execution
    alive. The execution ends without a trace.

    Attributes:
        job_id: The job.
        execution: The token of the superseded execution.
    """

    def __init__(self, *, job_id: int, execution: int) -> None:
        self.job_id = job_id
        self.execution = execution
        super().__init__(f"job {job_id}: execution {execution} was superseded by a newer one")
