"""A server that answers nothing, or a network that lost it: every call ends in time, and works afterwards."""

import asyncio
import datetime as dt
import time

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from signal_ledger import DeliveryUnknown, attach, migrate, open_ledger
from tests.eventually import eventually
from tests.postgres.engine.conftest import an_oban
from tests.postgres.engine.workers import APPROVED, Approval
from tests.postgres.faults.load import Load
from tests.postgres.faults.server import halted, stand_still
from tests.postgres.proxy import proxy

TIMEOUT_S = 1.0
LATEST_S = 1.2 * TIMEOUT_S
"""A call ends within its time and a fifth."""


async def consume(answers):
    return [answer async for answer in answers]


CALLS = {
    "history": lambda ledger, job: ledger.history(job),
    "state": lambda ledger, job: ledger.state(job),
    "state at": lambda ledger, job: ledger.state(job, at=dt.datetime.now(dt.UTC)),
    "waiting": lambda ledger, job: ledger.waiting(),
    "outbox": lambda ledger, job: ledger.outbox(),
    "events": lambda ledger, job: consume(ledger.events()),
    "follow": lambda ledger, job: consume(ledger.follow()),
    "verify": lambda ledger, job: ledger.verify(),
    "rebuild": lambda ledger, job: ledger.rebuild(),
}


async def insert_job(url):
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute("INSERT INTO oban_jobs (worker) VALUES ('tests.W') RETURNING id")
        [job_id] = await cursor.fetchone()
    return job_id


async def ends_in_time(call, error):
    began = time.monotonic()
    with pytest.raises(error) as raised:
        await call
    assert time.monotonic() - began < LATEST_S
    return raised.value


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "fresh"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_question_to_a_halted_server_ends_in_time(cluster, ledger_url, name, kept):
    job_id = await insert_job(ledger_url)
    async with open_ledger(ledger_url, timeout=TIMEOUT_S) as ledger:
        await ledger.signal(job_id, "one")
        if kept:
            await asyncio.gather(*[ledger.history(job_id) for _ in range(3)])
        with halted(cluster):
            error = await ends_in_time(CALLS[name](ledger, job_id), TimeoutError)
            assert str(error) == "no answer from the database within 1 s"
        assert [event.payload for event in await ledger.history(job_id)] == ["one"]
        assert (await ledger.verify()).ok


@pytest.mark.parametrize("tasks", [1, 32])
async def test_d6_a_signal_to_a_halted_server_ends_in_time(cluster, ledger_url, tasks, record_property):
    job_ids = [await insert_job(ledger_url) for _ in range(4)]
    async with open_ledger(ledger_url) as ledger:
        load = Load(ledger, job_ids, timeout=TIMEOUT_S)
        async with load.running(tasks):
            await eventually(load.has_sent(100))
            with halted(cluster) as pids:
                await eventually(lambda: len(load.unknown) >= tasks)
                halts = int(stand_still(pids))
            await eventually(load.has_sent(100))
        figures = await load.figures(ledger, record_property, happened=halts)
    assert figures.unknown >= tasks
    assert figures.worst_s < LATEST_S


async def test_d6_a_signal_in_a_callers_transaction_ends_in_time(cluster, ledger_url):
    job_id = await insert_job(ledger_url)
    async with (
        open_ledger(ledger_url) as ledger,
        await psycopg.AsyncConnection.connect(ledger_url, autocommit=True) as connection,
    ):
        with halted(cluster):
            call = ledger.signal(job_id, 1, conn=connection, timeout=TIMEOUT_S)
            await ends_in_time(call, DeliveryUnknown)


@pytest.mark.parametrize("is_cancelled_after_s", [0.1, 0.7])
@pytest.mark.parametrize("name", CALLS)
async def test_a_question_that_is_cancelled_ends_at_once(cluster, ledger_url, name, is_cancelled_after_s):
    """After 0.1 s it still looks whether the connection is alive; after 0.7 s it opens another one."""
    job_id = await insert_job(ledger_url)
    async with open_ledger(ledger_url, timeout=2) as ledger:
        await ledger.signal(job_id, "one")
        await ledger.history(job_id)
        with halted(cluster):
            call = asyncio.create_task(CALLS[name](ledger, job_id))
            await asyncio.wait([call], timeout=is_cancelled_after_s)
            call.cancel()
            await ends_in_time(call, asyncio.CancelledError)
        assert (await ledger.verify()).ok


