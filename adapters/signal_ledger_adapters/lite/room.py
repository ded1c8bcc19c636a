"""A queue's waiting room: its jobs in their live windows."""

from signal_ledger.commands import Take
from signal_ledger.decisions import TakeRefusal, TakeReply
from signal_ledger.names import JobId
from signal_ledger.ports import EmbeddedStore, LiveWait
from signal_ledger_adapters.hinted import Hinted


class Place(Hinted):
    """A live wait."""


class Room:
    """See `signal_ledger.ports.WaitingRoom`.

    A job may be in it twice: an execution that was superseded does not know it yet.

    Args:
        store: Where outcomes are taken from.
        places_max: How many live waits there may be at a time (promise W3).
    """

    def __init__(self, store: EmbeddedStore, places_max: int) -> None:
        self._store = store
        self._places_max = places_max
        self._places: dict[JobId, list[Place]] = {}
        self._taken = 0
        self._is_closing = False

    @property
    def is_closing(self) -> bool:
        """Whether live waits are to snooze at once."""
        return self._is_closing

    @property
    def job_ids(self) -> list[JobId]:
        """The jobs that wait live."""
        return list(self._places)

    async def take(self, take: Take) -> TakeReply | TakeRefusal:
        """Ask the store."""
        return await self._store.take(take)

    def enter(self, job_id: JobId) -> Place | None:
        """Take a place; None if all are taken or the room is closing."""
        if self._is_closing or self._taken >= self._places_max:
            return None
        place = Place()
        self._places.setdefault(job_id, []).append(place)
        self._taken += 1
        return place

    def leave(self, job_id: JobId, live: LiveWait) -> None:
        """Give a place back."""
        others = [place for place in self._places.pop(job_id) if place is not live]
        if others:
            self._places[job_id] = others
        self._taken -= 1

    def give_hint(self, job_id: JobId) -> None:
        """Tell a job, if it waits here, to look again."""
        for place in self._places.get(job_id, []):
            place.give_hint()

    def close(self) -> None:
        """Let every live wait snooze at once, and allow no more."""
        self._is_closing = True
        for job_id in self._places:
            self.give_hint(job_id)
