"""``events``, ``tail`` and ``export``: the log itself."""

import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import click

from signal_ledger_adapters.cli.parameters import AGO, event_filters
from signal_ledger_adapters.cli.running import Command, progress_bar
from signal_ledger_adapters.cli.settings import Settings, common_options, database_options, examples, payload_flag

if TYPE_CHECKING:
    from signal_ledger import Ledger, RecordedEvent
    from signal_ledger_adapters.cli.output import Output
    from signal_ledger_adapters.cli.views import View

_FURTHER_BACK_S = (*[10 * 8**step for step in range(8)], None)
"""How far back the last events are looked for: from ten seconds to half a year, then everywhere."""

_PROGRESS_EVERY = 1000


def _time_filters[F: Callable[..., Any]](function: F) -> F:
    for option in (
        click.option("--after", metavar="CURSOR", help="Only events behind the one with this cursor."),
        click.option("--until", type=AGO, metavar="TIME", help="Only events recorded before then."),
        click.option(
            "--since", type=AGO, metavar="TIME", help="Only events recorded then or later: 2h is 2 hours ago."
        ),
    ):
        function = option(function)
    return function


@click.command(
    "events",
    cls=Command,
    epilog=examples(
        "signal-ledger events --since 1d --kind delivered --kind timed_out",
        "signal-ledger events --since 2026-11-23 --source ada@example.com",
    ),
)
@event_filters
@_time_filters
@click.option("-n", "--limit", type=click.IntRange(1), help="At most so many.")
@payload_flag
@common_options
@click.pass_obj
async def events(settings: Settings, /, *, limit: int | None, payloads: bool, **filters: Any) -> None:  # noqa: ANN401
    """Show the events of the log, in its order."""
    output = settings.writer(payloads=payloads)
    async with settings.open() as ledger:
        await _write(output, _first(ledger.events(**filters), limit))


@click.command(
    "tail",
    cls=Command,
    epilog=examples(
        "signal-ledger tail -f --channel approval",
        "signal-ledger tail -f | jq .kind",
    ),
)
@event_filters
@click.option("-n", "--lines", type=click.IntRange(0), default=10, show_default=True, help="The last so many events.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@payload_flag
@common_options
@click.pass_obj
async def tail(settings: Settings, /, *, lines: int, follow: bool, payloads: bool, **filters: Any) -> None:  # noqa: ANN401
    """Show the last events of the log, and follow it."""
    output = settings.writer(payloads=payloads)

    async def found(ledger: "Ledger") -> "AsyncGenerator[RecordedEvent, None]":
        # Asked first: what comes while the last ones are looked for is among them, or behind this.
        end = await ledger.end()
        last = await _last(ledger, lines, filters)
        for recorded in last:
            yield recorded
        if follow:
            async for recorded in ledger.follow(last[-1].cursor if last else end, **filters):
                yield recorded

    async with settings.open() as ledger:
        await _write(output, found(ledger), at_once=follow)


@click.command("export", cls=Command, epilog=examples("signal-ledger export --since 30d --format csv --to events.csv"))
@event_filters
@_time_filters
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option(
    "--to",
    "file",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write this file, whole or not at all; standard output unless given.",
)
@payload_flag
@database_options
@click.pass_obj
async def export(settings: Settings, /, *, form: str, file: str | None, payloads: bool, **filters: Any) -> None:  # noqa: ANN401
    """Export events as lines of JSON, or as CSV.

    They come in the order of the log, with all their columns.
    """
    from signal_ledger_adapters.cli.output import Output
    from signal_ledger_adapters.cli.rows import of_event
    from signal_ledger_adapters.cli.saving import whole_file

    with progress_bar("exporting", hidden=file is None and sys.stdout.isatty()) as told:
        async with settings.open() as ledger:
            found = _counted(ledger.events(**filters), lambda done: told(done, None))
            rows = (of_event(recorded, payloads=payloads) async for recorded in found)
            if file is None:
                await Output(form, "utc", payloads=payloads).rows(_view(), rows)
                return
            with whole_file(file) as stream:
                written = await Output(form, "utc", payloads=payloads, stream=stream).rows(_view(), rows)
    click.echo(f"{written} event{'s' if written != 1 else ''} in {file}", err=True)


async def _write(output: "Output", found: "AsyncIterator[RecordedEvent]", *, at_once: bool = False) -> None:
    from signal_ledger_adapters.cli.telling import event_line, event_row

    rows = (event_row(recorded, output) async for recorded in found)
    await output.rows(_view(), rows, line=event_line(output), at_once=at_once)


def _view() -> "View":
    from signal_ledger_adapters.cli.views import EVENTS

    return EVENTS


async def _first(
    found: "AsyncGenerator[RecordedEvent, None]", limit: int | None
) -> "AsyncGenerator[RecordedEvent, None]":
    left = limit
    async for recorded in found:
        yield recorded
        if left is not None and (left := left - 1) == 0:
            return


async def _counted(
    found: "AsyncIterator[RecordedEvent]", progress: Callable[[int], None]
) -> "AsyncGenerator[RecordedEvent, None]":
    numbers = count(1)
    async for recorded in found:
        yield recorded
        if (done := next(numbers)) % _PROGRESS_EVERY == 0:
            progress(done)


async def _last(ledger: "Ledger", lines: int, filters: dict[str, Any]) -> "list[RecordedEvent]":
    """Return the last events that match, by looking further and further back."""
    if lines == 0:
        return []
    now = datetime.now(UTC)
    last: deque[RecordedEvent] = deque()
    for seconds in _FURTHER_BACK_S:
        since = None if seconds is None else now - timedelta(seconds=seconds)
        last = deque(maxlen=lines)
        async for recorded in ledger.events(since=since, **filters):
            last.append(recorded)
        if len(last) == lines:
            break
    if not last:
        return []
    # What was recorded earlier may stand behind the first of them all the same: clocks step, and transactions overlap.
    exact = deque([last[0]], maxlen=lines)
    async for recorded in ledger.events(after=last[0].cursor, **filters):
        exact.append(recorded)
    return list(exact)
