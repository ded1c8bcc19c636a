"""Calls that share connections do not share a fate: locks, dead connections, calls that were given up (D2, D6)."""

import asyncio
import time

import asyncpg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from signal_ledger.decisions import GotSignal
from signal_ledger.errors import DeliveryUnknown
from signal_ledger.evolve import fold
from signal_ledger.testing.bench import Signaller, take
from signal_ledger.testing.contract.steps import asleep, executing, kinds
from signal_ledger_adapters.postgres.connection import create_engine, dispose, to_url
from signal_ledger_adapters.postgres.lane import Lane
from signal_ledger_adapters.postgres.lanes import Lanes
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.store import PostgresStore
from tests.eventually import eventually
from tests.postgres.locks import held, waiting_backends
from tests.postgres.proxy import proxy


def send(bench, target, payload="p", *, key=None, timeout=60):
    return bench.signaller._sender.send(target, payload, channel=None, key=key, source=None, timeout=timeout)


async def test_d2_a_job_that_somebody_holds_keeps_no_other_waiting(bench, ledger_url):
    busy, free = await bench.insert(), await bench.insert()
    with held(ledger_url, busy):
        # More than there are connections for, lists among them, and with keys.
        late = [asyncio.create_task(send(bench, busy, number)) for number in range(5)]
        late += [asyncio.create_task(send(bench, [free, busy], "list", key="k"))]
        for number in range(20):
            assert (await send(bench, free, number)).outcome == "buffered"
        assert not any(task.done() for task in late)
        assert await kinds(bench, busy) == []
    await asyncio.gather(*late)
    assert await kinds(bench, busy) == ["delivered"] * 6
    assert await kinds(bench, free) == ["delivered"] * 21


async def test_d2_of_a_list_with_a_job_that_is_held_nothing_is_delivered_before_all_can_be(bench, ledger_url):
    busy, free = await bench.insert(), await bench.insert()
    with held(ledger_url, busy):
        late = asyncio.create_task(send(bench, [free, busy]))
        # It has been tried, and waits.
        await eventually(lambda: waiting_backends(ledger_url))
        assert await kinds(bench, free) == []
    assert [receipt.outcome for receipt in await late] == ["buffered", "buffered"]
    assert [await kinds(bench, job_id) for job_id in (free, busy)] == [["delivered"]] * 2


async def test_l3_a_delivery_goes_on_from_the_log_where_the_projection_was_dropped(bench, ledger_url):
    job_ids = [await bench.insert() for _ in range(2)]
    await send(bench, job_ids, 1)
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute("DELETE FROM signal_ledger.waits WHERE job_id = %s", [job_ids[0]])
    await send(bench, job_ids, 2)
    for job_id in job_ids:
        assert [recorded.payload for recorded in await bench.store.history(job_id)] == [1, 2]
        assert (await bench.store.state(job_id)).version == 2


async def test_l3_w5_a_projection_that_is_dropped_under_a_batch_loses_no_wait(bench, ledger_url):
    """The batch has read the states, and waits to write them while somebody deletes them."""
    job_ids = [(await asleep(bench))[0] for _ in range(2)]
    with psycopg.connect(ledger_url) as connection:
        connection.execute("DELETE FROM signal_ledger.waits")
        beside = asyncio.create_task(
            bench.signaller._sender.send(job_ids, "beside", channel="other", key=None, source=None, timeout=60)
        )
        await eventually(lambda: waiting_backends(ledger_url))
    await beside
    for job_id in job_ids:
        assert await bench.store.state(job_id) == fold(job_id, await bench.store.history(job_id))
        assert (await send(bench, job_id)).outcome == "woken"


