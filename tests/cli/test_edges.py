"""What the command line does where little is as it should be: stray URLs, poor terminals, names that steer them."""

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import click
import pytest
from oban import Job, worker

from signal_ledger import await_signal, lite, open_ledger
from signal_ledger_adapters.cli.completions import waiting_jobs
from signal_ledger_adapters.cli.exits import without_passwords
from signal_ledger_adapters.cli.formats import Csv
from signal_ledger_adapters.cli.output import Output
from signal_ledger_adapters.cli.rows import of_event
from signal_ledger_adapters.cli.settings import Settings
from signal_ledger_adapters.cli.views import EVENTS, OUTBOX
from tests.cli.program import PROGRAM, SECRET, environment, run
from tests.eventually import eventually

STEERING = "a\x1b[2J\u202e\nb"
"""Would clear a terminal, turn its text around and end the line."""

PAYLOADS = [1, "1", None, "", True, "true", [1], "[1]", "a\r\nb"]


@worker()
class Steering:
    async def process(self, job):
        await await_signal(wait_timeout=0, channel=STEERING)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/signals.db"


@pytest.mark.parametrize(
    "arguments",
    [
        ["waiting", "URL"],
        ["doctor", "URL"],
        ["URL"],
        ["-o", "URL", "waiting"],
        ["waiting", "--timeout", "URL"],
        ["migrate", "URL", "URL"],
    ],
    ids=" ".join,
)
def test_a_url_in_the_wrong_place_is_named_without_its_password(arguments):
    stray = f"postgresql://ada:{SECRET}/@{SECRET}@db.example/app?password={SECRET}"
    # `run` looks for the secret.
    done = run(*[stray if argument == "URL" else argument for argument in arguments])
    assert (done.status, "ada:***@db.example/app?password=***" in done.err) == (2, True), done.err


@pytest.mark.parametrize("text", ["sqlite:///a:b@c.db", "postgresql://db:5432/app", "got 'x', expected a@b: c"])
def test_what_has_no_password_is_left_as_it_is(text):
    assert without_passwords(text) == text


def test_a_failure_that_nobody_foresaw_is_no_finding(url, tmp_path):
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich/__init__.py").write_text("raise RuntimeError('not as it was installed')")
    run("migrate", "--url", url)
    done = run("verify", "-o", "table", url=url, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert (done.status, "Traceback" in done.err) == (70, True)


@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_who_closes_standard_output_sees_nothing_and_the_work_is_done(url, form):
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, "--url", url, "migrate", "-o", form],
        stderr=subprocess.PIPE,
        check=False,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert run("schema-version", "-o", "json", url=url).status == 0


def test_who_closes_standard_error_finds_none_of_it_in_the_answer(url):
    run("migrate", url=url)
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *PROGRAM, "--url", url, "verify", "-o", "json"],
        stdout=subprocess.PIPE,
        check=False,
        env=environment(),
    )
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize(
    "arguments", [["migrate"], ["schema-version"], ["waiting"], ["doctor"], ["signal", 1, "-p", 1]]
)
def test_what_is_no_file_is_refused_and_not_waited_for(url, tmp_path, make, arguments):
    make(tmp_path / "signals.db")
    done = run(*arguments, url=url)
    assert (done.status, done.out) == (2, "")
    assert "signals.db is a folder, a pipe or a device" in done.err


async def test_a_terminal_that_lacks_characters_gets_them_written_out(url):
    async with lite(url, queues={}) as engine:
        job = await engine.enqueue(Job("shop.Purchase"))
        await engine.signal(job, 1, source="ф ü")
    for form in ("csv", "table"):
        # The run in a thread: it may take longer than the event loop may stand still.
        done = await asyncio.to_thread(run, "events", "-o", form, url=url, PYTHONIOENCODING="ascii")
        assert (done.status, done.err, r"\u0444 \xfc" in done.out) == (0, "", True)


async def test_payloads_of_csv_come_back_as_they_were(url):
    async with lite(url, queues={}) as engine:
        job = await engine.enqueue(Job("shop.Purchase"))
        for payload in PAYLOADS:
            await engine.signal(job, payload)
        await engine.cancel_job(job.id)
    stream = io.StringIO()
    async with open_ledger(url, read_only=True) as ledger:
        rows = [of_event(recorded, payloads=True) async for recorded in ledger.events()]
        await Output("csv", "utc", payloads=True, stream=stream).rows(EVENTS, rows)
    stream.seek(0)
    cells = [row["payload"] for row in csv.DictReader(stream)]
    assert cells == ["1", '"1"', "null", '""', "true", '"true"', "[1]", '"[1]"', r'"a\r\nb"', ""]


def test_no_text_begins_a_row_of_csv():
    texts = ["a\rb", "a\nb", "a\r\n", '"', ",", "\r", "a\r9,forged", "\n", "x"]
    stream = io.StringIO()
    rows = Csv(stream, OUTBOX.fields)
    for text in texts:
        rows.add({"source": text, "refusal": text})
    found = list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))
    assert [(row["source"], row["refusal"]) for row in found] == [(text, text) for text in texts]
    assert stream.getvalue().endswith(",x,\n")


async def test_channels_do_not_steer_the_shell_that_completes_jobs(url):
    async with lite(url, queues={"default": 1}) as engine:
        job = await Steering.enqueue({})
        await eventually(engine.ledger.waiting, what="a wait")
    with click.Context(click.Command("timeline"), obj=Settings(url=url)) as context:
        [item] = await asyncio.to_thread(waiting_jobs, context, "")
    assert (item.value, item.help) == (str(job.id), r"waits on a\x1b[2J\u202e\nb")


@pytest.mark.parametrize(("hours", "heading"), [(0.5, "2026-10-25 CEST"), (3, "2026-10-25 CEST/CET")])
def test_a_day_on_which_clocks_are_changed_is_told_with_both_zones(monkeypatch, hours, heading):
    monkeypatch.setitem(Output.tell_story.__globals__["_ZONES"], "local", ZoneInfo("Europe/Berlin"))
    first = datetime(2026, 10, 24, 23, tzinfo=UTC)
    assert Output("table", "local").tell_story(first, first + timedelta(hours=hours)) == heading
