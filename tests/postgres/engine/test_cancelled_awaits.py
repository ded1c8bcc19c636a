"""Cancellation at every suspension of an await on Oban: nothing is lost, nothing is had twice (promise W11)."""

import asyncio

import pytest
from oban import Record, worker
from oban._recorded import decode_recorded

from signal_ledger import SignalTimeout, await_signal
from tests.eventually import eventually
from tests.fault_figures import Account
from tests.stepping import cancel_here_at

STEPS = {}


@worker()
class Cancelled:
    """Cancels its first await at the n-th suspension, and then awaits again."""

    async def process(self, job):
        options = job.args["options"]
        driven = cancel_here_at(job.args["n"], await_signal(**options))
        try:
            first = await driven
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()
            first = await _outcome(options)
        except SignalTimeout:
            first = "timeout"
        STEPS[job.id] = driven.suspensions
        return Record([first, await await_signal(wait_timeout=0)])


async def _outcome(options):
    try:
        return await await_signal(**options)
    except SignalTimeout:
        return "timeout"


@pytest.mark.parametrize(
    ("options", "before", "expected"),
    [
        pytest.param({}, ["one", "two"], ["one", "two"], id="pending"),
        pytest.param({"wait_timeout": 60}, [], ["one", "two"], id="live"),
        pytest.param({"wait_timeout": 0}, [], ["one", "two"], id="snoozed"),
        pytest.param({"wait_timeout": 5, "wait_for": 0.05}, [], ["timeout", "two"], id="timeout"),
    ],
)
async def test_w11_an_outcome_is_had_once_wherever_its_await_is_cancelled(
    start, options, before, expected, record_property
):
    it = await start()
    account, n = Account(), 0
    while True:
        n += 1
        job = await Cancelled.enqueue({"n": n, "options": options})
        for payload in before:
            await account.signal(it.engine, job.id, payload)
        if expected[0] == "timeout":
            await eventually(lambda job=job: _has_timed_out(it, job))
        for payload in [] if before else [one for one in expected if one != "timeout"]:
            await eventually(lambda job=job: _waits(it, job))
            await account.signal(it.engine, job.id, payload)
        done = await it.until(job, "completed", "discarded", "retryable")
        assert done.state == "completed", done.errors
        assert decode_recorded(done.meta["return"]) == expected
        kinds = await it.kinds(job)
        assert kinds.count("consumed") == kinds.count("delivered") == 2 - expected.count("timeout")
        assert kinds.count("timed_out") == expected.count("timeout")
        if STEPS[job.id] < n:
            break
    # The last job had its await to the end.
    (await account.figures(it.ledger)).record(record_property, happened=n - 1)


async def _waits(it, job):
    state = await it.ledger.state(job.id)
    return state.status in ("live", "snoozed", "closed") and not state.pending


async def _has_timed_out(it, job):
    return "timed_out" in await it.kinds(job)
