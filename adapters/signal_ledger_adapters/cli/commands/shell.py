"""``completion`` and ``demo``."""

import click
from click.shell_completion import get_completion_class

from signal_ledger_adapters.cli.exits import PROGRAM
from signal_ledger_adapters.cli.running import Command
from signal_ledger_adapters.cli.settings import examples


@click.command(
    "completion",
    cls=Command,
    epilog=examples(
        'eval "$(signal-ledger completion bash)"  # in ~/.bashrc',
        'eval "$(signal-ledger completion zsh)"   # in ~/.zshrc',
        "signal-ledger completion fish | source   # in ~/.config/fish/config.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands in a shell.

    It completes options and the ids of waiting jobs, too.
    """
    completes = get_completion_class(shell)
    assert completes is not None  # noqa: S101 - click has these three
    root = context.find_root()
    click.echo(completes(root.command, {}, PROGRAM, f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE").source())


@click.command(
    "demo",
    cls=Command,
    epilog=examples("signal-ledger demo", "signal-ledger demo --database demo.db", "signal-ledger demo --postgres"),
)
@click.option("--postgres", is_flag=True, help="Play it with Oban, on a scratch PostgreSQL.")
@click.option("--database", type=click.Path(), help="Keep the SQLite file here; it must not exist yet.")
def demo(*, postgres: bool, database: str | None) -> int:
    """Play purchase approvals that survive kill -9."""
    from signal_ledger_adapters.demo.__main__ import main

    arguments = [*(["--postgres"] if postgres else []), *(["--database", database] if database else [])]
    return main(arguments, program=f"{PROGRAM} demo")
