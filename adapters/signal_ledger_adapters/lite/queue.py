"""A queue of the embedded engine: its slots, the jobs in them, and its waiting room."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from oban import Job

from signal_ledger.names import Execution, JobId
from signal_ledger.ports import EmbeddedStore
from signal_ledger_adapters.lite.room import Room

type QueueConfig = int | Mapping[str, int | bool]
"""A limit, or Oban's options ``limit`` and ``paused``."""


@dataclass(slots=True, kw_only=True)
class Queue:
    """A queue.

    Args:
        name: Its name.
        limit: How many jobs it runs at a time.
        paused: Whether it starts no more jobs.
        room: Its waiting room.
        running: The jobs that it runs, by job and execution: a superseded execution may be there beside the newer one.
    """

    name: str
    limit: int
    paused: bool
    room: Room
    running: dict[tuple[JobId, Execution], Job] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """How many more jobs it may start now."""
        return 0 if self.paused else self.limit - len(self.running)


def make_queues(queues: Mapping[str, QueueConfig], store: EmbeddedStore, live_share: float) -> dict[str, Queue]:
    """Make the queues of an engine from its checked configuration."""
    made = {}
    for name, config in queues.items():
        limit, paused = _options(config)
        room = Room(store, math.ceil(limit * live_share))
        made[name] = Queue(name=name, limit=limit, paused=paused, room=room)
    return made


def check_queues(queues: Mapping[str, QueueConfig]) -> None:
    """Check the configuration of queues.

    Raises:
        TypeError: A name is no str, or a limit no int.
        ValueError: A name is blank, a limit is less than 1, or there is another option than ``limit`` and ``paused``.
    """
    for name, config in queues.items():
        if not isinstance(name, str):
            raise TypeError(f"queues: expected names of type str, got {type(name).__name__}")
        if not name.strip():
            raise ValueError("queues: expected names that are not blank")
        unknown = set(config) - {"limit", "paused"} if isinstance(config, Mapping) else set()
        if unknown:
            raise ValueError(f"queues[{name!r}]: expected limit and paused, got {', '.join(sorted(unknown))}")
        limit, _ = _options(config)
        if type(limit) is not int:
            raise TypeError(f"queues[{name!r}]: expected an int as limit, got {type(limit).__name__}")
        if limit < 1:
            raise ValueError(f"queues[{name!r}]: expected a limit of 1 or more, got {limit}")


def _options(config: QueueConfig) -> tuple[int, bool]:
    if isinstance(config, Mapping):
        return config.get("limit", 10), bool(config.get("paused", False))
    return config, False
