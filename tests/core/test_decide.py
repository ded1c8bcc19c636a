"""The rule book, rule by rule."""

from datetime import timedelta

import pytest

from signal_ledger.causes import Cause
from signal_ledger.commands import Close, Deliver, Snooze, Take
from signal_ledger.decisions import (
    Asleep,
    CancelRequested,
    Conflict,
    Duplicate,
    Ended,
    Fate,
    GotSignal,
    GotTimeout,
    Ignored,
    MustSnooze,
    OutOfOrder,
    Runnable,
    Stale,
    Stored,
    Waiting,
)
from signal_ledger.events import DeliveryOutcome
from signal_ledger.facts import Facts, look_up
from tests.core.given import JOB, Given, at, awaited, closed, consumed, delivered, snoozed, timed_out


def deliver(signal_id="s9", *, channel="", digest="d" * 64, key=None, key_ids=(), is_first_try=True):
    return Deliver(
        job_id=JOB,
        signal_id=signal_id,
        channel=channel,
        payload=b"p",
        payload_digest=digest,
        key=key,
        key_ids=key_ids,
        is_first_try=is_first_try,
    )


def take(ordinal=1, *, channel="", execution=1, wait_for=None, in_place=False, window=True):
    return Take(
        job_id=JOB,
        execution=execution,
        channel=channel,
        ordinal=ordinal,
        wait_for=None if wait_for is None else timedelta(seconds=wait_for),
        in_place=in_place,
        window=window,
    )


def snooze(ordinal=1, *, channel="", execution=1, wait_for=None):
    return Snooze(
        job_id=JOB,
        execution=execution,
        channel=channel,
        ordinal=ordinal,
        wait_for=None if wait_for is None else timedelta(seconds=wait_for),
    )


def stored(outcome, version):
    return Stored(outcome=DeliveryOutcome(outcome), version=version)


