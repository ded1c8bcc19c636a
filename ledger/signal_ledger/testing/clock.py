"""A clock that tests move."""

from datetime import UTC, datetime, timedelta


class ManualClock:
    """Stands still until it is told otherwise.

    Args:
        now: Where it begins.

    Example:
        >>> clock = ManualClock()
        >>> before = clock()
        >>> clock.advance(1.5)
        >>> clock() - before
        datetime.timedelta(seconds=1, microseconds=500000)
    """

    def __init__(self, now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)) -> None:
        self._now = now

    def __call__(self) -> datetime:
        """Return the time that it shows."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move it; backwards, too, as real clocks do."""
        self._now += timedelta(seconds=seconds)
