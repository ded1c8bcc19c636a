"""The ids of jobs that were inserted in callers' own transactions: rolled back, they must not be given again.

SQLite counts ids in a table of its own, `sqlite_sequence`, which a rollback turns back like any other. Whoever holds a
`Job` of that transaction would signal the next one's.
"""

from dataclasses import dataclass

from signal_ledger.unit import AnyJobs
from signal_ledger_adapters.sqlite.unit import GivenIds, SqliteUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class PassIds(AnyJobs):
    """Let the file know which ids this process has given to callers, so that other processes do not give them again.

    Args:
        given: All of them.
    """

    given: GivenIds

    def run(self, unit: SqliteUnit) -> None:
        """Write it down; nothing is written if the callers have committed."""
        unit.pass_ids(self.given.highest)
