"""Events as columns: checksums, golden files and upcasting (promises L7, L8)."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_ledger.codec import encode_with_digest
from signal_ledger.errors import PayloadError, SchemaError
from signal_ledger.events import KIND_OF, DeliveryOutcome, Kind
from signal_ledger.instants import from_text, to_text
from signal_ledger.recorded import RecordedEvent, from_stored
from signal_ledger.stored import SCHEMA_VERSION, WRITTEN, StoredEvent, _to_stored, byte_form, checksum, to_stored
from signal_ledger.upcast import NewerEventError, upcast
from tests.core.given import (
    JOB,
    at,
    awaited,
    cascaded,
    closed,
    consumed,
    delivered,
    planned,
    released,
    skipped,
    snoozed,
    timed_out,
)

GOLDEN = Path(__file__).parent / "golden"

PAYLOAD = encode_with_digest({"decision": "approved", "by": "Ada", "bytes": b"\xff"})

EVENTS = {
    Kind.AWAITED: awaited(2, channel="votes", deadline=5),
    Kind.SNOOZED: snoozed(execution=3, run=2, deadline=86_400.5),
    Kind.DELIVERED: dataclasses.replace(
        delivered("64306c04-d796-4a92-816f-a78b6fa8a1f8", channel="grün", key="order-7", outcome="woken"),
        payload=PAYLOAD.data,
        payload_digest=PAYLOAD.digest,
        source="ada@example.com",
    ),
    Kind.CONSUMED: consumed("64306c04-d796-4a92-816f-a78b6fa8a1f8", 3),
    Kind.TIMED_OUT: timed_out(deadline=5),
    Kind.CLOSED: closed("discarded", execution=9),
    Kind.PLANNED: planned(
        "charge", deps=["approval", "grün"], ignore=["cancelled", "deleted"], workflow_name="order 7", run=2
    ),
    Kind.RELEASED: released("grün"),
    Kind.SKIPPED: skipped("approval", "deleted"),
    Kind.CASCADED: cascaded("approval", "discarded"),
}

GOLDEN_FILES = sorted(GOLDEN.glob("*.json"))
"""One for each kind and each schema version that it was ever written in, such as ``closed-1.json``."""


def write(row):
    columns = row._asdict()
    for name in ("recorded_at", "deadline_at"):
        columns[name] = columns[name] and to_text(columns[name])
    columns["payload"] = columns["payload"] and columns["payload"].hex()
    return json.dumps(columns, indent=2) + "\n"


def read(text):
    columns = json.loads(text)
    for name in ("recorded_at", "deadline_at"):
        columns[name] = columns[name] and from_text(columns[name])
    columns["payload"] = columns["payload"] and bytes.fromhex(columns["payload"])
    # Files of before version 2 lack the columns that it added.
    return StoredEvent(**{"dep": None, "plan": None, **columns})


def test_every_kind_has_an_event_here():
    assert {KIND_OF[type(event)] for event in EVENTS.values()} == set(Kind)


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
def test_l8_a_golden_file_never_changes_and_is_read_for_ever(path):
    """A failure here means that logs in the field could not be read any more."""
    row = read(path.read_text(encoding="utf-8"))
    assert path.stem == f"{row.kind}-{row.schema_version}"
    assert from_stored(row, position=1, cursor="p1").event == EVENTS[row.kind]
    assert checksum(row) == row.checksum


@pytest.mark.parametrize("kind", Kind)
def test_l8_what_is_written_today_is_what_the_golden_file_of_its_version_holds(kind):
    row = to_stored(EVENTS[kind], job_id=JOB, version=4, recorded_at=at(1.000001))
    assert row.schema_version == WRITTEN[kind] <= SCHEMA_VERSION
    columns = json.loads(write(row))
    golden = json.loads((GOLDEN / f"{kind}-{row.schema_version}.json").read_text(encoding="utf-8"))
    assert columns == {"dep": None, "plan": None, **golden}


def test_l8_the_byte_form_of_version_1_ends_before_the_columns_that_version_2_added():
    row = to_stored(EVENTS[Kind.CLOSED], job_id=JOB, version=4, recorded_at=at(1))
    assert byte_form(row._replace(schema_version=2)) == byte_form(row).replace(b"1:1,16:", b"1:2,16:") + b"-,-,"


@pytest.mark.parametrize("kind", Kind)
def test_l7_every_column_but_the_payload_is_in_the_checksum(kind):
    row = to_stored(EVENTS[kind], job_id=JOB, version=4, recorded_at=at(1))
    for name in StoredEvent._fields[:-1]:
        value = getattr(row, name)
        if name in ("recorded_at", "deadline_at"):
            changed = at(99)
        elif name == "payload":
            changed = b"erased"
        elif isinstance(value, int) or name in ("execution", "attempt", "ordinal", "delivery_version"):
            changed = 99
        else:
            changed = "changed"
        differs = checksum(row._replace(**{name: changed})) != row.checksum
        assert differs == (name != "payload"), name


TEXTS = st.none() | st.sampled_from(["-", "order-7", "x" * 255, "a,1:b", "grün", "日本"])


@given(
    channel=st.sampled_from(["", "votes", "grün", "c" * 255]),
    key=TEXTS,
    source=TEXTS,
    outcome=st.sampled_from(DeliveryOutcome),
    run=st.integers(1, 2**31),
    job_id=st.integers(-(2**63), 2**63 - 1),
    version=st.integers(1, 2**31),
    signal_id=st.sampled_from(["64306c04-d796-4a92-816f-a78b6fa8a1f8", "i" * 300]),
)
def test_l7_a_delivery_is_laid_out_as_any_other_event(job_id, version, **columns):
    """The quick way of deliveries and the general one, column by column, come to the same row."""
    event = dataclasses.replace(EVENTS[Kind.DELIVERED], **columns)
    row = to_stored(event, job_id=job_id, version=version, recorded_at=at(1))
    assert row == _to_stored(event, job_id, version, at(1))
    assert type(row) is StoredEvent
    assert row.checksum == checksum(row)


def test_l7_the_byte_form_cannot_be_shifted_between_columns():
    row = to_stored(EVENTS[Kind.DELIVERED], job_id=JOB, version=4, recorded_at=at(1))
    one = row._replace(key="a", source="b,1:c")
    other = row._replace(key="a,1:b", source="c")
    assert byte_form(one) != byte_form(other)
    assert byte_form(row._replace(key=None)) != byte_form(row._replace(key="-"))


def test_l7_text_counts_in_bytes():
    row = to_stored(EVENTS[Kind.DELIVERED], job_id=JOB, version=4, recorded_at=at(1))
    assert "5:grün,".encode() in byte_form(row)
    long = dataclasses.replace(EVENTS[Kind.DELIVERED], source="ü" * 200)
    row = to_stored(long, job_id=JOB, version=4, recorded_at=at(1))
    assert b"400:" in byte_form(row)
    assert row.checksum == checksum(row)


def test_l8_a_newer_event_is_not_guessed_about():
    row = to_stored(EVENTS[Kind.CLOSED], job_id=JOB, version=4, recorded_at=at(1))
    for newer in (row._replace(schema_version=SCHEMA_VERSION + 1), row._replace(kind="reopened")):
        with pytest.raises(NewerEventError, match=r"job 7: event 4 .* newer than this library reads") as refused:
            from_stored(newer, position=1, cursor="p1")
        assert isinstance(refused.value, SchemaError)


def test_l8_old_events_are_upcast_step_by_step():
    row = to_stored(EVENTS[Kind.CLOSED], job_id=JOB, version=4, recorded_at=at(1))
    steps = {
        (Kind.CLOSED, 1): lambda old: old._replace(cause=old.cause + "+1"),
        (Kind.CLOSED, 3): lambda old: old._replace(cause=old.cause + "+3"),
        (Kind.AWAITED, 2): lambda old: old._replace(cause="of another kind"),
    }
    assert upcast(row, steps=steps, current=4).cause == "discarded+1+3"
    assert upcast(row._replace(schema_version=2), steps=steps, current=4).cause == "discarded+3"


def recorded(event):
    row = to_stored(event, job_id=JOB, version=4, recorded_at=at(1))
    return from_stored(row, position=9, cursor="p9")


def test_a_recorded_event_can_be_read_by_column():
    one = recorded(EVENTS[Kind.DELIVERED])
    assert (one.position, one.version, one.cursor, one.job_id, one.run) == (9, 4, "p9", JOB, 1)
    assert (one.kind, one.recorded_at, one.schema_version) == ("delivered", at(1), 1)
    assert (one.channel, one.signal_id, one.key) == ("grün", "64306c04-d796-4a92-816f-a78b6fa8a1f8", "order-7")
    assert (one.source, one.outcome) == ("ada@example.com", "woken")
    assert one.payload == {"decision": "approved", "by": "Ada", "bytes": b"\xff"}
    assert (one.execution, one.attempt, one.ordinal, one.deadline_at, one.cause) == (None, None, None, None, None)
    other = recorded(EVENTS[Kind.CONSUMED])
    assert (other.execution, other.attempt, other.ordinal, other.delivery_version) == (1, 1, 1, 3)
    assert (other.channel, other.payload, other.outcome, other.source, other.key) == (None, None, None, None, None)
    assert recorded(EVENTS[Kind.TIMED_OUT]).deadline_at == at(5)
    assert recorded(EVENTS[Kind.CLOSED]).cause == "discarded"


def test_payloads_do_not_show_in_reprs():
    assert "approved" not in repr(recorded(EVENTS[Kind.DELIVERED]))


def test_a_payload_that_was_erased_or_damaged_says_so():
    erased = recorded(dataclasses.replace(EVENTS[Kind.DELIVERED], payload=None))
    with pytest.raises(PayloadError, match="event 4 was erased"):
        _ = erased.payload
    damaged = recorded(dataclasses.replace(EVENTS[Kind.DELIVERED], payload=b"\x00"))
    with pytest.raises(PayloadError, match="not a payload"):
        _ = damaged.payload
    assert isinstance(damaged, RecordedEvent)