async def test_d2_a_job_that_somebody_holds_keeps_no_other_execution_waiting(bench, ledger_url):
    busy, free = await bench.insert(), await bench.insert()
    executions = {job_id: await executing(bench, job_id) for job_id in (busy, free)}
    for job_id in (busy, free):
        await send(bench, job_id)
    with held(ledger_url, busy):
        late = asyncio.create_task(take(bench, busy, executions[busy]))
        assert isinstance(await take(bench, free, executions[free]), GotSignal)
        assert not late.done()
    assert isinstance(await late, GotSignal)


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_d2_time_limits_of_the_database_end_no_call_that_only_waits(bench, ledger_url, setting):
    busy, free = await bench.insert(), await bench.insert()
    with psycopg.connect(ledger_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {setting} = '80ms'")
    with held(ledger_url, busy):
        late = asyncio.create_task(send(bench, busy))
        await eventually(lambda: waiting_backends(ledger_url))
        assert (await send(bench, free)).outcome == "buffered"
        await eventually(lambda: not waiting_backends(ledger_url))
        assert not late.done()
    assert (await late).outcome == "buffered"


async def test_d6_calls_that_were_given_up_leave_nothing_behind(bench, ledger_url):
    """Neither connections that wait on the server, nor signals that come when nobody expects them any more."""
    busy = await bench.insert()
    with held(ledger_url, busy):
        calls = [asyncio.create_task(send(bench, busy, timeout=0.2)) for _ in range(20)]
        for unknown in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(unknown, DeliveryUnknown)
        await eventually(lambda: not waiting_backends(ledger_url))
    assert await kinds(bench, busy) == []
    assert (await send(bench, busy)).outcome == "buffered"


@pytest.mark.parametrize("targets", [1, 2])
async def test_d6_a_call_that_is_carried_out_after_its_repeat_is_not_delivered_twice(bench, targets):
    """The database may still be at it when the caller has given up and has repeated the call by its id."""
    job_ids = [await bench.insert() for _ in range(targets)]
    target = job_ids if targets > 1 else job_ids[0]
    # Ids are counted here: the repeat would draw another one.
    await send(bench, await bench.insert())
    first = []

    class LostStore:
        async def deliver(self, call, *, timeout_s):
            first.append(call)
            raise TimeoutError

    with pytest.raises(DeliveryUnknown) as unknown:
        await Signaller(LostStore())._sender.send(target, "p", channel=None, key=None, source=None, timeout=1)
    await send(bench, target, key=unknown.value.signal_id)
    with pytest.raises(asyncpg.UniqueViolationError):
        await bench.store.deliver(first[0], timeout_s=10)
    for job_id in job_ids:
        assert await kinds(bench, job_id) == ["delivered"]
        async with bench.transaction() as conn:
            await bench.store.store_with(conn, [d for d in first[0].deliveries if d.job_id == job_id])
        await bench.relay()
        assert await kinds(bench, job_id) == ["delivered"]


async def test_connections_that_died_silently_cost_one_call_its_time_and_no_more(bench, ledger_url):
    """A failover, or a router that has forgotten them: nothing ever answers on them again."""
    job_id = await bench.insert()
    parts = conninfo_to_dict(ledger_url)
    async with proxy(parts["host"], parts["port"]) as (between, folder):
        store = await PostgresStore.open(to_url(ledger_url.replace(parts["host"], folder)), Names())
        signaller = Signaller(store)
        await signaller.send(job_id)
        await store.tick()
        # Some that lie in the pool, too.
        await asyncio.gather(*[store.history(job_id) for _ in range(3)])
        between.mute()
        with pytest.raises(DeliveryUnknown):
            await signaller._sender.send(job_id, 1, channel=None, key=None, source=None, timeout=0.3)
        with pytest.raises(TimeoutError):
            await store.tick()
        assert (await signaller.send(job_id, 2)).outcome == "buffered"
        await store.tick()
        await store.close()
    assert await kinds(bench, job_id) == ["delivered"] * 2


async def test_a_server_that_answers_nothing_at_all_is_waited_for_no_longer_than_asked(bench, ledger_url):
    job_id = await bench.insert()
    parts = conninfo_to_dict(ledger_url)
    async with proxy(parts["host"], parts["port"]) as (between, folder):
        store = await PostgresStore.open(to_url(ledger_url.replace(parts["host"], folder)), Names())
        signaller = Signaller(store)
        between.mute(new_ones=True)
        for _ in range(3):
            with pytest.raises(DeliveryUnknown):
                await signaller._sender.send(job_id, 1, channel=None, key=None, source=None, timeout=0.2)
        between.speak()
        assert (await signaller.send(job_id, 2)).outcome == "buffered"
        await store.close()


async def test_a_close_that_is_cancelled_leaves_no_connection(ledger_url, bench):
    job_id = await bench.insert()
    store = await PostgresStore.open(to_url(f"{ledger_url}&application_name=closing"), Names())
    with held(ledger_url, job_id):
        call = asyncio.create_task(Signaller(store).send(job_id))
        await eventually(lambda: waiting_backends(ledger_url))
        closing = asyncio.create_task(store.close())
        await asyncio.wait([closing], timeout=0.01)
        closing.cancel()
        await asyncio.wait([closing])
        call.cancel()

        def connections():
            with psycopg.connect(ledger_url, autocommit=True) as connection:
                return connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'closing'"
                ).fetchone()[0]

        await eventually(lambda: not connections())


