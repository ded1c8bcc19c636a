"""Sending: retries that deliver at most once, and calls that end in time (promises D2, D5, D6)."""

import asyncio
from dataclasses import dataclass
from itertools import count
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_ledger import engines
from signal_ledger.decisions import Stored
from signal_ledger.delivery import Sender, _id_in_list
from signal_ledger.embedded.operations import CancelJobs
from signal_ledger.errors import DeliveryUnknown, KeyConflict, PayloadError
from signal_ledger.events import DeliveryOutcome
from signal_ledger.ledger import Ledger
from signal_ledger.memory import MemoryStore
from signal_ledger.ports import StoreUnavailableError
from signal_ledger.receipt import Outcome, Receipt
from signal_ledger.testing.bench import EmbeddedBench, take
from signal_ledger.testing.clock import ManualClock


@dataclass
class Fault:
    """What goes wrong on the way to or from a real store, call by call."""

    store: MemoryStore
    faults: list[str]
    calls: int = 0

    async def deliver(self, call, *, timeout_s):
        self.calls += 1
        fault = self.faults.pop(0) if self.faults else "none"
        if fault == "refused":
            raise StoreUnavailableError("the disk is full")
        replies = await self.store.deliver(call, timeout_s=timeout_s)
        if fault == "lost reply":
            raise StoreUnavailableError("the connection was lost")
        if fault == "no answer":
            raise TimeoutError
        return replies


_NUMBERS = count(1)


@pytest.fixture
def bench():
    clock = ManualClock()
    return EmbeddedBench(MemoryStore(clock), clock)


def sender(bench, *faults, **options):
    numbers = _NUMBERS
    fault = Fault(bench.store, list(faults))
    return Sender(store=fault, new_id=lambda: str(UUID(int=next(numbers))), **options), fault


async def send(a_sender, target, payload="p", *, channel=None, key=None, source=None, timeout=30.0):
    return await a_sender.send(target, payload, channel=channel, key=key, source=source, timeout=timeout)


async def test_d6_a_lost_reply_is_asked_for_again_and_gets_the_first_receipt(bench):
    job_id = await bench.insert()
    a_sender, fault = sender(bench, "lost reply", "refused")
    receipt = await send(a_sender, job_id)
    assert (receipt.outcome, receipt.version, fault.calls) == ("buffered", 1, 3)
    assert len(await bench.store.history(job_id)) == 1


@given(call_id=st.uuids(), job_id=st.integers(-(2**63), 2**63 - 1))
def test_the_ids_of_a_list_are_the_uuids_of_its_jobs_in_the_namespace_of_the_call(call_id, job_id):
    assert _id_in_list(call_id.bytes, job_id) == str(uuid5(call_id, str(job_id)))


async def test_d6_lists_are_retried_under_the_ids_they_had(bench):
    job_ids = [await bench.insert() for _ in range(3)]
    a_sender, _ = sender(bench, "lost reply")
    receipts = await send(a_sender, job_ids, key="k")
    assert [receipt.outcome for receipt in receipts] == ["buffered"] * 3
    assert [len(await bench.store.history(job_id)) for job_id in job_ids] == [1, 1, 1]


@pytest.mark.parametrize("fault", ["no answer", "refused"])
async def test_d6_when_time_is_up_the_outcome_is_unknown_and_the_error_says_how_to_go_on(bench, fault):
    job_id = await bench.insert()
    a_sender, _ = sender(bench, *[fault] * 100)
    with pytest.raises(DeliveryUnknown, match=r"no answer from the database within 0 s.*repeat the call with key="):
        await send(a_sender, job_id, timeout=0)
    with pytest.raises(DeliveryUnknown) as unknown:
        await send(a_sender, job_id, timeout=0.01)
    again, _ = sender(bench)
    receipt = await send(again, job_id, key=unknown.value.signal_id)
    assert receipt.outcome == ("duplicate" if fault == "no answer" else "buffered")
    assert unknown.value.timeout_s == 0.01


