"""The bridge to OpenTelemetry: a telemetry handler that makes spans, and links those who signal to those who wait.

Use it as ``from signal_ledger.telemetry import opentelemetry``. It needs the package ``opentelemetry-api``, and to see
anything an SDK with an exporter, which the application sets up.
"""

from collections.abc import Mapping
from contextvars import Token
from dataclasses import dataclass

try:
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise ImportError(
        "signal_ledger.telemetry.opentelemetry: expected the package opentelemetry-api, it is not installed; "
        "pip install 'signal-ledger[opentelemetry]'"
    ) from missing

from signal_ledger.telemetry import registry, tracing
from signal_ledger.telemetry.names import CONSUMED, EXECUTION, SIGNAL, TIMED_OUT
from signal_ledger.telemetry.registry import Metadata, SpanContext

ID = "signal-ledger-opentelemetry"
"""What the handler is attached as."""

_NAME = "signal_ledger"
_EVENTS = (
    *[f"{prefix}.{end}" for prefix in (SIGNAL, EXECUTION) for end in ("start", "stop", "exception")],
    CONSUMED,
    TIMED_OUT,
)

_propagator = TraceContextTextMapPropagator()
_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Open:
    """A span under way.

    Args:
        span: The span.
        token: What ends its being current.
    """

    span: trace.Span
    token: Token[context.Context]


_bridges: list["_Bridge"] = []


def attach(tracer_provider: trace.TracerProvider | None = None) -> None:
    """Make spans from now on, in this process.

    - Around each call of `signal`: a span ``signal`` of kind PRODUCER, a child of the caller's.
    - Around each execution of a job's `process`: a span ``process <worker>`` of kind CONSUMER, a root. What `process`
      begins are its children. When a wait ends in it, that is an event of it; with a signal, also a link to the span of
      who has signalled, in whatever process that was.

    For the link, the trace of who signals is kept in a table beside the log, if it is sampled. The process that signals
    and the one that runs the job both attach.

    Args:
        tracer_provider: Makes the tracer; the global one unless given.

    Raises:
        ValueError: It is attached already.

    Example::

        from signal_ledger.telemetry import opentelemetry

        opentelemetry.attach()
    """
    bridge = _Bridge(trace.get_tracer(_NAME, tracer_provider=tracer_provider))
    registry.attach(ID, _EVENTS, bridge.handle)
    _bridges.append(bridge)
    tracing.follow_traces(_current_traceparent)


def detach() -> None:
    """Make no more spans. Those that are open end now."""
    tracing.forget_traces()
    registry.detach(ID)
    while _bridges:
        _bridges.pop().close()


class _Bridge:
    """Turns events into spans. Signals may be sent from several threads.

    Args:
        tracer: Makes the spans.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._open: dict[SpanContext, _Open] = {}

    def handle(self, name: str, metadata: Metadata) -> None:
        """Handle an event; see `signal_ledger.telemetry.attach`."""
        match name:
            case "signal_ledger.signal.start":
                self._start("signal", trace.SpanKind.PRODUCER, None, metadata)
            case "signal_ledger.execution.start":
                # A root: the task that it runs in may have begun in a span that is no part of it, and ended long ago.
                self._start(f"process {metadata['worker']}", trace.SpanKind.CONSUMER, context.Context(), metadata)
            case _ if name in (CONSUMED, TIMED_OUT):
                self._tell_outcome(name, metadata)
            case _:
                self._stop(metadata)

    def close(self) -> None:
        """End the spans that are open. Nobody can end their being current but the tasks in which they are."""
        while self._open:
            self._open.popitem()[1].span.end()

    def _start(self, name: str, kind: trace.SpanKind, parent: context.Context | None, metadata: Metadata) -> None:
        span = self._tracer.start_span(name, context=parent, kind=kind, attributes=_attributes(metadata))
        token = context.attach(trace.set_span_in_context(span))
        self._open[metadata["span_context"]] = _Open(span, token)

    def _stop(self, metadata: Metadata) -> None:
        opened = self._open.pop(metadata["span_context"], None)
        if opened is None:
            # It began before this was attached.
            return
        # First, whatever becomes of the rest: what comes next in this task is no part of the span.
        context.detach(opened.token)
        try:
            opened.span.set_attributes(_attributes(metadata))
            for outcome, count in metadata.get("outcomes", {}).items():
                opened.span.set_attribute(f"{_NAME}.outcomes.{outcome}", count)
            error_type = metadata.get("error_type")
            if error_type is not None:
                opened.span.set_attribute("error.type", error_type)
                opened.span.set_status(trace.StatusCode.ERROR, error_type)
        finally:
            opened.span.end()

    def _tell_outcome(self, name: str, metadata: Metadata) -> None:
        opened = self._open.get(metadata["span_context"])
        if opened is None:
            return
        attributes = _attributes(metadata)
        opened.span.add_event(name, attributes)
        signaller = _to_context(metadata.get("traceparent"))
        if signaller.is_valid:
            opened.span.add_link(signaller, attributes)


_TOLD = (
    *("targets", "channel", "source", "has_key", "stored"),
    *("job_id", "execution", "worker", "ended"),
    *("ordinal", "signal_id"),
)
_MILLISECONDS = ("wake_latency", "overdue")


def _attributes(metadata: Metadata) -> Mapping[str, str | int | float | bool]:
    told = {f"{_NAME}.{key}": metadata[key] for key in _TOLD if metadata.get(key) is not None}
    told |= {f"{_NAME}.{key}_ms": metadata[key] / _NS_PER_MS for key in _MILLISECONDS if key in metadata}
    return told


def _current_traceparent() -> str | None:
    """Return the trace that the calling task is in, if it is sampled."""
    current = trace.get_current_span().get_span_context()
    if not (current.is_valid and current.trace_flags.sampled):
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier["traceparent"]


def _to_context(traceparent: str | None) -> trace.SpanContext:
    found = _propagator.extract({} if traceparent is None else {"traceparent": traceparent}, context.Context())
    return trace.get_current_span(found).get_span_context()
