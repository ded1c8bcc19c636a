"""What `Ledger.stats` counts, against a slow count that looks at every event for itself; and how it ends early."""

import asyncio
import gc
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_ledger.causes import Cause
from signal_ledger.errors import SchemaError
from signal_ledger.events import Awaited, Consumed, Delivered, Snoozed, TimedOut
from signal_ledger.ledger import Ledger
from signal_ledger.memory import MemorySnapshot, MemoryStore, MemoryUnit
from signal_ledger.names import JobId
from signal_ledger.ports import UnreadableEvent, WaitingJob
from signal_ledger.stats import COUNTED, Durations, Tally, to_recorded
from signal_ledger.stored import to_stored
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.strategies import histories
from signal_ledger.wait_state import Status, WaitState
from tests.core.given import at, awaited, closed, consumed, delivered, planned, recorded, snoozed, timed_out
from tests.effort import play_until_met


def tally(*events, **options):
    counted = Tally(**options)
    for event in recorded(events):
        counted.add(event)
    return counted.result()


# What is counted, by example


def test_a_decision_takes_from_the_beginning_of_the_wait_to_its_signal():
    found = tally((0, awaited()), (5, snoozed()), (65, delivered()), (67, consumed()))
    assert (found.consumed, found.time_to_decision, found.time_to_resume) == (1, Durations.of([65]), Durations.of([2]))


def test_a_signal_that_was_there_before_its_wait_is_no_decision():
    found = tally((0, delivered()), (5, consumed()), (6, awaited(2)), (8, delivered("s2")), (9, consumed("s2", 4, 2)))
    assert (found.consumed, found.time_to_decision) == (2, Durations.of([2]))


def test_signals_after_the_deadline_are_late_until_the_next_wait_begins():
    found = tally(
        (0, snoozed(deadline=60)),
        (61, delivered("s1")),
        (62, timed_out(deadline=60)),
        (63, delivered("s2")),
        (64, delivered("s3", channel="other")),
        (65, consumed("s1", 2, 2)),
        (66, delivered("s4")),
    )
    assert (found.timed_out, found.late) == (1, 2)
    assert found.delivered == {"buffered": 4}


@pytest.mark.parametrize("opened", [awaited, snoozed])
def test_a_new_wait_is_not_late(opened):
    found = tally((0, opened(deadline=1)), (2, timed_out(deadline=1)), (3, opened(2, deadline=9)), (4, delivered()))
    assert found.late == 0


def test_a_signal_at_the_deadline_is_in_time_and_what_comes_behind_it_is_not_late():
    found = tally((0, snoozed(deadline=60)), (60, delivered("s1")), (70, delivered("s2")), (71, consumed("s1", 2)))
    assert (found.late, found.time_to_decision) == (0, Durations.of([60]))


def test_a_run_that_has_ended_takes_its_waits_along():
    found = tally((0, snoozed(deadline=1)), (2, timed_out(deadline=1)), (3, closed()), (4, delivered(run=2)))
    assert found.late == 0
    found = tally((0, snoozed()), (2, closed()), (3, delivered(run=2)), (4, awaited(run=2)), (5, consumed(run=2)))
    assert (found.consumed, found.time_to_decision.count) == (1, 0)


def test_steps_of_workflows_are_read_and_not_counted():
    assert tally((0, planned()), (1, delivered())).events == 2


def test_what_is_outside_the_time_or_on_another_channel_is_known_and_not_counted():
    events = [(0, snoozed(channel="c")), (5, delivered(channel="c")), (9, consumed(channel="c"))]
    assert tally(*events, since=at(6)).time_to_decision == Durations.of([5])
    assert tally(*events, since=at(6)).delivered == {}
    assert tally(*events, until=at(9)).consumed == 0
    assert tally(*events, channel="other").delivered == {}


def test_durations_are_summed_up_by_the_nearest_rank():
    found = Durations.of([float(number) for number in range(20, 0, -1)])
    assert (found.count, found.mean_s, found.median_s, found.p95_s, found.max_s) == (20, 10.5, 10, 19, 20)
    assert Durations.of([7.0]) == Durations(count=1, mean_s=7, median_s=7, p95_s=7, max_s=7)
    assert Durations.of([]) == Durations(count=0)


