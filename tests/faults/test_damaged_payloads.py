"""40,000 payloads, damaged or of other programs: each is a value or a `PayloadError` (promises L7, D9)."""

import asyncio
import time
import tracemalloc

import pytest
from oban import Record, worker

from signal_ledger import PayloadError, await_signal, lite
from signal_ledger.codec import decode
from signal_ledger.commands import Deliver
from signal_ledger.ledger import Ledger
from signal_ledger.operations import DeliverCall
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.damage import COUNT, SECRET, damaged, foreign, is_refused
from tests.eventually import eventually
from tests.fault_figures import Account
from tests.faults.ledgers import make


@pytest.mark.timeout(300)
def test_l7_forty_thousand_damaged_and_foreign_payloads_are_values_or_payload_errors(record_property):
    payloads = damaged(COUNT)
    refused = 0
    tracemalloc.start()
    try:
        for payload in payloads:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            started = time.process_time()
            try:
                decode(payload)
            except PayloadError as error:
                refused += 1
                assert SECRET not in str(error)
                assert SECRET not in repr(error)
                assert error.offset is None or 0 <= error.offset <= len(payload)
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < 200_000 + 200 * len(payload), payload
            assert time.process_time() - started < 1, payload
    finally:
        tracemalloc.stop()
    assert 0.5 * COUNT < refused < COUNT
    record_property("payloads", len(payloads))
    record_property("refused", refused)


@pytest.mark.timeout(300)
async def test_l7_a_log_of_damaged_payloads_can_be_read_and_is_named_row_by_row(tmp_path, record_property):
    path = tmp_path / "signals.db"
    job_ids = await make(path, 40)
    payloads = damaged(COUNT)
    store = await SqliteStore.open(path, clock=ManualClock(), create=True)
    calls = [_call(job_ids[number % 40], number, payload) for number, payload in enumerate(payloads)]
    for start in range(0, COUNT, 1000):
        await asyncio.gather(*[store.deliver(call, timeout_s=60) for call in calls[start : start + 1000]])
    ledger = Ledger(store, None)
    unreadable = set()
    async for event in ledger.events():
        try:
            event.payload  # noqa: B018 - whether it can be read
        except PayloadError:
            unreadable.add((event.job_id, event.version))
    report = await ledger.verify(findings_max=2 * COUNT)
    assert (report.events, report.streams) == (COUNT, 40)
    named = {(finding.job_id, finding.version) for finding in report.findings if finding.rule == "D9 payload"}
    assert named == unreadable
    assert SECRET not in str(report)
    await store.close()
    record_property("rows", COUNT)
    record_property("named", len(named))


def _call(job_id, number, payload):
    delivery = Deliver(
        job_id=job_id, signal_id=f"signal {number}", channel="", payload=payload, payload_digest="0" * 64
    )
    return DeliverCall(deliveries=(delivery,))


@worker(max_attempts=1)
class Eater:
    async def process(self, job):
        got = []
        for _ in range(job.args["count"]):
            try:
                got.append(await await_signal(wait_timeout=0.05))
            except PayloadError:
                got.append("damaged")
        return Record(got)


async def test_l7_each_damaged_row_reaches_its_await_and_the_next_is_unharmed(tmp_path, record_property):
    from oban._recorded import decode_recorded

    bad = [payload for payload in foreign() if is_refused(payload)]
    async with lite(f"sqlite:///{tmp_path}/signals.db") as engine:
        account = Account()
        job = await engine.enqueue(Eater.new({"count": 2 * len(bad)}))
        for number, payload in enumerate(bad):
            await engine._store.deliver(_call(job.id, number, payload), timeout_s=10)
            await account.signal(engine, job.id, number)

        async def completed():
            return (await engine.get_job(job.id)).state == "completed"

        await eventually(completed)
        got = decode_recorded((await engine.get_job(job.id)).meta["return"])
        figures = await account.figures(engine.ledger)
    assert got == [part for number in range(len(bad)) for part in ("damaged", number)]
    assert len(bad) > 15
    figures.record(record_property, happened=len(bad))
