"""Cursors of stores whose log has one order: opaque to callers, a number or two inside."""

import re
from datetime import UTC, datetime, timedelta

from signal_ledger.instants import to_microseconds
from signal_ledger.names import JobId

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_POSITION = re.compile(r"p([0-9]{1,19})", re.ASCII)
_PLACE = re.compile(r"o([0-9]{1,19})", re.ASCII)
_WAIT = re.compile(r"w(-?[0-9]{1,19})_(-?[0-9]{1,19})", re.ASCII)


def position_cursor(position: int) -> str:
    """Return the cursor of an event.

    >>> position_cursor(42)
    'p42'
    """
    return f"p{position}"


def cursor_position(cursor: str) -> int:
    """Return the position that a cursor stands for.

    Raises:
        ValueError: It is no cursor of an event.
    """
    match = _POSITION.fullmatch(cursor)
    if match is None:
        raise ValueError(f"cursor: expected the cursor of an event, got {cursor!r}")
    return int(match[1])


def wait_cursor(since: datetime, job_id: JobId) -> str:
    """Return the cursor of a row of `Ledger.waiting`."""
    return f"w{to_microseconds(since)}_{job_id}"


def cursor_wait(cursor: str) -> tuple[datetime, JobId]:
    """Return what `wait_cursor` was given.

    Raises:
        ValueError: It is no cursor of a wait.

    >>> cursor_wait("w1795437000000000_7")
    (datetime.datetime(2026, 11, 23, 12, 30, tzinfo=datetime.timezone.utc), 7)
    """
    match = _WAIT.fullmatch(cursor)
    if match is None:
        raise ValueError(f"after: expected the cursor of a waiting job, got {cursor!r}")
    return _EPOCH + timedelta(microseconds=int(match[1])), JobId(int(match[2]))


def place_cursor(place: int) -> str:
    """Return the cursor of a row of `Ledger.outbox`.

    >>> place_cursor(42)
    'o42'
    """
    return f"o{place}"


def cursor_place(cursor: str) -> int:
    """Return what `place_cursor` was given.

    Raises:
        ValueError: It is no cursor of a stored signal.
    """
    match = _PLACE.fullmatch(cursor)
    if match is None:
        raise ValueError(f"after: expected the cursor of a stored signal, got {cursor!r}")
    return int(match[1])
