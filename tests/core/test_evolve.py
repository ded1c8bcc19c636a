"""The fold: what events add up to (promise L3)."""

from signal_ledger.evolve import evolve, fold
from signal_ledger.wait_state import Inbox, OpenWait, Status, WaitState
from tests.core.given import JOB, at, awaited, closed, consumed, delivered, recorded, snoozed, timed_out


def state_after(*events):
    return fold(JOB, recorded(events))


def test_an_empty_stream_is_idle_at_version_0():
    state = state_after()
    assert state == WaitState(job_id=JOB)
    assert (state.status, state.version, state.run, state.open_run, state.pending) == (Status.IDLE, 0, 1, 1, {})
    assert (state.wait, state.channel, state.ordinal, state.deadline_at) == (None, None, None, None)


def test_a_live_wait_is_live_and_knows_since_when():
    state = state_after((0, awaited()), (3, awaited(execution=2)))
    assert (state.status, state.execution, state.version, state.recorded_at) == (Status.LIVE, 2, 2, at(3))
    assert state.wait == OpenWait(
        channel="", ordinal=1, since=at(0), deadline_is_final=False, deadline_at=None, was_snoozed=False
    )


def test_a_snooze_makes_the_deadline_final_also_if_there_is_none():
    state = state_after((0, awaited()), (5, snoozed()))
    assert state.status is Status.SNOOZED
    assert state.wait == OpenWait(
        channel="", ordinal=1, since=at(0), deadline_is_final=True, deadline_at=None, was_snoozed=True
    )
    assert state_after((5, snoozed(deadline=9))).deadline_at == at(9)


def test_a_job_that_is_woken_or_finds_a_signal_there_does_not_sleep():
    assert state_after((0, snoozed()), (1, delivered(outcome="woken"))).status is Status.IDLE
    assert state_after((0, delivered()), (1, snoozed())).status is Status.IDLE
    assert state_after((0, snoozed()), (1, delivered(channel="c"))).status is Status.SNOOZED


def test_deliveries_gather_by_channel_and_leave_first_in_first_out():
    state = state_after(
        (0, delivered("s1")), (0, delivered("x1", channel="x")), (0, delivered("s2")), (0, delivered("s3"))
    )
    assert state.pending == {None: 3, "x": 1}
    assert state.inboxes == (Inbox(channel="", pending=3, after=0), Inbox(channel="x", pending=1, after=1))
    after_one = state_after(
        (0, delivered("s1")), (0, delivered("x1", channel="x")), (0, delivered("s2")), (1, consumed("s1", 1))
    )
    assert after_one.inboxes == (Inbox(channel="", pending=1, after=1), Inbox(channel="x", pending=1, after=1))
    assert state_after((0, delivered()), (1, consumed())).inboxes == ()


def test_an_outcome_ends_its_wait_only():
    events = [(0, awaited(channel="a")), (1, awaited(channel="b")), (2, snoozed(channel="b", deadline=3))]
    state = state_after(*events, (4, timed_out(channel="b", deadline=3)))
    assert (state.status, state.current) == (Status.IDLE, None)
    assert [wait.channel for wait in state.waits] == ["a"]
    other = state_after(*events, (4, delivered(channel="a")), (4, consumed(channel="a", version=4)))
    assert (other.status, other.channel, [wait.channel for wait in other.waits]) == (Status.SNOOZED, "b", ["b"])


def test_w10_a_closed_run_keeps_nothing_and_the_next_event_begins_a_new_one():
    state = state_after((0, awaited()), (1, delivered(channel="c")), (2, closed()))
    assert (state.status, state.run, state.open_run, state.waits, state.inboxes) == (Status.CLOSED, 1, 2, (), ())
    again = state_after((0, awaited()), (1, closed()), (2, delivered("s2", run=2)))
    assert (again.status, again.run, again.pending) == (Status.IDLE, 2, {None: 1})


def test_evolve_is_total_whatever_a_damaged_log_holds():
    for event in (consumed(), timed_out(deadline=0), closed(), closed(run=5), snoozed(), awaited()):
        state = WaitState(job_id=JOB)
        for version, one in enumerate((event, event), start=1):
            state = evolve(state, one, version=version, recorded_at=at(0))
        assert state.version == 2
    assert state_after((0, closed()), (1, delivered())).pending == {None: 1}


def test_states_are_compared_by_value_and_provisional_is_no_part_of_it():
    one, other = state_after((0, awaited())), state_after((0, awaited()))
    assert one == other
    assert hash(one) == hash(other)
    assert WaitState(job_id=JOB, provisional=True) == WaitState(job_id=JOB)
