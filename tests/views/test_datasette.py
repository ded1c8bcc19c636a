"""A file opens well in datasette and sqlite-utils, the real programs, while an engine writes it or long after.

They are run, not imported: datasette leaves connections open when its modules are loaded, and warnings are errors here.
"""

import asyncio
import contextlib
import csv
import io
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import httpx
import pytest
from oban import worker

from signal_ledger import await_signal, lite, open_ledger
from tests.docs.pages import ROOT, blocks
from tests.eventually import eventually
from tests.view_answers import PREFIX, rows_of

HOW_TO = ROOT / "docs" / "how-to" / "datasette.md"

SECRET = "nobody else's business"


@worker()
class Approval:
    async def process(self, job):
        await await_signal(channel="approval", wait_timeout=0, wait_for=job.args.get("wait_for"))


@pytest.fixture
async def engine(path):
    """An engine on a file with a job that has ended and two that wait."""
    async with lite(f"sqlite:///{path}") as engine:
        jobs = [await Approval.enqueue({"wait_for": wait_for}) for wait_for in (None, 3600, None)]
        await eventually(lambda: _are_waiting(engine, 3))
        await engine.signal(jobs[0], SECRET, channel="approval", source="ada@example.com")
        await eventually(lambda: _has_ended(engine, jobs[0]))
        yield engine


async def _are_waiting(engine, count):
    return len(await engine.ledger.waiting()) == count


async def _has_ended(engine, job):
    return (await engine.get_job(job.id)).state == "completed"


@contextlib.contextmanager
def served(*arguments):
    """Run datasette as people do, and give a client to it."""
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/datasette.sock"
        command = [sys.executable, "-m", "datasette", "serve", *map(str, arguments), "--uds", socket]
        with (Path(folder) / "log").open("w+b") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                # Not asked by connecting: httpx leaves sockets open that were refused.
                asyncio.run(eventually(lambda: _is_up(process, Path(log.name)), what="datasette is up"))
                with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://datasette") as client:
                    yield client
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(30)


def _is_up(process, log):
    assert process.poll() is None, log.read_text()
    return "Uvicorn running on" in log.read_text()


@pytest.fixture
async def browser(engine, path):
    """A client of a datasette that was started beside the engine."""
    with contextlib.ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, served(path))
        await asyncio.to_thread(stack.close)


