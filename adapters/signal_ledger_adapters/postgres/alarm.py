"""One timer for the deadlines of many calls."""

import asyncio
import math


class Alarm:
    """Ends the waits for futures that have no result by their deadlines.

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
            self.stop()
            self._rings_at = deadline
            self._timer = future.get_loop().call_at(deadline, self._ring)

    def unset(self, future: "asyncio.Future[object]") -> None:
        """Forget a future. The timer stays, for those that come: it rings once too often at the most."""
        self._deadlines.pop(future, None)

    def stop(self) -> None:
        """Ring no more, unless another future is set."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings_at = None, math.inf

    def _ring(self) -> None:
        now = self._rings_at  # the loop may ring a little early, by the resolution of its clock
        self._timer, self._rings_at = None, math.inf
        for future, deadline in list(self._deadlines.items()):
            if deadline <= now and not future.done():
                future.set_exception(TimeoutError())
        left = {future: deadline for future, deadline in self._deadlines.items() if deadline > now}
        self._deadlines = left
        if left:
            future, deadline = min(left.items(), key=lambda item: item[1])
            self._rings_at = deadline
            self._timer = future.get_loop().call_at(deadline, self._ring)
