"""``waiting``, ``timeline``, ``history`` and ``state``: who waits, and what happened to a job."""

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from signal_ledger_adapters.cli.paging import limit_options, write_pages
from signal_ledger_adapters.cli.parameters import AGO, AHEAD, JOB, channel_option
from signal_ledger_adapters.cli.running import Command
from signal_ledger_adapters.cli.settings import Settings, common_options, examples, payload_flag

if TYPE_CHECKING:
    from signal_ledger import History, Ledger


@click.command(
    "waiting",
    cls=Command,
    epilog=examples(
        "signal-ledger waiting --channel approval",
        "signal-ledger waiting --deadline-before 1d --times relative",
    ),
)
@channel_option
@click.option(
    "--deadline-before", type=AHEAD, metavar="TIME", help="Only waits that end before then: 2h is in 2 hours."
)
@limit_options
@common_options
@click.pass_obj
async def waiting(
    settings: Settings,
    *,
    channel: str | None,
    deadline_before: datetime | None,
    limit: int,
    after: str | None,
    everything: bool,
) -> None:
    """Show who waits, since when and until when.

    The longest-waiting come first.
    """
    from signal_ledger_adapters.cli.rows import of_wait
    from signal_ledger_adapters.cli.views import WAITING

    async with settings.open() as ledger:
        ask = partial(ledger.waiting, channel=channel, deadline_before=deadline_before)
        await write_pages(settings, WAITING, ask, of_wait, limit=limit, after=after, everything=everything)


@click.command(
    "timeline",
    cls=Command,
    epilog=examples(
        "signal-ledger timeline 7",
        "signal-ledger timeline 7 --payload --times utc",
    ),
)
@click.argument("job", type=JOB)
@payload_flag
@common_options
@click.pass_obj
async def timeline(settings: Settings, job: int, *, payloads: bool) -> None:
    """Tell the history of a job in words.

    With --times relative, times count from the first event.
    """
    from signal_ledger_adapters.cli.telling import Teller, heading
    from signal_ledger_adapters.cli.views import TIMELINE

    history = await _history(settings, job)
    output = settings.writer(payloads=payloads)
    teller = Teller(history, output)
    if output.is_table and history:
        output.say(heading(history, teller.untold))
    await output.rows(TIMELINE, map(teller.row, history))


@click.command(
    "history",
    cls=Command,
    epilog=examples(
        "signal-ledger history 7 -o csv",
        "signal-ledger history 7 --save incident.jsonl --payload",
    ),
)
@click.argument("job", type=JOB)
@click.option(
    "--save",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Save it for rerun and History.load; without --payload, without what was sent and without the job's args.",
)
@payload_flag
@common_options
@click.pass_obj
async def history(settings: Settings, job: int, *, save: str | None, payloads: bool) -> None:
    """Show the events of a job, or save them.

    JSON and CSV have all columns. A table tells each event in words, as `events` does.
    """
    from signal_ledger_adapters.cli.telling import event_line, event_row
    from signal_ledger_adapters.cli.views import EVENTS, SAVED

    found = await _history(settings, job)
    output = settings.writer(payloads=payloads)
    if save is None:
        rows = [event_row(recorded, output) for recorded in found]
        await output.rows(EVENTS, rows, line=event_line(output))
        return
    from signal_ledger_adapters.cli.saving import save_history

    save_history(found, save, payloads=payloads)
    output.record(SAVED, {"file": save, "events": len(found)})


@click.command(
    "state",
    cls=Command,
    epilog=examples(
        "signal-ledger state 7",
        "signal-ledger state 7 --at 2h",
        "signal-ledger state 7 --at 2026-11-23T12:30Z",
    ),
)
@click.argument("job", type=JOB)
@click.option("--at", "instant", type=AGO, metavar="TIME", help="As it was then: 2h is 2 hours ago.")
@click.option("--cursor", metavar="CURSOR", help="As it was right after the event with this cursor.")
@common_options
@click.pass_obj
async def state(settings: Settings, job: int, *, instant: datetime | None, cursor: str | None) -> None:
    """Show what a job waits for, now or as it was."""
    from signal_ledger_adapters.cli.rows import of_state
    from signal_ledger_adapters.cli.views import STATE

    async with settings.open() as ledger:
        found = await ledger.state(job, at=instant, cursor=cursor)
        if found.version == 0 and not await ledger.history(job):
            await require_job(ledger, job)
    settings.writer().record(STATE, of_state(found))


async def _history(settings: Settings, job: int) -> "History":
    async with settings.open() as ledger:
        found = await ledger.export(job)
        if not found:
            await require_job(ledger, job)
    return found


async def require_job(ledger: "Ledger", job: int) -> None:
    """Say that a job has no events yet.

    Raises:
        LookupError: There is no such job, as far as this can be seen.
    """
    from signal_ledger_adapters.timeline import printable

    row = (await ledger.export(job)).job
    if row is None:
        raise LookupError(f"there is no job {job}, and the log has no events of it")
    click.echo(f"job {job} has no events yet: {printable(row.worker)}, {row.state}", err=True)
