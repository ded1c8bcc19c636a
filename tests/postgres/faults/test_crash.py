"""A server that crashes, connections that end, replies that get lost, in the middle of load (D1, D6, W5, W8)."""

import asyncio

import pytest

from signal_ledger import open_ledger
from tests.eventually import eventually
from tests.fault_figures import Account
from tests.postgres.engine.workers import APPROVED, SEEN, Approval
from tests.postgres.faults.load import Load
from tests.postgres.faults.server import started_at, terminate
from tests.postgres.faults.workers import collectors, have_consumed_all

TASKS = 32

# Which connections are whose: what they have run last.
OF = {
    "lane": "query LIKE '%%\"signal_ledger\".deliver_%%'",
    "take": "query LIKE '%%\"signal_ledger\".take(%%'",
    "upkeep": "query LIKE '%%\"signal_ledger\".tick(%%' OR query LIKE '%%\"signal_ledger\".look(%%' "
    "OR query LIKE '%%\"signal_ledger\".relay(%%'",
    "audit": "query = 'ROLLBACK;' OR query = 'ROLLBACK'",
    "listener": "query LIKE 'LISTEN %%'",
    # Between two transactions, too: in one they are met by luck, and while that is waited for the load grows and grows.
    "oban": "query LIKE '%%oban_jobs%%' AND query NOT LIKE '%%signal_ledger%%' OR query = 'COMMIT'",
    "any": "true",
}


# The shorter one ends while the server is down, and not before a fresh connection of PostgreSQL 15 has planned a call.
@pytest.mark.parametrize("timeout", [0.3, 30])
async def test_d1_a_crash_of_the_server_loses_and_doubles_nothing(cluster, it, timeout, record_property):
    jobs = await collectors(it)
    async with open_ledger(it.url) as ledger:
        load = Load(ledger, [job.id for job in jobs], timeout=timeout)
        crashes = 0
        async with load.running(TASKS):
            for _ in range(3):
                await eventually(load.has_sent(200))
                before = started_at(it.url)
                await asyncio.to_thread(cluster.stop, "immediate")
                if timeout < 1:
                    unknown = len(load.unknown)
                    await eventually(lambda unknown=unknown: len(load.unknown) > unknown)
                await asyncio.to_thread(cluster.start)
                crashes += started_at(it.url) != before
            await eventually(load.has_sent(200))
        figures = await load.figures(ledger, record_property, happened=crashes)
    assert crashes == 3
    assert (figures.unknown > 0) == (timeout < 1)
    await have_consumed_all(it, jobs)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("whose", OF)
async def test_d1_connections_that_are_ended_from_within_lose_and_double_nothing(it, whose, record_property):
    jobs = await collectors(it)
    # There is one listener, and it is not there again for seconds.
    ended, wanted = 0, 2 if whose == "listener" else 5
    async with open_ledger(it.url) as ledger:
        load = Load(it.engine, [job.id for job in jobs], timeout=30)
        async with load.running(TASKS):
            while ended < wanted:
                await it.ledger.history(jobs[0])
                ended += await asyncio.to_thread(terminate, it.url, OF[whose])
                await eventually(load.has_sent(20))
        figures = await load.figures(ledger, record_property, happened=ended)
    assert figures.unknown == 0
    await have_consumed_all(it, jobs)


async def test_without_a_listener_live_waits_resume_within_the_polling_second(it, start, record_property):
    """Each time Oban's notifier has listened anew, its connection is ended again: no hint arrives."""
    elsewhere = await start({})
    account, ended = Account(), 0

    async def keep_ending():
        nonlocal ended
        while True:
            ended += await asyncio.to_thread(terminate, it.url, OF["listener"])
            await asyncio.sleep(0)

    job = await Approval.enqueue({"window": 60})
    timed = await Approval.enqueue({"window": 60, "wait_for": 1.5})
    await it.until_status(job, "live")
    ending = asyncio.create_task(keep_ending())
    try:
        await eventually(lambda: ended > 1)
        began = asyncio.get_running_loop().time()
        receipt = await account.signal(elsewhere.engine, job.id, APPROVED)
        await eventually(lambda: APPROVED in SEEN)
        resumed_s = asyncio.get_running_loop().time() - began
        await it.until(timed, "cancelled")
    finally:
        ending.cancel()
        await asyncio.wait([ending])
    figures = await account.figures(elsewhere.ledger)
    figures.record(record_property, happened=ended)
    record_property("resumed_s", resumed_s)
    assert receipt.outcome == "live"
    assert resumed_s < 1.5
    await it.until(job, "completed")
    assert await it.kinds(timed) == ["awaited", "timed_out", "closed"]
