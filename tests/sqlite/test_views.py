"""The views of a file: an interface for people and their tools, that shows what the library answers."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from oban import Cancel, worker

from property_tests.stores import FileAndMemory
from signal_ledger import SignalTimeout, Workflow, await_signal, lite
from signal_ledger.ledger import Ledger
from signal_ledger.testing.bench import take
from signal_ledger.testing.comparing import play
from signal_ledger.testing.flow_machine import FlowMachine
from signal_ledger.testing.machine import LedgerMachine
from tests.core.given import a_plan
from tests.effort import histories, play_until_met
from tests.eventually import eventually
from tests.transactions import sqlite_transaction
from tests.view_answers import PREFIX, VIEWS, check_views, rows_of

SECRET = "a payload that nobody may see"


@worker()
class Approval:
    async def process(self, job):
        wait = {"wait_for": job.args.get("wait_for"), "wait_timeout": job.args.get("window", 0)}
        for channel in job.args["channels"]:
            try:
                await await_signal(channel=channel, **wait)
            except SignalTimeout:
                return Cancel("nobody decided")
        return None


class Story:
    """A file that a real engine has written, in which every case of every view is to be found."""

    def __init__(self, engine):
        self.engine = engine
        self.jobs = {}

    async def enqueue(self, name, *channels, **args):
        self.jobs[name] = await Approval.enqueue({"channels": channels, **args})
        return self.jobs[name]

    async def until(self, name, *states):
        async def there():
            found = await self.engine.get_job(self.jobs[name].id)
            return found if found.state in states else None

        return await eventually(there, what=f"{name} is {states}")

    async def until_status(self, name, status):
        async def there():
            return (await self.engine.ledger.state(self.jobs[name])).status == status

        await eventually(there, what=f"{name} is {status}")


@pytest.fixture
async def story(path):
    async with lite(f"sqlite:///{path}", queues={"default": {"limit": 20}}, live_share=1.0) as engine:
        story = Story(engine)
        await play_waits(story)
        await play_signals(story)
        held = await play_workflows(story)
        async with sqlite_transaction(path) as connection:
            await engine.signal(story.jobs["late"], SECRET, source="ada", key="k", conn=connection)
        await eventually(lambda: _is_refused(engine))
        await story.enqueue("live", "approval", window=60)
        await story.until_status("live", "live")
        yield story
        for name in ("live", "forgotten", "again"):
            await engine.cancel_job(story.jobs[name])
        await held.cancel()


async def play_waits(story):
    """Waits with each outcome."""
    await story.enqueue("granted", "approval", window=0.01, wait_for=3600)
    await story.until_status("granted", "snoozed")
    await story.engine.signal(story.jobs["granted"], SECRET, channel="approval", source="ada", key="form 12")
    await story.until("granted", "completed")
    await story.enqueue("late", None, wait_for=0.01)
    await story.until("late", "cancelled")
    await story.enqueue("forgotten", "approval", wait_for=3600)
    await story.until_status("forgotten", "snoozed")
    await story.enqueue("given up", "approval", window=0.01, wait_for=3600)
    await story.until_status("given up", "snoozed")
    await story.engine.signal(story.jobs["given up"], SECRET, channel="another")
    await story.engine.cancel_job(story.jobs["given up"])
    # It waits in its second run.
    await story.enqueue("again", "votes")
    await story.until_status("again", "snoozed")
    await story.engine.cancel_job(story.jobs["again"])
    await story.engine.retry_job(story.jobs["again"])
    await story.until_status("again", "snoozed")


async def play_signals(story):
    """Signals that are there before anybody waits: two are consumed at once, others are kept."""
    story.jobs["early"] = await Approval.enqueue({"channels": ["votes", "votes"]}, schedule_in=3600)
    for number in range(3):
        await story.engine.signal(story.jobs["early"], number, channel="votes", source="Zoë")
    await story.engine.retry_job(story.jobs["early"])
    await story.until("early", "completed")
    story.jobs["scheduled"] = await Approval.enqueue({"channels": []}, schedule_in=3600)
    for number in range(2):
        await story.engine.signal(story.jobs["scheduled"], number)


async def play_workflows(story):
    """One that has ended, and one whose steps are held, which is returned."""
    held = Workflow("order 7").add("approval", Approval.new({"channels": [None]}))
    held.add("charge", Approval.new({"channels": []}), "approval")
    held.add("tell", Approval.new({"channels": []}), ["approval", "charge"])
    await story.engine.enqueue_many(held)
    await eventually(lambda: _waits(story.engine, held.job_ids["approval"]))
    done = Workflow().add("first", Approval.new({"channels": []}))
    done.add("second", Approval.new({"channels": []}), "first")
    await story.engine.enqueue_many(done)
    await eventually(lambda: _has_ended(done))
    return held


async def _waits(engine, job_id):
    return await engine.ledger.waits_of([job_id])


async def _has_ended(workflow):
    return (await workflow.status()).state == "completed"


async def _is_refused(engine):
    return [stored for stored in await engine.ledger.outbox() if stored.refusal]


# What they show


async def test_views_show_what_the_library_answers(path, story):
    met = await check_views(path, story.engine.ledger)
    for case in (
        *(f"waits: {outcome}" for outcome in ("consumed", "timed_out", "ended", "open")),
        *(f"signals: {fate}" for fate in ("consumed", "ended", "pending")),
        *(f"workflows: {state}" for state in ("executing", "completed")),
        *(f"steps: {state}" for state in ("scheduled", "suspended", "completed")),
        *("waiting", "inboxes", "runs", "timeline: planned", "timeline: released", "outbox: refused"),
    ):
        assert met[case], (case, met)


class ViewsAgree(FileAndMemory):
    """Compares the views of the file in the end, too."""

    met = Counter()

    def teardown(self):
        try:
            _, bench = self.benches
            self.met.update(self._run(check_views(self.path, Ledger(bench.store, None))))
        finally:
            super().teardown()


class ViewsOfWaits(ViewsAgree, LedgerMachine):
    pass


class ViewsOfWorkflows(ViewsAgree, FlowMachine):
    pass


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("machine", "cases"),
    [
        (ViewsOfWaits, ["waits: ended", "waits: consumed", "waits: open", "signals: pending", "outbox: refused"]),
        (ViewsOfWorkflows, ["steps: suspended", "timeline: cascaded", "timeline: skipped", "workflows: executing"]),
    ],
)
def test_views_show_what_the_library_answers_after_any_history(machine, cases):
    ViewsAgree.met.clear()
    play_until_met(partial(play, machine, settings=histories(30, 40), complete=False), cases, ViewsAgree.met)


async def test_a_row_says_whose_job_it_is_as_long_as_the_job_is_there(path, story):
    [granted] = rows_of(path, "waits", "outcome = 'consumed' AND channel = 'approval'")
    assert (granted["worker"].endswith("Approval"), granted["queue"], granted["source"]) == (True, "default", "ada")
    await story.engine.delete_job(story.jobs["granted"])
    [granted] = rows_of(path, "waits", "outcome = 'consumed' AND channel = 'approval'")
    assert (granted["worker"], granted["queue"], granted["source"]) == (None, None, "ada")


async def test_who_waits_in_a_workflow_is_told_by_the_names_of_its_step(path, story):
    [step] = rows_of(path, "waiting", "step IS NOT NULL")
    assert (step["step"], step["status"]) == ("approval", "snoozed")
    [told] = rows_of(path, "workflows", f"workflow_id = '{step['workflow_id']}'")
    assert (told["workflow_name"], told["state"], told["steps"]) == ("order 7", "executing", 3)
    held = {row["step"]: json.loads(row["held_for"]) for row in rows_of(path, "steps", "state = 'suspended'")}
    assert held == {"charge": ["approval"], "tell": ["approval", "charge"]}


async def test_the_default_channel_is_the_empty_text_as_in_the_log(path, story):
    assert {row["channel"] for row in rows_of(path, "waits")} == {"", "approval", "votes"}
    [late] = rows_of(path, "waits", "channel = '' AND outcome = 'timed_out'")
    assert late["job_id"] == story.jobs["late"].id


async def test_a_deadline_that_has_passed_is_overdue_and_one_to_come_is_not(bench, path):
    """By the clock of SQLite, which is the system's."""
    bench.clock.move_to(datetime.now(UTC) - timedelta(seconds=100))
    for seconds in (50, 5000, None):
        job_id = await bench.insert()
        await take(bench, job_id, await bench.fetch(job_id), wait_for=seconds, in_place=seconds is not None)
    shown = rows_of(path, "waiting")
    assert [row["overdue"] for row in shown] == [1, 0, 0]
    assert all(99 < row["waited_s"] < 160 for row in shown)
    assert all(99 < row["waited_s"] < 160 for row in rows_of(path, "waits"))
    assert all(99 < row["duration_s"] < 160 for row in rows_of(path, "runs"))


