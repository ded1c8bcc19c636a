"""What all commands have in common: which database, and how to write the answer.

The options may stand before a command and behind it.
"""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from signal_ledger import Ledger
    from signal_ledger_adapters.cli.output import Output

URL_VARIABLE = "SIGNAL_LEDGER_URL"
FORMATS = ("table", "json", "jsonl", "csv")
TIMES = ("local", "utc", "relative")
TIMEOUT_S = 30.0


@dataclass(slots=True)
class Settings:
    """What the options say.

    Args:
        url: The database.
        schema: On PostgreSQL, the ledger's schema.
        timeout: How long each answer of the database is waited for, in seconds.
        output: How to write the answer; None depends on whether it goes to a terminal.
        times: How to write instants in tables.
        verbosity: How much to say on standard error: 0 for warnings, 1 for more, 2 for all that there is.
    """

    url: str | None = None
    schema: str | None = None
    timeout: float = TIMEOUT_S
    output: str | None = None
    times: str = "local"
    verbosity: int = 0

    @property
    def database(self) -> str:
        """The URL.

        Raises:
            click.UsageError: There is none.
        """
        url = self.url or os.environ.get(URL_VARIABLE)
        if not url:
            raise click.UsageError(f"expected the URL of a database, by --url or in {URL_VARIABLE}")
        return url

    @property
    def format(self) -> str:
        """How to write the answer: a table on a terminal, lines of JSON for other programs."""
        return self.output or ("table" if sys.stdout.isatty() else "jsonl")

    def open(self, *, read_only: bool = True) -> "AbstractAsyncContextManager[Ledger]":
        """Open the ledger."""
        from signal_ledger import open_ledger

        return open_ledger(self.database, read_only=read_only, schema=self.schema, timeout=self.timeout)

    def writer(self, *, payloads: bool = False) -> "Output":
        """Return what writes the answer.

        Args:
            payloads: Whether payloads are to be shown.
        """
        from signal_ledger_adapters.cli.output import Output

        return Output(self.format, self.times, payloads=payloads)


def _keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None:
        setattr(context.ensure_object(Settings), str(parameter.name), value)


def _be_verbose(context: click.Context, _parameter: click.Parameter, value: int) -> None:
    settings = context.ensure_object(Settings)
    settings.verbosity += value


def _option[F: Callable[..., Any]](*names: str, **attributes: Any) -> Callable[[F], F]:  # noqa: ANN401 - click's own
    return click.option(*names, callback=_keep, expose_value=False, **attributes)


def database_options[F: Callable[..., Any]](function: F) -> F:
    """Add the options that say which database, and how much to say about it."""
    for option in (
        click.option(
            "-v",
            "--verbose",
            count=True,
            callback=_be_verbose,
            expose_value=False,
            help="Say more on standard error; twice for all that there is.",
        ),
        _option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            help="How long to wait for the database; 30 unless given.",
        ),
        _option("--schema", metavar="NAME", help="On PostgreSQL: the ledger's schema, if it is not signal_ledger."),
        _option("--url", metavar="URL", help=f"The database, such as sqlite:///signals.db; else {URL_VARIABLE}."),
    ):
        function = option(function)
    return function


def output_options[F: Callable[..., Any]](function: F) -> F:
    """Add the options that say how to write the answer."""
    for option in (
        _option("--times", type=click.Choice(TIMES), help="How to write times in tables: local unless given."),
        _option(
            "-o",
            "--output",
            type=click.Choice(FORMATS),
            help="How to write the answer: table on a terminal, jsonl otherwise.",
        ),
    ):
        function = option(function)
    return function


def common_options[F: Callable[..., Any]](function: F) -> F:
    """Add all of them."""
    return database_options(output_options(function))


def examples(*lines: str) -> str:
    """Return the end of a command's help: how it is typed. Nothing is wrapped."""
    return "\b\nExamples:\n" + "\n".join([f"  {line}" for line in lines])


payload_flag = click.option("--payload", "payloads", is_flag=True, help="Show what was sent, too.")
