"""How the kit speaks of waits, errors and histories: never of what was sent, nor of the text of an application's error.

No error message of this library holds a payload: they end in the logs of test runs, which more people read than may
read what was sent. An application's exception may quote it, so only its type and place are told; the exception itself
is at hand.
"""

import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath

from signal_ledger.recorded import RecordedEvent
from signal_ledger_adapters.timeline import timeline

_LINES_MAX = 40


def wait_told(channel: str | None) -> str:
    """Name a channel, as that of a wait or a signal."""
    return "on the default channel" if not channel else f"on channel {channel!r}"


def until_told(deadline_at: datetime | None) -> str:
    """Name a wait's deadline."""
    if deadline_at is None:
        return " without a deadline"
    return f" until {deadline_at.astimezone(UTC).strftime('%Y-%m-%d %H:%M:%S.%f')[:-3]} UTC"


def error_told(error: BaseException) -> str:
    """Name an exception by its type, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def told_history(history: Sequence[RecordedEvent]) -> list[str]:
    """Show a job's history as a timeline, the newest events last."""
    if not history:
        return ["   (no events: it has never waited, and was never signalled)"]
    lines = timeline(history, dated=True)
    left_out = len(lines) - _LINES_MAX
    return lines if left_out <= 0 else [f"   (… {left_out} events before these)", *lines[left_out:]]