class TestDeliver:
    def test_d3_to_a_missing_job_is_ignored(self):
        Given(job=None).when(deliver(), second=0).then(reply=Ignored(reason="missing"))

    @pytest.mark.parametrize("state", ["completed", "cancelled", "discarded"])
    def test_d3_to_an_ended_job_is_ignored(self, state):
        Given(job=state).when(deliver(), second=0).then(reply=Ignored(reason=state))

    @pytest.mark.parametrize("state", ["available", "scheduled", "executing", "retryable", "suspended"])
    def test_d4_before_any_await_it_is_buffered(self, state):
        Given(job=state, execution=0).when(deliver("s1"), second=0).then(delivered("s1"), reply=stored("buffered", 1))

    def test_d5_it_wakes_a_job_that_sleeps_on_its_channel(self):
        Given((0, awaited()), (5, snoozed()), job="scheduled").when(deliver("s1"), second=9).then(
            delivered("s1", outcome="woken"), reply=stored("woken", 3)
        )

    def test_d5_it_reaches_a_live_wait(self):
        Given((0, awaited())).when(deliver("s1"), second=1).then(
            delivered("s1", outcome="live"), reply=stored("live", 2)
        )

    @pytest.mark.parametrize(
        ("events", "job", "execution", "channel", "second"),
        [
            pytest.param([(0, awaited()), (5, snoozed())], "scheduled", 1, "other", 9, id="another channel"),
            pytest.param([(0, snoozed(deadline=8))], "scheduled", 1, "", 9, id="after the deadline"),
            pytest.param([(0, snoozed())], "scheduled", 2, "", 9, id="snoozed by its own code since"),
            pytest.param([(0, snoozed())], "retryable", 2, "", 9, id="backing off"),
            pytest.param([(0, snoozed())], "available", 1, "", 9, id="retried by hand"),
            pytest.param([(0, snoozed())], "executing", 2, "", 9, id="running again"),
            pytest.param([(0, awaited())], "available", 1, "", 1, id="rescued from its live wait"),
            pytest.param([(0, awaited())], "executing", 2, "", 1, id="executing anew"),
            pytest.param([(0, awaited())], "scheduled", 1, "", 1, id="await cancelled, then its own snooze"),
            pytest.param([(0, awaited(deadline=2))], "executing", 1, "", 3, id="live, after the deadline"),
            pytest.param([(0, awaited()), (1, awaited(channel="b"))], "executing", 1, "", 2, id="live elsewhere"),
        ],
    )
    def test_w5_nothing_else_is_woken_or_told(self, events, job, execution, channel, second):
        Given(*events, job=job, execution=execution).when(deliver("s1", channel=channel), second=second).then(
            delivered("s1", channel=channel), reply=stored("buffered", len(events) + 1)
        )

    def test_w5_a_woken_job_is_not_woken_again(self):
        Given((0, snoozed()), (1, delivered(outcome="woken")), job="scheduled").when(deliver(), second=2).then(
            delivered("s9"), reply=stored("buffered", 3)
        )

    def test_w7_at_the_deadline_it_is_in_time(self):
        Given((0, snoozed(deadline=8)), job="scheduled").when(deliver("s1"), second=8).then(
            delivered("s1", outcome="woken"), reply=stored("woken", 2)
        )

    def test_w10_after_a_closed_run_it_begins_the_next_one(self):
        Given((0, delivered()), (1, closed()), job="available").when(deliver(), second=2).then(
            delivered("s9", run=2), reply=stored("buffered", 3)
        )

    def test_d6_its_own_retry_gets_the_first_receipt(self):
        again = deliver("s1", is_first_try=False)
        Given((0, delivered("s1", outcome="live")), job="completed").when(again, second=2).then(reply=stored("live", 1))

    @pytest.mark.parametrize(("first_key", "is_first_try"), [(None, True), (None, False), ("s1", True)])
    def test_d6_a_call_that_is_repeated_by_its_id_is_a_duplicate(self, first_key, is_first_try):
        """The repeat has the id of the call, so that an index keeps both from being stored."""
        again = deliver("s1", key="s1", key_ids=("s1",), is_first_try=is_first_try)
        Given((0, delivered("s1", key=first_key))).when(again, second=2).then(
            reply=Duplicate(signal_id="s1", version=1, fate=Fate.PENDING)
        )

    def test_d6_a_repeat_with_another_payload_is_a_conflict(self):
        again = deliver("s1", key="s1", key_ids=("s1",), digest="e" * 64)
        Given((0, delivered("s1"))).when(again, second=2).then_refused(
            Conflict(key="s1", signal_id="s1", difference="payload")
        )

    @pytest.mark.parametrize(
        ("events", "fate"),
        [
            ([], Fate.PENDING),
            ([(1, consumed())], Fate.CONSUMED),
            ([(1, closed())], Fate.ENDED),
            ([(1, closed()), (2, delivered("s2", run=2))], Fate.ENDED),
            ([(1, consumed()), (2, closed())], Fate.CONSUMED),
        ],
    )
    @pytest.mark.parametrize("job", ["available", "completed", None])
    def test_d6_a_repeated_key_is_told_what_became_of_the_first(self, events, fate, job):
        Given((0, delivered(key="k")), *events, job=job).when(deliver(key="k"), second=3).then(
            reply=Duplicate(signal_id="s1", version=1, fate=fate)
        )

    def test_d6_the_id_of_a_call_without_a_key_serves_as_key(self):
        Given((0, delivered("s1"))).when(deliver(key="call", key_ids=("s0", "s1")), second=1).then(
            reply=Duplicate(signal_id="s1", version=1, fate=Fate.PENDING)
        )

    @pytest.mark.parametrize(
        ("command", "difference"),
        [(deliver(key="k", digest="e" * 64), "payload"), (deliver(key="k", channel="c"), "channel")],
    )
    def test_d6_a_key_for_another_signal_is_a_conflict(self, command, difference):
        Given((0, delivered(key="k"))).when(command, second=1).then_refused(
            Conflict(key="k", signal_id="s1", difference=difference)
        )

    def test_d6_a_key_is_unique_within_a_job_across_channels_and_runs(self):
        Given((0, delivered("s1", key="a")), (1, closed()), (2, delivered("s2", key="b", run=2))).when(
            deliver(key="a"), second=3
        ).then(reply=Duplicate(signal_id="s1", version=1, fate=Fate.ENDED))


def got(signal_id, delivered, now):
    """The reply to a wait that ends now. A replay tells no times."""
    return GotSignal(signal_id=signal_id, payload=b"p", delivered_at=at(delivered), recorded_at=at(now))


