"""The trace of who signals, for who waits: a W3C ``traceparent`` that is kept beside the log.

Telemetry changes no event: what is traced is stored in a table of its own, and only while somebody here follows traces.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager

from signal_ledger.telemetry.registry import observed

logger = logging.getLogger(__name__)

TRACES = "signal_ledger.traces"
"""No event: in `signal_ledger.telemetry.registry.observed` as long as somebody follows traces."""

TRACEPARENT_CHARS = 55
"""How long a ``traceparent`` of version 00 is."""

KEPT_DAYS = 7
"""How long a trace is kept for a job that has not consumed its signal."""

_read: Callable[[], str | None] | None = None


def follow_traces(read: Callable[[], str | None]) -> None:
    """Keep traces from now on.

    Args:
        read: Returns the ``traceparent`` of the calling task, or None if it is not traced.
    """
    global _read  # noqa: PLW0603 - one for the process, as the handlers
    _read = read
    observed.add(TRACES)


def forget_traces() -> None:
    """Keep none from now on."""
    global _read  # noqa: PLW0603
    observed.discard(TRACES)
    _read = None


@contextmanager
def following_traces(read: Callable[[], str | None]) -> Generator[None, None, None]:
    """Keep traces inside of a block; see `follow_traces`."""
    follow_traces(read)
    try:
        yield
    finally:
        forget_traces()


def current_traceparent() -> str | None:
    """Return the trace of the calling task; None if it is not traced."""
    read = _read
    if read is None:
        return None
    try:
        traceparent = read()
    except Exception:
        logger.exception("telemetry: the trace could not be read")
        return None
    return traceparent if traceparent is not None and len(traceparent) == TRACEPARENT_CHARS else None
