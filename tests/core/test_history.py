"""Histories as values: cut, replayed, saved and loaded (promises L3, L7, L8)."""

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_ledger import History, RecordedEvent
from signal_ledger.codec import encode_with_digest
from signal_ledger.errors import PayloadError, SchemaError
from signal_ledger.evolve import fold
from signal_ledger.history import ReplayStep
from signal_ledger.jobs import JobState
from signal_ledger.ledger import Ledger
from signal_ledger.memory import MemoryStore
from signal_ledger.recorded import from_stored, to_row
from signal_ledger.recorded_job import RecordedJob
from signal_ledger.stored import SCHEMA_VERSION, checksum
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from tests.core.given import (
    JOB,
    at,
    awaited,
    cascaded,
    closed,
    consumed,
    delivered,
    planned,
    recorded,
    released,
    skipped,
    snoozed,
    timed_out,
)
from tests.core.test_stored import GOLDEN_FILES, read

GOLDEN = Path(__file__).parent / "golden" / "history-1.jsonl"

SECRET = encode_with_digest({"decision": "approved"})

APPROVED = dataclasses.replace(
    delivered("64306c04-d796-4a92-816f-a78b6fa8a1f8", channel="grün", key="order-7", outcome="woken"),
    payload=SECRET.data,
    payload_digest=SECRET.digest,
    source="ada@example.com",
)
ERASED = delivered("8d7e1f70-5c65-4f3a-a4e5-4c1b9f0d8f11", payload=None)

EVENTS = [
    (0, planned("charge", deps=["grün"], ignore=["cancelled"], workflow_name="order 7")),
    (0, skipped("grün", "cancelled")),
    (0, released("grün")),
    (1, awaited(channel="grün")),
    (2, snoozed(channel="grün", deadline=60.000001)),
    (3, APPROVED),
    (4, consumed("64306c04-d796-4a92-816f-a78b6fa8a1f8", 6, channel="grün", execution=2)),
    (4, ERASED),
    (70, timed_out(deadline=65)),
    (71, closed("discarded", execution=2)),
    (72, cascaded("grün", "deleted", run=2)),
]

JOB_ROW = RecordedJob(
    worker="shop.Purchase",
    queue="default",
    state=JobState.DISCARDED,
    priority=0,
    attempt=2,
    max_attempts=2,
    args={"order": 7, "grün": [1.5, None, {"deep": True}]},
    meta={"snoozed": 1},
    tags=("urgent",),
    errors=({"attempt": 1, "at": "2026-01-01T12:00:00Z", "error": "no"},),
    attempted_by=("node", "5c4272e9-f6b4-4aa5-a7f9-1a3b4b1c2d3e"),
    inserted_at=at(0),
    scheduled_at=at(0),
    attempted_at=at(4),
    cancelled_at=None,
    completed_at=None,
    discarded_at=at(71.000001),
)


def history(events=EVENTS, job=JOB_ROW):
    return History(job_id=JOB, events=tuple(recorded(events)), job=job)


def lines(events=EVENTS, job=JOB_ROW):
    return list(history(events, job).to_lines())


def test_a_history_is_a_sequence_of_its_events_and_a_value():
    one = history()
    assert [event.version for event in one] == list(range(1, 12))
    assert (len(one), one[0].kind, one[-1].kind) == (11, "planned", "cascaded")
    assert one[1:3] == one.events[1:3]
    assert one == history()
    assert one != history(job=None)
    assert repr(one) == "History(job 7 of shop.Purchase, 11 events)"
    assert repr(history([(0, ERASED)], None)) == "History(job 7, 1 event)"


def test_the_representation_of_a_row_shows_none_of_its_values():
    assert "order" not in repr(JOB_ROW)
    assert "errors" not in repr(JOB_ROW)


def test_a_history_begins_with_the_first_event_and_has_no_gaps():
    events = history().events
    with pytest.raises(ValueError, match="expected version 1 of job 7 next, got version 2"):
        History(job_id=JOB, events=events[1:])
    with pytest.raises(ValueError, match="expected version 2 of job 7 next, got version 3"):
        History(job_id=JOB, events=(events[0], events[2]))
    with pytest.raises(ValueError, match="expected events of job 8, got one of job 7"):
        History(job_id=8, events=events)
    with pytest.raises(TypeError, match=r"expected recorded events, got signal_ledger\.events\.Delivered"):
        History(job_id=JOB, events=(ERASED,))


