"""How answers look on terminals of 80 and 140 columns: each is kept in golden/, to be looked at when it changes.

``SIGNAL_LEDGER_GOLDEN=write`` writes them anew.
"""

import asyncio
import os
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from oban import Job, Record, worker

from signal_ledger import SignalTimeout, Workflow, await_signal
from signal_ledger.testing import ManualClock, engine
from signal_ledger_adapters.cli.program import program
from tests.cli.workers import Approval, Charge

GOLDEN = Path(__file__).parent / "golden"
BEGIN = datetime(2026, 11, 23, 12, 30, 0, 5000, tzinfo=UTC)
VOTES = 66
"""As many as make two hundred events and some."""


@worker()
class Committee:
    """As the demo's, with as many votes as its args say, and a veto."""

    async def process(self, job):
        votes = [await await_signal(channel="votes") for _ in range(job.args["votes"])]
        try:
            return Record({"veto": await await_signal(wait_for=timedelta(hours=1), channel="veto")})
        except SignalTimeout:
            return Record({"votes": len(votes)})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("layout") / "signals.db"
    asyncio.run(play(f"sqlite:///{path}"))
    return path


async def play(url):
    """Jobs 1 and 2 are committees, 3 to 5 are a workflow's, 6 to 8 wait."""
    async with engine(url, clock=ManualClock(BEGIN)) as it:
        for votes in (2, VOTES):
            committee = await it.enqueue(Committee.new({"votes": votes}))
            await it.drain()
            for number in range(votes):
                await it.advance(60.25)
                source = f"member {number + 1} of the board"
                await it.signal(committee, number, channel="votes", source=source, key=f"vote-{number + 1}")
                await it.drain()
            await it.advance(3601)
            await it.signal(committee, "too late", channel="veto", source="chair")
        workflow = Workflow("trade fair")
        workflow.add("approval", Approval.new({"wait_for": 86_400}))
        workflow.add("stand at the fair", Charge.new(), deps="approval")
        workflow.add("party after the fair", Charge.new(), deps=["approval", "stand at the fair"])
        await it.enqueue_many(workflow)
        await it.drain()
        for channel in (None, "a channel whose name is long, since it tells what is waited for", "end"):
            await it.enqueue(Approval.new({"channel": channel}))
            await it.drain()
            await it.advance(3)
        # Something that has not been relayed, to a job of the largest number.
        await it.enqueue(Job(worker="shop.Later", schedule_in=60))


SHOWN = {
    "timeline-committee": "timeline 1 --payload",
    "timeline-step": "timeline 3",
    "timeline-long": "timeline 2",
    "timeline-relative": "timeline 1 --times relative",
    "replay": "replay 1",
    "history": "history 1",
    "waiting": "waiting",
    "state": "state 3",
    "workflow-status": "workflow status {workflow}",
    "workflow-graph": "workflow graph {workflow}",
    "stats": "stats",
    "verify": "verify",
}


def shown(path, line, columns):
    """Return what is shown in such a width; what is new in each run has the same look in all."""
    found = CliRunner().invoke(
        program,
        [*line.split(), "-o", "table", *([] if "--times" in line else ["--times", "utc"])],
        env={"SIGNAL_LEDGER_URL": f"sqlite:///{path}", "COLUMNS": str(columns)},
    )
    assert (found.exit_code, found.stderr) == (0, ""), found.output
    lines = [line.rstrip() for line in found.stdout.splitlines()]
    if not line.startswith("history"):
        assert max(map(len, lines)) <= columns
    text = re.sub(r"\b[\da-f]{8}-[\da-f]{4}-[\da-f-]{22}", "(the id of the workflow)", "\n".join(lines))
    # Until now, which is later each time.
    text = re.sub(r"(?m)^(duration +).*$", r"\1(until now)", text)
    lines = text.splitlines()
    if len(lines) > 60:
        lines = [*lines[:10], f"({len(lines) - 16} lines)", *lines[-6:]]
    return "\n".join(lines) + "\n"


@pytest.mark.usefixtures("_own_logging")
@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("name", SHOWN)
def test_an_answer_looks_as_it_was_looked_at(path, name, columns):
    line = SHOWN[name].format(workflow=workflow_of(path))
    text = shown(path, line, columns)
    golden = GOLDEN / f"{name}-{columns}.txt"
    if os.environ.get("SIGNAL_LEDGER_GOLDEN") == "write":
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def workflow_of(path):
    connection = sqlite3.connect(path)
    [[workflow_id]] = connection.execute("SELECT DISTINCT workflow_id FROM signal_ledger_steps").fetchall()
    connection.close()
    return workflow_id
