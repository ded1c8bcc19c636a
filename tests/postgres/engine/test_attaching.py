"""Attaching the ledger to an Oban: before it, after it, to several, and to the wrong one."""

import asyncio
import sys
from collections import Counter

import psycopg
import pytest
from oban import Record, worker
from oban._query import Query
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

import signal_ledger
from signal_ledger import SchemaError, attach, await_signal, migrate, open_ledger
from signal_ledger_adapters.oban.attachment import attachment_of
from signal_ledger_adapters.oban_api import listen, query_of, unlisten
from tests.eventually import eventually
from tests.postgres.conftest import install
from tests.postgres.engine.conftest import an_oban, query
from tests.postgres.engine.workers import APPROVED, SEEN, Approval
from tests.postgres.locks import held, waiting_backends

ENTERED = []


@worker()
class Early:
    async def process(self, job):
        ENTERED.append(job.id)
        return Record(await await_signal(wait_timeout=60))


@worker()
class EarlySignaller:
    async def process(self, job):
        ENTERED.append(job.id)
        return Record(str((await signal_ledger.signal(job.args["other"], APPROVED)).outcome))


@pytest.fixture(autouse=True)
def _forget_entered():
    ENTERED.clear()


@pytest.fixture
def installed_elsewhere(cluster, template):
    """Another database with a ledger."""
    name = "elsewhere"
    yield cluster.create_database(name, template=template)
    cluster.drop_database(name)


async def state_of(oban, job):
    return (await oban.get_job(job.id)).state


async def test_oban_is_started_and_stopped_by_attach_unless_it_runs_already(ledger_url):
    async with an_oban(ledger_url) as oban:
        async with attach(oban) as engine:
            assert oban.check_queue("default").started_at is not None
            assert engine.oban is oban
            job = await engine.enqueue(Approval.new())
            await eventually(lambda: _status_is(engine, job, "snoozed"))
        assert query(ledger_url, "SELECT count(*) FROM oban_producers") == [(0,)]
    async with an_oban(ledger_url) as oban, oban:
        async with attach(oban):
            pass
        assert query(ledger_url, "SELECT count(*) FROM oban_producers") == [(1,)]


async def _status_is(engine, job, status):
    return (await engine.ledger.state(job.id)).status == status


async def test_jobs_that_started_before_it_wait_for_it(ledger_url):
    async with an_oban(ledger_url) as oban, oban:
        job = await oban.enqueue(Early.new())
        other = await oban.enqueue(Early.new(scheduled_in=1000))
        signaller = await oban.enqueue(EarlySignaller.new({"other": other.id}))
        await eventually(lambda: len(ENTERED) == 2)
        async with attach(oban) as engine:
            await eventually(lambda: _status_is(engine, job, "live"))
            await engine.signal(job, "at last")
            await eventually(lambda: _is(oban, job, "completed"))
            await eventually(lambda: _is(oban, signaller, "completed"))
            assert (await oban.get_job(job.id)).errors == []
            assert (await engine.ledger.history(job.id))[0].kind == "awaited"
            assert len(await engine.ledger.history(other.id)) == 1
    assert len(ENTERED) == 2


async def _is(oban, job, state):
    return await state_of(oban, job) == state


@pytest.mark.parametrize("again", ["the same engine", "another engine"])
async def test_an_oban_that_was_stopped_is_refused(ledger_url, again):
    """Oban cannot be started again: nothing would run."""
    async with an_oban(ledger_url) as oban:
        engine = attach(oban)
        async with engine:
            pass
        with pytest.raises(RuntimeError, match="expected an Oban that runs or is new, this one was stopped"):
            await (engine if again == "the same engine" else attach(oban)).start()