def test_a_history_can_be_made_of_what_the_ledger_returns():
    assert History.of(iter(history().events)) == history(job=None)
    with pytest.raises(ValueError, match="expected the events of a job, got none"):
        History.of([])
    with pytest.raises(TypeError, match=r"expected recorded events, got builtins\.int"):
        History.of([7])


def test_until_cuts_it_behind_a_version():
    assert [event.version for event in history().until(3)] == [1, 2, 3]
    assert history().until(0).events == ()
    assert history().until(11) == history()
    assert history().until(3).job == JOB_ROW
    for version in (-1, 12, True, 1.0):
        with pytest.raises(ValueError, match="until: expected a version from 0 to 11, got"):
            history().until(version)


def test_l3_a_replay_gives_each_event_with_the_fold_up_to_it():
    one = history()
    steps = list(one.replay())
    assert [step.event for step in steps] == list(one)
    assert [step.state for step in steps] == [fold(JOB, one[:count]) for count in range(1, 12)]
    assert list(one.until(0).replay()) == []


async def test_l3_the_ledger_replays_page_by_page(monkeypatch):
    monkeypatch.setattr("signal_ledger.ledger._PAGE", 2)
    bench = EmbeddedBench(MemoryStore(clock := ManualClock()), clock)
    job_id, other = await bench.insert(), await bench.insert()
    for number in range(5):
        await bench.signaller.send(job_id, number)
        await bench.signaller.send(other, number)
    ledger = Ledger(bench.store, None)
    steps = [step async for step in ledger.replay(job_id)]
    assert steps == list(History.of(await ledger.history(job_id)).replay())
    assert [step.state.pending[None] for step in steps] == [1, 2, 3, 4, 5]
    assert isinstance(steps[0], ReplayStep)


async def test_the_ledger_exports_the_stream_and_the_row_as_long_as_there_is_one():
    bench = EmbeddedBench(MemoryStore(clock := ManualClock()), clock)
    job_id = await bench.insert()
    await bench.signaller.send(job_id, "approved")
    ledger = Ledger(bench.store, None)
    exported = await ledger.export(job_id)
    assert list(exported) == await ledger.history(job_id)
    assert exported.job == await bench.store.job(job_id)
    await bench.delete(job_id)
    assert (await ledger.export(job_id)).job is None
    assert await ledger.export(99) == History(job_id=99, events=())


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
def test_l8_an_event_is_laid_out_again_as_it_was_stored(path):
    """Whoever adds an upcast that changes a column must see to it that a history still keeps the row as it is."""
    row = read(path.read_text(encoding="utf-8"))
    assert to_row(from_stored(row, position=1, cursor="p1")) == row


def test_what_is_saved_is_loaded_again(tmp_path):
    for one in (history(), history(job=None), history().until(4), history().until(0)):
        one.save(tmp_path / "incident.jsonl")
        assert History.load(tmp_path / "incident.jsonl") == one
        assert History.load(str(tmp_path / "incident.jsonl")) == one
        assert History.from_lines(f"{line}\n" for line in one.to_lines()) == one


def test_l8_a_golden_file_never_changes_and_is_read_for_ever():
    """A failure here means that incidents that people have saved could not be loaded any more."""
    assert History.load(GOLDEN) == history()
    assert GOLDEN.read_text(encoding="ascii").splitlines() == lines()


def test_saved_lines_are_plain_ascii_without_what_is_null():
    header, *events = lines()
    assert all(line.isascii() for line in lines())
    assert json.loads(header).keys() == {"format", "version", "job_id", "job"}
    assert json.loads(events[5]) == {
        "position": 6,
        "cursor": "p6",
        "job_id": 7,
        "version": 6,
        "run": 1,
        "kind": "delivered",
        "schema_version": 1,
        "recorded_at": "2026-01-01T12:00:03.000000Z",
        "channel": "grün",
        "signal_id": "64306c04-d796-4a92-816f-a78b6fa8a1f8",
        "key": "order-7",
        "source": "ada@example.com",
        "outcome": "woken",
        "payload": base64.b64encode(SECRET.data).decode(),
        "payload_digest": SECRET.digest,
        "checksum": history()[5].checksum,
    }