# Against a look at every event


def slow(events, *, since, until, channel):
    """Count the events of one job, by what the words of `Stats` say."""

    def counts(event):
        return (
            (since is None or event.recorded_at >= since)
            and (until is None or event.recorded_at < until)
            and (channel is None or event.event.channel == channel)
        )

    found = Counter()
    decisions = []
    for place, this in enumerate(events):
        if isinstance(this.event, Awaited | Snoozed | Delivered | Consumed | TimedOut):
            run = [event for event in events[:place] if event.run == this.run]
            on_channel = [
                event
                for event in run
                if isinstance(event.event, Awaited | Snoozed | Consumed | TimedOut)
                and event.event.channel == this.event.channel
            ]
            if not counts(this):
                continue
            if isinstance(this.event, Delivered):
                found[this.event.outcome.value] += 1
                found["late"] += is_late(this, run, on_channel)
            found["timed_out"] += isinstance(this.event, TimedOut)
            if isinstance(this.event, Consumed):
                found["consumed"] += 1
                begun = [event for event in on_channel if event.event.ordinal == this.event.ordinal]
                [sent] = [event for event in run if event.kind == "delivered" and event.signal_id == this.signal_id]
                if begun and begun[0].recorded_at <= sent.recorded_at:
                    decisions.append(((sent.recorded_at - begun[0].recorded_at), (this.recorded_at - sent.recorded_at)))
    return found, decisions


def is_late(this, run, on_channel):
    if not on_channel or isinstance(on_channel[-1].event, Consumed):
        return False
    if isinstance(on_channel[-1].event, TimedOut):
        return True
    deadline_at = on_channel[-1].event.deadline_at
    first = next(event for event in on_channel if event.event.ordinal == on_channel[-1].event.ordinal)
    in_time = [
        event
        for event in run
        if event.kind == "delivered"
        and event.event.channel == this.event.channel
        and event.version > first.version
        and (deadline_at is None or event.recorded_at <= deadline_at)
    ]
    return deadline_at is not None and this.recorded_at > deadline_at and not in_time


def filled(streams):
    store = MemoryStore(ManualClock())
    unit = MemoryUnit(store._tables, ManualClock()())
    for stream in streams:
        for event in stream:
            row = to_stored(event.event, job_id=event.job_id, version=event.version, recorded_at=event.recorded_at)
            unit.append([row], WaitState(job_id=event.job_id))
    return store


def test_both_ways_of_counting_agree_with_a_look_at_every_event():
    reached = Counter()

    @given(
        st.tuples(*[histories(job_id=job_id, payloads=st.none()) for job_id in (1, 2, 3)]),
        st.data(),
    )
    def check(drawn, data):
        streams = [history.events for history in drawn]
        everything = [event for stream in streams for event in stream]
        instants = st.sampled_from([event.recorded_at for event in everything] or [at(0)])
        asked = {
            "since": data.draw(st.none() | instants),
            "until": data.draw(st.none() | instants.map(lambda instant: instant + timedelta(microseconds=1))),
            "channel": data.draw(st.sampled_from([None, "", "a"])),
        }
        ledger = Ledger(filled(streams), None)
        found = asyncio.run(ledger.stats(**asked))
        slowly = [slow(stream, **asked) for stream in streams]
        expected = sum([counted for counted, _ in slowly], Counter())
        decisions = [decision for _, all_of_job in slowly for decision in all_of_job]
        told = Counter({outcome.value: count for outcome, count in found.delivered.items()})
        told += Counter(late=found.late, timed_out=found.timed_out, consumed=found.consumed)
        assert told == expected
        assert found.time_to_decision == Durations.of([decision.total_seconds() for decision, _ in decisions])
        assert found.time_to_resume == Durations.of([resumption.total_seconds() for _, resumption in decisions])
        if asked["since"] is None:
            assert (found.events, found.streams) == (len(everything), sum(map(bool, streams)))
            early = asyncio.run(ledger.stats(**asked | {"since": at(-(10**6))}))
            assert replace(early, since=None, events=found.events, streams=found.streams) == found
        for what in ("late", "timed_out", "consumed"):
            reached[what] += bool(expected[what])
        reached["decided"] += bool(decisions)
        reached["of a time"] += bool(asked["since"] and expected)

    play_until_met(check, ("timed_out", "consumed", "decided", "late", "of a time"), reached)


