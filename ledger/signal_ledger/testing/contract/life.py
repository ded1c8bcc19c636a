"""A job's life around its waits: promises W10, W12, W13 and W14."""

from datetime import timedelta

from signal_ledger.decisions import (
    CancelRequested,
    Stale,
    Waiting,
)
from signal_ledger.jobs import JobState
from signal_ledger.names import NO_EXECUTION, JobId
from signal_ledger.testing.bench import Bench, take
from signal_ledger.testing.contract.steps import asleep, executing, payload_of
from signal_ledger.wait_state import Status


class LifeContract:
    """Promises W10, W12, W13 and W14."""

    async def test_w10_the_end_of_a_job_closes_its_run_with_the_cause(self, bench: Bench) -> None:
        for state in (JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED):
            job_id = await bench.insert()
            await bench.signaller.send(job_id)
            await bench.finish(job_id, await executing(bench, job_id), state)
            closed = (await bench.store.history(job_id))[-1]
            assert (closed.kind, closed.cause, closed.run) == ("closed", state.value, 1)
            state_after = await bench.store.state(job_id)
            assert (state_after.status, state_after.pending) == (Status.CLOSED, {})

    async def test_w10_cancelling_and_deleting_close_the_run(self, bench: Bench) -> None:
        cancelled, _ = await asleep(bench)
        await bench.cancel(cancelled)
        assert (await bench.store.history(cancelled))[-1].cause == "cancelled"
        deleted, _ = await asleep(bench)
        await bench.delete(deleted)
        assert (await bench.store.history(deleted))[-1].cause == "deleted"
        assert await bench.job(deleted) is None

    async def test_w10_a_run_without_events_is_not_counted(self, bench: Bench) -> None:
        job_id = await bench.insert()
        await bench.finish(job_id, await executing(bench, job_id), JobState.COMPLETED)
        await bench.retry(job_id)
        await bench.signaller.send(job_id)
        [delivered] = await bench.store.history(job_id)
        assert delivered.run == 1

    async def test_w10_a_retry_of_a_finished_job_is_a_fresh_run(self, bench: Bench) -> None:
        job_id = await bench.insert()
        signaller = bench.signaller
        for payload in ("consumed", "left over"):
            await signaller.send(job_id, payload)
        execution = await executing(bench, job_id)
        await take(bench, job_id, execution)
        await bench.finish(job_id, execution, JobState.COMPLETED)
        await bench.retry(job_id)
        second = await executing(bench, job_id)
        assert isinstance(await take(bench, job_id, second), Waiting)
        await signaller.send(job_id, "fresh")
        assert payload_of(await take(bench, job_id, second)) == "fresh"
        assert [recorded.run for recorded in await bench.store.history(job_id)] == [1, 1, 1, 1, 2, 2, 2]

    async def test_w10_a_retry_of_a_waiting_job_stays_in_its_run(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench)
        await bench.retry(job_id)
        await bench.sleep(job_id, await executing(bench, job_id))
        assert {recorded.run for recorded in await bench.store.history(job_id)} == {1}

    async def test_w10_a_rescue_that_discards_closes_the_run(self, bench: Bench) -> None:
        job_id = await bench.insert(max_attempts=1)
        await take(bench, job_id, await executing(bench, job_id))
        await bench.rescue()
        assert (await bench.store.history(job_id))[-1].cause == "discarded"

    async def test_w12_a_cancel_during_the_live_window_is_seen_by_the_next_take(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        await take(bench, job_id, execution)
        await bench.cancel(job_id)
        assert await take(bench, job_id, execution) == CancelRequested()

    async def test_w12_a_cancel_before_the_snooze_is_not_lost_to_it(self, bench: Bench) -> None:
        job_id = await bench.insert()
        execution = await executing(bench, job_id)
        await take(bench, job_id, execution)
        await bench.cancel(job_id)
        await bench.sleep(job_id, execution)
        seen = await bench.job(job_id)
        assert seen is not None
        assert seen.state is JobState.CANCELLED
        assert (await bench.store.history(job_id))[-1].cause == "cancelled"

    async def test_w12_a_cancel_survives_the_worker(self, bench: Bench) -> None:
        job_id = await bench.insert()
        await take(bench, job_id, await executing(bench, job_id))
        await bench.cancel(job_id)
        await bench.rescue()
        # The rescue itself may end the job; else the next execution is told at its first await.
        execution = await bench.fetch(job_id) or NO_EXECUTION
        assert await take(bench, job_id, execution) in (CancelRequested(), Stale())
        await bench.finish(job_id, execution, JobState.CANCELLED)
        seen = await bench.job(job_id)
        assert seen is not None
        assert seen.state is JobState.CANCELLED

    async def test_w12_a_retry_by_hand_withdraws_a_cancel_and_a_retry_by_backoff_does_not(self, bench: Bench) -> None:
        for by_hand, expected in ((True, Waiting), (False, CancelRequested)):
            job_id = await bench.insert()
            execution = await executing(bench, job_id)
            await take(bench, job_id, execution)
            await bench.cancel(job_id)
            await bench.finish(job_id, execution, JobState.RETRYABLE)
            if by_hand:
                await bench.retry(job_id)
            bench.clock.advance(1)
            assert isinstance(await take(bench, job_id, await executing(bench, job_id)), expected)

    async def test_w13_an_older_execution_may_neither_take_nor_end_the_job(self, bench: Bench) -> None:
        job_id = await bench.insert()
        old = await executing(bench, job_id)
        await take(bench, job_id, old)
        await bench.rescue()
        new = await executing(bench, job_id)
        assert new != old
        await bench.signaller.send(job_id, "for the new one")
        assert await take(bench, job_id, old) == Stale()
        assert not await bench.sleep(job_id, old)
        assert not await bench.finish(job_id, old, JobState.COMPLETED)
        assert payload_of(await take(bench, job_id, new)) == "for the new one"
        assert [recorded.execution for recorded in await bench.store.history(job_id)] == [old, None, new]

    async def test_w13_a_job_that_does_not_execute_takes_nothing(self, bench: Bench) -> None:
        job_id, execution = await asleep(bench)
        assert await take(bench, job_id, execution) == Stale()
        assert await take(bench, JobId(404), execution) == Stale()

    async def test_w14_wait_until_is_there_while_the_job_waits(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, wait_for=60)
        seen = await bench.job(job_id)
        assert seen is not None
        assert seen.wait_until == int((bench.clock() + timedelta(seconds=60)).timestamp() * 1000)
        await bench.signaller.send(job_id)
        woken = await bench.job(job_id)
        assert woken is not None
        assert woken.wait_until is None

    async def test_w14_a_wait_without_a_deadline_is_until_infinity(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench)
        seen = await bench.job(job_id)
        assert seen is not None
        assert seen.wait_until == "infinity"
        await bench.cancel(job_id)
        cancelled = await bench.job(job_id)
        assert cancelled is not None
        assert cancelled.wait_until is None

    async def test_w14_wait_until_is_gone_when_the_deadline_or_a_retry_wakes_the_job(self, bench: Bench) -> None:
        by_deadline, _ = await asleep(bench, wait_for=60)
        by_retry, _ = await asleep(bench, wait_for=600)
        bench.clock.advance(61)
        await executing(bench, by_deadline)
        await bench.retry(by_retry)
        for job_id in (by_deadline, by_retry):
            seen = await bench.job(job_id)
            assert seen is not None
            assert seen.wait_until is None

    async def test_a_snooze_gives_the_attempt_back(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench)
        seen = await bench.job(job_id)
        assert seen is not None
        assert seen.attempt == 0