def test_d9_a_payload_that_does_not_decode_is_kept_as_it_was_stored():
    foreign = b"\x83no term"
    event = dataclasses.replace(APPROVED, payload=foreign, payload_digest=hashlib.sha256(foreign).hexdigest())
    loaded = History.from_lines(lines([(0, event)]))
    with pytest.raises(PayloadError):
        _ = loaded[0].payload


@pytest.mark.parametrize(("event", "column"), [(closed(), "cause"), (APPROVED, "channel"), (APPROVED, "outcome")])
def test_a_damaged_event_is_not_saved(event, column, tmp_path):
    [one] = recorded([(0, event)])
    damaged = dataclasses.replace(one, event=dataclasses.replace(event, **{column: None}))
    with pytest.raises(ValueError, match=rf"job 7: event 1 \({one.kind}\) lacks a column"):
        History.of([damaged]).save(tmp_path / "incident.jsonl")
    assert not (tmp_path / "incident.jsonl").exists()


# What is damaged, in which line, and what is said of it.


def changed(line, **fields):
    return json.dumps({**json.loads(line), **fields})


def resealed(line, **fields):
    """A line that was changed by somebody who can compute a checksum."""
    found = {**json.loads(line), **fields}
    row = dict.fromkeys(to_row(history()[0])._fields) | found
    values = read(json.dumps({**{k: row[k] for k in to_row(history()[0])._fields}, "payload": None}))
    found["checksum"] = checksum(values)
    return json.dumps(found)


