"""Reruns of workers, offline: what `process` finds, what is taken down, how it is debugged (promises W1, W9, W11)."""

import asyncio
import os
import subprocess
import sys
import threading
from bdb import BdbQuit
from copy import deepcopy
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
from oban import Cancel, Oban, Record, Snooze, current_job, job, worker

from signal_ledger import History, RerunDiverged, RerunReport, Workflow, await_signal, rerun, signal
from signal_ledger.execution import current_execution
from signal_ledger.offline import current_notebook
from signal_ledger_adapters.oban_api import path_of
from tests.core.given import at, awaited, closed, consumed, planned, recorded, snoozed
from tests.core.test_history import JOB_ROW
from tests.core.test_rerunning import sent

SEEN = []

ASKED = [(0, sent("s1", "yes", source="ada")), (1, consumed("s1", 1))]
"""A job that has got one signal, and goes on."""

TIMEOUT_S = 60


@pytest.fixture(autouse=True)
def _forget():
    SEEN.clear()


def history(*events, row=JOB_ROW):
    return History(job_id=7, events=tuple(recorded(events)), job=row)


def a_worker(process):
    """Make a worker of a function of the job."""

    @worker()
    class Purchase:
        async def process(self, job):
            return await process(job)

    return Purchase


@worker()
class Asking:
    async def process(self, job):
        SEEN.append(job)
        return Cancel(await await_signal())


async def seen(events, row=JOB_ROW, **options):
    """Return the job that `process` gets."""
    await rerun(Asking, history(*events, row=row), **options)
    return SEEN[-1]


async def test_w9_a_worker_is_run_on_a_history():
    report = await rerun(Asking, history(*ASKED, (2, closed())))
    assert isinstance(report, RerunReport)
    assert (report.ended, report.result, report.ok, report.cause) == ("returned", Cancel("yes"), True, "completed")
    assert (report.worker, report.job_id, report.run, report.attempt) == (path_of(Asking), 7, 1, 1)
    assert "returned: Cancel(reason='yes')" in str(report)
    assert report.notes == ("The job's worker was shop.Purchase.",)


async def test_recorded_events_will_do_if_the_args_are_given():
    events = recorded(ASKED)
    assert (await rerun(Asking, events, args={"order": 7})).result == Cancel("yes")
    assert (await rerun(Asking, iter(events), args={})).notes == ()
    assert SEEN[0].args == {"order": 7}
    with pytest.raises(ValueError, match=r"args: expected the args of job 7, whose row .* give them by args="):
        await rerun(Asking, events)


async def test_a_function_with_job_is_run_with_its_arguments():
    @job()
    async def purchase(order):
        return Snooze(order) if await await_signal() == "yes" else None

    report = await rerun(purchase, history(*ASKED), args={"order": 12})
    assert report.result == Snooze(12)


async def test_two_reruns_in_a_row_and_two_at_once():
    reports = [await rerun(Asking, history(*ASKED)) for _ in range(2)]
    other = [(0, sent("s1", "no")), (1, consumed("s1", 1))]
    reports += await asyncio.gather(rerun(Asking, history(*ASKED)), rerun(Asking, history(*other)))
    assert [report.result for report in reports] == [Cancel("yes")] * 3 + [Cancel("no")]


def test_a_rerun_needs_no_event_loop_but_its_own():
    for _ in range(2):
        assert asyncio.run(rerun(Asking, history(*ASKED))).ok


async def test_the_surroundings_are_as_before():
    await rerun(Asking, history(*ASKED))
    assert (current_job(), current_execution(), current_notebook()) == (None, None, None)
    with pytest.raises(RuntimeError, match="expected to be called inside a job's process"):
        await await_signal()


# The job of that time


async def test_the_job_is_that_of_the_time_as_far_as_the_history_tells():
    row = replace(JOB_ROW, meta={"snoozed": 1, "wait_until": "infinity"}, scheduled_at=at(9000))
    found = await seen([(4, awaited(execution=2))], row)
    assert (found.id, found.state, found.worker, found.queue) == (7, "executing", "shop.Purchase", "default")
    assert (found.attempt, found.max_attempts, found.tags, found.priority) == (1, 2, ["urgent"], 0)
    assert (found.args, found.meta) == (JOB_ROW.args, {"snoozed": 1})
    assert found.attempted_by == list(JOB_ROW.attempted_by)
    assert (found.inserted_at, found.attempted_at, found.scheduled_at) == (at(0), at(4), at(4))
    assert (found.completed_at, found.cancelled_at, found.discarded_at) == (None, None, None)
    assert not found.cancelled()
    assert current_job() is None