async def test_a_question_in_the_middle_of_its_answer_ends_in_time(cluster, ledger_url):
    """Neither when the server is halted between two pages of a long answer."""
    job_id = await insert_job(ledger_url)
    async with open_ledger(ledger_url, timeout=TIMEOUT_S) as ledger:
        await ledger.signal([job_id], "one")
        await asyncio.gather(*[ledger.signal(job_id, number) for number in range(1500)])
        async with ledger._store.snapshot() as snapshot:
            rows = snapshot.rows()
            await anext(rows)
            with halted(cluster):
                await ends_in_time(consume(rows), TimeoutError)
        events = ledger.events()
        await anext(events)
        with halted(cluster):
            await ends_in_time(consume(events), TimeoutError)
        assert len(await consume(ledger.events())) == 1501


async def test_opening_a_ledger_on_a_halted_server_ends_in_time(cluster, ledger_url):
    async def use():
        async with open_ledger(ledger_url, timeout=TIMEOUT_S):
            pass

    with halted(cluster):
        await ends_in_time(use(), TimeoutError)
    await use()


async def test_a_migration_can_be_given_up_at_once(cluster, ledger_url):
    """It has no time limit of its own: it may have to wait for others, and to work for long."""
    with halted(cluster):

        async def migrate_within():
            async with asyncio.timeout(TIMEOUT_S):
                await migrate(ledger_url, testing=True)

        await ends_in_time(migrate_within(), TimeoutError)
    await migrate(ledger_url, testing=True)


async def test_attaching_on_a_halted_server_can_be_given_up_at_once(cluster, ledger_url):
    async with an_oban(ledger_url) as oban:

        async def attach_within():
            async with asyncio.timeout(TIMEOUT_S), attach(oban):
                pass

        with halted(cluster):
            await ends_in_time(attach_within(), TimeoutError)
        async with attach(oban):
            pass


async def test_connections_that_died_silently_cost_a_question_a_moment(ledger_url):
    """A failover, or a router that has forgotten them: those that lie beside the first are not tried at all."""
    job_id = await insert_job(ledger_url)
    parts = conninfo_to_dict(ledger_url)
    async with (
        proxy(parts["host"], parts["port"]) as (between, folder),
        open_ledger(ledger_url.replace(parts["host"], folder), timeout=2) as ledger,
    ):
        await ledger.signal(job_id, "one")
        await asyncio.gather(*[ledger.history(job_id) for _ in range(8)])
        between.mute()
        began = time.monotonic()
        assert len(await ledger.history(job_id)) == 1
        for _ in range(8):
            assert (await ledger.verify()).ok
        assert time.monotonic() - began < 2
        between.mute(new_ones=True)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await ledger.history(job_id)
        assert time.monotonic() - began < 2.4
        between.speak()
        assert len(await ledger.history(job_id)) == 1


async def test_workers_go_on_after_a_halt(cluster, it):
    """The server was halted while jobs waited, live and asleep, and longer than anything waits for an answer."""
    jobs = await it.engine.enqueue_many(Approval.new({"window": window}) for window in (0, 60))
    for job, status in zip(jobs, ("snoozed", "live"), strict=True):
        await it.until_status(job, status)
    with halted(cluster):
        for job in jobs:
            with pytest.raises(DeliveryUnknown) as unknown:
                await it.engine.signal(job, APPROVED, timeout=3)
            job.args["unknown"] = unknown.value.signal_id
    for job in jobs:
        await it.engine.signal(job, APPROVED, key=job.args["unknown"])
        await it.until(job, "completed")
        assert (await it.kinds(job)).count("delivered") == 1
