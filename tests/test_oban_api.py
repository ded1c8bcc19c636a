"""What this library takes for granted of Oban's privates. A failure here names what moved in a new Oban."""

import dataclasses
import importlib
import inspect
from datetime import UTC, datetime, timedelta

import oban
import pytest
from oban import (
    Cancel,
    Job,
    Record,
    Snooze,
    _executor,
    _extensions,
    _notifier,
    _producer,
    _query,
    _scheduler,
    _stager,
    decorators,
)
from oban import oban as engine_module
from psycopg_pool import AsyncConnectionPool

from signal_ledger_adapters import oban_api
from signal_ledger_adapters.oban import hooks


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


POINTS = ["worker.after_register", "executor.wrap_result", "producer.get_jobs", "query.ack_jobs", "query.reset"]


def test_installing_twice_hooks_once_even_if_others_have_chained_themselves_since(monkeypatch):
    monkeypatch.setattr(_extensions, "_extensions", {})
    hooks.install()
    for point in [*POINTS, "stager.before_stage"]:
        ours = _extensions.get_ext(point, None)
        _extensions.put_ext(point, lambda *arguments, ours=ours: ours(*arguments))
    theirs = dict(_extensions._extensions)
    hooks.install()
    assert _extensions._extensions == theirs


async def test_earlier_extensions_of_engines_go_on(monkeypatch):
    calls = []

    def called(point, result):
        async def extension(*arguments):
            calls.append((point, *arguments))
            return result

        return extension

    monkeypatch.setattr(_extensions, "_extensions", {})
    results = {"producer.get_jobs": [], "query.ack_jobs": [1], "query.reset": None, "stager.before_stage": None}
    for point, result in results.items():
        _extensions.put_ext(point, called(point, result))
    hooks.install()
    pool = AsyncConnectionPool("host=nowhere", open=False)
    engine = oban.Oban(pool=pool, name="parts", queues={"q": 3})
    del oban_api.instances["parts"]
    query, [producer] = engine._query, engine._producers.values()
    given = {
        "producer.get_jobs": [producer],
        "query.ack_jobs": [query, []],
        "query.reset": [query],
        "stager.before_stage": [query],
    }
    for point, arguments in given.items():
        assert await _extensions.use_ext(point, None, *arguments) == results[point]
    assert calls == [(point, *arguments) for point, arguments in given.items()]


@pytest.mark.parametrize(
    ("point", "used_in", "default", "parameters"),
    [
        ("producer.get_jobs", _producer.Producer._get_jobs, _producer._get_jobs, ["producer"]),
        ("query.ack_jobs", _query.Query.ack_jobs, _query._ack_jobs, ["query", "acks"]),
        ("query.reset", _query.Query.reset, _query._reset, ["query"]),
        ("query.insert_jobs", _query.Query.insert_jobs, _query._insert_jobs, ["query", "jobs", "conn"]),
    ],
)
def test_engines_have_these_extension_points_and_defaults(point, used_in, default, parameters):
    assert f'use_ext("{point}"' in inspect.getsource(used_in)
    assert list(inspect.signature(default).parameters) == parameters


def test_workers_and_engines_enqueue_where_a_rerun_takes_jobs_down():
    assert "Oban.get_instance(cls._oban_name).enqueue(job, conn=conn)" in inspect.getsource(decorators.worker)
    assert "self._query.insert_jobs(jobs, conn=conn)" in inspect.getsource(engine_module.Oban.enqueue_many)


def test_hooking_for_reruns_twice_hooks_once(monkeypatch):
    monkeypatch.setattr(_extensions, "_extensions", {})
    oban_api.hook_offline()
    once, hooks_then = engine_module.Oban.get_instance.__func__, dict(_extensions._extensions)
    oban_api.hook_offline()
    assert engine_module.Oban.get_instance.__func__ is once
    assert _extensions._extensions == hooks_then
    with pytest.raises(RuntimeError, match="Oban instance 'nowhere' not found"):
        engine_module.Oban.get_instance("nowhere")


def test_the_job_that_runs_is_known_by_a_context_variable():
    job = Job(worker="a.b")
    token = _executor._current_job.set(job)
    assert oban.current_job() is job
    _executor._current_job.reset(token)


def test_the_stager_calls_its_extension_with_the_query_before_it_stages():
    source = inspect.getsource(_stager.Stager._stage)
    assert source.index('use_ext("stager.before_stage", self._noop, self._query)') < source.index("stage_jobs")


def test_the_default_acknowledgement_takes_its_connection_from_the_pool_of_its_query():
    """Why it runs in our transaction when the query's pool gives that one connection."""
    source = inspect.getsource(_query._ack_jobs)
    assert "async with query._pool.connection() as conn, conn.transaction():" in source


def test_an_acknowledgement_is_fenced_by_state_and_attempted_at():
    sql = _query.Query._load_file("ack_job.sql")
    assert "AND state = 'executing'" in sql
    assert "AND attempted_at = %(attempted_at)s" in sql


def test_a_job_is_fetched_with_the_start_of_its_transaction_as_its_token():
    sql = _query.Query._load_file("fetch_jobs.sql")
    assert "attempted_at = timezone('UTC', now())" in sql
    attempted_at = datetime(2026, 1, 2, 3, 4, 5, 678901)  # noqa: DTZ001 - as the driver returns it
    assert oban_api.token_of(Job(worker="a.b", attempted_at=attempted_at)) == 1767323045678901
    with pytest.raises(ValueError, match="expected a job that executes"):
        oban_api.token_of(Job(worker="a.b"))


def test_a_manual_retry_names_max_attempts_and_a_cancel_names_cancelled_at():
    """What the ledger's triggers know these statements by."""
    assert "max_attempts =" in _query.Query._load_file("retry_many_jobs.sql")
    assert "cancelled_at = CASE" in _query.Query._load_file("cancel_many_jobs.sql")


