"""Answers that come in pages."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol

import click

from signal_ledger_adapters.cli.settings import Settings
from signal_ledger_adapters.cli.views import Row, View

_LIMIT = 100
_PAGE = 1000


class _HasCursor(Protocol):
    @property
    def cursor(self) -> str: ...


def limit_options[F: Callable[..., Any]](function: F) -> F:
    """Add the options that say how much."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="All of them, however many there are."),
        click.option("--after", metavar="CURSOR", help="Go on behind the row with this cursor."),
        click.option(
            "-n",
            "--limit",
            type=click.IntRange(1, 10_000),
            default=_LIMIT,
            show_default=True,
            help="At most so many.",
        ),
    ):
        function = option(function)
    return function


async def write_pages[T: _HasCursor](
    settings: Settings,
    view: View,
    ask: Callable[..., Awaitable[list[T]]],
    to_row: Callable[[T], Row],
    *,
    limit: int,
    after: str | None,
    everything: bool,
) -> None:
    """Write a page, or all; and say on standard error if there are more.

    Args:
        settings: How to write it.
        view: What the rows are.
        ask: Asks for a page, by ``limit`` and ``after``.
        to_row: Makes a row.
        limit: How many rows a page has.
        after: The cursor to begin behind.
        everything: Whether to go on until the last one.
    """
    next_page: str | None = None

    async def rows() -> AsyncGenerator[Row, None]:
        nonlocal next_page
        cursor, size = after, _PAGE if everything else limit
        while page := await ask(limit=size, after=cursor):
            for item in page:
                yield to_row(item)
            cursor = page[-1].cursor
            if not everything:
                next_page = cursor if len(page) == size and await ask(limit=1, after=cursor) else None
                return

    await settings.writer().rows(view, rows())
    if next_page is not None:
        click.echo(f"there are more: --after {next_page} goes on, --all shows all", err=True)
