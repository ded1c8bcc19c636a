"""Events as lines of JSON, by the standard library's logging."""

import json
import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from signal_ledger.telemetry import registry
from signal_ledger.telemetry.names import BATCH_RETRY, EVENTS, REPAIRED, SIGNAL_RETRY
from signal_ledger.telemetry.registry import Metadata

ID = "signal-ledger-logger"
"""What the handler is attached as."""

_LOGGED = tuple([name for name in EVENTS if not name.endswith(".start")])
_WARNINGS = (SIGNAL_RETRY, BATCH_RETRY, REPAIRED)

_DURATIONS = ("duration", "delay", "deadline_in", "wake_latency", "overdue")
_LEFT_OUT = ("system_time", "span_context", "traceparent")


def attach(
    *, level: int = logging.INFO, logger: logging.Logger | None = None, events: Iterable[str] | None = None
) -> None:
    """Log events, each as one line of JSON with its name as ``event``.

    Durations are in milliseconds. What ended in an exception is logged as an error; retries and repairs as warnings.

    Args:
        level: At which level all others are logged.
        logger: Where to; the logger ``signal_ledger.telemetry`` unless given.
        events: Which; all but those that tell of a beginning unless given.

    Raises:
        ValueError: Events are logged already, or one is none.

    Example:
        >>> from signal_ledger import telemetry
        >>> telemetry.logger.attach()
        >>> telemetry.logger.detach()
    """
    wanted = logging.getLogger("signal_ledger.telemetry") if logger is None else logger

    def log(name: str, metadata: Metadata) -> None:
        own = _level(name, level)
        if wanted.isEnabledFor(own):
            wanted.log(own, "%s", to_line(name, metadata))

    registry.attach(ID, _LOGGED if events is None else events, log)


def detach() -> None:
    """Log events no more."""
    registry.detach(ID)


def to_line(name: str, metadata: Metadata) -> str:
    """Return an event as a line of JSON."""
    told = {key: _value(key, value) for key, value in metadata.items() if key not in _LEFT_OUT}
    return json.dumps({"event": name, **told}, default=str)


def _level(name: str, level: int) -> int:
    if name.endswith(".exception"):
        return logging.ERROR
    return logging.WARNING if name in _WARNINGS else level


def _value(key: str, value: Any) -> Any:  # noqa: ANN401 - whatever JSON has
    if key in _DURATIONS and value is not None:
        return round(value / 1_000_000, 2)
    return value.isoformat() if isinstance(value, datetime) else value