@pytest.mark.parametrize("fault", ["cancelled", "failed"])
async def test_a_start_that_does_not_come_to_its_end_leaves_nothing_behind(ledger_url, monkeypatch, fault):
    before = asyncio.all_tasks()
    reached = asyncio.Event()
    async with an_oban(ledger_url) as oban:

        async def start():
            reached.set()
            if fault == "failed":
                raise OSError("no listener")
            await asyncio.Event().wait()

        monkeypatch.setattr(oban._leader, "start", start)
        starting = asyncio.create_task(attach(oban).start())
        await reached.wait()
        if fault == "cancelled":
            starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled() or isinstance(starting.exception(), OSError)
        assert attachment_of(query_of(oban)).attached is None
        with pytest.raises(RuntimeError, match="this one was stopped"):
            await attach(oban).start()
    await eventually(lambda: asyncio.all_tasks() == before)


async def test_an_oban_that_could_not_begin_can_be_tried_again(database):
    """Its tables are missing at first."""
    async with an_oban(database) as oban:
        engine = attach(oban)
        with pytest.raises(SchemaError, match="is missing"):
            await engine.start()
        await install(database, testing=False)
        query(database, "ALTER TABLE oban_leaders RENAME TO hidden")
        with pytest.raises(RuntimeError, match="oban_leaders"):
            await engine.start()
        query(database, "ALTER TABLE hidden RENAME TO oban_leaders")
        async with engine:
            job = await engine.enqueue(Approval.new())
            await eventually(lambda: _status_is(engine, job, "snoozed"))


async def test_an_oban_whose_listener_reconnects_can_be_attached_to(ledger_url):
    async with an_oban(ledger_url) as oban, oban:
        await oban._notifier.listen("signal", lambda *_: None, wait=True, timeout=30)
        query(ledger_url, "SELECT pg_terminate_backend(%s)", oban._notifier._conn.info.backend_pid)
        await eventually(oban._notifier._loop_task.done)
        async with attach(oban) as engine:
            job = await engine.enqueue(Approval.new())
            await eventually(lambda: _status_is(engine, job, "snoozed"))


async def test_starting_and_stopping_at_once_are_one_after_the_other(ledger_url):
    async with an_oban(ledger_url) as oban:
        engines = [attach(oban), attach(oban)]
        done = await asyncio.gather(*[engine.start() for engine in engines], return_exceptions=True)
        [refused] = [one for one in done if isinstance(one, Exception)]
        assert "expected to be attached once" in str(refused)
        [engine] = [one for one in done if not isinstance(one, Exception)]
        await asyncio.gather(engine.stop(), engine.stop())
        assert query(ledger_url, "SELECT count(*) FROM oban_producers") == [(0,)]


async def test_a_queue_that_begins_while_the_ledger_is_detached_waits_in_no_forgotten_room(ledger_url):
    async with an_oban(ledger_url, {"first": 1, "second": 1}) as oban, oban:
        engine = await attach(oban).start()
        first = await oban.enqueue(Early.new(queue="first"))
        await eventually(lambda: _status_is(engine, first, "live"))
        with held(ledger_url, first.id):
            # Its last take waits for somebody's lock, and the stop for its end.
            stopping = asyncio.create_task(engine.stop())
            await eventually(lambda: waiting_backends(ledger_url))
            second = await oban.enqueue(Early.new(queue="second"))
            await eventually(lambda: _is(oban, second, "scheduled"))
        await stopping


async def test_a_ledger_that_was_kept_is_closed_with_its_engine(ledger_url):
    async with an_oban(ledger_url, {}) as oban:
        async with attach(oban) as engine:
            job = await engine.enqueue(Approval.new())
            ledger = engine.ledger
        with pytest.raises(RuntimeError, match="expected an open ledger, this one has been closed"):
            await ledger.signal(job, "too late")


