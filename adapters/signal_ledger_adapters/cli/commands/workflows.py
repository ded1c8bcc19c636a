"""``workflow status``, ``graph`` and ``signal``."""

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from signal_ledger_adapters.cli.exits import Exit, escaped
from signal_ledger_adapters.cli.parameters import parse_payload
from signal_ledger_adapters.cli.running import Command
from signal_ledger_adapters.cli.sending import nothing_sent, send, signal_options
from signal_ledger_adapters.cli.settings import Settings, common_options, examples

if TYPE_CHECKING:
    from signal_ledger import Ledger, WaitingStep, Workflow, WorkflowStatus
    from signal_ledger_adapters.cli.output import Output

_SHOWN_MAX = 20


@click.group("workflow", epilog=examples("signal-ledger events --kind planned -o jsonl | jq -r .plan.workflow_id"))
def workflow() -> None:
    """Ask about a workflow, and signal its steps.

    A workflow is known by its id. Workflow.id has it, and so have the events of its steps whose kind is planned.
    """


workflow.command_class = Command


@workflow.command("status", epilog=examples('signal-ledger workflow status "$ID"'))
@click.argument("id")
@common_options
@click.pass_obj
async def status(settings: Settings, id: str) -> None:  # noqa: A002
    """Show how a workflow is doing.

    It tells which steps are held, and who waits for what.
    """
    from dataclasses import asdict

    from signal_ledger_adapters.cli.views import WORKFLOW

    async with settings.open() as ledger:
        loaded = await _load(id, ledger)
        found, waits = await loaded.status(), await loaded.waiting()
    output = settings.writer()
    row = {
        **asdict(found),
        "duration_s": found.duration.total_seconds(),
        "waiting": [{"name": step.name, **asdict(step.wait)} for step in waits],
    }
    output.record(WORKFLOW, row, told={"duration_s": _duration(found)})
    if output.is_table:
        _say_steps(output, found, waits)


@workflow.command(
    "graph",
    epilog=examples(
        'signal-ledger workflow graph "$ID"',
        'signal-ledger workflow graph "$ID" --dot | dot -Tsvg > workflow.svg',
    ),
)
@click.argument("id")
@click.option("--mermaid", "form", flag_value="mermaid", help="As a flowchart in Mermaid's language.")
@click.option("--dot", "form", flag_value="dot", help="As a graph in the language of Graphviz.")
@common_options
@click.pass_obj
async def graph(settings: Settings, id: str, *, form: str | None) -> None:  # noqa: A002
    """Show the steps of a workflow, and what each comes after."""
    from signal_ledger_adapters.cli.drawing import dot, tree
    from signal_ledger_adapters.cli.rows import of_step
    from signal_ledger_adapters.cli.views import STEPS

    async with settings.open() as ledger:
        loaded = await _load(id, ledger)
        seen = await ledger.steps(id)
    output = settings.writer()
    if form is not None:
        click.echo(escaped(loaded.graph() if form == "mermaid" else dot(seen)))
    elif output.is_table and (drawn := tree(seen)) is not None:
        output.console().print(drawn)
    else:
        await output.rows(STEPS, map(of_step, seen))


@workflow.command(
    "signal",
    epilog=examples("""signal-ledger workflow signal "$ID" approval --payload '"yes"'"""),
)
@click.argument("id")
@click.argument("steps", nargs=-1, required=True, metavar="STEP...")
@signal_options
@common_options
@click.pass_obj
async def signal(
    settings: Settings,
    id: str,  # noqa: A002
    steps: tuple[str, ...],
    payload: str,
    channel: str | None,
    key: str | None,
    source: str | None,
) -> Exit:
    """Deliver a signal to steps by their names.

    If a name is unknown, nothing is sent. A step that has ended gets nothing: its receipt says ignored.
    """
    from signal_ledger_adapters.timeline import printable

    body = parse_payload(payload)
    async with AsyncExitStack() as stack:
        with nothing_sent():
            ledger = await stack.enter_async_context(settings.open(read_only=False))
            loaded = await _load(id, ledger)
        unknown = [step for step in steps if step not in loaded.job_ids]
        if unknown:
            known = ", ".join(map(printable, loaded.job_ids))
            raise LookupError(f"workflow {id}: there is no step {unknown[0]!r}; there are {known}")
        return await send(settings, loaded, list(steps), payload=body, channel=channel, key=key, source=source)


async def _load(id: str, ledger: "Ledger") -> "Workflow":  # noqa: A002
    from signal_ledger import Workflow

    try:
        return await Workflow.load(id, via=ledger)
    except LookupError as error:
        raise LookupError(f"{error}; `signal-ledger workflow --help` says where to find one") from error


def _duration(found: "WorkflowStatus") -> str:
    from signal_ledger_adapters.cli.words import duration

    return duration(found.duration.total_seconds())


def _say_steps(output: "Output", found: "WorkflowStatus", waits: "list[WaitingStep]") -> None:
    from signal_ledger_adapters.timeline import printable

    limit = "with a deadline " if output.is_relative else "at most until "
    for step in waits[:_SHOWN_MAX]:
        until = "" if step.wait.deadline_at is None else f", {limit}{output.when(step.wait.deadline_at)}"
        channel = "" if step.wait.channel is None else f" on {printable(step.wait.channel)}"
        output.say(f"{printable(step.name)} waits for a signal{channel}, since {output.when(step.wait.since)}{until}")
    for name, deps in list(found.held.items())[:_SHOWN_MAX]:
        output.say(f"{printable(name)} is held for {', '.join(map(printable, deps))}")
    left_out = max(0, len(waits) - _SHOWN_MAX) + max(0, len(found.held) - _SHOWN_MAX)
    if left_out:
        output.say(f"and {left_out} more: -o json shows all")
