"""A file with jobs, and what it must hold after a fault: what was acknowledged, once, and nothing by halves."""

import contextlib
import json
import sqlite3
from collections import defaultdict

from oban import Job

from signal_ledger import lite, open_ledger
from signal_ledger.embedded.operations import RelayOutbox
from tests.fault_figures import Sent, compare, delivered

JOBS = 4


async def make(path, count=JOBS):
    """Make a file with jobs that nobody runs, and a table of the application's own; return the jobs' ids."""
    async with lite(f"sqlite:///{path}", queues={}) as engine:
        jobs = await engine.enqueue_many([Job("tests.Nobody") for _ in range(count)])
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS own_changes (call INTEGER PRIMARY KEY) STRICT")
    return [job.id for job in jobs]


def payload_of(call, size):
    return {"call": call, "fill": chr(97 + call % 26) * size}


def read_notes(path):
    """Return what a child wrote down. A last line that was cut was never told to anybody."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def acknowledged(notes):
    """Return the receipts among the notes: job, signal id, version and call."""
    return [(*receipt, note["call"]) for note in notes if "acknowledged" in note for receipt in note["acknowledged"]]


class Calls:
    """What a child's notes say of its calls, by their numbers."""

    def __init__(self, notes):
        self.begun = {note["began"]: note for note in notes if "began" in note}
        self.ended = {note["call"]: note for note in notes if "call" in note}
        self.receipts = acknowledged(notes)
        self.worst_s = max([note["took_s"] for note in self.ended.values()], default=0.0)

    def payload(self, number):
        return payload_of(number, self.begun[number]["size"])

    @property
    def acknowledged(self):
        return [Sent(job_id, self.payload(number), signal_id) for job_id, signal_id, _, number in self.receipts]

    @property
    def unknown(self):
        """The signals of which the child was told that nobody knows, or nothing at all."""
        return [
            Sent(job_id, self.payload(number), None)
            for number, note in self.begun.items()
            if "acknowledged" not in self.ended.get(number, {}) and note.get("ends") != "rollback"
            for job_id in note["jobs"]
        ]

    @property
    def to_repeat(self):
        """The calls without a receipt that have a key, or were told one: their number, targets and key."""
        for number, note in self.begun.items():
            ended = self.ended.get(number, {})
            key = ended.get("key") or note["key"]
            if "acknowledged" not in ended and key and note.get("ends") != "rollback":
                yield number, note["jobs"], key


async def check(path, notes, job_ids):
    """Check a file after a fault, and that it goes on; return the figures.

    Args:
        path: The file.
        notes: What was written down by the one who used it.
        job_ids: The jobs that were signalled.
    """
    calls = Calls(notes)
    async with open_ledger(f"sqlite:///{path}") as ledger:
        report = await ledger.verify()
        assert report.ok, str(report)
        while (await ledger._store.transact(RelayOutbox())).count:
            pass
        assert await ledger.outbox() == []
        before = await delivered(ledger, job_ids)
        check_whole(calls, before)
        check_own_changes(path, calls, before)
        await check_versions(ledger, calls)
        for number, targets, key in calls.to_repeat:
            receipts = await ledger.signal(targets, calls.payload(number), key=key)
            was_there = any(sent.payload == calls.payload(number) for sent in before)
            assert {receipt.outcome for receipt in receipts} == {"duplicate" if was_there else "buffered"}
        figures = compare(
            acknowledged=calls.acknowledged,
            unknown=calls.unknown,
            before=before,
            after=await delivered(ledger, job_ids),
            worst_s=calls.worst_s,
        )
        assert figures.lost == 0, f"{calls.receipts} were acknowledged, {before} is there"
        assert figures.doubled == 0, before
        receipt = await ledger.signal(job_ids[0], "after the fault")
        assert receipt.outcome == "buffered"
        assert (await ledger.verify()).ok
    return figures


def check_whole(calls, before):
    """Each call is there for all of its jobs or for none."""
    jobs = defaultdict(list)
    for sent in before:
        jobs[sent.payload["call"]].append(sent.job_id)
    for number, found in jobs.items():
        assert sorted(found) == sorted(calls.begun[number]["jobs"]), f"call {number} is there by halves: {found}"


def check_own_changes(path, calls, before):
    """A change of the application's own is there if and only if the signals of its transaction are (promise D8)."""
    stored = {number for number, note in calls.begun.items() if "ends" in note}
    if not stored:
        return
    with contextlib.closing(sqlite3.connect(path)) as connection:
        changed = {number for [number] in connection.execute("SELECT call FROM own_changes")}
    assert changed == stored & {sent.payload["call"] for sent in before}
    assert not any(calls.begun[number]["ends"] == "rollback" for number in changed)


async def check_versions(ledger, calls):
    """Each signal stands where its receipt said."""
    for job_id, signal_id, version, number in calls.receipts:
        if version is not None:
            found = {event.version: event.signal_id for event in await ledger.history(job_id)}
            assert found.get(version) == signal_id, f"lost: call {number} to job {job_id} was acknowledged"