class TestTake:
    def test_w2_a_pending_signal_is_consumed_at_once(self):
        Given((0, delivered())).when(take(), second=1).then(consumed(), reply=got("s1", 0, 1))

    def test_d4_the_oldest_first(self):
        given = Given((0, delivered("s1")), (0, delivered("x", channel="c")), (0, delivered("s2")), (1, consumed()))
        given.when(take(2), second=2).then(consumed("s2", 3, 2), reply=got("s2", 0, 2))

    def test_w3_it_opens_a_live_window(self):
        Given().when(take(wait_for=60), second=0).then(awaited(), reply=Waiting(left=None))

    def test_w3_it_opens_it_once_an_execution(self):
        Given((0, awaited())).when(take(wait_for=60), second=1).then(reply=Waiting(left=None))

    def test_w3_another_execution_opens_it_anew(self):
        Given((0, awaited()), execution=2).when(take(execution=2), second=1).then(
            awaited(execution=2), reply=Waiting(left=None)
        )

    def test_w3_after_another_channel_it_is_opened_anew(self):
        Given((0, awaited()), (1, awaited(channel="b"))).when(take(), second=2).then(
            awaited(), reply=Waiting(left=None)
        )

    def test_w3_without_a_place_it_must_snooze(self):
        Given().when(take(window=False), second=0).then(reply=MustSnooze())

    def test_w3_a_snoozed_wait_gets_no_second_window(self):
        Given((0, snoozed()), execution=2).when(take(execution=2), second=1).then(reply=MustSnooze())

    def test_w6_a_short_wait_stores_its_deadline_when_it_begins(self):
        Given().when(take(wait_for=2, in_place=True), second=3).then(
            awaited(deadline=5), reply=Waiting(left=timedelta(seconds=2))
        )

    def test_w6_a_stored_deadline_cuts_the_window_whatever_is_asked_for_later(self):
        Given((0, awaited(deadline=5)), execution=2).when(take(execution=2, wait_for=99), second=2).then(
            awaited(execution=2, deadline=5), reply=Waiting(left=timedelta(seconds=3))
        )

    def test_w6_a_cancelled_await_taken_up_with_a_short_wait_gets_its_deadline(self):
        Given((0, awaited())).when(take(wait_for=2, in_place=True), second=1).then(
            awaited(deadline=3), reply=Waiting(left=timedelta(seconds=2))
        )

    def test_w7_once_the_deadline_lies_behind_it_times_out(self):
        Given((0, snoozed(deadline=5)), execution=2).when(take(execution=2), second=5.000001).then(
            timed_out(deadline=5, execution=2), reply=GotTimeout(deadline_at=at(5), recorded_at=at(5.000001))
        )

    def test_w7_at_the_deadline_it_does_not_time_out_yet(self):
        Given((0, snoozed(deadline=5)), execution=2).when(take(execution=2), second=5).then(reply=MustSnooze())

    def test_w7_a_signal_in_time_is_consumed_however_late_the_job_wakes(self):
        Given((0, snoozed(deadline=5)), (5, delivered(outcome="woken")), execution=2).when(
            take(execution=2), second=500
        ).then(consumed(version=2, execution=2), reply=got("s1", 5, 500))

    def test_w7_a_late_signal_stays_pending_and_the_wait_times_out(self):
        Given((0, snoozed(deadline=5)), (6, delivered()), execution=2).when(take(execution=2), second=7).then(
            timed_out(deadline=5, execution=2), reply=GotTimeout(deadline_at=at(5), recorded_at=at(7))
        )

    def test_w9_a_recorded_outcome_is_replayed(self):
        given = Given((0, delivered()), (1, consumed()), (2, snoozed(2, deadline=3)), (4, timed_out(2, deadline=3)))
        given.when(take(1), second=9).then(reply=GotSignal(signal_id="s1", payload=b"p"))
        given.when(take(2), second=9).then(reply=GotTimeout(deadline_at=at(3)))

    def test_w9_outcomes_of_another_run_are_not_replayed(self):
        Given((0, delivered()), (1, consumed()), (2, closed())).when(take(), second=3).then(
            awaited(run=2), reply=Waiting(left=None)
        )

    def test_w9_awaits_come_in_order(self):
        Given((0, delivered()), (1, consumed())).when(take(3), second=2).then_refused(OutOfOrder(expected=2))

    @pytest.mark.parametrize(
        ("job", "execution"), [(None, 1), ("executing", 2), ("available", 1), ("scheduled", 1), ("completed", 1)]
    )
    def test_w13_only_the_newest_execution_takes(self, job, execution):
        given = Given((0, delivered()), job=job, execution=execution)
        given.when(take(), second=1).then_refused(Stale())

    def test_w12_a_cancel_comes_before_everything_else(self):
        Given((0, delivered()), (1, consumed()), cancel_requested=True).when(take(), second=2).then_refused(
            CancelRequested()
        )


