"""What happens, as it happens: for logs, metrics and traces.

`attach` a handler to some of `EVENTS`; `logger` writes them as lines of JSON; `opentelemetry` makes spans of them. No
event carries a payload or a key.
"""

from typing import TYPE_CHECKING

from signal_ledger.telemetry import logger as logger
from signal_ledger.telemetry.names import EVENTS
from signal_ledger.telemetry.registry import Handler, Metadata, Span, SpanContext, attach, detach, execute, span

if TYPE_CHECKING:
    from signal_ledger_adapters import opentelemetry as opentelemetry

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
    "opentelemetry",
    "span",
]


def __getattr__(name: str) -> object:
    if name == "opentelemetry":
        # Needs a package that most do without.
        from signal_ledger_adapters import opentelemetry  # noqa: PLC0415

        return opentelemetry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
