"""What this engine asks of its store beyond what every engine does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from signal_ledger.names import Execution, JobId
from signal_ledger.ports import LedgerStore


class DistributedStore(LedgerStore, Protocol):
    """A store that many processes share, with the jobs beside it."""

    @property
    def ledger_id(self) -> str:
        """Which ledger it is, in whatever database."""
        ...

    async def look(self, live: Sequence[tuple[JobId, Execution]]) -> list[JobId]:
        """Return which of these live waits should look: a signal, a cancel or a newer execution is there."""
        ...

    async def tick(self) -> int:
        """Release the waits whose deadline has passed, and append what is known to be missing; return how much."""
        ...

    async def relay(self) -> int:
        """Deliver what callers have stored in their own transactions; return how many signals that were."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """Statements that run on Oban's own connections, in the paramstyle of psycopg.

    Args:
        snooze: Puts jobs to sleep in the transaction of their acknowledgement. Parameters: job ids, executions,
            channels, ordinals, intervals, the reason of a cancel. Rows: the reply to each, ``asleep`` for a job that
            sleeps now.
        reset: Empties the ledger; fails unless its schema was made for testing.
        identify: Asks for the id of the ledger.
    """

    snooze: str
    reset: str
    identify: str
