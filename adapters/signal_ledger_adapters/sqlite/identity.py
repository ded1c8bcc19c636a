"""Does the name still lead to the files that were opened?

An open file that is deleted or replaced goes on taking writes, which nobody will ever read. So whoever acknowledges
something asks here first. SQLite itself looks only when it closes.
"""

import os
from pathlib import Path

from signal_ledger.ports import StoreUnavailableError
from signal_ledger_adapters.this_process import OwnProcess

_BESIDE = ("-wal", "-shm")
"""What is written beside the database: the write-ahead log, and its index, by which processes agree on it."""


class Identity:
    """The files that a connection has open. They stay the same ones as long as any connection is open.

    Args:
        path: The database.
        read_only: Nothing is written, so the files beside it may come and go.

    Attributes:
        own_process: The process that has opened them.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        # Connections of SQLite do not survive a fork.
        self.own_process = OwnProcess(str(path), "open it in the fork")
        names = [str(path)] if read_only else [str(path), *(f"{path}{suffix}" for suffix in _BESIDE)]
        self._opened = [(name, _identity_of(name)) for name in names]

    def check(self) -> None:
        """Check that the files are there and the same ones. Takes four microseconds.

        Raises:
            StoreUnavailableError: They are not; nothing that is written now would be kept. They may be put back.
        """
        for name, opened in self._opened:
            found = _identity_of(name)
            if found != opened:
                what = "it was deleted or moved" if found is None else "another file is in its place"
                raise StoreUnavailableError(
                    f"expected {name} to be the file that was opened, but {what}; put it back, or close the ledger "
                    "and open it again"
                )


def _identity_of(name: str) -> tuple[int, int] | None:
    try:
        status = os.stat(name)  # noqa: PTH116 - this is asked for each commit
    except OSError:
        return None
    return status.st_dev, status.st_ino
