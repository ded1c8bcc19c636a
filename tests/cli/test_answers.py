"""Each command answers what the library answers, with the documented keys, in each format, on both databases."""

import re

import pytest

from signal_ledger import Workflow
from signal_ledger_adapters.cli import views
from tests.cli.program import SECRET, cell, on_terminal, plain, run
from tests.cli.sites import AS_JSON, PAYLOADS, all_of
from tests.cli.workers import TEXTS


def bare(shown):
    """Without the styles that a terminal shows."""
    return re.sub(r"\x1b\[[\d;]*m", "", shown)


def keys(view, *, payload=False):
    return [field.key for field in view.fields if payload or field.key not in ("payload", "payload_error")]


def only(view, row):
    """What a view has of a row; what the row has not is null."""
    return {key: row.get(key) for key in keys(view)}


def of_event(event):
    row = {name: plain(getattr(event, name, None)) for name in keys(views.EVENTS)}
    return row | {"payload_digest": getattr(event.event, "payload_digest", None)}


def of_state(state):
    row = {name: plain(getattr(state, name)) for name in keys(views.STATE)}
    row["channel"] = row["channel"] or None
    for wait in row["waits"]:
        wait["channel"] = wait["channel"] or None
    return row


async def waiting(site, ledger):
    return [plain(wait) for wait in await ledger.waiting()]


async def history(site, ledger):
    return [of_event(event) for event in await ledger.history(site.jobs["purchase"])]


async def events(site, ledger):
    return [of_event(event) async for event in ledger.events()]


async def outbox(site, ledger):
    return [plain(stored) for stored in await ledger.outbox()]


async def state(site, ledger):
    return [of_state(await ledger.state(site.jobs["deadline"]))]


async def replay(site, ledger):
    return [
        {"version": step.event.version, "kind": plain(step.event.kind), "state": of_state(step.state)}
        async for step in ledger.replay(site.jobs["purchase"])
    ]


async def timeline(site, ledger):
    return [
        {"version": event.version, "kind": plain(event.kind), "recorded_at": plain(event.recorded_at)}
        for event in await ledger.history(site.jobs["purchase"])
    ]


async def stats(site, ledger):
    return [plain(await ledger.stats())]


async def verify(site, ledger):
    report = await ledger.verify()
    assert report.ok
    return [plain(report) | {"ok": True}]


async def status(site, ledger):
    found = await (await Workflow.load(site.workflow, via=ledger)).status()
    return [{"id": site.workflow, "total": 3, "counts": plain(found.counts), "held": plain(found.held)}]


async def graph(site, ledger):
    return [
        {"name": one.name, "job_id": one.step.job_id, "state": plain(one.state), "open_deps": list(one.open_deps)}
        for one in await ledger.steps(site.workflow)
    ]


COMMANDS = {
    "waiting": (views.WAITING, waiting, "waiting --all"),
    "history": (views.EVENTS, history, "history {jobs[purchase]}"),
    "events": (views.EVENTS, events, "events"),
    "outbox": (views.OUTBOX, outbox, "outbox"),
    "state": (views.STATE, state, "state {jobs[deadline]}"),
    "replay": (views.REPLAY, replay, "replay {jobs[purchase]}"),
    "timeline": (views.TIMELINE, timeline, "timeline {jobs[purchase]}"),
    "stats": (views.STATS, stats, "stats"),
    "verify": (views.REPORT, verify, "verify"),
    "workflow status": (views.WORKFLOW, status, "workflow status {workflow}"),
    "workflow graph": (views.STEPS, graph, "workflow graph {workflow}"),
}
RECORDS = (views.STATE, views.STATS, views.REPORT, views.WORKFLOW)
FORMATS = ("jsonl", "json", "csv")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_answer_is_the_librarys_with_the_keys_that_are_documented(request, name):
    # A run takes most of a second: each command on one of the databases, and each format on both.
    place = list(COMMANDS).index(name)
    site = request.getfixturevalue(("file_site", "server_site")[place % 2])
    view, ask, line = COMMANDS[name]
    form = FORMATS[place % 3]
    done = run(*line.format(jobs=site.jobs, workflow=site.workflow).split(), *["-o", form] * (form != "jsonl"),
               url=site.url)  # fmt: skip
    assert (done.status, done.err) == (0, "")
    expected = site.ask(lambda ledger: ask(site, ledger))
    found = getattr(done, form)
    rows = [found] if form == "json" and view in RECORDS else found
    assert len(rows) == len(expected) > 0
    for row, right in zip(rows, expected, strict=True):
        assert list(row) == keys(view)
        shown = {key: cell(value) for key, value in right.items()} if form == "csv" else right
        assert {key: row[key] for key in right} == {key: shown[key] for key in right}


def test_events_are_those_that_the_filters_leave(server_site):
    everything = server_site.ask(lambda ledger: all_of(ledger.events()))
    times = [event.recorded_at.isoformat() for event in everything]
    source, middle = TEXTS["escapes"], everything[9].cursor
    for arguments, wanted in [
        (("--source", source, "--channel", "votes"), lambda event: event.event.__class__.__name__ == "Delivered"
         and event.source == source),
        (("--kind", "closed", "--kind", "timed_out", "--after", middle),
         lambda event: event.kind in ("closed", "timed_out") and event.position > everything[9].position),
        (("--job", server_site.jobs["purchase"], "--channel", "", "--since", times[0], "--until", times[11]),
         lambda event: event.job_id == server_site.jobs["purchase"] and event.recorded_at < everything[11].recorded_at
         and getattr(event, "channel", "") is None and event.kind != "closed"),
    ]:  # fmt: skip
        found = run("-vv", "events", *arguments, url=server_site.url).jsonl
        expected = [event.cursor for event in everything if wanted(event)]
        assert [row["cursor"] for row in found] == expected != []


