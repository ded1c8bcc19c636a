"""Signals of several processes against the deadlines of jobs: what both engines are tried with (promise W7)."""

import contextlib
import datetime as dt
import json
from collections import Counter

from oban import Record, worker
from oban._recorded import decode_recorded

from signal_ledger import SignalTimeout, await_signal
from tests.eventually import eventually
from tests.fault_figures import Account
from tests.processes.children import child

OFFSETS = (-0.004, -0.002, 0.0)
# A signal is on its way for some milliseconds, on a busy machine for more: some jobs are aimed at before the deadline.
SHIFTS = (-0.5, -0.05, -0.01, 0.0, 0.1)


@worker(max_attempts=1)
class Punctual:
    async def process(self, job):
        try:
            first = await await_signal(wait_for=job.args["wait_for"], wait_timeout=job.args["window"])
        except SignalTimeout:
            first = "timeout"
        return Record(first)


async def race(url, engine, get_job, pause, rounds, record_property=None):
    """Let three processes signal at the deadlines of so many jobs, and check what became of each; count it.

    A signal that was recorded while its deadline was less than 10 ms away counts as a race that happened.
    """
    account = Account()
    races = 0
    # Half of them wait live, half of them sleep.
    soon = 2.0
    new = [
        Punctual.new({"wait_for": soon + 0.05 * number, "window": 60 if number % 2 else 0}) for number in range(rounds)
    ]
    async with contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(child("punctual", url, offset)) for offset in OFFSETS]
        jobs = (
            await engine.enqueue_many(new) if hasattr(engine, "enqueue_many") else [await one.enqueue() for one in new]
        )

        async def deadline_of(job):
            return (await engine.ledger.state(job.id)).deadline_at

        deadlines = {job.id: await eventually(lambda job=job: deadline_of(job)) for job in jobs}
        # Those that sleep look only after all signals are there, the late ones, too.
        await pause(True)
        due = [
            (job_id, deadline.timestamp() + SHIFTS[number % len(SHIFTS)])
            for number, (job_id, deadline) in enumerate(deadlines.items())
        ]
        line = json.dumps(due) + "\n"
        for process in processes:
            process.stdin.write(line.encode())
        for process, offset in zip(processes, OFFSETS, strict=True):
            for told in json.loads(await process.stdout.readline()):
                account.note_told(*told, offset)
        await pause(False)
        outcomes = Counter()
        for job in jobs:

            async def completed(job=job):
                found = await get_job(job.id)
                return found if found.state == "completed" else None

            done = await eventually(completed)
            got = decode_recorded(done.meta["return"])
            outcomes["timeout" if got == "timeout" else "signal"] += 1
            history = await engine.ledger.history(job.id)
            check(history, deadlines[job.id], got)
            races += sum(
                abs(event.recorded_at - deadlines[job.id]) < dt.timedelta(milliseconds=10)
                for event in history
                if event.kind == "delivered"
            )
    assert (await engine.ledger.verify()).ok
    figures = await account.figures(engine.ledger)
    assert figures.lost + figures.doubled == 0
    if record_property is not None:
        figures.record(record_property, happened=races)
    return outcomes


def check(history, deadline, got):
    kinds = Counter(event.kind for event in history)
    assert kinds["consumed"] + kinds["timed_out"] == 1
    assert kinds["closed"] == 1
    assert {event.deadline_at for event in history if event.deadline_at is not None} == {deadline}
    in_time = [event for event in history if event.kind == "delivered" and event.recorded_at <= deadline]
    times = [event.recorded_at for event in history]
    assert times == sorted(times)
    if in_time:
        assert got == in_time[0].payload
        [consumed] = [event for event in history if event.kind == "consumed"]
        assert consumed.signal_id == in_time[0].signal_id
    else:
        assert got == "timeout"
        [timed_out] = [event for event in history if event.kind == "timed_out"]
        assert timed_out.recorded_at > deadline
        assert timed_out.recorded_at - deadline < dt.timedelta(seconds=60)