async def test_w1_the_job_is_the_current_one_and_is_in_its_own_execution():
    async def look(job):
        assert current_job() is job
        assert current_execution().job_id == 7
        return await await_signal()

    assert (await rerun(a_worker(look), history(*ASKED))).result == "yes"


async def test_errors_of_attempts_that_were_yet_to_come_are_left_out():
    errors = ({"attempt": 1, "error": "first"}, {"attempt": 2, "error": "second"}, {"error": "of another program"})
    row = replace(JOB_ROW, errors=errors)
    second = replace(awaited(execution=2), attempt=2)
    assert [error["error"] for error in (await seen([(0, second)], row)).errors] == ["first", "of another program"]
    assert (await seen([(0, awaited())], row)).errors == [{"error": "of another program"}]


async def test_an_earlier_execution_is_dated_by_its_first_event():
    row = replace(JOB_ROW, attempted_at=at(50))
    early = [(2, awaited()), (3, snoozed(deadline=60)), (51, awaited(execution=2))]
    assert (await seen(early, row)).attempted_at == at(50)
    assert (await seen(early[:2], row)).attempted_at == at(2)
    assert (await seen([(0, sent("s1", 1))], replace(row, attempted_at=None))).attempted_at == row.inserted_at


async def test_without_a_row_the_log_tells_what_it_can():
    found = await seen([(3, planned("charge", run=1)), (4, awaited())], None, args={"order": 7})
    assert (found.meta, found.attempt, found.worker) == (
        {"workflow_id": "w", "name": "charge", "deps": []},
        1,
        path_of(Asking),
    )
    assert (found.attempted_at, found.inserted_at, found.max_attempts, found.errors) == (at(4), at(4), 20, [])
    found = await seen([(3, sent("s1", 1))], None, args={})
    assert (found.meta, found.attempted_at) == ({}, at(3))
    await rerun(Asking, History(job_id=7, events=()), args={})
    assert SEEN[-1].attempted_at is not None


async def test_what_is_given_wins():
    found = await seen([(0, awaited())], args={"order": 8}, meta={"wait_until": "mine"}, attempt=3)
    assert (found.args, found.meta, found.attempt) == ({"order": 8}, {"wait_until": "mine"}, 3)


async def test_the_attempt_is_the_rows_where_no_execution_has_left_an_event():
    assert (await seen([(0, sent("s1", 1))])).attempt == JOB_ROW.attempt
    assert (await seen([(0, sent("s1", 1))], replace(JOB_ROW, attempt=0))).attempt == 1
    assert (await seen([(0, sent("s1", 1))], None, args={})).attempt == 1


async def test_process_may_change_its_args_and_the_history_stays_as_it_is():
    async def change(job):
        job.args["grün"].clear()
        job.meta["mine"] = job.errors.clear()
        return job.args

    args = deepcopy(JOB_ROW.args)
    report = await rerun(a_worker(change), history(*ASKED, row=replace(JOB_ROW, args=args)))
    assert report.result == {"order": 7, "grün": []}
    assert args == JOB_ROW.args


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"worker": Asking()}, TypeError, "worker: expected a class with @worker"),
        ({"worker": dict}, TypeError, "worker: expected a class with @worker"),
        ({"history": 7}, TypeError, r"history: expected a History or recorded events, got builtins\.int"),
        ({"history": "incident.jsonl"}, TypeError, r"history: expected recorded events, got builtins\.str"),
        ({"history": []}, ValueError, "history: expected the events of a job, got none"),
        ({"args": [1]}, TypeError, r"args: expected a dict, got builtins\.list"),
        ({"meta": "x"}, TypeError, r"meta: expected a dict, got builtins\.str"),
        ({"attempt": 0}, ValueError, "attempt: expected an int from 1 on, got 0"),
        ({"attempt": True}, ValueError, "attempt: expected an int from 1 on, got True"),
        ({"run": 2}, ValueError, "run: expected a run of the history, from 1 to 1, got 2"),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_runs(options, error, message):
    with pytest.raises(error, match=message):
        await rerun(**{"worker": Asking, "history": history(*ASKED), **options})
    assert SEEN == []


