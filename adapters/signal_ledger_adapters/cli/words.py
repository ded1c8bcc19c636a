"""Instants and durations in words."""

from datetime import UTC, date, datetime, tzinfo
from itertools import pairwise
from math import inf

from signal_ledger_adapters.timeline import When

_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def duration(seconds: float) -> str:
    """Tell a duration with its two largest units.

    >>> duration(0.0421), duration(75), duration(7_380), duration(200_000)
    ('0.042 s', '1 min 15 s', '2 h 3 min', '2 d 8 h')
    """
    seconds = round(seconds, 3)
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + " s"
    larger = inf
    for (size, unit), (smaller, smaller_unit) in pairwise([*_STEPS, (1, "s")]):
        if seconds >= size:
            many, rest = divmod(round(seconds / smaller), size // smaller)
            if many * size >= larger:
                # Rounded up, it is one of the larger unit.
                return duration(many * size)
            return f"{many} {unit}" + (f" {rest} {smaller_unit}" if rest else "")
        larger = size
    raise AssertionError(seconds)


def clock(zone: tzinfo | None, *, day: date | None = None, milliseconds: bool = True) -> When:
    """Return what tells an instant by the clock of a time zone.

    With its date it can be typed as it is told: UTC is marked, since what has no zone is local.

    Args:
        zone: The time zone; None is the local one.
        day: A day of which the date is left out.
        milliseconds: Whether to tell them.

    >>> from datetime import UTC
    >>> clock(UTC)(datetime(2026, 11, 23, 12, 30, 0, 5000, tzinfo=UTC))
    '2026-11-23 12:30:00.005Z'
    """

    def tell(instant: datetime) -> str:
        there = instant.astimezone(zone)
        time = f"{there:%H:%M:%S}" + (f".{there.microsecond // 1000:03}" if milliseconds else "")
        if there.date() == day:
            return time
        return f"{there:%Y-%m-%d} {time}" + ("Z" if zone is UTC else "")

    return tell


def since(first: datetime) -> When:
    """Return what tells how long after another one an instant is.

    >>> from datetime import UTC
    >>> since(datetime(2026, 11, 23, tzinfo=UTC))(datetime(2026, 11, 23, 0, 2, tzinfo=UTC))
    '+2 min'
    """

    def tell(instant: datetime) -> str:
        seconds = (instant - first).total_seconds()
        return f"{'+' if seconds >= 0 else '-'}{duration(abs(seconds))}"

    return tell


def beside(now: datetime) -> When:
    """Return what tells how long ago an instant is, or how far ahead, in whole seconds.

    >>> from datetime import UTC
    >>> beside(datetime(2026, 11, 23, tzinfo=UTC))(datetime(2026, 11, 22, 22, tzinfo=UTC))
    '2 h ago'
    """

    def tell(instant: datetime) -> str:
        seconds = round((instant - now).total_seconds())
        return f"in {duration(seconds)}" if seconds > 0 else f"{duration(abs(seconds))} ago"

    return tell


def beside_now(instant: datetime) -> str:
    """Tell how long ago an instant is when this is called, or how far ahead."""
    return beside(datetime.now(UTC))(instant)
