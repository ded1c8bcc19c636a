"""Laws of the fold and of the rules, on histories that the rules themselves have written."""

import hashlib
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import event, given, settings
from hypothesis import strategies as st

from signal_ledger.commands import Close, Deliver, Snooze, Take
from signal_ledger.cursors import position_cursor
from signal_ledger.decide import decide
from signal_ledger.decisions import Accepted, GotSignal, GotTimeout
from signal_ledger.events import Cause, Consumed, Delivered, DeliveryOutcome, TimedOut
from signal_ledger.evolve import evolve, fold
from signal_ledger.facts import look_up
from signal_ledger.jobs import JobState, JobView
from signal_ledger.recorded import from_stored
from signal_ledger.stored import to_stored
from signal_ledger.verify_stream import StreamCheck
from signal_ledger.wait_state import Status

JOB = 1
CHANNELS = st.sampled_from(["", "", "", "votes"])
WAIT_FOR = st.none() | st.sampled_from([timedelta(0), timedelta(seconds=5), timedelta(seconds=60)])
STATES = st.sampled_from([JobState.EXECUTING] * 5 + [JobState.SCHEDULED] * 3 + list(JobState))


@st.composite
def steps(draw):
    """A job as it is found, when, and what is asked of it."""
    execution = draw(st.integers(1, 3))
    view = JobView(
        state=draw(STATES),
        execution=draw(st.integers(1, 3)),
        attempt=1,
        cancel_requested=draw(st.sampled_from([False] * 9 + [True])),
    )
    found = draw(st.sampled_from(["as the log left it"] * 7 + ["as it may be"] * 2 + ["missing"]))
    channel = draw(CHANNELS)
    kind = draw(st.sampled_from(["deliver"] * 6 + ["take"] * 9 + ["snooze"] * 4 + ["close"]))
    seconds = draw(st.sampled_from([0, 0.000001, 1, 5, 61]))
    extra = {
        "wait_for": draw(WAIT_FOR),
        "back": draw(st.sampled_from([0, 0, 1])),
        "key": draw(st.none() | st.just("k")),
    }
    flags = {"in_place": draw(st.booleans()), "window": draw(st.booleans())}
    return view, found, seconds, kind, channel, execution, extra, flags


class History:
    """A stream written by the rules, command by command."""

    def __init__(self):
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.events = []
        self.state = fold(JOB, [])
        self.replies = []

    def command(self, kind, channel, execution, extra, flags):
        if kind == "deliver":
            number = len(self.events)
            return Deliver(
                job_id=JOB, signal_id=f"s{number}", channel=channel, payload=b"\x83j", payload_digest=_DIGEST,
                key=extra["key"],
            )  # fmt: skip
        if kind == "close":
            return Close(job_id=JOB, cause=Cause.COMPLETED)
        ends = [
            one
            for one in self.events
            if isinstance(one.event, Consumed | TimedOut)
            and one.run == self.state.open_run
            and one.event.channel == channel
        ]
        common = {"job_id": JOB, "execution": execution, "channel": channel, "wait_for": extra["wait_for"]}
        if kind == "snooze":
            return Snooze(ordinal=len(ends) + 1, **common)
        in_place = flags["in_place"] and extra["wait_for"] is not None
        return Take(ordinal=max(1, len(ends) + 1 - extra["back"]), in_place=in_place, window=flags["window"], **common)

    def job(self, view, found, command):
        """The job as it is found: mostly as its last event left it, else little would ever happen."""
        if found == "missing":
            return None
        if found == "as it may be":
            return view
        if isinstance(command, Take | Snooze):
            return replace(view, state=JobState.EXECUTING, execution=command.execution)
        sleeps = self.state.status is Status.SNOOZED
        state = JobState.SCHEDULED if sleeps else JobState.EXECUTING
        return replace(view, state=state, execution=self.state.execution)

    def decide(self, step):
        view, found, seconds, kind, channel, execution, extra, flags = step
        self.now += timedelta(seconds=seconds)
        command = self.command(kind, channel, execution, extra, flags)
        decision = decide(
            self.state, self.job(view, found, command), command, look_up(self.events, self.state, command), self.now
        )
        if isinstance(decision, Accepted):
            self.replies.append((command, decision))
            for one in decision.events:
                self.append(one)
        return command, decision

    def append(self, one):
        version = self.state.version + 1
        row = to_stored(one, job_id=JOB, version=version, recorded_at=self.now)
        self.events.append(from_stored(row, position=version, cursor=position_cursor(version)))
        self.state = evolve(self.state, one, version=version, recorded_at=self.now)


_DIGEST = hashlib.sha256(b"\x83j").hexdigest()


def written(all_steps):
    history = History()
    for step in all_steps:
        history.decide(step)
    return history


HISTORIES = (st.lists(steps(), max_size=8) | st.lists(steps(), min_size=12, max_size=40)).map(written)


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
        for command, decision in history.replies:
            if isinstance(command, Take) and not decision.events:
                met["replayed"] += isinstance(decision.reply, GotSignal | GotTimeout)

    look()
    wanted = ["awaited", "snoozed", "delivered", "consumed", "timed_out", "closed"]
    wanted += ["woken", "live", "buffered", "run 2", "replayed"]
    assert all(met[case] for case in wanted), met