HEADER, *EVENT_LINES = lines()
DELIVERED = EVENT_LINES[5]
JOB_FIELDS = json.loads(HEADER)["job"]


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (1, "", "expected a header as one object of JSON, got something else"),
        (1, "[]", "expected a header as one object of JSON, got an array"),
        (1, "{}", "expected a header with format 'signal-ledger history', got something else"),
        (1, changed(HEADER, version=0), "version: expected 1, got 0"),
        (1, changed(HEADER, version=True), "version: expected an integer, got true or false"),
        (1, changed(HEADER, job_id="7"), "job_id: expected an integer, got text"),
        (1, changed(HEADER, job=[]), "job: expected an object or null, got an array"),
        (1, changed(HEADER, more=1), "expected no other fields than format, version, job_id, job"),
        (1, changed(HEADER, job={**JOB_FIELDS, "more": 1}), "expected no other fields than worker, queue,"),
        (1, changed(HEADER, job={**JOB_FIELDS, "state": "lost"}), "state: expected one of available, cancelled,"),
        (1, changed(HEADER, job={**JOB_FIELDS, "tags": [1]}), "tags: expected text in each place, got an integer"),
        (1, changed(HEADER, job={**JOB_FIELDS, "args": 1.5}), "args: expected an object, got a number"),
        (1, changed(HEADER, job={**JOB_FIELDS, "inserted_at": "now"}), "inserted_at: expected an instant such as"),
        (1, HEADER.replace('"order":7', '"order":NaN'), "expected a header as one object of JSON"),
        (1, HEADER.replace('"order":7', '"order":' + "9" * 5000), "expected a header as one object of JSON"),
        (1, "[" * 100_000, "expected a header as one object of JSON"),
        (7, "", "expected an event as one object of JSON, got something else; was the line cut?"),
        (7, DELIVERED[:-9], "expected an event as one object of JSON, got something else; was the line cut?"),
        (7, "7", "expected an event as one object of JSON, got an integer"),
        (7, changed(DELIVERED, more=1), "expected no other fields than position, cursor, job_id, version"),
        (7, changed(DELIVERED, position=None), "position: expected an integer, got null"),
        (7, '{"schema_version":1}', "position: expected an integer, got nothing"),
        (7, changed(DELIVERED, channel=7), "channel: expected text or null, got an integer"),
        (7, changed(DELIVERED, recorded_at="2026-01-01T12:00:03Z"), "recorded_at: expected an instant such as"),
        (7, changed(DELIVERED, recorded_at="2026-99-01T12:00:03.000000Z"), "recorded_at: expected an instant such as"),
        (7, changed(DELIVERED, payload="%%%"), "payload: expected bytes in base64, got other text"),
        (7, changed(DELIVERED, payload="gx=="), "payload: expected bytes in base64, got other text"),
        (7, changed(DELIVERED, job_id=8), "job_id: expected 7, as the header has it, got 8"),
        (7, EVENT_LINES[6], "version: expected 6, since versions count from 1 without gaps, got 7"),
        (7, changed(DELIVERED, source="mallory"), "checksum: expected [0-9a-f]{64}, that of the other columns"),
        (7, changed(DELIVERED, source="\ud800"), "expected text that UTF-8 can encode, got a lone surrogate"),
        (7, changed(DELIVERED, payload="g2EB"), "payload: expected bytes with the digest in payload_digest"),
        (7, resealed(DELIVERED, ordinal=1), "expected the columns of a delivered event, all and no others"),
        (7, resealed(DELIVERED, outcome=None), "expected the columns of a delivered event, all and no others"),
        (7, resealed(DELIVERED, outcome="lost"), "expected the columns of a delivered event, all and no others"),
        (7, resealed(DELIVERED, channel=None), "expected the columns of a delivered event, all and no others"),
        (8, resealed(EVENT_LINES[6], ordinal=None), "expected the columns of a consumed event, all and no others"),
        (2, resealed(EVENT_LINES[0], plan="{}"), "expected the columns of a planned event, all and no others"),
    ],
)
def test_l7_what_is_damaged_is_refused_by_line_and_never_shown(number, line, message, tmp_path):
    found = lines()
    found[number - 1] = line
    with pytest.raises(ValueError, match=f"^line {number}: {message}") as refused:
        History.from_lines(found)
    path = tmp_path / "incident.jsonl"
    path.write_text("".join(f"{each}\n" for each in found), encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, line {number}: ") as refused_file:
        History.load(path)
    for error in (refused, refused_file):
        assert "approved" not in str(error.value)
        assert base64.b64encode(SECRET.data).decode() not in str(error.value)


def test_a_file_without_lines_is_no_history(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=r"empty\.jsonl, line 1: expected a header, got the end of the file"):
        History.load(tmp_path / "empty.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="binary, line 1: expected a header as one object of JSON"):
        History.load(tmp_path / "binary")


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (1, changed(HEADER, version=2, more="x"), "the form has version 2, newer than this library reads"),
        (7, changed(DELIVERED, schema_version=SCHEMA_VERSION + 1, more="x"), "the event has schema version 3, newer"),
        (7, resealed(DELIVERED, kind="reopened"), r"event 6 \(reopened\) has schema version 1, newer"),
    ],
)
def test_l8_what_a_newer_version_wrote_is_not_guessed_about(number, line, message):
    found = lines()
    found[number - 1] = line
    with pytest.raises(SchemaError, match=f"^line {number}: .*{message}"):
        History.from_lines(found)


@given(data=st.data())
def test_l7_whatever_happens_to_a_byte_of_a_file_is_refused_or_makes_no_difference(data):
    text = "\n".join(lines())
    place = data.draw(st.integers(0, len(text) - 1))
    altered = text[:place] + data.draw(st.characters(codec="ascii")) + text[place + 1 :]
    try:
        loaded = History.from_lines(altered.split("\n"))
    except (ValueError, SchemaError):
        return
    # The checksums are of the log: they cover neither the job's row nor where an event lies in the whole log.
    assert [to_row(event) for event in loaded] == [to_row(event) for event in history()][: len(loaded)]
    assert all(isinstance(event, RecordedEvent) for event in loaded)


def test_a_name_that_is_there_twice_and_a_number_without_an_end_are_refused():
    lines = list(history().to_lines())
    twice = lines[1].replace("{", '{"kind":"delivered",', 1)
    with pytest.raises(ValueError, match=r"line 2: expected .* or is a name there twice\?"):
        History.from_lines([lines[0], twice, *lines[2:]])
    with pytest.raises(ValueError, match="line 1: expected"):
        History.from_lines([lines[0].replace('"args":{', '"args":{"x":1e999,')])
