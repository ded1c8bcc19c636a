"""Storing in a caller's transaction, as far as the core has a say in it (promise D8)."""

import asyncio

import pytest

from signal_ledger.delivery import Sender
from signal_ledger.embedded.operations import Look, RelayOutbox
from signal_ledger.errors import DeliveryUnknown
from signal_ledger.ledger import Ledger
from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.contract.outbox import outbox
from signal_ledger.testing.contract.steps import asleep
from signal_ledger.upcast import NewerEventError

LOOK = Look(queues=(), executing=(), live=())


@pytest.fixture
def bench():
    clock = ManualClock()
    store = MemoryStore(clock)
    return EmbeddedBench(store, clock, store.begin)


class Hangs:
    """A store that does not answer, and what became of its statement."""

    def __init__(self, error=None):
        self.error = error
        self.began = asyncio.Event()
        self.ended = asyncio.Event()

    async def store_with(self, _connection, _deliveries):
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # As slow as a driver that waits for the server to cancel the statement.
            await asyncio.sleep(0)
            if self.error is not None:
                raise self.error from None
            raise
        finally:
            self.ended.set()


def send(store, timeout):
    sender = Sender(store=store, new_id=lambda: "00000000-0000-4000-8000-000000000001")
    return sender.send(7, "p", channel=None, key=None, source=None, conn=object(), timeout=timeout)


@pytest.mark.parametrize("error", [None, OSError("the connection was lost")])
async def test_d6_d8_a_connection_that_does_not_answer_ends_in_unknown_and_is_not_waited_for(error):
    store = Hangs(error)
    with pytest.raises(DeliveryUnknown) as unknown:
        await send(store, 0.01)
    assert unknown.value.signal_id == "00000000-0000-4000-8000-000000000001"
    assert not store.ended.is_set()
    async with asyncio.timeout(10):
        await store.ended.wait()


async def test_d8_a_call_that_is_cancelled_cancels_its_statement():
    store = Hangs()
    storing = asyncio.create_task(send(store, 60))
    async with asyncio.timeout(10):
        await store.began.wait()
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        await store.ended.wait()


async def test_d8_the_ledger_shows_its_outbox(bench):
    async with bench.transaction() as conn:
        receipts = [await bench.signaller.store(conn, 404 + number) for number in range(3)]
    ledger = Ledger(bench.store, None)
    rows = await ledger.outbox(limit=2)
    rows += await ledger.outbox(limit=2, after=rows[-1].cursor)
    assert [row.signal_id for row in rows] == [receipt.signal_id for receipt in receipts]
    for limit in (0, 10_001, True, 1.5):
        with pytest.raises(ValueError, match="limit: expected 1 to 10000, got"):
            await ledger.outbox(limit=limit)


async def test_d8_engines_see_that_there_is_something_to_relay_and_for_whom_it_was(bench):
    assert not (await bench.store.read(LOOK)).has_stored
    snoozed, _ = await asleep(bench)
    idle = await bench.insert()
    async with bench.transaction() as conn:
        await bench.signaller.store_all(conn, [idle, snoozed, 404])
    assert (await bench.store.read(LOOK)).has_stored
    relayed = await bench.store.transact(RelayOutbox())
    assert (relayed.count, relayed.told) == (3, (snoozed,))
    # A refused signal is nothing to relay.
    assert not (await bench.store.read(LOOK)).has_stored
    assert len(await outbox(bench)) == 1


async def test_d8_a_relay_takes_no_more_than_it_may(bench):
    job_id = await bench.insert()
    async with bench.transaction() as conn:
        for _ in range(5):
            await bench.signaller.store(conn, job_id, b"x" * 100)

    async def relay(rows_max, size_bytes_max):
        return (await bench.store.transact(RelayOutbox(rows_max=rows_max, size_bytes_max=size_bytes_max))).count

    assert [await relay(2, 1000), await relay(9, 1), await relay(9, 150), await relay(9, 150)] == [2, 1, 2, 0]


async def test_l8_a_relay_leaves_a_stream_of_a_newer_library_to_that_one(bench, monkeypatch):
    newer, other = await bench.insert(), await bench.insert()
    async with bench.transaction() as conn:
        await bench.signaller.store_all(conn, [newer, other])
    from signal_ledger import memory

    state = memory.MemoryUnit.state

    def state_or_newer(self, job_id):
        if job_id == newer:
            raise NewerEventError(job_id=job_id, version=1, kind="delivered", schema_version=2)
        return state(self, job_id)

    monkeypatch.setattr(memory.MemoryUnit, "state", state_or_newer)
    await bench.relay()
    assert [(row.job_id, row.refusal) for row in await outbox(bench)] == [(newer, None)]
