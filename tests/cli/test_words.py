"""What the program says in words: of instants beside now, of time zones, and of what was typed wrong."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import CliRunner
from oban import worker

from signal_ledger import Workflow, await_signal, lite, migrate
from signal_ledger.testing import ManualClock, engine
from signal_ledger_adapters.cli import words
from signal_ledger_adapters.cli.output import Output
from signal_ledger_adapters.cli.program import program
from tests.cli.program import run
from tests.eventually import eventually
from tests.postgres.faults.server import halted

NIGHT = datetime(2026, 10, 24, 22, 0, tzinfo=UTC)
"""Of the day on which Berlin's clocks are set back."""


@worker()
class Approval:
    async def process(self, job):
        await await_signal(wait_for=timedelta(days=2), wait_timeout=0)


def tell(url, *arguments):
    done = CliRunner().invoke(program, [*arguments, "-o", "table", "--url", url], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s ago"), (-0.4, "0 s ago"), (11.483, "in 11 s"), (-11.483, "11 s ago"), (-59.6, "1 min ago")],
)
def test_beside_now_an_instant_is_told_in_whole_seconds(seconds, told):
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert words.beside(now)(now + timedelta(seconds=seconds)) == told


async def test_a_line_is_told_beside_the_time_at_which_it_is_written():
    # As when the log is followed: what comes later is not ahead.
    tell_line, begin = Output("table", "relative").precisely, datetime.now(UTC)

    async def is_a_second_ago():
        return tell_line(begin) == "1 s ago"

    await eventually(is_a_second_ago)
    assert tell_line(datetime.now(UTC)) == "0 s ago"


def story(folder, *, length):
    """A job that gets its signal so long after it has begun to wait; return the database."""

    async def play():
        async with engine(f"sqlite:///{folder}/signals.db", clock=ManualClock(NIGHT)) as it:
            job = await it.enqueue(Approval.new())
            await it.drain()
            await it.advance(length.total_seconds())
            await it.signal(job, None)

    asyncio.run(play())
    return f"sqlite:///{folder}/signals.db"


@pytest.mark.parametrize("_in_time_zone", ["Europe/Berlin"], indirect=True)
@pytest.mark.usefixtures("_in_time_zone", "_own_logging")
@pytest.mark.parametrize(
    ("length", "options", "told"),
    [
        (timedelta(hours=1), (), "; 2026-10-25 CEST"),
        (timedelta(hours=1), ("--times", "utc"), "; 2026-10-24 UTC"),
        (timedelta(hours=30), (), "; times in CEST/CET"),
        (timedelta(hours=30), ("--times", "utc"), "; times in UTC"),
        (timedelta(hours=30), ("--times", "relative"), ""),
    ],
)
def test_the_heading_of_a_timeline_names_the_time_zone(tmp_path, length, options, told):
    heading = tell(story(tmp_path, length=length), "timeline", "1", *options).splitlines()[0]
    assert heading == f"job 1: tests.cli.test_words.Approval, available{told}"


@pytest.mark.usefixtures("_own_logging")
def test_the_deadline_of_a_step_is_told_beside_now(tmp_path):
    url = f"sqlite:///{tmp_path}/signals.db"

    async def play():
        async with lite(url) as it:
            workflow = Workflow("order")
            workflow.add("approval", Approval.new())
            await it.enqueue_many(workflow)

            async def waits():
                return bool(await it.ledger.waiting())

            await eventually(waits)
        return workflow.id

    told = tell(url, "workflow", "status", asyncio.run(play()), "--times", "relative")
    assert re.search(r"^approval waits for a signal, since \d+ s ago, with a deadline in 2 d$", told, re.MULTILINE)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("wating",), "No such command 'wating'. Did you mean waiting?"),
        (("nonsense",), "No such command 'nonsense'.\n"),
        (("--nonsense",), "No such option '--nonsense'"),
        (("waiting", "--deadline-before", "soon"), "or how far ahead, such as 90s, 15m, 2h, 7d or 1w, got 'soon'"),
        (("state", "1", "--at", "soon"), "or how long ago, such as 90s, 15m, 2h, 7d or 1w, got 'soon'"),
        (("demo", "--database", "."), "signal-ledger demo: error: --database: expected a file that does not exist"),
    ],
)
def test_what_is_typed_wrong_is_told_with_what_was_meant(typed, told):
    done = run(*typed)
    assert (done.status, done.out) == (2, "")
    assert told in done.err


def test_who_looks_for_a_workflow_is_told_where_to_find_its_id(tmp_path):
    url = f"sqlite:///{tmp_path}/signals.db"
    asyncio.run(migrate(url))
    for command in ("status", "graph", "signal"):
        done = run("workflow", command, "order", *(["step", "-p", "1"] if command == "signal" else []), url=url)
        assert done.status == 3
        assert done.err.endswith("found none with 'order'; `signal-ledger workflow --help` says where to find one\n")


def test_where_the_server_does_not_even_answer_nothing_was_sent(cluster):
    url = cluster.create_database("unanswered")
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
    with halted(cluster):
        for command in (("signal", 1), ("workflow", "signal", "order", "step")):
            done = run(*command, "-p", "1", "--timeout", 1, url=url)
            assert (done.status, done.out) == (5, "")
            assert done.err.endswith("; nothing was sent\n"), done.err