async def test_d5_engines_are_told_of_jobs_that_were_woken_or_reached(bench):
    told = []
    a_sender, _ = sender(bench, delivered=lambda job_id, outcome: told.append((job_id, outcome)))
    snoozed, live, idle = [await bench.insert() for _ in range(3)]
    for job_id in (snoozed, live):
        execution = await bench.fetch(job_id)
        await take(bench, job_id, execution)
        if job_id == snoozed:
            await bench.sleep(job_id, execution)
    await send(a_sender, [snoozed, live, idle])
    assert told == [(snoozed, Outcome.WOKEN), (live, Outcome.LIVE)]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"target": True}, TypeError),
        ({"target": "7"}, TypeError),
        ({"target": 2**63}, ValueError),
        ({"payload": object()}, PayloadError),
        ({"channel": ""}, ValueError),
        ({"channel": 7}, TypeError),
        ({"key": ""}, ValueError),
        ({"source": 7}, TypeError),
        ({"timeout": -1}, ValueError),
        ({"timeout": None}, TypeError),
    ],
)
async def test_bad_input_is_refused_before_anything_is_written(bench, wrong, error):
    a_sender, fault = sender(bench)
    arguments = {"target": 1, "payload": "p", **wrong}
    with pytest.raises(error):
        await send(a_sender, **arguments)
    assert fault.calls == 0


async def test_a_payload_is_checked_even_if_nobody_gets_it(bench):
    a_sender, _ = sender(bench)
    with pytest.raises(PayloadError):
        await send(a_sender, [], object())


async def test_d6_keys_that_only_look_like_ids_are_keys(bench):
    job_id = await bench.insert()
    a_sender, _ = sender(bench)
    first = await send(a_sender, job_id)
    for key in (first.signal_id.upper().replace("0", "O"), "not-an-id", first.signal_id.replace("-", "")):
        assert (await send(a_sender, job_id, key=key)).outcome == "buffered"


async def test_d2_a_job_listed_again_is_a_duplicate_of_the_first(bench):
    job_id, other = await bench.insert(), await bench.insert()
    a_sender, _ = sender(bench)
    receipts = await send(a_sender, [job_id, other, job_id, job_id])
    assert [(receipt.outcome, receipt.reason) for receipt in receipts] == [
        ("buffered", None),
        ("buffered", None),
        ("duplicate", "pending"),
        ("duplicate", "pending"),
    ]
    again = await send(a_sender, [404, 404])
    assert [receipt.outcome for receipt in again] == ["ignored", "ignored"]
    keyed = await send(a_sender, [job_id, job_id], key="k")
    assert [receipt.outcome for receipt in keyed] == ["buffered", "duplicate"]
    repeated = await send(a_sender, [job_id, job_id], key="k")
    assert [receipt.outcome for receipt in repeated] == ["duplicate", "duplicate"]


async def test_d6_a_conflict_carries_what_is_known(bench):
    job_id = await bench.insert()
    a_sender, _ = sender(bench)
    first = await send(a_sender, job_id, "secret one", key="k")
    with pytest.raises(KeyConflict, match="another payload; a key stands for one signal") as refused:
        await send(a_sender, job_id, "secret two", key="k")
    assert (refused.value.job_id, refused.value.key, refused.value.signal_id) == (job_id, "k", first.signal_id)
    assert "secret" not in str(refused.value)


async def test_a_cancelled_call_delivers_once_or_not_at_all(bench):
    job_id = await bench.insert()
    a_sender, _ = sender(bench, "refused")
    task = asyncio.create_task(send(a_sender, job_id))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await bench.store.history(job_id)) <= 1


class AnEngine(engines.Engine):
    def __init__(self, name, a_sender):
        self.name_ = name
        self.sender = a_sender

    @property
    def name(self):
        return self.name_

    @property
    def ledger(self):
        return Ledger(self.sender._store, self.sender)

    @property
    def _signals(self):
        return self.sender

    async def cancel_many_jobs(self, jobs):
        return await self.sender._store.transact(CancelJobs(job_ids=tuple(jobs)))


async def test_signal_uses_the_only_open_engine(bench):
    from signal_ledger import signal

    job_id = await bench.insert()
    one, other = AnEngine("one", sender(bench)[0]), AnEngine("other", sender(bench)[0])
    with pytest.raises(RuntimeError, match="expected an open engine in this process, found none"):
        await signal(job_id, 1)
    # It was given no clock.
    assert one.present() is None
    engines.register(one)
    try:
        assert isinstance(await signal(job_id, 1), Receipt)
        engines.register(other)
        with pytest.raises(RuntimeError, match=r"expected one open engine, found 2 \('one', 'other'\)"):
            await signal(job_id, 1)
    finally:
        engines.unregister(one)
        engines.unregister(other)
        engines.unregister(other)


def test_outcomes_of_deliveries_are_outcomes_of_receipts():
    from signal_ledger.receipt import to_receipt

    for outcome in DeliveryOutcome:
        assert to_receipt(1, "s", Stored(outcome=outcome, version=1)).outcome == outcome.value
