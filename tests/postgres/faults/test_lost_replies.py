"""The connection breaks between the commit and the reply: what was done once is not done again (D6, D8, W8)."""

import contextlib

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from signal_ledger import attach, open_ledger
from tests.eventually import eventually
from tests.postgres.engine.conftest import Node, an_oban
from tests.postgres.engine.workers import APPROVED, SEEN, Approval
from tests.postgres.faults.load import Load
from tests.postgres.faults.workers import collectors, have_consumed_all
from tests.postgres.proxy import proxy

MARKS = {
    "deliver": b'"signal_ledger".deliver_',
    "take": b'"signal_ledger".take(',
    "snooze": b'"signal_ledger".snooze(',
    "acknowledgement": b"attempt = COALESCE(",
}


@pytest.fixture
async def between(ledger_url):
    """A proxy, and an engine all of whose connections go through it."""
    parts = conninfo_to_dict(ledger_url)
    async with contextlib.AsyncExitStack() as stack:
        it, folder = await stack.enter_async_context(proxy(parts["host"], parts["port"]))
        it.url = ledger_url.replace(parts["host"], folder)
        oban = await stack.enter_async_context(an_oban(it.url))
        it.node = Node(ledger_url, oban, await stack.enter_async_context(attach(oban)))
        yield it
        it.loses = 0
        async with open_ledger(ledger_url, read_only=True) as ledger:
            assert (await ledger.verify()).ok


def lose(between, mark, count=1):
    between.loses_of, between.loses, between.lost = mark, count, 0


# A live wait that gets its signal is not snoozed.
@pytest.mark.parametrize(
    ("what", "window"), [(what, window) for what in MARKS for window in (0, 60) if (what, window) != ("snooze", 60)]
)
async def test_w8_a_wait_goes_on_once_when_the_reply_is_lost(between, what, window):
    node = between.node
    if what != "deliver":
        lose(between, MARKS[what])
    job = await node.engine.enqueue(Approval.new({"window": window}))
    await node.until_status(job, "live" if window else "snoozed")
    if what == "deliver":
        lose(between, MARKS[what])
    receipt = await node.engine.signal(job, APPROVED)
    # Who gets no reply to the beginning of a wait is put off for a second, and finds the signal then.
    expected = {"woken"} if not window else {"live"} if what != "take" else {"live", "buffered"}
    assert receipt.outcome in expected
    await node.until(job, "completed")
    await eventually(lambda: between.lost == 1)
    assert SEEN == [APPROVED]
    kinds = await node.kinds(job)
    assert [kinds.count(kind) for kind in ("delivered", "consumed", "closed")] == [1, 1, 1]


async def test_w8_a_consumption_whose_reply_is_lost_is_taken_again(between):
    """The signal is consumed by then: the same await finds it so."""
    node = between.node
    job = await node.engine.enqueue(Approval.new({"window": 0}))
    await node.until_status(job, "snoozed")
    lose(between, MARKS["take"])
    await node.engine.signal(job, APPROVED)
    await node.until(job, "completed")
    assert (between.lost, SEEN) == (1, [APPROVED])
    assert await node.kinds(job) == ["snoozed", "delivered", "consumed", "closed"]


async def test_d8_a_relay_whose_reply_is_lost_relays_once(between):
    node = between.node
    job = await node.engine.enqueue(Approval.new({"window": 0}))
    await node.until_status(job, "snoozed")
    lose(between, b'"signal_ledger".relay(', 3)
    async with await psycopg.AsyncConnection.connect(node.url, autocommit=True) as connection:
        for number in range(3):
            await node.engine.signal(job, {"decision": "approved", "number": number}, conn=connection)
    await eventually(lambda: between.lost == 3)
    await node.until(job, "completed")

    async def all_relayed():
        return not await node.ledger.outbox()

    await eventually(all_relayed)
    assert (await node.kinds(job)).count("delivered") == 3


@pytest.mark.parametrize("what", ["deliver", "take"])
async def test_d1_replies_that_are_lost_in_mid_load_lose_and_double_nothing(between, what, record_property):
    node = between.node
    jobs = await collectors(node)
    async with open_ledger(between.url) as ledger:
        load = Load(ledger, [job.id for job in jobs], timeout=30)
        lost = 0
        async with load.running(8):
            for _ in range(5):
                lose(between, MARKS[what])
                await eventually(lambda: between.lost == 1)
                lost += between.lost
                await eventually(load.has_sent(20))
        figures = await load.figures(ledger, record_property, happened=lost)
    assert figures.unknown == 0
    await have_consumed_all(node, jobs)