def test_a_producer_waits_for_its_jobs_before_its_last_acknowledgement():
    source = inspect.getsource(_producer.Producer.stop)
    assert source.index("_drain_running") < source.index("self._ack_jobs()")


def test_a_job_that_is_cancelled_on_its_way_out_leaves_no_acknowledgement():
    """Why a superseded execution ends without a trace: nothing stands between the executor and the list."""
    lines = inspect.getsource(_producer.Producer._execute).splitlines()
    assert lines[-1].strip() == "self._pending_acks.append(executor.action)"
    assert "try" not in "".join(lines)
    assert "_on_job_complete" in inspect.getsource(_producer.Producer._produce)


def test_a_cancel_sets_the_event_of_the_job():
    assert "job._cancellation.set()" in inspect.getsource(_producer.LocalDispatcher.cancel)
    assert "job._cancellation = asyncio.Event()" in inspect.getsource(_producer.Producer._execute)


def test_an_engine_has_these_parts():
    pool = AsyncConnectionPool("host=nowhere", open=False, kwargs={"prepare_threshold": None})
    engine = oban.Oban(pool=pool, name="parts", prefix="elsewhere", queues={"q": 3}, lifeline={"rescue_after": 7})
    try:
        [producer] = engine._producers.values()
        assert oban_api.name_of(engine) == "parts"
        assert oban_api.prefix_of(engine) == "elsewhere"
        assert oban_api.query_of(engine) is oban_api.query_of_producer(producer)
        assert oban_api.limit_of(producer) == 3
        assert oban_api.rescue_after_of(oban_api.query_of(engine)) == 7
        assert not oban_api.is_started(engine)
        assert oban_api.is_behind_pooler(engine)
        assert list(inspect.signature(engine._notifier.listen).parameters) == ["channel", "callback", "wait", "timeout"]
        assert engine._notifier._to_full_channel("signal_ledger") == "elsewhere.oban_signal_ledger"
        oban_api.retry_acknowledgements(engine)
        assert not producer._notified.is_set()
        producer._pending_acks.append("an acknowledgement")
        oban_api.retry_acknowledgements(engine)
        assert producer._notified.is_set()
    finally:
        del oban_api.instances["parts"]


def test_what_started_an_engine_is_seen_by_its_token():
    source = inspect.getsource(engine_module.Oban.start)
    assert "self._signal_token = await" in source
    pool = AsyncConnectionPool("host=nowhere", open=False)
    engine = oban.Oban(pool=pool, name="parts")
    del oban_api.instances["parts"]
    assert engine._signal_token is None
    assert not oban_api.is_behind_pooler(engine)
    assert oban_api.rescue_after_of(oban_api.query_of(engine)) is None


def test_a_notifier_leaves_things_behind():
    """Why it is mended: what it begins anew it does not end, and it stops nothing while it has no connection."""
    notifier = _notifier.PostgresNotifier
    connecting, stopping = (inspect.getsource(inspect.unwrap(getattr(notifier, name))) for name in ("_connect", "stop"))
    assert "self._conn = await" in connecting
    assert "self._loop_task = asyncio.create_task(" in connecting
    assert "self._beat_task = asyncio.create_task(" in connecting
    assert "cancel()" not in connecting
    assert "or not self._conn:\n            return" in stopping
    for name in ("_loop", "_beat"):
        assert "asyncio.create_task(self._reconnect())" in inspect.getsource(getattr(notifier, name))


def test_plain_json_is_a_notification():
    """The database function sends what Oban's notifier does not encode."""
    assert _notifier.decode_payload('{"jobs": [1, 2]}') == {"jobs": [1, 2]}


def test_earlier_extensions_go_on(monkeypatch):
    calls = []
    monkeypatch.setattr(_extensions, "_extensions", {})
    _extensions.put_ext("worker.after_register", calls.append)
    _extensions.put_ext("executor.wrap_result", lambda _job, result: calls.append(result) or "wrapped")
    oban_api.hook_workers()

    @oban.worker()
    class Registered:
        async def process(self, job): ...

    assert calls == [Registered]
    assert _extensions.use_ext("executor.wrap_result", None, Job(worker="a.b"), "result") == "wrapped"
    assert calls[-1] == "result"


def test_workers_without_a_process_of_their_own_are_left_to_oban():
    oban_api.hook_workers()
    oban_api.workers._wrap(type("Nothing", (), {}))

    @oban.worker()
    class Unfinished: ...

    assert inspect.iscoroutinefunction(Unfinished.process)


async def test_a_job_without_an_engine_runs_as_ever():
    oban_api.hook_workers()

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


def test_a_job_counts_scheduled_in_by_a_function_of_its_module():
    """Which the engine for tests replaces, so that it counts by its own clock."""
    module = importlib.import_module("oban.job")
    assert list(inspect.signature(module.scheduled_from_now).parameters) == ["scheduled_in"]
    assert "scheduled_from_now(scheduled_in)" in inspect.getsource(Job.__init__)
    now = datetime(2020, 1, 1, tzinfo=UTC)
    clock = lambda: now  # noqa: E731 - it is looked for by identity
    original = module.scheduled_from_now
    oban_api.schedule_by(clock)
    try:
        assert Job("app.Worker", scheduled_in=1.5).scheduled_at == now + timedelta(seconds=1.5)
    finally:
        oban_api.schedule_no_more_by(clock)
    assert module.scheduled_from_now is original


def test_a_worker_knows_the_name_of_its_engine():
    @oban.worker(oban="Elsewhere")
    class There:
        async def process(self, job):
            return None

    assert oban_api.oban_name_of(There.new().worker) == "Elsewhere"
