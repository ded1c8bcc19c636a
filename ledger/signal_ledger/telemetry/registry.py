"""Who listens, and telling them.

In the shape of ``oban.telemetry``, so that one handler can serve both. It is our own, since the core imports no engine.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from types import TracebackType
from typing import Any, Self

from signal_ledger.telemetry.names import EVENTS, SPANS

logger = logging.getLogger(__name__)

type Metadata = dict[str, Any]

type Handler = Callable[[str, Metadata], object]
"""Is given the event's name and what it carries, a copy of its own."""

observed: set[str] = set()
"""The names of the events that somebody listens to, and the prefixes of spans of which somebody listens to one.

Who emits asks it first, so that an event that nobody listens to costs one look into a set, and is never built. Changed
in place, and only here and in `signal_ledger.telemetry.tracing`.
"""

_handlers: dict[str, tuple[tuple[str, Handler], ...]] = {}
_lock = Lock()


def attach(id: str, events: Iterable[str], handler: Handler) -> None:  # noqa: A002 - as oban.telemetry names it
    """Have a function called for events.

    It is called in the thread and the task that emits, which waits for it: do little, and block on nothing. What it
    raises is logged, and reaches nobody else.

    Args:
        id: Names the handler, for `detach`.
        events: Which events: some of `EVENTS`.
        handler: Called with the event's name and a dict of what it carries.

    Raises:
        ValueError: There is a handler of this id already; or an event is none of this library.
        TypeError: ``events`` is a single str.

    Example:
        >>> from signal_ledger import telemetry
        >>> def tell(name, metadata):
        ...     print(name, metadata["count"])
        >>> telemetry.attach("mine", ["signal_ledger.relayed"], tell)
        >>> telemetry.execute("signal_ledger.relayed", {"count": 3})
        signal_ledger.relayed 3
        >>> telemetry.detach("mine")
    """
    if isinstance(events, str):
        raise TypeError("events: expected several names of events, got a str")
    names = dict.fromkeys(events)
    unknown = [name for name in names if name not in EVENTS]
    if unknown:
        raise ValueError(f"events: expected some of {', '.join(EVENTS)}; got {', '.join(map(repr, unknown))}")
    with _lock:
        if any(id == other for handlers in _handlers.values() for other, _ in handlers):
            raise ValueError(f"id: there is a telemetry handler {id!r} already; detach it first")
        for name in names:
            _handlers[name] = (*_handlers.get(name, ()), (id, handler))
        _note()


def detach(id: str) -> None:  # noqa: A002
    """Call a handler no more. Does nothing if there is none of this id.

    Args:
        id: What it was attached as.
    """
    with _lock:
        for name, handlers in list(_handlers.items()):
            _handlers[name] = tuple([one for one in handlers if one[0] != id])
        _note()


def execute(name: str, metadata: Mapping[str, Any]) -> None:
    """Call the handlers of an event, in the order in which they were attached.

    Args:
        name: The event.
        metadata: What it carries; each handler is given a copy.
    """
    for handler_id, handler in _handlers.get(name, ()):
        try:
            handler(name, dict(metadata))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # Without the metadata. Whatever it was, those who signal and wait have no part in it.
            logger.exception("telemetry: the handler %r failed at %s", handler_id, name)


class SpanContext:
    """Stands in the events of one span, and in those that belong to it, so that handlers can pair them.

    It holds nothing, and is equal to itself alone.
    """

    __slots__ = ("__weakref__",)


class Span:
    """A span under way; see `span`. It is the collector, too: what is added is told with its end.

    Args:
        prefix: What its events' names begin with.
        metadata: What all of them carry.
    """

    __slots__ = ("_added", "_metadata", "_prefix", "_started", "context")

    def __init__(self, prefix: str, metadata: Mapping[str, Any]) -> None:
        self.context = SpanContext()
        self._prefix = prefix
        self._metadata = {**metadata, "span_context": self.context}
        self._added: Metadata = {}
        self._started = 0

    def add(self, metadata: Mapping[str, Any]) -> None:
        """Add to what its end carries."""
        self._added.update(metadata)

    def __enter__(self) -> Self:
        self._started = time.monotonic_ns()
        execute(f"{self._prefix}.start", {"system_time": self._started, **self._metadata})
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        ended = time.monotonic_ns()
        told = {"system_time": ended, "duration": ended - self._started, **self._metadata, **self._added}
        if error is None:
            execute(f"{self._prefix}.stop", told)
        else:
            # Its type alone: what the message says may be what was sent.
            execute(f"{self._prefix}.exception", {**told, "error_type": type(error).__name__})


def span(prefix: str, metadata: Mapping[str, Any]) -> Span:
    """Return a context manager that tells when something begins and ends.

    It emits ``<prefix>.start``; and in the end ``<prefix>.stop``, or ``<prefix>.exception`` with the error's type, and
    never with its message. All three share their ``span_context``.

    Args:
        prefix: What the events' names begin with.
        metadata: What all of them carry.

    Example:
        >>> from signal_ledger import telemetry
        >>> telemetry.attach("mine", ["signal_ledger.execution.stop"], lambda _name, told: print(told["ended"]))
        >>> with telemetry.span("signal_ledger.execution", {"job_id": 7}) as span:
        ...     span.add({"ended": "returned"})
        returned
        >>> telemetry.detach("mine")
    """
    return Span(prefix, metadata)


def _note() -> None:
    """Bring `observed` up to date: first what is new, so that nobody who was listened to is missed meanwhile."""
    listened = {name for name, handlers in _handlers.items() if handlers}
    listened |= {prefix for prefix in SPANS if any(f"{prefix}.{end}" in listened for end in _ENDS)}
    observed.update(listened)
    observed.difference_update({*EVENTS, *SPANS} - listened)


_ENDS = ("start", "stop", "exception")
