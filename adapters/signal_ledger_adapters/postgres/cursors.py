"""Cursors of the log on PostgreSQL: an event's turn and position."""

import re

_CURSOR = re.compile(r"t([0-9]{1,19})_([0-9]{1,19})", re.ASCII)

_MAX = 2**63 - 1


def to_cursor(turn: int, position: int) -> str:
    """Return the cursor of an event.

    >>> to_cursor(7, 42)
    't7_42'
    """
    return f"t{turn}_{position}"


def from_cursor(cursor: str) -> tuple[int, int]:
    """Return the turn and the position that a cursor stands for.

    Raises:
        ValueError: It is no cursor of an event.
    """
    match = _CURSOR.fullmatch(cursor)
    if match is None or max(place := (int(match[1]), int(match[2]))) > _MAX:
        raise ValueError(f"cursor: expected the cursor of an event, got {cursor!r}")
    return place
