"""Laws of the fold and of the rules, on histories that the rules themselves have written."""

from collections import Counter

from hypothesis import event, given, settings
from hypothesis import strategies as st

from signal_ledger.commands import Take
from signal_ledger.decide import decide
from signal_ledger.decisions import Accepted, GotSignal, GotTimeout
from signal_ledger.events import KIND_OF, Consumed, Delivered, DeliveryOutcome, TimedOut
from signal_ledger.evolve import evolve, fold
from signal_ledger.facts import look_up
from signal_ledger.jobs import JobState, JobView
from signal_ledger.recorded import from_stored
from signal_ledger.stored import to_stored
from signal_ledger.testing.strategies import events, histories
from signal_ledger.verify_stream import StreamCheck
from signal_ledger.wait_state import Status

JOB = 1
HISTORIES = histories(job_id=JOB, payloads=st.just([]))


@given(HISTORIES)
def test_l3_the_state_is_the_fold_of_any_prefix_and_what_comes_after(history):
    state = history.state
    assert fold(JOB, history.events) == state
    for cut in range(len(history.events) + 1):
        prefix = fold(JOB, history.events[:cut])
        for one in history.events[cut:]:
            prefix = evolve(prefix, one.event, version=one.version, recorded_at=one.recorded_at)
        assert prefix == state


@given(HISTORIES)
def test_the_auditor_finds_nothing_wrong_with_what_the_rules_have_written(history):
    check = StreamCheck(JOB)
    for one in history.events:
        row = to_stored(one.event, job_id=JOB, version=one.version, recorded_at=one.recorded_at)
        assert list(check.check(row)) == []
    assert check.state == history.state


@given(HISTORIES)
def test_w8_no_delivery_is_consumed_twice_and_no_wait_ends_twice(history):
    consumed = [one.event.signal_id for one in history.events if isinstance(one.event, Consumed)]
    assert len(consumed) == len(set(consumed))
    ends = [
        (one.run, one.event.channel, one.event.ordinal)
        for one in history.events
        if isinstance(one.event, Consumed | TimedOut)
    ]
    assert len(ends) == len(set(ends))
    event(f"consumed: {min(len(consumed), 3)}, timed out: {min(len(ends) - len(consumed), 3)}")


@given(HISTORIES)
def test_d4_each_channel_is_first_in_first_out_within_a_run(history):
    for run in {one.run for one in history.events}:
        for channel in ("", "votes"):
            in_order = [
                one.event.signal_id
                for one in history.events
                if isinstance(one.event, Delivered) and (one.run, one.event.channel) == (run, channel)
            ]
            consumed = [
                one.event.signal_id
                for one in history.events
                if isinstance(one.event, Consumed) and (one.run, one.event.channel) == (run, channel)
            ]
            assert consumed == in_order[: len(consumed)]


@given(HISTORIES)
def test_pending_counts_what_was_delivered_and_not_consumed_in_the_run(history):
    state = history.state
    for channel in ("", "votes"):
        delivered = sum(
            isinstance(one.event, Delivered) and (one.run, one.event.channel) == (state.run, channel)
            for one in history.events
        )
        consumed = sum(
            isinstance(one.event, Consumed) and (one.run, one.event.channel) == (state.run, channel)
            for one in history.events
        )
        expected = 0 if state.status is Status.CLOSED else delivered - consumed
        assert state.pending.get(channel or None, 0) == expected


@given(HISTORIES)
def test_w9_every_outcome_is_replayed_to_every_later_execution(history):
    state = history.state
    ends = [
        one.event for one in history.events if isinstance(one.event, Consumed | TimedOut) and one.run == state.open_run
    ]
    job = JobView(state=JobState.EXECUTING, execution=9, attempt=1)
    for end in ends:
        again = Take(
            job_id=JOB,
            execution=9,
            channel=end.channel,
            ordinal=end.ordinal,
            wait_for=None,
            in_place=False,
            window=True,
        )
        decision = decide(state, job, again, look_up(history.events, state, again), history.now)
        assert isinstance(decision, Accepted)
        assert decision.events == ()
        if isinstance(end, Consumed):
            assert isinstance(decision.reply, GotSignal)
            assert decision.reply.signal_id == end.signal_id
        else:
            assert decision.reply == GotTimeout(deadline_at=end.deadline_at)


@given(HISTORIES)
def test_w6_a_deadline_never_moves(history):
    deadlines = {}
    for one in history.events:
        deadline = getattr(one.event, "deadline_at", None)
        if one.kind == "snoozed" or (one.kind in ("awaited", "timed_out") and deadline is not None):
            wait = (one.run, one.event.channel, one.event.ordinal)
            assert deadlines.setdefault(wait, deadline) == deadline


@given(HISTORIES)
def test_w5_whoever_is_woken_slept_on_that_channel(history):
    for index, one in enumerate(history.events):
        if isinstance(one.event, Delivered) and one.event.outcome is DeliveryOutcome.WOKEN:
            before = fold(JOB, history.events[:index])
            assert before.status is Status.SNOOZED
            assert before.current == one.event.channel
            assert before.deadline_at is None or one.recorded_at <= before.deadline_at
            event("woken")


@given(HISTORIES)
def test_l5_the_state_as_of_a_time_is_that_of_the_longest_prefix_recorded_by_then(history):
    times = [one.recorded_at for one in history.events]
    assert times == sorted(times)


def test_the_histories_are_interesting():
    """What the laws above are checked on: every kind of event, every outcome, more than one run."""
    met = Counter()

    # The same examples in each run: what is met must not depend on luck.
    @settings(max_examples=200, derandomize=True, database=None)
    @given(HISTORIES)
    def look(history):
        for one in history.events:
            met[one.kind] += 1
            met[one.outcome] += 1
            met[f"run {one.run}"] += 1
        for command, decision in history.accepted:
            if isinstance(command, Take) and not decision.events:
                met["replayed"] += isinstance(decision.reply, GotSignal | GotTimeout)

    look()
    wanted = ["awaited", "snoozed", "delivered", "consumed", "timed_out", "closed"]
    wanted += ["woken", "live", "buffered", "run 2", "replayed"]
    assert all(met[case] for case in wanted), met


@given(histories(job_id=7))
def test_the_text_of_a_history_shows_no_payload(history):
    assert {one.job_id for one in history.events} <= {7}
    assert "payload=" not in repr(history)


@given(events(), st.integers(1, 1000), st.datetimes(timezones=st.timezones()))
def test_l8_any_event_comes_back_from_its_columns(one, version, recorded_at):
    row = to_stored(one, job_id=JOB, version=version, recorded_at=recorded_at)
    recorded = from_stored(row, position=1, cursor="")
    assert (recorded.event, recorded.kind) == (one, KIND_OF[type(one)])


def test_the_events_are_of_every_kind():
    met = set()

    @settings(max_examples=200, derandomize=True, database=None)
    @given(events())
    def look(one):
        met.add(type(one))

    look()
    assert met == set(KIND_OF)