async def test_no_view_shows_a_payload(path, story):
    shown = {view: rows_of(path, view) for view in VIEWS}
    assert all(rows for view, rows in shown.items())
    values = [value for rows in shown.values() for row in rows for value in row.values()]
    assert not any(isinstance(value, bytes) or SECRET in str(value) for value in values)
    [stored] = shown["outbox"]
    assert (stored["payload_bytes"] > len(SECRET), len(stored["payload_digest"])) == (True, 64)


@pytest.mark.parametrize("text", ["nonsense", '["nonsense"]', '{"deps": 7}'])
async def test_an_altered_row_hides_no_other(bench, path, text):
    first = await bench.insert(plan=a_plan("first"))
    second = await bench.insert(plan=a_plan("second", ["first"], workflow_name="order 7"))
    await take(bench, first, await bench.fetch(first))
    for job_id in (first, second):
        await bench.signaller.send(job_id, channel="another")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER signal_ledger_events_no_update")
        connection.execute("UPDATE signal_ledger_events SET plan = ? WHERE job_id = ? AND version = 1", (text, first))
        connection.execute("UPDATE signal_ledger_steps SET plan = ? WHERE job_id = ?", (text, first))
        connection.execute(
            "UPDATE signal_ledger_waits SET waits = ?, inboxes = ? WHERE job_id = ?", (text, text, first)
        )
    shown = {view: rows_of(path, view) for view in VIEWS}
    assert {view: len(rows) for view, rows in shown.items()} == {
        "waiting": 1, "timeline": 5, "signals": 2, "inboxes": 1, "waits": 0, "runs": 2, "workflows": 1, "steps": 2,
        "outbox": 0,
    }  # fmt: skip
    assert [row["what"] for row in shown["timeline"] if row["kind"] == "planned"] == [
        None,
        "step second of workflow order 7, after first",
    ]
    assert [row["workflow_name"] for row in shown["workflows"]] == ["order 7"]


