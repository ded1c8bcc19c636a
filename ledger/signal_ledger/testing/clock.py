"""A clock that tests move."""

from datetime import UTC, datetime, timedelta

from signal_ledger.instants import require_instant


class ManualClock:
    """Stands still until it is told otherwise.

    Args:
        now: Where it begins: an aware datetime.

    Raises:
        ValueError: It has no time zone.

    Example:
        >>> clock = ManualClock()
        >>> before = clock()
        >>> clock.advance(1.5)
        >>> clock() - before
        datetime.timedelta(seconds=1, microseconds=500000)
    """

    def __init__(self, now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)) -> None:
        self._now = require_instant("now", now)

    def __call__(self) -> datetime:
        """Return the time that it shows."""
        return self._now

    def advance(self, duration: float | timedelta) -> None:
        """Move it by seconds or a timedelta; backwards, too, as real clocks do."""
        self._now += duration if isinstance(duration, timedelta) else timedelta(seconds=duration)

    def move_to(self, instant: datetime) -> None:
        """Let it show an instant."""
        self._now = require_instant("instant", instant)