async def test_who_listens_again_at_once_is_heard(ledger_url):
    """As after a quick change of engines. Oban's notifier would first listen, and then stop to, as asked before."""
    async with an_oban(ledger_url) as oban, oban:
        token = await listen(oban, "again", lambda *_: None)
        await asyncio.wait_for(oban._notifier._listen_events["again"].wait(), 30)
        await unlisten(oban, token)
        heard = asyncio.Event()
        await listen(oban, "again", lambda *_: heard.set())
        await asyncio.wait_for(oban._notifier._listen_events["again"].wait(), 30)
        await eventually(lambda: not oban._notifier._pending_unlisten)
        query(ledger_url, "SELECT pg_notify('public.oban_again', '{}')")
        await asyncio.wait_for(heard.wait(), 30)


async def test_a_signal_from_a_job_without_a_ledger_says_what_is_missing(ledger_url):
    async with an_oban(ledger_url) as oban, oban:
        job = await oban.enqueue(EarlySignaller.new({"other": 404}))
        await eventually(lambda: _is(oban, job, "retryable"))
        [error] = (await oban.get_job(job.id)).errors
        assert "RuntimeError: there is no ledger under 'Oban'; use it inside `async with attach(" in error["error"]


async def test_w12_a_cancel_ends_a_job_that_cannot_reach_the_ledger(ledger_url):
    async with an_oban(ledger_url) as oban, oban:
        job = await oban.enqueue(Early.new())
        await eventually(lambda: ENTERED)
        await oban._notifier.listen("signal", lambda *_: None, wait=True, timeout=30)
        await oban.cancel_job(job.id)
        await eventually(lambda: _is(oban, job, "cancelled"))


async def test_jobs_that_started_long_before_it_are_snoozed_for_a_second_and_do_not_fail(ledger_url):
    async with an_oban(ledger_url) as oban, oban:
        job = await oban.enqueue(Early.new())
        await eventually(lambda: _is(oban, job, "scheduled"))
        found = await oban.get_job(job.id)
        assert (found.attempt, found.errors) == (0, [])
        async with attach(oban) as engine:
            await eventually(lambda: _status_is(engine, job, "live"))
            await engine.signal(job, "at last")
            await eventually(lambda: _is(oban, job, "completed"))


async def test_w3_live_waits_snooze_when_it_ends_under_a_running_oban(ledger_url):
    async with an_oban(ledger_url) as oban, oban:
        async with asyncio.timeout(10):
            async with attach(oban) as engine:
                job = await engine.enqueue(Early.new())
                await eventually(lambda: _status_is(engine, job, "live"))
        await eventually(lambda: _is(oban, job, "scheduled"))
        async with attach(oban) as engine:
            assert [event.kind.value for event in await engine.ledger.history(job.id)] == ["awaited", "snoozed"]
            await engine.signal(job, "in the end")
            await eventually(lambda: _is(oban, job, "completed"))


async def test_jobs_that_go_on_after_it_are_put_off_and_do_not_fail(ledger_url):
    let_go = asyncio.Event()

    @worker()
    class Late:
        async def process(self, job):
            ENTERED.append(job.id)
            await let_go.wait()
            return Record(await await_signal(wait_timeout=60))

    async with an_oban(ledger_url) as oban, oban:
        async with attach(oban) as engine:
            job = await engine.enqueue(Late.new())
            await eventually(lambda: ENTERED)
        let_go.set()
        await eventually(lambda: _is(oban, job, "scheduled"))
        assert (await oban.get_job(job.id)).errors == []


async def test_a_process_without_queues_signals_what_another_one_runs(start):
    web = await start({})
    node = await start(name="node")
    jobs = await web.engine.enqueue_many(Approval.new({"window": window}) for window in (0, 60))
    await node.until_status(jobs[0], "snoozed")
    await node.until_status(jobs[1], "live")
    receipts = await web.engine.signal(jobs, APPROVED)
    assert [str(receipt.outcome) for receipt in receipts] == ["woken", "live"]
    for job in jobs:
        await node.until(job, "completed")


