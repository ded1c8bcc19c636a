"""How a job's run ends."""

from enum import StrEnum


class Cause(StrEnum):
    """Why a run ended (promise W10)."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"
    DELETED = "deleted"
