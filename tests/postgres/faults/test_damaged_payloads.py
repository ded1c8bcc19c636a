"""40,000 damaged and foreign payloads that other programs delivered on PostgreSQL: told row by row (L7, D9)."""

import hashlib
import time
from collections import Counter

import psycopg
import pytest
from oban import Record, worker
from oban._recorded import decode_recorded

from signal_ledger import PayloadError, await_signal, open_ledger
from tests.damage import COUNT, SECRET, damaged, is_refused
from tests.fault_figures import Account

JOBS = 400
EATERS = 20

DELIVER = (
    "SELECT outcome FROM signal_ledger.deliver("
    "%(calls)s::int[], %(first)s::bool[], %(jobs)s::bigint[], %(ids)s::text[], %(channels)s::text[], "
    "%(payloads)s::bytea[], %(digests)s::text[], %(keys)s::text[], %(key_ids)s::text[], %(sources)s::text[])"
)


def deliver(connection, job_ids, payloads, number, channel="damaged"):
    """Deliver one payload to each job, as another program does: by the database's function."""
    count = len(job_ids)
    rows = connection.execute(
        DELIVER,
        {
            "calls": list(range(1, count + 1)),
            "first": [True] * count,
            "jobs": job_ids,
            "ids": [f"other {number} {place}" for place in range(count)],
            "channels": [channel] * count,
            "payloads": payloads,
            "digests": [hashlib.sha256(payload).hexdigest() for payload in payloads],
            "keys": [None] * count,
            "key_ids": [""] * count,
            "sources": ["another program"] * count,
        },
    ).fetchall()
    return Counter(outcome for [outcome] in rows)


@worker(max_attempts=1)
class Eater:
    """Awaits so often, and notes what each came to; a sound signal is behind each damaged one."""

    async def process(self, job):
        got = []
        for _ in range(job.args["count"]):
            try:
                value = await await_signal(wait_timeout=0, channel="damaged")
            except PayloadError as error:
                assert SECRET not in str(error)
                value = "damaged"
            else:
                value = "value"
            got.append([value, await await_signal(wait_timeout=0, channel="sound")])
        return Record(got)


@pytest.mark.timeout(300)
async def test_l7_forty_thousand_damaged_rows_are_read_and_named_and_reach_their_awaits(start, record_property):
    it = await start({})
    payloads = damaged(COUNT)
    rounds = COUNT // JOBS
    eaters = await it.engine.enqueue_many(Eater.new({"count": rounds}) for _ in range(EATERS))
    others = await it.change(
        "INSERT INTO oban_jobs (worker, state) SELECT 'w', 'suspended' FROM generate_series(1, %s) RETURNING id",
        JOBS - EATERS,
    )
    job_ids = [*[job.id for job in eaters], *[job_id for [job_id] in others]]
    sent = {}
    with psycopg.connect(it.url, autocommit=True) as connection:
        for number in range(rounds):
            batch = payloads[number * JOBS : (number + 1) * JOBS]
            assert deliver(connection, job_ids, batch, number) == {"buffered": JOBS}
            sent.update({(job_id, number + 1): payload for job_id, payload in zip(job_ids, batch, strict=True)})
    refused = {place for place, payload in sent.items() if is_refused(payload)}
    async with open_ledger(it.url, read_only=True) as ledger:
        await reads_all(ledger, sent, refused)
        report = await ledger.verify(findings_max=2 * COUNT)
    assert (report.events, report.streams) == (COUNT, JOBS)
    assert {finding.rule for finding in report.findings} == {"D9 payload"}
    assert {(finding.job_id, finding.version) for finding in report.findings} == refused
    assert SECRET not in str(report)
    start.expected_findings = {"D9 payload"}
    account = Account()
    for number in range(rounds):
        began = time.monotonic()
        receipts = await it.engine.signal(eaters, number, channel="sound")
        took_s = time.monotonic() - began
        for receipt in receipts:
            account.note_told(receipt.job_id, receipt.outcome, receipt.signal_id, took_s, number)
    await start({"default": EATERS})
    met = 0
    for job in eaters:
        done = await it.until(job, "completed", "discarded")
        assert done.errors == []
        expected = [["damaged" if (job.id, number + 1) in refused else "value", number] for number in range(rounds)]
        assert decode_recorded(done.meta["return"]) == expected
        met += [what for what, _ in expected].count("damaged")
    figures = await account.figures(it.ledger, channel="sound")
    figures.record(record_property, happened=met)
    record_property("rows", COUNT)
    record_property("named", len(refused))
    record_property("awaited", EATERS * rounds)


async def reads_all(ledger, sent, refused):
    """Read every row by `events` and every stream by `history`."""
    unreadable = set()
    count = 0
    async for event in ledger.events():
        count += 1
        if not is_readable(event):
            unreadable.add((event.job_id, event.version))
    assert count == len(sent)
    assert unreadable == refused
    for job_id in {job_id for job_id, _ in sent}:
        for event in await ledger.history(job_id):
            assert is_readable(event) == ((job_id, event.version) not in refused)


def is_readable(event):
    try:
        event.payload  # noqa: B018 - whether it can be read
    except PayloadError as error:
        assert SECRET not in str(error)
        return False
    return True