# What other people's queries stand on


async def test_the_views_and_their_columns_are_these(bench, path):
    connection = sqlite3.connect(path)
    views = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")}
    found = {
        name.removeprefix(PREFIX): " ".join(row[1] for row in connection.execute(f"PRAGMA table_info({name})"))
        for name in views
    }
    connection.close()
    assert found == VIEWS


def test_no_column_needs_quotes():
    """What SQLite, or another database that the rows may be copied to, takes for a word of its own."""
    words = {"at", "offset", "window", "end", "order", "group", "from", "to", "when", "time", "timestamp", "value"}
    assert not words & {column for columns in VIEWS.values() for column in columns.split()}


async def test_values_compare_as_what_they_are_when_a_tool_passes_text(path, story):
    """A filter in a URL is text; a column that is computed must have a type to be compared by."""
    for view, columns in VIEWS.items():
        for column in columns.split():
            samples = [row[column] for row in rows_of(path, view, f"{column} IS NOT NULL")]
            # What depends on the present time is another value in the next query.
            if samples and column not in ("waited_s", "duration_s", "latency_s"):
                connection = sqlite3.connect(path)
                query = f"SELECT count(*) FROM {PREFIX}{view} WHERE {column} = ?"
                [(count,)] = connection.execute(query, (str(samples[0]),)).fetchall()
                connection.close()
                assert count == samples.count(samples[0]), (view, column, samples[0])


async def test_instants_are_iso_8601_in_utc_and_digests_hexadecimal(path, story):
    for view, columns in VIEWS.items():
        for row in rows_of(path, view):
            for column in columns.split():
                value = row[column]
                if value is not None and (column.endswith("_at") or column == "since"):
                    assert len(value) == 27
                    assert datetime.fromisoformat(value).utcoffset() == timedelta(0)
                elif value is not None and column.endswith("_digest"):
                    assert len(bytes.fromhex(value)) == 32
                elif column.endswith("_s"):
                    assert value is None or type(value) is float
