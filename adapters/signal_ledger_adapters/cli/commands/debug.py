"""``replay`` and ``rerun``: a job's history step by step, and its worker on it again."""

import asyncio
import sys
from bdb import BdbQuit
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from signal_ledger_adapters.cli.commands.audit import require_job
from signal_ledger_adapters.cli.exits import Exit, Failure
from signal_ledger_adapters.cli.parameters import JOB
from signal_ledger_adapters.cli.running import Command
from signal_ledger_adapters.cli.settings import Settings, common_options, examples, payload_flag

if TYPE_CHECKING:
    from signal_ledger import History

_NO_ARGS = (
    "expected --args, such as '{\"order\": 7}': the history does not hold the job's row, which would have them; "
    "in Python, give them by args="
)


@click.command("replay", cls=Command, epilog=examples("signal-ledger replay 7"))
@click.argument("job", type=JOB)
@payload_flag
@common_options
@click.pass_obj
async def replay(settings: Settings, job: int, *, payloads: bool) -> None:
    """Show each event of a job with the state after it.

    With --times relative, times count from the first event.
    """
    from signal_ledger_adapters.cli.telling import Teller, heading
    from signal_ledger_adapters.cli.views import REPLAY

    async with settings.open() as ledger:
        history = await ledger.export(job)
        if not history:
            await require_job(ledger, job)
    output = settings.writer(payloads=payloads)
    teller = Teller(history, output)
    if output.is_table and history:
        output.say(heading(history, teller.untold))
    await output.rows(REPLAY, map(teller.step, history.replay()))


@click.command(
    "rerun",
    cls=Command,
    epilog=examples(
        "signal-ledger rerun 7 --pdb",
        "signal-ledger rerun incident.jsonl --worker app.workers.Approval",
    ),
)
@click.argument("history", metavar="JOB|FILE")
@click.option("--worker", metavar="PATH", help="The worker, such as app.workers.Approval; the job's own unless given.")
@click.option("--run", "run", type=click.IntRange(1), help="Which run; the last one unless given.")
@click.option(
    "--attempt", type=click.IntRange(1), help="As which attempt; that of the run's last execution unless given."
)
@click.option("--until", type=click.IntRange(0), metavar="VERSION", help="As if the history ended after this event.")
@click.option("--args", "arguments", metavar="JSON", help="The job's args, if the history does not hold them.")
@click.option(
    "--pdb", "debug", is_flag=True, help="In the debugger: it stops where process begins, and where it raised."
)
@common_options
@click.pass_obj
def rerun(
    settings: Settings,
    history: str,
    *,
    worker: str | None,
    run: int | None,
    attempt: int | None,
    until: int | None,
    arguments: str | None,
    debug: bool,
) -> Exit:
    """Run a worker again on a recorded history.

    That is the history of a JOB in the database, or a saved FILE. Each await returns, or raises, what it did then.
    Nothing is written, and no signal is sent. It ends with 1 if the worker does something else than the history holds.

    What the worker prints and raises is shown as it is: what it prints, on standard error, where the answer is not a
    table. Workers are looked for in the current folder, too. Their module is imported, so a program that is run as a
    file should begin its work behind `if __name__ == "__main__":`.
    """
    from signal_ledger import rerun as rerun_worker
    from signal_ledger_adapters.cli.debugging import debugged
    from signal_ledger_adapters.cli.parameters import parse_arguments
    from signal_ledger_adapters.cli.views import RERUN

    recorded = _read(settings, history)
    if until is not None:
        recorded = recorded.until(until)
    args = None if arguments is None else parse_arguments(arguments)
    output = settings.writer()
    # The answer is for a program then, which could not tell it from what the worker prints.
    with nullcontext() if output.is_table else redirect_stdout(sys.stderr):
        process = _worker(recorded, worker)
        if args is None and recorded.job is None:
            raise click.UsageError(_NO_ARGS)

        async def work() -> Any:  # noqa: ANN401
            return await rerun_worker(process, recorded, run=run, attempt=attempt, args=args)

        try:
            report = debugged(process, work) if debug else asyncio.run(work())
        except BdbQuit:
            raise Failure("the debugger was left", Exit.INTERRUPTED) from None
    if output.is_table:
        output.say(str(report))
    else:
        row = {field.key: getattr(report, field.key, None) for field in RERUN.fields} | {"text": str(report)}
        output.record(RERUN, row)
    return Exit.OK if report.ok else Exit.FINDING


def _read(settings: Settings, history: str) -> "History":
    """Return a saved history, or that of a job."""
    from signal_ledger import History

    if history.lstrip("-").isdecimal() and not Path(history).exists():
        return asyncio.run(_export(settings, JOB.convert(history, None, None)))
    if not Path(history).is_file():
        raise click.BadParameter(f"expected a job's id, or a file with a saved history, got {history!r}")
    return History.load(history)


async def _export(settings: Settings, job: int) -> "History":
    async with settings.open() as ledger:
        found = await ledger.export(job)
    if not found and found.job is None:
        raise LookupError(f"there is no job {job}, and the log has no events of it")
    return found


def _worker(history: "History", path: str | None) -> type[Any]:
    """Find the worker's class.

    Raises:
        click.BadParameter: There is none.
    """
    from signal_ledger_adapters.cli.debugging import load_worker

    if path is None and history.job is None:
        raise click.UsageError("expected --worker: the history does not hold the job's row, which would name it")
    wanted = path or (history.job.worker if history.job is not None else "")
    if wanted.startswith("__main__."):
        raise click.UsageError(
            f"expected --worker: the job's own is {wanted!r}, which was defined in the program that was run as a file; "
            f"if that was shop.py, it is --worker shop{wanted.removeprefix('__main__')}"
        )
    sys.path.insert(0, str(Path.cwd()))
    try:
        return load_worker(wanted)
    except LookupError as error:
        raise click.BadParameter(str(error), param_hint="--worker") from error.__cause__