# How it ends


async def test_what_a_worker_raised_is_kept_with_its_traceback():
    async def fail(job):
        raise KeyError(await await_signal())

    report = await rerun(a_worker(fail), history(*ASKED))
    assert (report.ended, report.error.args, report.result) == ("raised", ("yes",), None)
    assert report.error.__traceback__ is not None


async def test_a_worker_that_cannot_be_made_raises():
    @worker()
    class Broken:
        def __init__(self):
            raise ValueError("no")

        async def process(self, job): ...

    assert str((await rerun(Broken, history((0, awaited())))).error) == "no"


async def test_values_that_may_be_payloads_are_not_in_the_text():
    async def record(job):
        return Record({"secret": await await_signal()})

    report = await rerun(a_worker(record), history(*ASKED))
    assert report.result.value == {"secret": "yes"}
    assert "returned: a value of type Record" in str(report)
    assert "secret" not in str(report) + repr(report)


async def test_a_regression_test_is_three_lines():
    async def changed(job):
        return await await_signal(channel="another")

    report = await rerun(a_worker(changed), history(*ASKED, (2, closed())))
    with pytest.raises(
        RerunDiverged, match="asked for await 1 on channel 'another', as its await number 1; the history holds"
    ):
        report.raise_for_divergence()


async def test_an_await_that_process_cancels_itself_gets_its_outcome_all_the_same():
    async def impatient(job):
        return await asyncio.wait_for(await_signal(), 30)

    assert (await rerun(a_worker(impatient), history(*ASKED))).result == "yes"


async def test_w11_awaits_that_are_gathered_are_served_in_the_order_of_their_calls():
    async def gather(job):
        return await asyncio.gather(await_signal(), await_signal(channel="votes"), await_signal())

    votes = [(2, sent("s2", "aye", channel="votes")), (3, consumed("s2", 3, channel="votes"))]
    stopped = await rerun(a_worker(gather), history(*ASKED, *votes, (4, awaited(2))))
    assert (stopped.ended, stopped.stopped_at.ordinal) == ("stopped", 2)
    more = [(4, sent("s3", "done")), (5, consumed("s3", 5, 2))]
    report = await rerun(a_worker(gather), history(*ASKED, *votes, *more))
    assert report.result == ["yes", "aye", "done"]


async def test_an_error_that_passes_for_a_cancel_is_told_and_a_cancel_of_the_rerun_is_one():
    started = asyncio.Event()

    async def cancelled(job):
        if job.attempt == 1:
            raise asyncio.CancelledError
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            if job.attempt == 3:
                return "swallowed"  # noqa: B012 - what is tried here

    ending = a_worker(cancelled)
    report = await rerun(ending, history((0, sent("s1", 1))), attempt=1)
    assert (report.ended, type(report.error)) == ("raised", asyncio.CancelledError)
    for attempt in (2, 3):
        started.clear()
        running = asyncio.create_task(rerun(ending, history((0, sent("s1", 1))), attempt=attempt))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, BdbQuit, GeneratorExit])
async def test_what_ends_the_program_or_the_debugger_ends_the_rerun(error):
    def run():
        async def leave(job):
            raise error

        try:
            asyncio.run(rerun(a_worker(leave), history(*ASKED)))
        except BaseException as raised:
            SEEN.append(type(raised))

    # In a thread, lest the event loop of the test takes note of the end of the program.
    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert [error] == SEEN


# Nothing is written


async def test_jobs_are_taken_down_where_a_test_has_put_a_mock(monkeypatch):
    async def enqueue(job):
        await Asking.enqueue({"order": 1})

    monkeypatch.setattr(Oban, "get_instance", MagicMock())
    assert len((await rerun(a_worker(enqueue), history((0, sent("s1", 1))))).jobs) == 1


