"""Jobs as the ledger sees them."""

from dataclasses import dataclass
from enum import StrEnum

from signal_ledger.names import NO_EXECUTION, Execution


class JobState(StrEnum):
    """The states of a job, named as Oban names them."""

    AVAILABLE = "available"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    DISCARDED = "discarded"
    EXECUTING = "executing"
    RETRYABLE = "retryable"
    SCHEDULED = "scheduled"
    SUSPENDED = "suspended"


CANCELLED_WHILE_WAITING = "cancelled while it waited for a signal"
"""The reason in the errors of a job that was cancelled in an await."""

TERMINAL = frozenset((JobState.CANCELLED, JobState.COMPLETED, JobState.DISCARDED))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as decisions see it: a frozen view, taken while its lock is held.

    Args:
        state: Its state.
        execution: The token of its last execution; 0 if it never ran.
        attempt: Its attempt.
        cancel_requested: Whether a cancel came while it was executing and has not been honoured yet (promise W12).
    """

    state: JobState
    execution: Execution = NO_EXECUTION
    attempt: int = 0
    cancel_requested: bool = False
