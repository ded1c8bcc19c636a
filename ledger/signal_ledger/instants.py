"""Instants: aware UTC datetimes with microseconds, and how they are written down.

A batch of events shares one instant, hence the small caches.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MILLISECOND = timedelta(milliseconds=1)


@lru_cache(maxsize=64)
def to_microseconds(instant: datetime) -> int:
    """Microseconds since the epoch.

    >>> to_microseconds(datetime(2026, 11, 23, 12, 30, 0, 5, tzinfo=UTC))
    1795437000000005
    """
    return (instant - _EPOCH) // _MICROSECOND


def to_milliseconds(instant: datetime) -> int:
    """Milliseconds since the epoch, rounded down: the unit of `meta.wait_until` (promise W14)."""
    return (instant - _EPOCH) // _MILLISECOND


@lru_cache(maxsize=64)
def to_text(instant: datetime) -> str:
    """ISO 8601 with microseconds and a Z: as text, such instants sort by time.

    >>> to_text(datetime(2026, 11, 23, 12, 30, tzinfo=UTC))
    '2026-11-23T12:30:00.000000Z'
    """
    return instant.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def from_text(text: str) -> datetime:
    """Read what `to_text` wrote.

    >>> from_text("2026-11-23T12:30:00.000000Z") == datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
    True
    """
    return datetime.fromisoformat(text)


def require_instant(name: str, value: object) -> datetime:
    """Check an instant that a caller passed.

    Raises:
        TypeError: It is no datetime.
        ValueError: It has no time zone.
    """
    if not isinstance(value, datetime):
        raise TypeError(f"{name}: expected an aware datetime, got {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(f"{name}: expected an aware datetime, got one without a time zone")
    return value.astimezone(UTC)
