"""The engines that are open in this process, so that `signal` and workflows find the one to use."""

import os
from abc import abstractmethod
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from signal_ledger.delivery import CanSignal
from signal_ledger.ledger import Ledger


class Engine(CanSignal):
    """What signals and workflows need of an engine."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name it is registered under."""

    @property
    @abstractmethod
    def ledger(self) -> Ledger:
        """The log and its questions."""

    def present(self) -> datetime | None:
        """The present time, if the engine was given a clock; None if this computer's is right."""
        return None

    @abstractmethod
    async def cancel_many_jobs(self, jobs: Iterable[Any]) -> int:
        """Cancel jobs, or the jobs of ids, and return how many had not ended yet."""


_open: list[Engine] = []

# A fork has copies of engines whose tasks and connections it has not.
os.register_at_fork(after_in_child=_open.clear)


def register(engine: Engine) -> None:
    """Note that an engine is open."""
    _open.append(engine)


def unregister(engine: Engine) -> bool:
    """Note that it is not open any more. Return whether it was noted as open."""
    was_open = engine in _open
    if was_open:
        _open.remove(engine)
    return was_open


def only_engine(asker: str | None = None) -> Engine:
    """Return the engine that is open.

    Args:
        asker: Who asks and can be given another by ``via=``, for the message. None is `signal_ledger.signal`.

    Raises:
        RuntimeError: There is none, or more than one.
    """
    match _open:
        case [engine]:
            return engine
        case []:
            instead = "use ledger.signal(...) of open_ledger(...)" if asker is None else "name a ledger by via="
            raise RuntimeError(
                f"{asker or 'signal'}: expected an open engine in this process, found none; "
                f"open one with lite(...), or {instead}"
            )
        case several:
            names = ", ".join(repr(engine.name) for engine in several)
            instead = "use engine.signal(...)" if asker is None else "name one, or a ledger, by via="
            raise RuntimeError(
                f"{asker or 'signal'}: expected one open engine, found {len(several)} ({names}); {instead}"
            )
