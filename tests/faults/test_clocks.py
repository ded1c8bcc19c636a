"""Clocks that step and that differ between processes, with libfaketime (promises W6, W7)."""

import pytest
from oban._recorded import decode_recorded

from signal_ledger import lite
from tests.eventually import eventually
from tests.fault_figures import Account
from tests.faults.clocks import check_history, needs_faketime, process, signal, skew_s
from tests.processes.clocked import Clocked

pytestmark = needs_faketime


@pytest.mark.parametrize("steps", [("+0", "-3600"), ("+0", "+3600"), ("+0", "-3600", "+3600", "+0")])
async def test_w7_a_clock_that_steps_turns_no_stream_back_and_loses_no_wake(tmp_path, steps, record_property):
    url, clock = f"sqlite:///{tmp_path}/signals.db", tmp_path / "clock"
    account, off = Account(), 0
    clock.write_text(steps[0])
    async with lite(url, queues={}) as engine:
        votes = len(steps)
        async with process(clock, "clocked", url) as worker:
            jobs = [await engine.enqueue(Clocked.new({"votes": votes, "window": window})) for window in (0, 60)]
            for number, step in enumerate(steps):
                clock.write_text(step)
                skew = await skew_s(worker)
                assert abs(skew - float(step)) < 60, f"the clock is off by {skew} s"
                off += abs(skew) > 60
                for job in jobs:
                    await eventually(lambda job=job: _waits(engine, job))
                    # By the worker's clock, which decides what is recorded.
                    await signal(account, worker, job, number)

            async def completed(job):
                found = await engine.get_job(job.id)
                return found if found.state == "completed" else None

            for job in jobs:
                done = await eventually(lambda job=job: completed(job))
                assert decode_recorded(done.meta["return"]) == list(range(votes))
                check_history(await engine.ledger.history(job.id))
        assert (await engine.ledger.verify()).ok
        figures = await account.figures(engine.ledger)
    figures.record(record_property, happened=off)


async def test_w7_two_processes_an_hour_apart_share_a_file_without_a_timeout_that_the_log_calls_early(
    tmp_path, record_property
):
    url = f"sqlite:///{tmp_path}/signals.db"
    account = Account()
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    slow.write_text("-3600")
    fast.write_text("+3600")
    async with (
        lite(url, queues={}) as engine,
        process(slow, "clocked", url) as one,
        process(fast, "clocked", url) as two,
    ):
        assert await skew_s(one) == pytest.approx(-3600, abs=60)
        assert await skew_s(two) == pytest.approx(3600, abs=60)
        jobs = [
            await engine.enqueue(Clocked.new({"votes": 2, "window": 0, "wait_for": wait_for}))
            for wait_for in (0.5, None)
        ]
        for number, worker in enumerate((one, two, one, two)):
            for job in jobs:
                await eventually(lambda job=job: _waits(engine, job))
                await signal(account, worker, job, number)
        # Both clocks beside the one here, at the end as at the beginning.
        skews = [await skew_s(worker) for worker in (one, two)]
        assert skews == [pytest.approx(-3600, abs=60), pytest.approx(3600, abs=60)]
        for job in jobs:

            async def completed(job=job):
                return (await engine.get_job(job.id)).state == "completed"

            await eventually(completed)
            history = await engine.ledger.history(job.id)
            check_history(history)
            assert [event.kind for event in history].count("closed") == 1
        assert (await engine.ledger.verify()).ok
        figures = await account.figures(engine.ledger)
    figures.record(record_property, happened=len(skews))


async def _waits(engine, job):
    state = await engine.ledger.state(job.id)
    return state.status in ("live", "snoozed", "closed") and not state.pending