async def test_with_several_open_the_global_signal_names_them(start):
    await start({})
    await start(name="other")
    with pytest.raises(RuntimeError, match=r"found 2 \('Oban', 'other'\)"):
        await signal_ledger.signal(1, {})


async def test_several_obans_and_prefixes_in_one_process_do_not_mix(start, ledger_url):
    public = await start()
    options = {"kwargs": {"options": "-csearch_path=tenant"}}
    query(ledger_url, "CREATE SCHEMA tenant")
    async with AsyncConnectionPool(ledger_url, min_size=1, open=False, **options) as pool:
        await Query(pool, "tenant").install()
    await migrate(ledger_url, schema="tenant_ledger", oban_prefix="tenant")
    async with (
        an_oban(ledger_url, prefix="tenant", name="tenant") as oban,
        attach(oban, schema="tenant_ledger") as tenant,
    ):
        ours = await public.engine.enqueue(Approval.new({"window": 60}))
        theirs = await tenant.enqueue(Approval.new({"window": 60}))
        assert ours.id == theirs.id
        await public.until_status(ours, "live")
        await eventually(lambda: _status_is(tenant, theirs, "live"))
        await tenant.signal(theirs, APPROVED)
        await eventually(lambda: _is(oban, theirs, "completed"))
        assert await state_of(public.oban, ours) == "executing"
        snoozed = await tenant.enqueue(Approval.new())
        await eventually(lambda: _status_is(tenant, snoozed, "snoozed"))
        await tenant.signal(snoozed, APPROVED)
        await eventually(lambda: _is(oban, snoozed, "completed"))
        assert [event.kind.value for event in await public.ledger.history(ours.id)] == ["awaited"]
    async with open_ledger(ledger_url, schema="tenant_ledger", read_only=True) as ledger:
        assert (await ledger.verify()).ok
    await public.engine.signal(ours, APPROVED)
    await public.until(ours, "completed")
    assert SEEN == [APPROVED] * 3


async def test_it_is_attached_once(it):
    with pytest.raises(RuntimeError, match="engine 'Oban': expected to be attached once, it is attached already"):
        await attach(it.oban).start()


async def test_a_closed_engine_says_so(ledger_url):
    async with an_oban(ledger_url, {}) as oban:
        async with attach(oban) as engine:
            pass
        for attempt in (lambda: engine.ledger, lambda: engine._signals):
            with pytest.raises(RuntimeError, match=r"expected to be open; use it inside `async with attach\(...\)`"):
                attempt()
        await engine.stop()


async def test_a_missing_schema_is_refused_with_what_to_run(ledger_url):
    async with an_oban(ledger_url, {}) as oban:
        with pytest.raises(SchemaError, match=r"'other' is missing; run migrate\(url, schema='other'"):
            await attach(oban, schema="other").start()
        async with attach(oban):
            pass


async def test_the_schema_of_another_prefix_is_refused(ledger_url):
    async with an_oban(ledger_url, {}, prefix="elsewhere") as oban:
        with pytest.raises(SchemaError, match="belongs to Oban's prefix 'public', expected 'elsewhere'"):
            await attach(oban).start()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"live_share": 1.5}, ValueError, "live_share: expected a number from 0 to 1, got 1.5"),
        ({"live_share": "half"}, TypeError, "live_share: expected a number from 0 to 1, got str"),
        ({"live_share": True}, TypeError, "live_share: expected a number from 0 to 1, got bool"),
        ({"limits": 5}, TypeError, r"limits: expected signal_ledger.Limits or None, got int"),
        ({"schema": ""}, ValueError, "schema: expected the name of a schema"),
    ],
)
async def test_arguments_are_checked(ledger_url, arguments, error, message):
    async with an_oban(ledger_url, {}) as oban:
        with pytest.raises(error, match=message):
            attach(oban, **arguments)


