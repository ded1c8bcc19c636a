"""The program ``signal-ledger``."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Any

import click

from signal_ledger_adapters.cli.exits import PROGRAM, without_passwords
from signal_ledger_adapters.cli.running import Command
from signal_ledger_adapters.cli.settings import Settings, common_options

_HOME = "signal_ledger_adapters.cli.commands"

_COMMANDS = {
    "migrate": "schema",
    "schema-version": "schema",
    "signal": "signals",
    "outbox": "signals",
    "waiting": "audit",
    "timeline": "audit",
    "history": "audit",
    "state": "audit",
    "events": "log",
    "tail": "log",
    "export": "log",
    "replay": "debug",
    "rerun": "debug",
    "verify": "health",
    "rebuild": "health",
    "stats": "health",
    "doctor": "health",
    "workflow": "workflows",
    "completion": "shell",
    "demo": "shell",
}
"""The commands in the order of the help, and the modules that they are in."""


class Program(click.Group):
    """The commands, each loaded when it is asked for."""

    command_class = Command

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:  # noqa: ANN401 - as in click
        """Read the options that stand before a command."""
        with _passwords_left_out():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in click
        """Read the rest, and run it."""
        with _passwords_left_out():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one of them."""
        del ctx
        home = _COMMANDS.get(cmd_name)
        if home is None:
            return None
        found: click.Command = getattr(import_module(f"{_HOME}.{home}"), cmd_name.replace("-", "_"))
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called; if there is none, say which ones look like it."""
        near = [] if args[0] in _COMMANDS or ctx.resilient_parsing else get_close_matches(args[0], _COMMANDS)
        if near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {' or '.join(near)}?")
        return super().resolve_command(ctx, args)


@contextmanager
def _passwords_left_out() -> Generator[None, None, None]:
    """Leave passwords out of what click says of a wrong call: it quotes a URL that stands where none belongs."""
    try:
        yield
    except click.ClickException as error:
        # It is declared final; but another exception would lack what else this one tells.
        vars(error).update(message=without_passwords(error.message))
        raise


@click.group(
    cls=Program,
    name=PROGRAM,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "obj": None},
    epilog="Exit statuses: 0 ok, 1 finding, 2 wrong call, 3 not found, 4 conflict, 5 timed out, 6 database unusable.",
)
@click.version_option(version("signal-ledger"), prog_name=PROGRAM)
@common_options
@click.pass_context
def program(context: click.Context) -> None:
    """Ask, audit and answer jobs that wait for signals.

    Options that stand before a command may stand behind it as well.
    """
    context.ensure_object(Settings)


def main() -> Any:  # noqa: ANN401 - click ends the program
    """Run the program."""
    # Of what is closed, as by `>&-`, Python has None. Nobody wants to see it.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    return program(prog_name=PROGRAM, auto_envvar_prefix=None)