async def test_jobs_are_taken_down_without_any_engine():
    async def enqueue(job):
        first = await Asking.enqueue({"order": 1}, queue="mail")
        second = await Oban.get_instance("another").enqueue(Asking.new({"order": 2}, scheduled_in=60))
        rest = await Oban.get_instance().enqueue_many(Asking.new(), Asking.new(), conn=object())
        assert (first.id, first.state, second.state) == (-1, "available", "scheduled")
        assert first.inserted_at is not None
        assert first.scheduled_at is not None
        await signal([first, *rest], "go")
        with pytest.raises(
            RuntimeError, match="cancel_job: expected no such call in a rerun, which reaches no database"
        ):
            await Oban.get_instance().cancel_job(first)

    report = await rerun(a_worker(enqueue), history((0, sent("s1", 1))))
    assert report.ended == "returned"
    assert [(taken.id, taken.queue, dict(taken.args)) for taken in report.jobs] == [
        (-1, "mail", {"order": 1}),
        (-2, "default", {"order": 2}),
        (-3, "default", {}),
        (-4, "default", {}),
    ]
    assert report.jobs[1].scheduled_at is not None
    assert [sent_to.target for sent_to in report.signals] == [f"the new job of {path_of(Asking)}"] * 3
    with pytest.raises(RuntimeError, match="Oban instance 'Oban' not found"):
        await Asking.enqueue()


async def test_what_is_no_job_is_not_taken_down():
    async def enqueue(job):
        oban, workflow, beside = Oban.get_instance(), Workflow().add("asking", Asking.new()), Asking.new()
        for call in (lambda: oban.enqueue(workflow), lambda: oban.enqueue_many(beside, workflow)):
            with pytest.raises(TypeError, match=r"enqueue one workflow at a time: engine.enqueue_many\(workflow\)$"):
                await call()
        with pytest.raises(TypeError, match=r"expected a Job, such as Worker.new\(...\) returns, got builtins.dict"):
            await oban.enqueue_many([beside, {"order": 1}])
        return await oban.enqueue_many(workflow, Asking.new())

    report = await rerun(a_worker(enqueue), history((0, sent("s1", 1))))
    assert [taken.id for taken in report.result] == [taken.id for taken in report.jobs] == [-1, -2]


# The debugger

SCRIPT = """
import asyncio
from oban import worker
from signal_ledger import History, await_signal, rerun

@worker()
class Purchase:
    async def process(self, job):
        payload = await await_signal()
        breakpoint()
        answer = payload.upper()
        return await await_signal(channel="next")

report = asyncio.run(rerun(Purchase, History.load("incident.jsonl"), args={}))
print(report.stopped_at)
"""


def debug(tmp_path, *commands):
    """Run the script above with commands for pdb, one a line, and return what it prints."""
    history(*ASKED, (2, awaited(channel="next")), row=None).save(tmp_path / "incident.jsonl")
    (tmp_path / "example.py").write_text(SCRIPT, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    return subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env=environment,
        input="".join(f"{command}\n" for command in commands),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_a_rerun_can_be_debugged(tmp_path):
    done = debug(tmp_path, "p payload, job.id", "n", "n", "p answer", "c")
    assert done.returncode == 0, done.stderr
    assert "('yes', 7)" in done.stdout
    assert "'YES'" in done.stdout
    assert "await 1 on channel 'next', open since 2026-01-01T12:00:02.000000Z (event 3)" in done.stdout


def test_awaits_can_be_stepped_over(tmp_path):
    done = debug(tmp_path, "n", "n", "n", "n", "c")
    assert done.returncode == 0, done.stderr
    assert "await 1 on channel 'next', open since" in done.stdout


def test_leaving_the_debugger_ends_the_rerun(tmp_path):
    done = debug(tmp_path, "q")
    assert done.returncode != 0
    assert "open since" not in done.stdout


async def test_an_attempt_of_which_the_row_alone_tells_is_noted():
    row = replace(JOB_ROW, state="retryable", attempt=2)
    report = await rerun(Asking, history(*ASKED, row=row))
    assert report.attempt == 1
    assert "The job's row is at attempt 2." in str(report)


async def test_of_an_earlier_run_no_attempt_is_missing():
    row = replace(JOB_ROW, state="retryable", attempt=2)
    again = [(8, closed("discarded")), (9, sent("s9", 1, run=2))]
    whole = history(*ASKED, *again, row=row)
    assert "The job's row is at attempt" not in str(await rerun(Asking, whole, run=1))
    assert "a history that was cut holds none of what came later" in str(await rerun(Asking, whole.until(len(ASKED))))
    report = await rerun(Asking, history(*ASKED, row=row), attempt=2)
    assert report.attempt == 2
    assert "at attempt" not in "".join(report.notes)