async def test_a_pool_that_leads_elsewhere_than_its_conninfo_says_is_followed(ledger_url, installed_elsewhere):
    """Options of the pool come before its conninfo."""
    name = conninfo_to_dict(ledger_url)["dbname"]
    async with an_oban(installed_elsewhere, pool_options={"kwargs": {"dbname": name}}) as oban, attach(oban) as engine:
        job = await engine.enqueue(Approval.new())
        await eventually(lambda: _status_is(engine, job, "snoozed"))
    assert query(ledger_url, "SELECT count(*) FROM signal_ledger.events") == [(1,)]


async def test_a_ledger_in_another_database_than_obans_is_refused(ledger_url, installed_elsewhere):
    """What makes the connections may lead them anywhere."""

    class Astray(psycopg.AsyncConnection):
        @classmethod
        async def connect(cls, _conninfo, **options):
            return await super().connect(installed_elsewhere, **options)

    async with an_oban(ledger_url, pool_options={"connection_class": Astray}) as oban:
        with pytest.raises(SchemaError, match="the ledger was found in another database than the one that Oban's pool"):
            await attach(oban).start()
        assert query(installed_elsewhere, "SELECT count(*) FROM oban_producers") == [(0,)]


EARLY = """
import asyncio
import sys

import signal_ledger
from oban import Oban, worker
from psycopg_pool import AsyncConnectionPool


@worker(max_attempts=1)
class Late:
    async def process(self, job):
        print("process", flush=True)
        try:
            print(await signal_ledger.await_signal(wait_timeout=60), flush=True)
        except Exception:
            pass


@worker(max_attempts=1)
class Charge:
    async def process(self, job):
        signal_ledger.await_signal  # looked up, and not called
        print("charged", flush=True)


async def main():
    async with AsyncConnectionPool(sys.argv[1], open=False) as pool:
        async with Oban(pool=pool, queues={"default": 4}, stager={"interval": 0.1}) as oban:
            charge, *late = jobs = await oban.enqueue_many(Charge.new(), *[Late.new() for _ in range(3)])
            for job in jobs:
                while (await oban.get_job(job.id)).state in ("available", "executing"):
                    await asyncio.sleep(0.01)
            async with signal_ledger.attach(oban) as engine:
                await engine.signal(late, "heard")
                for job in jobs:
                    while (await oban.get_job(job.id)).state != "completed":
                        await asyncio.sleep(0.01)


asyncio.run(main())
"""


async def test_a_job_that_began_before_any_name_was_imported_is_put_off(ledger_url):
    """Its first await is what loads the hooks; it must not fail for that, whatever its code does with errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", EARLY, ledger_url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    lines = Counter(printed.split())
    # Each is put off at least once; more often, if the ledger is attached late.
    assert lines.pop(b"process") >= 6
    assert lines == {b"charged": 1, b"heard": 3}
    assert query(ledger_url, "SELECT DISTINCT state::text, attempt FROM oban_jobs") == [("completed", 1)]


def test_what_is_no_oban_is_refused():
    with pytest.raises(TypeError, match=r"oban: expected an oban.Oban, got str"):
        attach("oban")


async def test_l1_obans_reset_empties_a_ledger_made_for_testing(it):
    job = await Approval.enqueue()
    await it.until_status(job, "snoozed")
    await it.oban._query.reset()
    assert await it.kinds(job) == []
    again = await Approval.enqueue()
    assert again.id == job.id
    await it.until_status(again, "snoozed")


async def test_l1_obans_reset_is_refused_otherwise(database):
    from tests.postgres.conftest import install

    await install(database, testing=False)
    async with an_oban(database) as oban, attach(oban) as engine:
        job = await engine.enqueue(Approval.new())
        await eventually(lambda: _status_is(engine, job, "snoozed"))
        with pytest.raises(Exception, match="signal_ledger L1: reset is refused"):
            await oban._query.reset()
        assert await state_of(oban, job) == "scheduled"
        assert len(await engine.ledger.history(job.id)) == 1
