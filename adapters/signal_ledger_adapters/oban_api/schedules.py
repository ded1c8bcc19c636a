"""From when ``scheduled_in=`` is counted: Oban does it by this computer's clock, when the job is made."""

from collections.abc import Callable
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

# The name `oban.job` is a decorator, too.
_module: Any = import_module("oban.job")
_by_computer: Callable[[timedelta | float], datetime] = _module.scheduled_from_now
_clocks: list[Callable[[], datetime]] = []


def schedule_by(clock: Callable[[], datetime]) -> None:
    """Have it counted by a clock, until `schedule_no_more_by`; of several by the one that came last."""
    _clocks.append(clock)
    _module.scheduled_from_now = _scheduled_from_now


def schedule_no_more_by(clock: Callable[[], datetime]) -> None:
    """Undo it."""
    if clock in _clocks:
        _clocks.remove(clock)
    if not _clocks:
        _module.scheduled_from_now = _by_computer


def _scheduled_from_now(scheduled_in: timedelta | float) -> datetime:
    delay = scheduled_in if isinstance(scheduled_in, timedelta) else timedelta(seconds=scheduled_in)
    return _clocks[-1]() + delay