def test_the_last_events_are_the_last_that_match(server_site):
    consumed = server_site.ask(lambda ledger: all_of(ledger.events(kinds={"consumed"})))
    found = run("tail", "-n", 3, "--kind", "consumed", url=server_site.url).jsonl
    assert [row["cursor"] for row in found] == [event.cursor for event in consumed[-3:]]


def test_a_state_is_told_as_of_a_cursor_and_of_a_time(file_site):
    job_id = file_site.jobs["purchase"]
    history = file_site.ask(lambda ledger: ledger.history(job_id))
    fifth = history[4]
    # The next one may be of the same instant.
    by_then = max(event.version for event in history if event.recorded_at <= fifth.recorded_at)
    for option, value, version in (("cursor", fifth.cursor, 5), ("at", fifth.recorded_at, by_then)):
        found = run("state", job_id, f"--{option}", value, url=file_site.url).jsonl
        assert found == [of_state(file_site.ask(lambda ledger: ledger.state(job_id, **{option: value})))]  # noqa: B023
        assert found[0]["version"] == version


def test_pages_follow_one_another(server_site):
    first = run("waiting", "--limit", 2, url=server_site.url)
    cursor = first.jsonl[-1]["cursor"]
    assert first.err == f"there are more: --after {cursor} goes on, --all shows all\n"
    waits = server_site.ask(lambda ledger: ledger.waiting())
    rest = run("waiting", "--after", cursor, "-n", len(waits) - 2, url=server_site.url)
    assert rest.err == ""
    assert [row["job_id"] for row in first.jsonl + rest.jsonl] == [wait.job_id for wait in waits]


def test_waits_are_filtered(file_site):
    found = run("waiting", "--channel", TEXTS["lines"], url=file_site.url).jsonl
    assert [row["job_id"] for row in found] == [file_site.jobs["lines"]]
    found = run("waiting", "--deadline-before", "25h", url=file_site.url).jsonl
    assert [row["job_id"] for row in found] == [file_site.jobs["deadline"]]


def test_a_payload_of_any_kind_is_shown_when_it_is_asked_for_and_is_one_line(server_site):
    found = run("history", server_site.jobs["parcel"], "--payload", url=server_site.url)
    assert {row["key"]: row["payload"] for row in found.jsonl} == AS_JSON
    assert list(found.jsonl[0]) == [key for key in keys(views.EVENTS, payload=True) if key != "payload_error"]
    assert found.out.isascii()
    assert len(found.out.splitlines()) == len(PAYLOADS)


def test_what_is_exported_is_the_log_and_the_file_is_its_owners_alone(site, tmp_path):
    path = tmp_path / "log.csv"
    done = run("export", "--format", "csv", "--payload", "--to", path, url=site.url)
    everything = site.ask(lambda ledger: all_of(ledger.events()))
    assert (done.status, done.out, done.err) == (0, "", f"{len(everything)} events in {path}\n")
    done.out = path.read_bytes().decode()
    assert [row["cursor"] for row in done.csv] == [event.cursor for event in everything]
    assert list(done.csv[0]) == keys(views.EVENTS, payload=True)
    assert SECRET in done.out
    assert (path.stat().st_mode & 0o777, [each.name for each in tmp_path.iterdir()]) == (0o600, ["log.csv"])


def test_reading_changes_nothing(file_site):
    before = file_site.path.read_bytes()
    for line in ("waiting", "verify"):
        assert run(line, url=file_site.url).status == 0
    beside = {each.name: each.stat().st_size for each in file_site.path.parent.iterdir()}
    assert file_site.path.read_bytes() == before
    assert beside.get("signals.db-wal", 0) == 0


def test_a_graph_is_drawn_in_other_languages(file_site):
    mermaid, dot = (run("workflow", "graph", file_site.workflow, f"--{form}", url=file_site.url).out
                    for form in ("mermaid", "dot"))  # fmt: skip
    assert mermaid.startswith("flowchart TD\n")
    assert mermaid.count(" --> ") == dot.count(" -> ") == 3
    assert dot.startswith("digraph {\n")
    assert "\x1b" not in mermaid + dot


def test_a_saved_history_without_payloads_holds_none(file_site, tmp_path):
    path = tmp_path / "history"
    done = run("history", file_site.jobs["twice"], "--save", path, url=file_site.url)
    assert done.jsonl == [{"file": str(path), "events": 8}]
    assert SECRET not in path.read_text()


@pytest.mark.parametrize("name", ["waiting", "replay", "outbox"])
def test_no_line_of_a_table_is_wider_than_the_terminal_and_a_terminal_obeys_none(file_site, name):
    line = COMMANDS[name][2].format(jobs=file_site.jobs, workflow=file_site.workflow)
    shown = bare(on_terminal(*line.split(), url=file_site.url).out)
    assert max(map(len, shown.splitlines())) <= 80
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert r"\x1b[2J" in shown


def test_a_terminal_gets_a_table_in_colours_unless_it_wants_none_and_a_pipe_gets_lines(file_site):
    coloured = on_terminal("timeline", file_site.jobs["purchase"], url=file_site.url).out
    without = on_terminal("timeline", file_site.jobs["purchase"], url=file_site.url, NO_COLOR="1").out
    assert "\x1b[32mconsumed" in coloured
    assert "\x1b[3" not in without
    assert bare(coloured) == bare(without)
    piped = on_terminal("timeline", file_site.jobs["purchase"], url=file_site.url, out=False)
    assert piped.jsonl[0]["version"] == 1
