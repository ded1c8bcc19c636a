"""``signal`` and ``outbox``: what is sent."""

from contextlib import AsyncExitStack

import click

from signal_ledger_adapters.cli.exits import Exit
from signal_ledger_adapters.cli.paging import limit_options, write_pages
from signal_ledger_adapters.cli.parameters import JOB, parse_payload
from signal_ledger_adapters.cli.running import Command
from signal_ledger_adapters.cli.sending import nothing_sent, send, signal_options
from signal_ledger_adapters.cli.settings import Settings, common_options, examples


@click.command(
    "signal",
    cls=Command,
    epilog=examples(
        'signal-ledger signal 7 --payload \'{"decision": "approved"}\'',
        "signal-ledger signal 7 8 --channel votes --payload @vote.json --key vote-1",
    ),
)
@click.argument("jobs", nargs=-1, required=True, type=JOB, metavar="JOB...")
@signal_options
@common_options
@click.pass_obj
async def signal(
    settings: Settings, jobs: tuple[int, ...], payload: str, channel: str | None, key: str | None, source: str | None
) -> Exit:
    """Deliver a signal to jobs.

    They get it in one transaction. A job that is gone or has ended gets nothing: its receipt says ignored. Other users
    of the machine can see the arguments of a running program: send what is secret by @FILE or @-.
    """
    body = parse_payload(payload)
    async with AsyncExitStack() as stack:
        with nothing_sent():
            ledger = await stack.enter_async_context(settings.open(read_only=False))
        return await send(settings, ledger, list(jobs), payload=body, channel=channel, key=key, source=source)


@click.command("outbox", cls=Command, epilog=examples("signal-ledger outbox --all"))
@limit_options
@common_options
@click.pass_obj
async def outbox(settings: Settings, *, limit: int, after: str | None, everything: bool) -> None:
    """Show stored signals that are not relayed, or were refused.

    They were sent with a caller's own transaction.
    """
    from signal_ledger_adapters.cli.rows import of_stored
    from signal_ledger_adapters.cli.views import OUTBOX

    async with settings.open() as ledger:
        await write_pages(settings, OUTBOX, ledger.outbox, of_stored, limit=limit, after=after, everything=everything)
