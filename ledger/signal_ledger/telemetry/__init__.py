"""What happens, as it happens: for logs, metrics and traces.

`attach` a handler to some of `EVENTS`; `logger` writes them as lines of JSON. No event carries a payload or a key.
"""

from signal_ledger.telemetry import logger as logger
from signal_ledger.telemetry.names import EVENTS
from signal_ledger.telemetry.registry import Handler, Metadata, Span, SpanContext, attach, detach, execute, span

__all__ = [
    "EVENTS",
    "Handler",
    "Metadata",
    "Span",
    "SpanContext",
    "attach",
    "detach",
    "execute",
    "logger",
    "span",
]
