"""A producer's waiting room: its jobs in their live windows."""

import asyncio
from collections.abc import Awaitable, Callable

from oban import Job

from signal_ledger.commands import Take
from signal_ledger.decisions import CancelRequested, MustSnooze, TakeRefusal, TakeReply, Waiting
from signal_ledger.names import Execution, JobId
from signal_ledger.ports import LiveWait
from signal_ledger_adapters.hinted import Hinted
from signal_ledger_adapters.oban_api import cancellation_of

type AskStore = Callable[[Take], Awaitable[TakeReply | TakeRefusal]]
"""Asks the store for the outcome of a wait."""


class Place(Hinted):
    """A live wait.

    Args:
        job_id: The job.
        execution: The execution that waits.
        cancellation: Is set when the job is cancelled.
    """

    def __init__(self, job_id: JobId, execution: Execution, cancellation: asyncio.Event | None) -> None:
        self.job_id = job_id
        self.execution = execution
        super().__init__()
        # One hint is enough: whoever takes it sees that the job was cancelled.
        self._cancelled = None if cancellation is None else asyncio.ensure_future(self._hint_after(cancellation))

    def close(self) -> None:
        """Watch for a cancel no more."""
        if self._cancelled is not None:
            self._cancelled.cancel()

    async def _hint_after(self, cancellation: asyncio.Event) -> None:
        await cancellation.wait()
        self.give_hint()


class Room:
    """The live waits of a producer."""

    def __init__(self) -> None:
        self._places: dict[JobId, list[Place]] = {}
        self._taken = 0
        self._is_closing = False
        self._emptied = asyncio.Event()
        self._emptied.set()

    @property
    def is_closing(self) -> bool:
        """Whether live waits are to snooze at once."""
        return self._is_closing

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken

    @property
    def live(self) -> list[tuple[JobId, Execution]]:
        """The executions that wait live."""
        return [(place.job_id, place.execution) for places in self._places.values() for place in places]

    def enter(self, place: Place) -> None:
        """Take a place."""
        self._places.setdefault(place.job_id, []).append(place)
        self._taken += 1
        self._emptied.clear()

    def leave(self, job_id: JobId, live: LiveWait) -> None:
        """Give a place back."""
        for place in self._places.pop(job_id):
            if place is live:
                place.close()
                self._taken -= 1
            else:
                # A superseded execution of the same job does not know it yet.
                self._places.setdefault(job_id, []).append(place)
        if not self._places:
            self._emptied.set()

    def give_hint(self, job_id: JobId) -> None:
        """Tell a job, if it waits here, to look again."""
        for place in self._places.get(job_id, []):
            place.give_hint()

    def close(self) -> None:
        """Let every live wait snooze at once, and allow no more."""
        self._is_closing = True
        for job_id in self._places:
            self.give_hint(job_id)

    async def emptied(self) -> None:
        """Return when nobody waits here."""
        await self._emptied.wait()


class Seat:
    """What one execution sees of the room; see `signal_ledger.ports.WaitingRoom`.

    Args:
        room: The room of its producer.
        job: The job.
        execution: Its execution.
        ask: Asks the store.
        places_max: Returns how many live waits there may be at a time (promise W3); queues can be scaled.
    """

    def __init__(
        self, room: Room, job: Job, execution: Execution, ask: AskStore, places_max: Callable[[], int]
    ) -> None:
        self._room = room
        self._job = job
        self._execution = execution
        self._ask = ask
        self._places_max = places_max

    @property
    def is_closing(self) -> bool:
        """Whether live waits are to snooze at once."""
        return self._room.is_closing

    async def take(self, take: Take) -> TakeReply | TakeRefusal:
        """Ask the store. A cancel that the database could not note counts too (promise W12)."""
        reply = await self._ask(take)
        return CancelRequested() if isinstance(reply, Waiting | MustSnooze) and self._job.cancelled() else reply

    def enter(self, job_id: JobId) -> Place | None:
        """Take a place; None if all are taken or the room is closing."""
        if self._room.is_closing or self._room.taken >= self._places_max():
            return None
        place = Place(job_id, self._execution, cancellation_of(self._job))
        self._room.enter(place)
        return place

    def leave(self, job_id: JobId, live: LiveWait) -> None:
        """Give it back."""
        self._room.leave(job_id, live)