class TestSnooze:
    def test_w6_the_first_snooze_decides_the_deadline(self):
        Given((0, awaited())).when(snooze(wait_for=60), second=5).then(snoozed(deadline=65), reply=Asleep(until=at(65)))

    def test_w6_without_wait_for_there_is_none(self):
        Given((0, awaited())).when(snooze(), second=5).then(snoozed(), reply=Asleep(until=None))

    @pytest.mark.parametrize("deadline", [65, None])
    def test_w6_later_snoozes_keep_it(self, deadline):
        until = None if deadline is None else at(deadline)
        Given((5, snoozed(deadline=deadline)), execution=2).when(snooze(execution=2, wait_for=999), second=9).then(
            snoozed(execution=2, deadline=deadline), reply=Asleep(until=until)
        )

    def test_w6_a_deadline_in_place_is_kept_by_the_snooze(self):
        Given((0, awaited(deadline=5))).when(snooze(wait_for=99), second=2).then(
            snoozed(deadline=5), reply=Asleep(until=at(5))
        )

    def test_w5_with_a_signal_there_the_job_runs_on(self):
        Given((0, awaited()), (1, delivered(outcome="live"))).when(snooze(wait_for=60), second=5).then(
            snoozed(deadline=65), reply=Runnable()
        )

    def test_w5_a_signal_on_another_channel_lets_it_sleep(self):
        Given((0, awaited()), (1, delivered(channel="c"))).when(snooze(), second=5).then(
            snoozed(), reply=Asleep(until=None)
        )

    def test_w5_with_an_outcome_there_the_job_runs_on_and_nothing_is_recorded(self):
        Given((0, delivered()), (1, consumed())).when(snooze(), second=5).then(reply=Runnable())

    def test_w6_with_the_deadline_behind_the_job_runs_on(self):
        Given((0, awaited(deadline=5))).when(snooze(), second=6).then(snoozed(deadline=5), reply=Runnable())

    def test_w12_a_cancel_is_not_lost_to_it(self):
        Given((0, awaited()), cancel_requested=True).when(snooze(), second=5).then_refused(CancelRequested())

    @pytest.mark.parametrize(("job", "execution"), [(None, 1), ("executing", 2), ("available", 1)])
    def test_w13_only_the_newest_execution_snoozes(self, job, execution):
        Given((0, awaited()), job=job, execution=execution).when(snooze(), second=5).then_refused(Stale())


class TestClose:
    def test_w10_a_run_with_events_is_closed(self):
        Given((0, delivered()), execution=3, attempt=1).when(Close(job_id=JOB, cause=Cause.CANCELLED), second=1).then(
            closed("cancelled", execution=3), reply=Ended()
        )

    @pytest.mark.parametrize("events", [[], [(0, delivered()), (1, closed())]])
    def test_w10_a_run_without_events_is_not(self, events):
        Given(*events).when(Close(job_id=JOB, cause=Cause.COMPLETED), second=2).then(reply=Ended())

    def test_w10_a_job_that_is_gone_can_be_closed_all_the_same(self):
        given = Given((0, delivered()), job=None).when(Close(job_id=JOB, cause=Cause.DELETED), second=1)
        [event] = given.decision.events
        assert (event.cause, event.execution, event.attempt) == ("deleted", 0, 0)


def test_facts_of_a_damaged_log_are_none_rather_than_wrong():
    given = Given((0, delivered()))
    assert look_up([], given.state, take()) == Facts()
