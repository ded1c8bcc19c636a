"""A job's history as lines for people: one event a line, in columns."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import assert_never

from signal_ledger import PayloadError
from signal_ledger.events import (
    Awaited,
    Cascaded,
    Closed,
    Consumed,
    Delivered,
    Event,
    Kind,
    Planned,
    Released,
    Skipped,
    Snoozed,
    TimedOut,
)
from signal_ledger.names import NO_EXECUTION, public_channel
from signal_ledger.recorded import RecordedEvent

# ANSI colours (ECMA-48, SGR).
_COLOURS = {
    Kind.AWAITED: "36",
    Kind.SNOOZED: "34",
    Kind.DELIVERED: "33",
    Kind.CONSUMED: "32",
    Kind.TIMED_OUT: "31",
    Kind.CLOSED: "2",
    Kind.PLANNED: "35",
    Kind.RELEASED: "35",
    Kind.SKIPPED: "35",
    Kind.CASCADED: "35",
}
_KIND_WIDTH = max(map(len, Kind))


type _When = Callable[[datetime], str]
"""Writes an instant down."""


def timeline(
    history: Iterable[RecordedEvent], *, payloads: bool = False, coloured: bool = False, dated: bool = False
) -> list[str]:
    """Return a line for each event: version, time, kind, and what it says. Executions are counted from 1.

    Args:
        history: The events of a job, in the order of their versions.
        payloads: Whether to show what was sent.
        coloured: Whether to write the kinds in colours, for a terminal.
        dated: Whether to write the dates before the times of day.
    """
    events = list(history)
    when = _date_and_time if dated else _clock_time
    # Their tokens can be long; people count.
    tokens = sorted({recorded.execution for recorded in events if recorded.execution is not None} - {NO_EXECUTION})
    numbers: dict[int, int] = {token: number for number, token in enumerate(tokens, start=1)}
    return [
        f"{recorded.version:4}  {when(recorded.recorded_at)}  {_kind(recorded.kind, coloured=coloured)}  "
        f"{_told(recorded.event, numbers, when)}{_payload(recorded) if payloads else ''}"
        for recorded in events
    ]


def _kind(kind: Kind, *, coloured: bool) -> str:
    text = f"{kind.value:{_KIND_WIDTH}}"
    return f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if coloured else text


def _told(event: Event, numbers: Mapping[int, int], when: _When) -> str:
    match event:
        case Awaited():
            return f"{_wait(event, numbers)} waits live{_until(event.deadline_at, when)}"
        case Snoozed():
            return f"{_wait(event, numbers)} sleeps{_until(event.deadline_at, when)}"
        case Delivered():
            source = "" if event.source is None else f" from {event.source}"
            key = "" if event.key is None else f", key {event.key}"
            return f"{event.outcome.value}{source}{_on(event.channel)}{key}"
        case Consumed():
            return f"{_wait(event, numbers)} got the signal of event {event.delivery_version}"
        case TimedOut():
            return f"{_wait(event, numbers)} got no signal by {when(event.deadline_at)}"
        case Closed():
            if event.execution == NO_EXECUTION:
                return f"{event.cause.value} before it was ever executed"
            return f"{event.cause.value} by execution {numbers[event.execution]}, attempt {event.attempt}"
        case Planned() | Released() | Skipped() | Cascaded():
            return _step(event)
        case _:
            assert_never(event)


def _step(event: Planned | Released | Skipped | Cascaded) -> str:
    match event:
        case Planned(plan=plan):
            held = f", after {', '.join(plan.deps)}" if plan.deps else ""
            return f"step {plan.name} of workflow {plan.workflow_name or plan.workflow_id}{held}"
        case Released():
            return f"may run, since {event.dep} has ended"
        case Skipped():
            return f"ignores that {event.dep} was {event.cause.value}"
        case Cascaded():
            return f"cancelled, since {event.dep} was {event.cause.value}"
        case _:
            assert_never(event)


def _wait(event: Awaited | Snoozed | Consumed | TimedOut, numbers: Mapping[int, int]) -> str:
    return f"execution {numbers[event.execution]}, await {event.ordinal}{_on(event.channel)}:"


def _on(stored_channel: str) -> str:
    channel = public_channel(stored_channel)
    return "" if channel is None else f" on {channel}"


def _until(deadline_at: datetime | None, when: _When) -> str:
    return "" if deadline_at is None else f", at most until {when(deadline_at)}"


def _payload(recorded: RecordedEvent) -> str:
    if recorded.kind is not Kind.DELIVERED:
        return ""
    try:
        return f": {recorded.payload!r}"
    except PayloadError as error:
        return f": {error}"


def _clock_time(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def _date_and_time(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d} {_clock_time(instant)}"
