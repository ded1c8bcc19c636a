"""40,000 payloads, damaged or of other programs: each is a value or a `PayloadError` (promises L7, D9)."""

import asyncio
import json
import os
import pickle
import random
import struct
import time
import tracemalloc
import zlib

import pytest
from oban import Record, worker

from signal_ledger import PayloadError, await_signal, codec, lite
from signal_ledger.codec import decode, encode
from signal_ledger.commands import Deliver
from signal_ledger.ledger import Ledger
from signal_ledger.operations import DeliverCall
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.eventually import eventually
from tests.faults.ledgers import make
from tests.faults.strace import ALL_POINTS

SECRET = "swordfish"
COUNT = 40_000

VALUES = [
    SECRET,
    {"secret": SECRET, "amount": 12.5, "flags": [True, False, None], "raw": b"\xff\x00"},
    [[SECRET, number, -number, 2**number] for number in range(0, 64, 16)],
    {number: (SECRET, [number]) for number in range(20)},
    (SECRET,) * 30,
]


def foreign():
    """What other programs write, and what Erlang has that Python has not."""
    term = codec.encode({"secret": SECRET})
    atom = b"w\x04node"
    return [
        b"",
        b"\x83",
        SECRET.encode(),
        json.dumps({"secret": SECRET}).encode(),
        pickle.dumps({"secret": SECRET}),
        b"\x83P" + struct.pack(">I", len(term) - 1) + zlib.compress(term[1:]),
        b"\x83P" + struct.pack(">I", 2**31) + zlib.compress(b"a" * 100_000),
        b"\x83X" + atom + b"\0" * 12,
        b"\x83Z\0\x01" + atom + b"\0" * 8,
        b"\x83q" + atom * 2 + b"a\x01",
        b"\x83c" + b"1.25".ljust(31, b"\0"),
        b"\x83F" + struct.pack(">d", float("nan")),
        b"\x83m" + struct.pack(">I", 2**32 - 1) + SECRET.encode(),
        b"\x83l" + struct.pack(">I", 2**32 - 1) + b"a\x01",
        b"\x83i" + struct.pack(">I", 2**32 - 1) + b"a\x01",
        b"\x83t" + struct.pack(">I", 2**32 - 1) + b"a\x01a\x01",
        b"\x83o" + struct.pack(">I", 2**32 - 1) + b"\0" + b"\xff" * 100,
        b"\x83n\xff\0" + b"\xff" * 255,
        b"\x83" + b"h\x01" * 5_000 + b"a\x01",
        b"\x83" + b"l\0\0\0\x01" * 5_000 + b"a\x01" + b"j" * 5_000,
        b"\x83t\0\0\0\x02a\x01a\x01a\x01a\x01",
        b"\x83t\0\0\0\x01jj",
    ]


def damaged(count):
    """So many payloads: bits turned, bytes lost, added, repeated, and noise; the same ones each time."""
    chance = random.Random(4)
    sound = [encode(value) for value in VALUES]
    made = foreign()
    while len(made) < count:
        data = bytearray(chance.choice(sound))
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(data) + 1)
            match chance.randrange(6):
                case 0 if place < len(data):
                    data[place] ^= 1 << chance.randrange(8)
                case 1:
                    del data[place:]
                case 2:
                    data[place:place] = chance.randbytes(chance.randint(1, 5))
                case 3:
                    data[place : place + chance.randint(1, 8)] = b""
                case 4:
                    other = chance.choice(sound)
                    data[place:] = other[chance.randrange(len(other)) :]
                case _:
                    data[place : place + 4] = struct.pack(">I", chance.choice([0, 2**16, 2**24, 2**31, 2**32 - 1]))
        made.append(bytes(data) if chance.random() < 0.9 else b"\x83" + chance.randbytes(chance.randint(0, 60)))
    return made[:count]


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
    count = COUNT if os.environ.get(ALL_POINTS) == "all" else COUNT // 8
    payloads = damaged(count)
    store = await SqliteStore.open(path, clock=ManualClock(), create=True)
    calls = [_call(job_ids[number % 40], number, payload) for number, payload in enumerate(payloads)]
    for start in range(0, count, 1000):
        await asyncio.gather(*[store.deliver(call, timeout_s=60) for call in calls[start : start + 1000]])
    ledger = Ledger(store, None)
    unreadable = set()
    async for event in ledger.events():
        try:
            event.payload  # noqa: B018 - whether it can be read
        except PayloadError:
            unreadable.add((event.job_id, event.version))
    report = await ledger.verify()
    assert (report.events, report.streams) == (count, 40)
    named = {(finding.job_id, finding.version) for finding in report.findings if finding.rule == "D9 payload"}
    assert named == unreadable
    assert SECRET not in str(report)
    await store.close()
    record_property("rows", count)
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


async def test_l7_each_damaged_row_reaches_its_await_and_the_next_is_unharmed(tmp_path):
    from oban._recorded import decode_recorded

    bad = [payload for payload in foreign() if _is_refused(payload)]
    async with lite(f"sqlite:///{tmp_path}/signals.db") as engine:
        job = await engine.enqueue(Eater.new({"count": 2 * len(bad)}))
        for number, payload in enumerate(bad):
            await engine._store.deliver(_call(job.id, number, payload), timeout_s=10)
            await engine.signal(job, number)

        async def completed():
            return (await engine.get_job(job.id)).state == "completed"

        await eventually(completed)
        got = decode_recorded((await engine.get_job(job.id)).meta["return"])
    assert got == [part for number in range(len(bad)) for part in ("damaged", number)]
    assert len(bad) > 15


def _is_refused(payload):
    try:
        decode(payload)
    except PayloadError:
        return True
    return False