async def test_d6_a_close_that_is_cancelled_answers_those_who_still_wait(ledger_url, bench):
    job_ids = [await bench.insert() for _ in range(2)]
    store = await PostgresStore.open(to_url(ledger_url), Names())
    signaller = Signaller(store)
    with held(ledger_url, job_ids[0]):
        # One waits for a lock on a connection of its own, one is in a batch behind it.
        calls = [asyncio.create_task(signaller.send(job_ids[0], number)) for number in range(3)]
        await eventually(lambda: waiting_backends(ledger_url))
        closing = asyncio.create_task(store.close())
        await asyncio.wait([closing], timeout=0.01)
        closing.cancel()
        done, _ = await asyncio.wait(calls, timeout=5)
    assert len(done) == 3
    for call in calls:
        with pytest.raises(DeliveryUnknown, match="closed before there was an answer"):
            call.result()


async def test_a_connection_that_could_not_be_set_up_is_not_used(ledger_url, monkeypatch):
    """Somebody cancels the statement that sets it up: without its settings, it would be used for ever."""
    engine = create_engine(to_url(ledger_url), Names(), pools=False)
    lane = Lane(engine)
    execute = asyncpg.Connection.execute

    async def cancelled(connection, statement, *args, **options):
        if "plan_cache_mode" in statement:
            raise asyncpg.QueryCanceledError("canceling statement due to user request")
        return await execute(connection, statement, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "execute", cancelled)
        with pytest.raises(asyncpg.QueryCanceledError):
            await lane.open()
        assert not lane.is_open
    await lane.open()
    assert await lane.driver.fetchval("SHOW plan_cache_mode") == "force_generic_plan"
    await lane.drop()
    await dispose(engine)


async def test_d6_whatever_a_driver_stumbles_over_when_its_connection_is_cut_callers_are_told_the_time_is_over(
    ledger_url,
):
    """asyncpg takes its own protocol away between two steps of a query: an AttributeError, which says nothing."""
    engine = create_engine(to_url(ledger_url), Names(), pools=False)

    running = asyncio.Event()

    async def run(connection, calls, _patience_ms):
        running.set()
        if calls == ["the second"]:
            # Both deadlines are passed by the time that the event loop looks at any of them.
            time.sleep(1.5)
        while not connection.is_closed():
            await asyncio.sleep(0)
        await connection._protocol.bind_execute()

    lanes = Lanes(engine, run, lanes=2)
    async with asyncio.timeout(30):
        first = asyncio.create_task(lanes.submit("the first", timeout_s=1.0))
        await running.wait()
        second = asyncio.create_task(lanes.submit("the second", timeout_s=1.2))
        results = await asyncio.gather(first, second, return_exceptions=True)
    await lanes.close()
    await dispose(engine)
    assert [type(result) for result in results] == [TimeoutError, TimeoutError]
