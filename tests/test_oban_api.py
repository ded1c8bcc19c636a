"""What this library takes for granted of Oban's privates. A failure here names what moved in a new Oban."""

import dataclasses
import importlib
import inspect

import oban
import pytest
from oban import Cancel, Job, Record, Snooze, _executor, _extensions, _scheduler, decorators
from oban import oban as engine_module

from signal_ledger_adapters import oban_api


def test_the_version_is_one_that_was_looked_at():
    assert oban.__version__.startswith("0.7.")


def test_extensions_are_one_function_a_name():
    assert inspect.signature(_extensions.put_ext).parameters.keys() == {"name", "func"}
    assert inspect.signature(_extensions.get_ext).parameters.keys() == {"name", "default"}


def test_registering_a_worker_calls_its_extension():
    assert 'use_ext("worker.after_register"' in inspect.getsource(decorators.worker)


def test_the_executor_wraps_results_by_extension():
    assert '"executor.wrap_result"' in inspect.getsource(_executor.Executor._record_stopped)


def test_the_executor_catches_exceptions_only():
    """Why the pause must not leave our wrapper as it is, and why a superseded execution leaves no trace."""
    source = inspect.getsource(_executor.Executor._process)
    assert "except Exception as error:" in source
    assert "BaseException" not in source


def test_the_executor_makes_an_action_with_these_fields():
    fields = {field.name for field in dataclasses.fields(_executor.AckAction)}
    assert fields == {"job", "state", "attempt_change", "error", "meta", "schedule_in"}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, ("completed", None, None)),
        ({"any": "value"}, ("completed", None, None)),
        (Cancel("no"), ("cancelled", None, None)),
        (Snooze(5), ("scheduled", -1, 5)),
        (Record(1), ("completed", None, None)),
    ],
)
async def test_results_become_actions(result, expected):
    @oban.worker()
    class Returning:
        async def process(self, job):
            return result

    job = Returning.new()
    job.id, job.attempt = 1, 1
    action = (await oban_api.Executor(job=job).execute()).action
    assert (action.state, action.attempt_change, action.schedule_in) == expected


def test_jobs_have_room_for_what_we_attach():
    job = Job(worker="a.b", extra={"x": 1})
    assert job.extra == {"x": 1}
    assert job._cancellation is None
    oban_api.request_cancel(job)
    assert not job.cancelled()


async def test_cancellation_is_an_event():
    job = Job(worker="a.b")
    oban_api.make_cancellable(job)
    assert not job.cancelled()
    oban_api.request_cancel(job)
    assert job.cancelled()


def test_instances_and_workers_are_found_by_name():
    assert oban_api.instances is engine_module._instances
    assert isinstance(importlib.import_module("oban.worker")._registry, dict)
    assert "instances" in inspect.getsource(engine_module.Oban.get_instance)
    assert callable(_scheduler.scheduled_entries)


def test_installing_twice_hooks_once():
    oban_api.install()
    hook = _extensions.get_ext("worker.after_register", None)
    oban_api.install()
    assert _extensions.get_ext("worker.after_register", None) is hook


def test_earlier_extensions_go_on(monkeypatch):
    calls = []
    monkeypatch.setattr(_extensions, "_extensions", {})
    _extensions.put_ext("worker.after_register", calls.append)
    _extensions.put_ext("executor.wrap_result", lambda _job, result: calls.append(result) or "wrapped")
    oban_api.install()

    @oban.worker()
    class Registered:
        async def process(self, job): ...

    assert calls == [Registered]
    assert _extensions.use_ext("executor.wrap_result", None, Job(worker="a.b"), "result") == "wrapped"
    assert calls[-1] == "result"


def test_workers_without_a_process_of_their_own_are_left_to_oban():
    oban_api.install()
    oban_api._wrap(type("Nothing", (), {}))

    @oban.worker()
    class Unfinished: ...

    assert inspect.iscoroutinefunction(Unfinished.process)


async def test_a_job_without_an_engine_runs_as_ever():
    oban_api.install()

    @oban.worker()
    class Plain:
        async def process(self, job):
            from signal_ledger import await_signal

            with pytest.raises(RuntimeError, match="expected to be called inside a job's process"):
                await await_signal()
            return "done"

    job = Plain.new()
    job.id, job.attempt = 1, 1
    assert (await oban_api.Executor(job=job).execute()).result == "done"


def test_an_executor_without_an_action_is_refused():
    with pytest.raises(RuntimeError, match="this Oban is not supported"):
        oban_api.acknowledgement_of(oban_api.Executor(Job(worker="a.b")))
