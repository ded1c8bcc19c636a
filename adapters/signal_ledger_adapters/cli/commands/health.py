"""``verify``, ``rebuild``, ``stats`` and ``doctor``: is all well?"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import click

from signal_ledger_adapters.cli.exits import Exit
from signal_ledger_adapters.cli.parameters import AGO, channel_option
from signal_ledger_adapters.cli.running import Command, progress_bar
from signal_ledger_adapters.cli.settings import Settings, common_options, examples

if TYPE_CHECKING:
    from signal_ledger import Durations, Progress, Stats
    from signal_ledger_adapters.cli.output import Output
    from signal_ledger_adapters.doctor import Check


@click.command(
    "verify",
    cls=Command,
    epilog=examples(
        "signal-ledger verify",
        "signal-ledger verify -o json --findings 10",
    ),
)
@click.option("--findings", type=click.IntRange(0), default=100, show_default=True, help="Show at most so many.")
@common_options
@click.pass_obj
async def verify(settings: Settings, *, findings: int) -> Exit:
    """Check the whole log and its projection.

    It looks at checksums, rules, deadlines and more, and ends with 1 if anything is wrong.
    """
    from signal_ledger_adapters.cli.rows import of_report
    from signal_ledger_adapters.cli.views import REPORT

    with progress_bar("verifying") as told:
        async with settings.open() as ledger:
            report = await ledger.verify(progress=_teller(told), findings_max=findings)
    output = settings.writer()
    if output.is_table:
        output.say(str(report))
    else:
        output.record(REPORT, of_report(report))
    return Exit.OK if report.ok else Exit.FINDING


@click.command("rebuild", cls=Command, epilog=examples("signal-ledger rebuild"))
@common_options
@click.pass_obj
async def rebuild(settings: Settings) -> None:
    """Fold all wait states and workflows anew from the log.

    The system may go on running. Interrupted, it leaves what it has folded, and the rest as it was.
    """
    from signal_ledger_adapters.cli.views import REBUILT

    with progress_bar("rebuilding") as told:
        async with settings.open(read_only=False) as ledger:
            streams = await ledger.rebuild(progress=lambda done: told(done, None))
    settings.writer().record(REBUILT, {"streams": streams})


@click.command(
    "stats",
    cls=Command,
    epilog=examples(
        "signal-ledger stats --since 7d",
        "signal-ledger stats --channel approval -o json",
    ),
)
@click.option("--since", type=AGO, metavar="TIME", help="Count what was recorded then or later: 7d is the last week.")
@click.option("--until", type=AGO, metavar="TIME", help="Count what was recorded before then.")
@channel_option
@common_options
@click.pass_obj
async def stats(settings: Settings, *, since: datetime | None, until: datetime | None, channel: str | None) -> None:
    """Count waits, decisions, time-outs and late signals."""
    from signal_ledger_adapters.cli.rows import of_stats
    from signal_ledger_adapters.cli.views import STATS

    with progress_bar("counting") as told:
        async with settings.open() as ledger:
            counted = await ledger.stats(since=since, until=until, channel=channel, progress=_teller(told))
    output = settings.writer()
    output.record(STATS, of_stats(counted), told=_told(counted, output.when))


@click.command(
    "doctor",
    cls=Command,
    epilog=examples(
        "signal-ledger doctor",
        "signal-ledger doctor --url postgresql://ada@db.example.com/shop",
    ),
)
@common_options
@click.pass_obj
async def doctor(settings: Settings) -> Exit:
    """Look for trouble with the database and this machine.

    It looks at the schema, at hints, durability, clocks, poolers and the compiler, and at work that is stuck. It ends
    with 1 if there is a finding.
    """
    from dataclasses import asdict

    from signal_ledger_adapters.cli.views import CHECKS
    from signal_ledger_adapters.doctor import Status, examine

    checks: list[Check] = []
    with progress_bar("examining") as told:
        async for check in examine(settings.database, schema=settings.schema, timeout_s=settings.timeout):
            checks.append(check)
            told(len(checks), None)
    output = settings.writer()
    await output.rows(CHECKS, map(asdict, checks))
    if output.is_table:
        _say_advice(output, checks)
    return Exit.FINDING if any(check.status is Status.FINDING for check in checks) else Exit.OK


def _say_advice(output: "Output", checks: "list[Check]") -> None:
    """Say what to do below the table: most checks have none, and a column of it would leave no room for the others."""
    advised = [check for check in checks if check.advice is not None]
    if advised:
        output.say("\nWhat to do:")
    for check in advised:
        output.say(f"{check.name}: {check.advice}")


def _teller(told: Callable[[int, int | None], None]) -> "Callable[[Progress], None]":
    return lambda progress: told(progress.events, progress.total or None)


def _told(counted: "Stats", when: Callable[[datetime], str]) -> Mapping[str, str]:
    """Tell people what is more than a number."""
    from signal_ledger_adapters.timeline import printable

    waits = sum(counted.open_waits.values())
    channels = ", ".join(
        [f"{printable(channel or '(default)')}: {count}" for channel, count in counted.open_waits.items()]
    )
    oldest = counted.oldest
    oldest_told = "" if oldest is None else f"; the oldest is of job {oldest.job_id}, since {when(oldest.since)}"
    return {
        "since": "the beginning" if counted.since is None else when(counted.since),
        "until": "now" if counted.until is None else when(counted.until),
        "open_waits": f"{waits}{f' ({channels})' if waits else ''}{oldest_told}",
        "time_to_decision": _durations(counted.time_to_decision),
        "time_to_resume": _durations(counted.time_to_resume),
    }


def _durations(durations: "Durations") -> str:
    from signal_ledger_adapters.cli.words import duration

    if durations.median_s is None or durations.p95_s is None or durations.max_s is None:
        return "none"
    return (
        f"median {duration(durations.median_s)}, 95 % within {duration(durations.p95_s)}, "
        f"at most {duration(durations.max_s)} ({durations.count})"
    )
