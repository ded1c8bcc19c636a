"""The embedded demo, played by real processes: one of them is killed."""

import asyncio
import re
import sys
from dataclasses import replace

import pytest

from signal_ledger import open_ledger
from signal_ledger_adapters.demo.play import findings, play
from signal_ledger_adapters.demo.stages import LiteStage
from tests.demo.told import check_told


async def run_demo(*arguments, folder):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "signal_ledger_adapters.demo",
        *arguments,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_the_demo_plays_through_and_leaves_nothing_behind(tmp_path):
    status, output, errors = await run_demo(folder=tmp_path)
    assert status == 0, output + errors
    check_told(output)
    # Whichever process it is that takes the killed one's jobs up.
    said = [
        re.fullmatch(r" {10}(worker )?process \d+ says: engine \d+ is gone; .+", line) for line in errors.splitlines()
    ]
    assert said
    assert all(said), errors
    assert list(tmp_path.iterdir()) == []


async def test_the_demo_keeps_the_file_that_it_was_given(tmp_path):
    status, output, _ = await run_demo("--database", "kept.db", folder=tmp_path)
    assert status == 0, output
    async with open_ledger(f"sqlite:///{tmp_path}/kept.db", read_only=True) as ledger:
        assert (await ledger.verify()).ok
    status, output, errors = await run_demo("--database", "kept.db", folder=tmp_path)
    assert status == 2
    assert "expected a file that does not exist yet" in errors


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo").resolve()
    return asyncio.run(play(LiteStage(f"sqlite:///{folder}/demo.db", folder), lambda _text: None))


def test_a_play_as_it_should_be_has_no_findings(outcome):
    assert findings(outcome) == []


def test_a_job_that_ended_otherwise_is_found(outcome):
    desk, *others = outcome.purchases
    off = replace(outcome, purchases=[replace(desk, expected_state="discarded"), *others])
    assert findings(off) == ["job 1 (standing desk): expected to end discarded, is completed"]


def test_an_event_too_few_is_found(outcome):
    *others, office = outcome.purchases[:5]
    short = [recorded for recorded in office.history if recorded.kind != "closed"]
    off = replace(outcome, purchases=[*others, replace(office, history=short)])
    [finding] = findings(off)
    assert finding.startswith("job 5 (new office): expected the events delivered, consumed, delivered")


def test_a_second_consumption_is_found(outcome):
    *others, office = outcome.purchases[:5]
    consumed = next(recorded for recorded in office.history if recorded.kind == "consumed")
    off = replace(outcome, purchases=[*others, replace(office, history=[*office.history, consumed])])
    assert len(findings(off)) == 1
