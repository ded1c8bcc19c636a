"""A job's history as lines for people: one event a line, in columns."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import assert_never

from signal_ledger.errors import PayloadError
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

STYLES = {
    Kind.AWAITED: "cyan",
    Kind.SNOOZED: "blue",
    Kind.DELIVERED: "yellow",
    Kind.CONSUMED: "green",
    Kind.TIMED_OUT: "red",
    Kind.CLOSED: "dim",
    Kind.PLANNED: "magenta",
    Kind.RELEASED: "magenta",
    Kind.SKIPPED: "magenta",
    Kind.CASCADED: "magenta",
}
"""How a terminal shows the kinds."""

# ECMA-48, SGR.
_CODES = {"dim": 2, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}

KIND_WIDTH = max(map(len, Kind))


type When = Callable[[datetime], str]
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
    numbers = execution_numbers(events)
    return [
        f"{recorded.version:4}  {when(recorded.recorded_at)}  {_kind(recorded.kind, coloured=coloured)}  "
        f"{told(recorded.event, when, numbers)}{_payload(recorded) if payloads else ''}"
        for recorded in events
    ]


def execution_numbers(history: Iterable[RecordedEvent]) -> dict[int, int]:
    """Count a job's executions from 1: their tokens can be long, and people count."""
    tokens = {recorded.execution for recorded in history if recorded.execution is not None} - {NO_EXECUTION}
    return {token: number for number, token in enumerate(sorted(tokens), start=1)}


def told(event: Event, when: When, numbers: Mapping[int, int] | None = None) -> str:
    """Say in words what an event says, without a payload and on one line.

    Args:
        event: The event.
        when: Writes instants down.
        numbers: The numbers of the job's executions, see `execution_numbers`; None leaves executions out.
    """
    match event:
        case Awaited():
            return f"{_wait(event, numbers)} waits live{_until(event.deadline_at, when)}"
        case Snoozed():
            return f"{_wait(event, numbers)} sleeps{_until(event.deadline_at, when)}"
        case Delivered():
            source = "" if event.source is None else f" from {printable(event.source)}"
            key = "" if event.key is None else f", key {printable(event.key)}"
            return f"{event.outcome.value}{source}{_on(event.channel)}{key}"
        case Consumed():
            return f"{_wait(event, numbers)} got the signal of event {event.delivery_version}"
        case TimedOut():
            return f"{_wait(event, numbers)} got no signal by {when(event.deadline_at)}"
        case Closed():
            if event.execution == NO_EXECUTION:
                return f"{event.cause.value} before it was ever executed"
            by = "" if numbers is None else f" by execution {numbers[event.execution]}"
            return f"{event.cause.value}{by}, attempt {event.attempt}"
        case Planned() | Released() | Skipped() | Cascaded():
            return _step(event)
        case _:
            assert_never(event)


def printable(text: str) -> str:
    r"""Escape what a terminal would obey instead of showing, such as line ends and escape sequences.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join([character if character.isprintable() else ascii(character)[1:-1] for character in text])


def _kind(kind: Kind, *, coloured: bool) -> str:
    text = f"{kind.value:{KIND_WIDTH}}"
    return f"\x1b[{_CODES[STYLES[kind]]}m{text}\x1b[0m" if coloured else text


def _step(event: Planned | Released | Skipped | Cascaded) -> str:
    match event:
        case Planned(plan=plan):
            held = f", after {', '.join(map(printable, plan.deps))}" if plan.deps else ""
            return f"step {printable(plan.name)} of workflow {printable(plan.workflow_name or plan.workflow_id)}{held}"
        case Released():
            return f"may run, since {printable(event.dep)} has ended"
        case Skipped():
            return f"ignores that {printable(event.dep)} was {event.cause.value}"
        case Cascaded():
            return f"cancelled, since {printable(event.dep)} was {event.cause.value}"
        case _:
            assert_never(event)


def _wait(event: Awaited | Snoozed | Consumed | TimedOut, numbers: Mapping[int, int] | None) -> str:
    execution = "" if numbers is None else f"execution {numbers[event.execution]}, "
    return f"{execution}await {event.ordinal}{_on(event.channel)}:"


def _on(stored_channel: str) -> str:
    channel = public_channel(stored_channel)
    return "" if channel is None else f" on {printable(channel)}"


def _until(deadline_at: datetime | None, when: When) -> str:
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
