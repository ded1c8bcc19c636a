"""One timer for the deadlines of many calls."""

import asyncio
import math

_REST_S = 0.01
"""How long it rests between two rings. Each looks at all the futures, and thousands may end within a moment."""


class Alarm:
    """Ends the waits for futures that have no result by their deadlines, or moments later.

    A timer for each call would be a tenth of what a signal costs: it is set and, nearly always, cancelled.
    """

    def __init__(self) -> None:
        self._deadlines: dict[asyncio.Future[object], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def set(self, future: "asyncio.Future[object]", deadline: float) -> None:
        """Raise TimeoutError in the future at a time of its loop, if it has no result by then."""
        self._deadlines[future] = deadline
        if deadline < self._rings_at:
            self._arm(future.get_loop(), deadline)

    def unset(self, future: "asyncio.Future[object]") -> None:
        """Forget a future. The timer stays, for those that come: it rings once too often at the most."""
        self._deadlines.pop(future, None)

    def end_all(self, reason: str) -> None:
        """Raise TimeoutError in all futures that have no result, now and for good."""
        for future in self._deadlines:
            if not future.done():
                future.set_exception(TimeoutError(reason))
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, loop: asyncio.AbstractEventLoop, rings_at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = rings_at
        self._timer = loop.call_at(rings_at, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for future, deadline in self._deadlines.items():
            if deadline <= now and not future.done():
                future.set_exception(TimeoutError())
        self._rings_at = math.inf
        left = min([deadline for deadline in self._deadlines.values() if deadline > now], default=None)
        if left is not None:
            self._arm(loop, max(left, now + _REST_S))
