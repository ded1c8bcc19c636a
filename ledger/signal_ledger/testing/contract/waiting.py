"""Waits: promises W2 to W9."""

from dataclasses import replace
from datetime import timedelta

import pytest

from signal_ledger.decisions import (
    GotSignal,
    GotTimeout,
    MustSnooze,
    OutOfOrder,
    Waiting,
)
from signal_ledger.jobs import JobState
from signal_ledger.telemetry.tracing import following_traces
from signal_ledger.testing.bench import Bench, take
from signal_ledger.testing.contract.steps import asleep, executing, kinds, payload_of


class WaitContract:
    """Promises W2 to W9."""

    async def test_w2_a_pending_signal_is_consumed_at_once_and_opens_no_wait(self, bench: Bench) -> None:
        job_id = await bench.insert()
        await bench.signaller.send(job_id, "early")
        execution = await executing(bench, job_id)
        assert payload_of(await take(bench, job_id, execution)) == "early"
        assert await kinds(bench, job_id) == ["delivered", "consumed"]

    async def test_w3_each_execution_that_opens_a_window_says_so_once(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        for _ in range(3):
            assert await take(bench, job_id, execution, wait_for=60) == Waiting(left=None)
        await bench.finish(job_id, execution, JobState.RETRYABLE)
        second = await executing(bench, job_id)
        assert await take(bench, job_id, second, wait_for=60) == Waiting(left=None)
        awaited = await bench.store.history(job_id)
        assert [(recorded.kind, recorded.execution) for recorded in awaited] == [
            ("awaited", execution),
            ("awaited", second),
        ]

    async def test_w3_without_a_window_the_job_is_to_snooze_and_nothing_is_recorded(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        assert await take(bench, job_id, execution, window=False) == MustSnooze()
        assert await kinds(bench, job_id) == []

    async def test_w3_a_wait_that_was_snoozed_gets_no_second_window(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench)
        await bench.retry(job_id)
        execution = await executing(bench, job_id)
        assert await take(bench, job_id, execution) == MustSnooze()

    async def test_w5_a_signal_on_the_awaited_channel_makes_the_job_runnable(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, channel="c")
        assert await bench.fetch(job_id) is None
        assert (await bench.signaller.send(job_id, "go", channel="c")).outcome == "woken"
        execution = await executing(bench, job_id)
        assert payload_of(await take(bench, job_id, execution, channel="c")) == "go"

    async def test_w5_only_the_first_signal_wakes(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench)
        signaller = bench.signaller
        outcomes = [(await signaller.send(job_id, number)).outcome for number in range(3)]
        assert outcomes == ["woken", "buffered", "buffered"]

    async def test_w5_another_channel_does_not_wake(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, channel="c")
        assert (await bench.signaller.send(job_id, channel="d")).outcome == "buffered"
        assert (await bench.signaller.send(job_id, channel=None)).outcome == "buffered"
        assert await bench.fetch(job_id) is None

    async def test_w5_a_late_signal_does_not_wake(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, wait_for=60)
        bench.clock.advance(60.000001)
        assert (await bench.signaller.send(job_id)).outcome == "buffered"

    async def test_w5_a_job_scheduled_for_later_keeps_its_schedule(self, bench: Bench) -> None:
        job_id = await bench.insert(scheduled_in=60)
        assert (await bench.signaller.send(job_id, "early")).outcome == "buffered"
        assert await bench.fetch(job_id) is None
        bench.clock.advance(60)
        execution = await executing(bench, job_id)
        assert payload_of(await take(bench, job_id, execution)) == "early"

    async def test_w5_a_job_snoozed_by_its_own_code_keeps_its_schedule(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench)
        await bench.retry(job_id)
        execution = await executing(bench, job_id)
        await bench.finish(job_id, execution, JobState.SCHEDULED, delay=60)
        assert (await bench.signaller.send(job_id)).outcome == "buffered"
        assert await bench.fetch(job_id) is None

    async def test_w5_a_job_whose_await_was_cancelled_and_that_snoozed_itself_keeps_its_schedule(
        self, bench: Bench
    ) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        await take(bench, job_id, execution)
        await bench.finish(job_id, execution, JobState.SCHEDULED, delay=60)
        assert (await bench.signaller.send(job_id)).outcome == "buffered"
        assert await bench.fetch(job_id) is None

    async def test_w5_a_job_that_backs_off_keeps_its_schedule(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        await take(bench, job_id, execution)
        await bench.finish(job_id, execution, JobState.RETRYABLE, delay=60)
        assert (await bench.signaller.send(job_id, "kept")).outcome == "buffered"
        assert await bench.fetch(job_id) is None
        bench.clock.advance(60)
        assert payload_of(await take(bench, job_id, await executing(bench, job_id))) == "kept"

    async def test_w5_a_signal_between_the_last_look_and_the_snooze_is_not_lost(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        assert isinstance(await take(bench, job_id, execution), Waiting)
        assert (await bench.signaller.send(job_id, "just in time")).outcome == "live"
        await bench.sleep(job_id, execution)
        seen = await bench.job(job_id)
        assert seen is not None
        assert (seen.state, seen.wait_until) == (JobState.AVAILABLE, None)
        assert payload_of(await take(bench, job_id, await executing(bench, job_id))) == "just in time"

    async def test_w5_an_outcome_between_the_last_look_and_the_snooze_is_not_lost(self, bench: Bench) -> None:
        job_id = await bench.insert()
        await bench.signaller.send(job_id, "taken")
        execution = await executing(bench, job_id)
        assert payload_of(await take(bench, job_id, execution)) == "taken"
        await bench.sleep(job_id, execution)
        assert payload_of(await take(bench, job_id, await executing(bench, job_id))) == "taken"

    async def test_w6_the_deadline_counts_from_the_first_snooze_and_is_final(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        await take(bench, job_id, execution, wait_for=60)
        bench.clock.advance(5)
        deadline = bench.clock() + timedelta(seconds=60)
        await bench.sleep(job_id, execution, wait_for=60)
        assert (await bench.store.state(job_id)).deadline_at == deadline
        bench.clock.advance(30)
        await bench.retry(job_id)
        second = await executing(bench, job_id)
        assert await take(bench, job_id, second, wait_for=600) == MustSnooze()
        await bench.sleep(job_id, second, wait_for=600)
        assert (await bench.store.state(job_id)).deadline_at == deadline
        bench.clock.advance(30.000001)
        assert await take(bench, job_id, await executing(bench, job_id), wait_for=600) == GotTimeout(
            deadline_at=deadline, recorded_at=bench.clock()
        )

    async def test_w6_a_wait_without_a_deadline_never_gets_one(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, wait_for=None)
        await bench.retry(job_id)
        execution = await executing(bench, job_id)
        await bench.sleep(job_id, execution, wait_for=1)
        bench.clock.advance(3600)
        await bench.retry(job_id)
        assert await take(bench, job_id, await executing(bench, job_id), wait_for=1) == MustSnooze()

    async def test_w6_a_wait_shorter_than_its_window_times_out_in_place(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        deadline = bench.clock() + timedelta(seconds=2)
        assert await take(bench, job_id, execution, wait_for=2, in_place=True) == Waiting(left=timedelta(seconds=2))
        bench.clock.advance(2)
        assert await take(bench, job_id, execution, wait_for=2, in_place=True) == Waiting(left=timedelta(0))
        bench.clock.advance(0.000001)
        assert await take(bench, job_id, execution, wait_for=2, in_place=True) == GotTimeout(
            deadline_at=deadline, recorded_at=bench.clock()
        )
        assert await kinds(bench, job_id) == ["awaited", "timed_out"]

    async def test_w6_a_deadline_in_place_outlives_its_execution(self, bench: Bench) -> None:
        job_id = await bench.insert()
        await take(bench, job_id, await executing(bench, job_id), wait_for=2, in_place=True)
        bench.clock.advance(1)
        await bench.rescue()
        second = await executing(bench, job_id)
        assert await take(bench, job_id, second, wait_for=2, in_place=True) == Waiting(left=timedelta(seconds=1))

    async def test_w6_a_cancelled_await_may_be_taken_up_with_a_deadline(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        assert await take(bench, job_id, execution, wait_for=None) == Waiting(left=None)
        for _ in range(2):
            assert await take(bench, job_id, execution, wait_for=2, in_place=True) == Waiting(left=timedelta(seconds=2))
        bench.clock.advance(2.1)
        assert isinstance(await take(bench, job_id, execution, wait_for=2, in_place=True), GotTimeout)

    async def test_w7_a_signal_at_the_deadline_is_in_time(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, wait_for=60)
        bench.clock.advance(60)
        assert (await bench.signaller.send(job_id, "on the dot")).outcome == "woken"
        bench.clock.advance(3600)  # it wakes late, and consumes it all the same
        assert payload_of(await take(bench, job_id, await executing(bench, job_id))) == "on the dot"

    async def test_w7_a_late_signal_cannot_revive_a_wait_and_serves_the_next_one(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, wait_for=60)
        bench.clock.advance(60.000001)
        await bench.signaller.send(job_id, "late")
        execution = await executing(bench, job_id)
        assert isinstance(await take(bench, job_id, execution), GotTimeout)
        assert payload_of(await take(bench, job_id, execution, ordinal=2)) == "late"
        assert await kinds(bench, job_id) == [
            "awaited", "snoozed", "delivered", "timed_out", "consumed",
        ]  # fmt: skip

    async def test_w7_time_never_runs_backwards_in_a_stream(self, bench: Bench) -> None:
        job_id = await bench.insert()
        signaller = bench.signaller
        await signaller.send(job_id)
        bench.clock.advance(-3600)
        await signaller.send(job_id)
        first, second = await bench.store.history(job_id)
        assert second.recorded_at == first.recorded_at

    async def test_w8_a_delivery_is_consumed_once(self, bench: Bench) -> None:
        job_id = await bench.insert()
        await bench.signaller.send(job_id, "only")
        execution = await executing(bench, job_id)
        assert payload_of(await take(bench, job_id, execution, ordinal=1)) == "only"
        assert isinstance(await take(bench, job_id, execution, ordinal=2), Waiting)

    async def test_w9_outcomes_are_replayed_in_later_executions(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, wait_for=60)
        bench.clock.advance(61)
        signaller = bench.signaller
        await signaller.send(job_id, "late")
        await signaller.send(job_id, "later")
        execution = await executing(bench, job_id)
        first = [await take(bench, job_id, execution, ordinal=ordinal) for ordinal in (1, 2)]
        await bench.finish(job_id, execution, JobState.RETRYABLE)
        second = await executing(bench, job_id)
        versions = len(await kinds(bench, job_id))
        timeout, signal = first
        assert isinstance(timeout, GotTimeout)
        assert isinstance(signal, GotSignal)
        replayed = [replace(timeout, recorded_at=None), replace(signal, delivered_at=None, recorded_at=None)]
        assert [await take(bench, job_id, second, ordinal=ordinal) for ordinal in (1, 2)] == replayed
        assert len(await kinds(bench, job_id)) == versions
        assert payload_of(await take(bench, job_id, second, ordinal=3)) == "later"

    async def test_a_wait_that_ends_now_tells_when_its_signal_was_delivered_and_when_it_ended(
        self, bench: Bench
    ) -> None:
        job_id, _ = await asleep(bench, wait_for=60)
        bench.clock.advance(1)
        await bench.signaller.send(job_id)
        delivered_at = bench.clock()
        bench.clock.advance(2.5)
        reply = await take(bench, job_id, await executing(bench, job_id))
        assert isinstance(reply, GotSignal)
        assert (reply.delivered_at, reply.recorded_at) == (delivered_at, bench.clock())

    @pytest.mark.parametrize("way", ["alone", "in a list"])
    async def test_the_trace_of_who_signals_comes_to_who_asks_for_it_once(self, bench: Bench, way: str) -> None:
        traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        job_ids = [await bench.insert() for _ in range(2)]
        with following_traces(lambda: traceparent):
            if way == "alone":
                for job_id in job_ids:
                    await bench.signaller.send(job_id)
            else:
                await bench.signaller.send_all(job_ids)
        await bench.signaller.send(job_ids[0])
        executions = [await executing(bench, job_id) for job_id in job_ids]
        asked = []
        # A replay has none, and a signal that was not traced has none.
        for place, ordinal, wants_trace in ((0, 1, True), (0, 1, True), (0, 2, True), (1, 1, False), (1, 1, True)):
            reply = await take(bench, job_ids[place], executions[place], ordinal=ordinal, wants_trace=wants_trace)
            assert isinstance(reply, GotSignal)
            asked.append(reply.traceparent)
        assert asked == [traceparent, None, None, None, None]

    async def test_w9_an_await_out_of_turn_is_refused(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        assert await take(bench, job_id, execution, ordinal=2) == OutOfOrder(expected=1)
