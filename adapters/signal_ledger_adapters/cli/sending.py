"""What the commands have in common that send signals."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from signal_ledger_adapters.cli.exits import Exit, Failure
from signal_ledger_adapters.cli.parameters import default_source
from signal_ledger_adapters.cli.running import finish
from signal_ledger_adapters.cli.settings import Settings

if TYPE_CHECKING:
    from signal_ledger import Ledger, Workflow


def signal_options[F: Callable[..., Any]](function: F) -> F:
    """Add the options of a signal."""
    for option in (
        click.option(
            "--source", metavar="TEXT", help="Who or what signals, for the audit; your user name unless given."
        ),
        click.option("--key", metavar="TEXT", help="Makes it idempotent: sent again with it, nothing is written."),
        click.option("--channel", metavar="NAME", help="The channel; the default channel unless given."),
        click.option(
            "-p",
            "--payload",
            required=True,
            metavar="JSON",
            help="What to send: JSON, @FILE with JSON in it, or @- for standard input.",
        ),
    ):
        function = option(function)
    return function


@contextmanager
def nothing_sent() -> Generator[None, None, None]:
    """Say so, if the database does not answer in time before anything is sent."""
    try:
        yield
    except TimeoutError as error:
        raise Failure(f"{error}; nothing was sent", Exit.TIMED_OUT) from error


async def send(
    settings: Settings,
    sender: "Ledger | Workflow",
    targets: list[Any],
    *,
    payload: object,
    channel: str | None,
    key: str | None,
    source: str | None,
) -> Exit:
    """Send a signal to jobs or to steps, to its end, and write the receipts."""
    from signal_ledger import Outcome
    from signal_ledger_adapters.cli.rows import of_receipt
    from signal_ledger_adapters.cli.views import RECEIPTS

    receipts, was_interrupted = await finish(
        sender.signal(
            targets,
            payload,
            channel=channel,
            key=key,
            source=default_source() if source is None else source,
            timeout=settings.timeout,
        )
    )
    await settings.writer().rows(RECEIPTS, map(of_receipt, receipts))
    if was_interrupted:
        return Exit.INTERRUPTED
    return Exit.NOT_FOUND if any(receipt.outcome is Outcome.IGNORED for receipt in receipts) else Exit.OK
