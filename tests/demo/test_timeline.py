"""A history as lines: aligned, plain unless asked otherwise, payloads only when asked for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from signal_ledger import codec
from signal_ledger.causes import Cause
from signal_ledger.events import Awaited, Closed, Consumed, Delivered, DeliveryOutcome, Snoozed, TimedOut
from signal_ledger.names import NO_EXECUTION
from signal_ledger.recorded import RecordedEvent
from signal_ledger_adapters.timeline import timeline

START = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
WAIT = {"run": 1, "attempt": 1, "channel": "", "ordinal": 1}
DELIVERED = Delivered(
    run=1,
    channel="votes",
    signal_id="4c2d",
    payload=codec.encode({"decision": "secret"}),
    payload_digest="00",
    key="vote-1",
    source="ada",
    outcome=DeliveryOutcome.WOKEN,
)
EVENTS = [
    Awaited(execution=1, deadline_at=None, **WAIT),
    Snoozed(execution=1, deadline_at=START + timedelta(seconds=4), **WAIT),
    DELIVERED,
    Consumed(execution=2, signal_id="4c2d", delivery_version=3, **{**WAIT, "channel": "votes"}),
    TimedOut(execution=2, deadline_at=START + timedelta(seconds=4), **WAIT),
    Closed(run=1, execution=2, attempt=1, cause=Cause.CANCELLED),
]


def record(events):
    return [
        RecordedEvent(
            position=version,
            cursor=f"p{version}",
            job_id=7,
            version=version,
            recorded_at=START + timedelta(milliseconds=version),
            schema_version=1,
            checksum="",
            event=event,
        )
        for version, event in enumerate(events, start=1)
    ]


def test_dates_are_told_when_they_are_asked_for():
    _, snoozed, *_ = timeline(record(EVENTS), dated=True)
    assert snoozed == (
        "   2  2026-11-23 12:30:00.002  snoozed    execution 1, await 1: sleeps, at most until 2026-11-23 12:30:04.000"
    )


def test_each_event_is_a_line_in_columns():
    assert timeline(record(EVENTS)) == [
        "   1  12:30:00.001  awaited    execution 1, await 1: waits live",
        "   2  12:30:00.002  snoozed    execution 1, await 1: sleeps, at most until 12:30:04.000",
        "   3  12:30:00.003  delivered  woken from ada on votes, key vote-1",
        "   4  12:30:00.004  consumed   execution 2, await 1 on votes: got the signal of event 3",
        "   5  12:30:00.005  timed_out  execution 2, await 1: got no signal by 12:30:04.000",
        "   6  12:30:00.006  closed     cancelled by execution 2, attempt 1",
    ]


def test_a_job_that_was_never_executed_ends_without_an_execution():
    never = replace(EVENTS[-1], execution=NO_EXECUTION, attempt=0)
    lines = timeline(record([never, *EVENTS[:1]]))
    assert lines[0].endswith("closed     cancelled before it was ever executed")
    assert "execution 1, await 1" in lines[1]


def test_a_payload_is_shown_only_when_asked_for():
    assert "secret" not in "\n".join(timeline(record(EVENTS)))
    assert timeline(record([DELIVERED]), payloads=True)[0].endswith("key vote-1: {'decision': 'secret'}")


@pytest.mark.parametrize(("payload", "told"), [(None, "was erased"), (b"\x83\xff", "not a payload")])
def test_a_payload_that_cannot_be_shown_says_why(payload, told):
    [line] = timeline(record([replace(DELIVERED, payload=payload)]), payloads=True)
    assert told in line


def test_colours_leave_the_columns_aligned():
    plain = timeline(record(EVENTS))
    coloured = timeline(record(EVENTS), coloured=True)
    assert all("\x1b[" in line for line in coloured)
    assert [line.replace("\x1b[0m", "").split("m", 1)[1] for line in coloured] == [line[20:] for line in plain]