# Questions


async def test_progress_is_told_and_ends_the_work_where_it_raises(monkeypatch):
    from signal_ledger import ledger as ledgers

    monkeypatch.setattr(ledgers, "PROGRESS_EVERY", 2)
    streams = [recorded([(number, delivered(f"s{number}")) for number in range(5)])]
    ledger = Ledger(filled(streams), None)
    told = []
    for since in (None, at(0)):
        await ledger.stats(progress=told.append, since=since)
    assert [(done.events, done.total) for done in told] == [(2, 5), (4, 5), (5, 5), (2, 0), (4, 0), (5, 5)]

    def stop(_done):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        await ledger.stats(progress=stop)


async def test_streams_are_read_some_at_a_time(monkeypatch):
    from signal_ledger import ledger as ledgers

    asked = []

    def rows(snapshot, job_ids=None):
        asked.append(job_ids)
        return its_rows(snapshot, job_ids)

    its_rows = MemorySnapshot.rows
    monkeypatch.setattr(MemorySnapshot, "rows", rows)
    monkeypatch.setattr(ledgers, "_STREAMS_AT_ONCE", 2)
    streams = [recorded([(0, delivered(f"s{number}"))], job_id=number) for number in range(1, 6)]
    found = await Ledger(filled(streams), None).stats(since=at(0))
    assert (found.events, found.streams, asked) == (5, 5, [(1, 2), (3, 4), (5,)])


async def test_all_open_waits_are_counted_page_by_page(monkeypatch):
    from signal_ledger import ledger as ledgers
    from signal_ledger.testing.bench import EmbeddedBench
    from signal_ledger.testing.contract.steps import asleep

    monkeypatch.setattr(ledgers, "_LIMIT_MAX", 2)
    clock = ManualClock()
    bench = EmbeddedBench(MemoryStore(clock), clock)
    for channel in ("", "a", "a", "a", ""):
        await asleep(bench, channel=channel)
    found = await Ledger(bench.store, None).stats()
    assert (found.open_waits, found.oldest.channel) == ({None: 2, "a": 3}, None)


def test_of_the_open_waits_only_the_oldest_is_kept():
    counted = Tally()
    for number in range(1, 101):
        counted.add_wait(
            WaitingJob(job_id=JobId(number), run=1, status=Status.SNOOZED, channel=None, ordinal=1, since=at(number),
                       deadline_at=None, cursor=f"w{number}")
        )  # fmt: skip
    kept = [each.job_id for each in gc.get_objects() if isinstance(each, WaitingJob) and each.cursor[1:].isdecimal()]
    assert 1 in kept
    assert len(kept) < 10
    assert (counted.result().open_waits, counted.result().oldest.job_id) == ({None: 100}, 1)


async def test_questions_are_checked():
    ledger = Ledger(MemoryStore(ManualClock()), None)
    for name in ("since", "until"):
        with pytest.raises(ValueError, match=f"{name}: expected an aware datetime"):
            await ledger.stats(**{name: at(0).replace(tzinfo=None)})
    assert (await ledger.stats()).oldest is None


def test_an_event_that_cannot_be_read_is_named():
    unreadable = UnreadableEvent(job_id=7, version=3, reason="it is newer")
    row = to_stored(closed(), job_id=7, version=3, recorded_at=at(0))
    for bad in (unreadable, row._replace(cause=None), row._replace(cause="nonsense")):
        with pytest.raises(SchemaError, match=r"job 7: event 3 cannot be read; verify\(\) tells why"):
            to_recorded(bad, 1)
    assert to_recorded(row, 1).event.cause == Cause.COMPLETED
    assert len(COUNTED) == 3