def rows(browser, view, **options):
    answer = browser.get(f"/signals/{PREFIX}{view}.json", params={"_shape": "array", **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_datasette_shows_every_table_and_every_view(browser, path):
    listed = browser.get("/signals.json").json()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        there = {
            kind: {name for (name,) in connection.execute(f"SELECT name FROM sqlite_schema WHERE type = '{kind}'")}
            for kind in ("table", "view")
        }
    assert {view["name"] for view in listed["views"]} == there["view"]
    assert {table["name"] for table in listed["tables"]} == there["table"]
    for name in there["view"] | there["table"]:
        page = browser.get(f"/signals/{name}")
        assert page.status_code == 200, name
        assert browser.get(f"/signals/{name}.json").json()["filtered_table_rows_count"] >= 0, name


async def test_datasette_gives_the_rows_of_a_view_and_filters_them(browser, path):
    assert [{**row, "waited_s": None} for row in rows(browser, "waiting")] == [
        {**row, "waited_s": None} for row in rows_of(path, "waiting")
    ]
    assert [row["job_id"] for row in rows(browser, "waiting", _sort="since")] == [2, 3]
    assert [row["job_id"] for row in rows(browser, "waiting", overdue="0", deadline_at__notblank="1")] == [2]
    assert [row["job_id"] for row in rows(browser, "signals", fate="consumed", latency_s__lt="60")] == [1]
    assert [row["kind"] for row in rows(browser, "timeline", job_id="1")] == [
        "snoozed", "delivered", "consumed", "closed",
    ]  # fmt: skip
    assert [row["job_id"] for row in rows(browser, "runs", events="4", status="closed")] == [1]


async def test_datasette_counts_by_facets(browser):
    for view, facet, counts in (
        ("waiting", "overdue", {0: 2}),
        ("waits", "outcome", {"open": 2, "consumed": 1}),
        ("timeline", "kind", {"snoozed": 3, "delivered": 1, "consumed": 1, "closed": 1}),
    ):
        answer = browser.get(f"/signals/{PREFIX}{view}.json", params={"_facet": facet}).json()
        found = answer["facet_results"][facet]["results"]
        assert {one["value"]: one["count"] for one in found} == counts
        # Each leads to its rows.
        for one in found:
            there = browser.get(one["toggle_url"].replace("_facet=", "_shape=array&_unused=")).json()
            assert len(there) == one["count"], one
    dated = browser.get(f"/signals/{PREFIX}signals.json", params={"_facet_date": "delivered_at"}).json()
    assert [one["count"] for one in dated["facet_results"]["delivered_at"]["results"]] == [1]


async def test_an_engine_works_beside_a_datasette_that_is_open_and_is_seen_by_it(engine, path, browser):
    before = rows(browser, "timeline")
    # In the middle of reading, as long as it likes.
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        cursor = reader.execute(f"SELECT * FROM {PREFIX}timeline")
        cursor.fetchone()
        for wait in await engine.ledger.waiting():
            receipt = await engine.signal(wait.job_id, SECRET, channel="approval", timeout=5)
            assert receipt.outcome == "woken"
        await eventually(lambda: _are_waiting(engine, 0))
        assert len(cursor.fetchall()) == len(before) - 1
    assert rows(browser, "waiting") == []
    await eventually(lambda: len(rows(browser, "runs", cause="completed")) == 3)
    assert (await engine.ledger.verify()).ok


async def test_an_engine_starts_and_stops_under_an_open_datasette(path):
    async with lite(f"sqlite:///{path}", queues={}):
        pass
    with contextlib.ExitStack() as stack:
        browser = await asyncio.to_thread(stack.enter_context, served(path))
        for count in (1, 2):
            async with lite(f"sqlite:///{path}") as engine:
                await Approval.enqueue({})
                await eventually(partial(_are_waiting, engine, count))
                assert len(rows(browser, "waiting")) == count
            assert len(rows(browser, "waiting")) == count
        await asyncio.to_thread(stack.close)
    async with open_ledger(f"sqlite:///{path}", read_only=True) as ledger:
        assert (await ledger.verify()).ok


@pytest.mark.parametrize("copy", [".backup", "VACUUM INTO"])
async def test_a_copy_is_served_as_a_file_that_nobody_changes(engine, path, copy):
    target = path.with_name("copy.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if copy == ".backup":
            with contextlib.closing(sqlite3.connect(target)) as other:
                connection.backup(other)
        else:
            connection.execute("VACUUM INTO ?", (str(target),))
    expected = rows_of(path, "timeline")
    await engine.cancel_job(2)
    target.chmod(0o444)
    with contextlib.ExitStack() as stack:
        browser = await asyncio.to_thread(stack.enter_context, served("-i", target))
        answer = browser.get(f"/copy/{PREFIX}timeline.json", params={"_shape": "array"})
        assert answer.json() == expected
        await asyncio.to_thread(stack.close)
    assert not target.with_name("copy.db-wal").exists()


async def test_the_metadata_of_the_guide_keep_payloads_to_oneself(engine, path):
    [block] = [block for block in blocks(HOW_TO) if block.notes.get("file") == "metadata.json"]
    metadata = path.with_name("metadata.json")
    metadata.write_text(block.text)
    with contextlib.ExitStack() as stack:
        browser = await asyncio.to_thread(stack.enter_context, served(path, "--metadata", metadata))
        for hidden in ("signal_ledger_events", "signal_ledger_outbox", "oban_jobs"):
            for name in (hidden, f"{hidden}.json", f"{hidden}/1.json"):
                assert browser.get(f"/signals/{name}").status_code == 403, name
        sql = "select payload from signal_ledger_events"
        assert browser.get("/signals.json", params={"sql": sql}).status_code == 403
        where = "1 = (select count(*) from signal_ledger_events)"
        assert browser.get(f"/signals/{PREFIX}runs.json", params={"_where": where}).status_code in (400, 403)
        assert browser.get("/signals.db").status_code == 403
        assert len(rows(browser, "timeline")) == 6
        assert [row["source"] for row in rows(browser, "signals")] == ["ada@example.com"]
        await asyncio.to_thread(stack.close)


# sqlite-utils


def sqlite_utils(*arguments):
    command = [sys.executable, "-m", "sqlite_utils", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_sqlite_utils_reads_views_while_an_engine_runs(engine, path):
    shown = json.loads(sqlite_utils("rows", path, f"{PREFIX}waiting"))
    assert [(row["job_id"], row["overdue"]) for row in shown] == [(2, 0), (3, 0)]
    listed = json.loads(sqlite_utils("views", path, "--counts"))
    assert {one["view"]: one["count"] for one in listed}[f"{PREFIX}timeline"] == 6
    where = sqlite_utils("rows", path, f"{PREFIX}timeline", "--where", "job_id = :job", "-p", "job", "1", "--csv")
    assert [row["kind"] for row in csv.DictReader(io.StringIO(where))] == ["snoozed", "delivered", "consumed", "closed"]
    table = sqlite_utils("query", path, f"select fate, count(*) as n from {PREFIX}signals group by fate", "--table")
    assert table.split()[-2:] == ["consumed", "1"]
    receipt = await engine.signal(2, SECRET, channel="approval", timeout=5)
    assert receipt.outcome == "woken"


async def test_sqlite_utils_copies_a_view_into_a_file_of_its_own(engine, path):
    """To hand out what has no payloads."""
    target = path.with_name("handed-out.db")
    lines = sqlite_utils("rows", path, f"{PREFIX}timeline", "--nl")
    subprocess.run(
        [sys.executable, "-m", "sqlite_utils", "insert", str(target), "timeline", "-", "--nl", "--pk", "position"],
        input=lines, text=True, check=True, timeout=60, capture_output=True,
    )  # fmt: skip
    with contextlib.closing(sqlite3.connect(target)) as connection:
        connection.row_factory = sqlite3.Row
        assert [dict(row) for row in connection.execute("SELECT * FROM timeline")] == rows_of(path, "timeline")
    assert SECRET.encode() not in target.read_bytes()
