"""Running commands: errors become lines and exit statuses, and long work shows how far it has come."""

import asyncio
import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from inspect import iscoroutine
from typing import Any

import click

from signal_ledger_adapters.cli.exits import PROGRAM, Exit, Failure, escaped, failure_of
from signal_ledger_adapters.cli.settings import Settings

_ALL = 2
"""How verbose one must be to be told what libraries do."""


class Command(click.Command):
    """A command whose function may be a coroutine function, and returns its exit status or None."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in click
        """Run it, and end the program with its status."""
        set_up_logging(ctx.ensure_object(Settings).verbosity)
        if isinstance(sys.stdout, io.TextIOWrapper):
            # As on standard error: what the encoding of a terminal lacks is written out, and ends nothing half-way.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            status = super().invoke(ctx)
            if iscoroutine(status):
                status = asyncio.run(status)
            sys.stdout.flush()
        except (click.ClickException, click.exceptions.Exit):
            raise
        except BrokenPipeError:
            _silence_output()
            status = Exit.CLOSED_PIPE
        except KeyboardInterrupt:
            status = _tell(Failure("interrupted", Exit.INTERRUPTED))
        except Exception as error:  # noqa: BLE001 - of what nobody foresaw, the traceback is told
            failure = error if isinstance(error, Failure) else failure_of(error)
            if failure is None:
                traceback.print_exc()
                status = Exit.FAILED
            else:
                status = _tell(failure)
        ctx.exit(Exit.OK if status is None else status)


def _tell(failure: Failure) -> Exit:
    click.echo(f"{PROGRAM}: {escaped(str(failure))}", err=True)
    return failure.status


def _silence_output() -> None:
    """Send what is left in the buffers nowhere: Python would complain about it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, sys.stdout.fileno())


async def finish[R](work: Coroutine[Any, Any, R]) -> tuple[R, bool]:
    """Do something to its end, even if Ctrl-C is pressed meanwhile. A second Ctrl-C ends the program at once.

    Returns:
        What came of it, and whether Ctrl-C was pressed.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task), False
    except asyncio.CancelledError:
        click.echo("finishing what has begun", err=True)
        await asyncio.wait([task])
        return task.result(), True


def set_up_logging(verbosity: int) -> None:
    """Send the log to standard error: warnings, or more."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    # They speak of each step, and of values.
    for name in ("sqlalchemy", "aiosqlite", "asyncio", "psycopg"):
        logging.getLogger(name).setLevel(logging.WARNING if verbosity < _ALL else logging.INFO)


@contextmanager
def progress_bar(what: str, *, hidden: bool = False) -> Generator[Callable[[int, int | None], None], None, None]:
    """Show a bar on standard error, if that is a terminal, and remove it in the end.

    Args:
        what: What is being done.
        hidden: Whether there is to be none, since what is done is itself seen there.

    Yields:
        Is to be told how much is done, and of how much if that is known.
    """
    if hidden or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,}"),
        TimeRemainingColumn(),
    )
    # Rich would take standard output for its own and send it to its console: to standard error.
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=None if total is None else max(done, total))
