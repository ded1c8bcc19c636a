"""Cancellation at every suspension of an await: nothing is lost, nothing is had twice (promise W11)."""

import asyncio

import pytest
from oban import Record, worker

from signal_ledger import SignalTimeout, await_signal
from tests.eventually import eventually
from tests.fault_figures import Account
from tests.stepping import cancel_at

STEPS = {}


@worker()
class Cancelled:
    """Cancels its first await at the n-th suspension, and then awaits again."""

    async def process(self, job):
        n, options = job.args["n"], job.args["options"]
        driven = cancel_at(n, await_signal(**options))
        try:
            first = await driven
        except asyncio.CancelledError:
            first = "cancelled"
        except SignalTimeout:
            first = "timeout"
        STEPS[job.id] = driven.suspensions
        if first == "cancelled":
            try:
                first = await await_signal(**options)
            except SignalTimeout:
                first = "timeout"
        return Record([first, await await_signal(wait_timeout=0)])


async def run_at_every_suspension(it, account, options, before, during, ready):
    """Run one job for each n until n is beyond the last suspension; yield the jobs when they are done."""
    n = 0
    while True:
        n += 1
        job = await it.engine.enqueue(Cancelled.new({"n": n, "options": options}))
        for payload in before:
            await account.signal(it.engine, job.id, payload)
        for payload in during:
            await eventually(lambda job=job: ready(it, job))
            await account.signal(it.engine, job.id, payload)
        await it.until(job, "completed", "discarded", "retryable")
        yield job
        if STEPS[job.id] < n:
            assert n > 1, "no suspension was met"
            return


async def _is_waiting_or_done(it, job):
    state = await it.engine.ledger.state(job.id)
    return state.status in ("live", "snoozed", "closed") and not state.pending


async def _has_timed_out(it, job):
    return "timed_out" in await it.kinds(job)


async def outcome(it, job):
    found = await it.engine.get_job(job.id)
    assert found.state == "completed", found.errors
    from oban._recorded import decode_recorded

    return decode_recorded(found.meta["return"])


@pytest.mark.parametrize(
    ("options", "before", "during"),
    [
        pytest.param({}, ["one", "two"], [], id="pending"),
        pytest.param({"wait_timeout": 60}, [], ["one", "two"], id="live"),
        pytest.param({"wait_timeout": 0}, [], ["one", "two"], id="snoozed"),
        pytest.param({"wait_timeout": 0.03}, [], ["one", "two"], id="at the end of the window"),
    ],
)
async def test_w11_a_signal_is_had_once_wherever_its_await_is_cancelled(it, options, before, during, record_property):
    account, jobs = Account(), 0
    async for job in run_at_every_suspension(it, account, options, before, during, _is_waiting_or_done):
        jobs += 1
        assert await outcome(it, job) == ["one", "two"]
        kinds = await it.kinds(job)
        assert kinds.count("consumed") == kinds.count("delivered") == 2
    # The last job had its await to the end.
    (await account.figures(it.engine.ledger)).record(record_property, happened=jobs - 1)


async def test_w11_a_timeout_is_had_once_wherever_its_await_is_cancelled(it, record_property):
    options = {"wait_for": 0.05, "wait_timeout": 5}
    account, jobs = Account(), 0
    async for job in run_at_every_suspension(it, account, options, [], ["two"], _has_timed_out):
        jobs += 1
        assert await outcome(it, job) == ["timeout", "two"]
        kinds = await it.kinds(job)
        assert (kinds.count("timed_out"), kinds.count("consumed")) == (1, 1)
    (await account.figures(it.engine.ledger)).record(record_property, happened=jobs - 1)
