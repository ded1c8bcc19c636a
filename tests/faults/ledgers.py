"""A file with jobs, and what it must hold after a fault: what was acknowledged, once, and nothing by halves."""

import json
from collections import Counter, defaultdict

from oban import Job

from signal_ledger import lite, open_ledger

JOBS = 4


async def make(path, count=JOBS):
    """Make a file with jobs that nobody runs, and return their ids."""
    async with lite(f"sqlite:///{path}", queues={}) as engine:
        jobs = await engine.enqueue_many([Job("tests.Nobody") for _ in range(count)])
    return [job.id for job in jobs]


def read_notes(path):
    """Return what a child wrote down. A last line that was cut was never told to anybody."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def acknowledged(notes):
    """Return the receipts among the notes: job, signal id, version, call and size."""
    return [
        (*receipt, note["call"], note["size"])
        for note in notes
        if "acknowledged" in note
        for receipt in note["acknowledged"]
    ]


async def check(path, receipts, job_ids):
    """Check a file after a fault; return how many signals it holds that nobody was told of."""
    async with open_ledger(f"sqlite:///{path}") as ledger:
        report = await ledger.verify()
        assert report.ok, str(report)
        delivered = {}
        calls = defaultdict(Counter)
        for job_id in job_ids:
            for event in await ledger.history(job_id):
                delivered[job_id, event.signal_id] = event
                calls[event.payload["call"]][job_id] += 1
        for job_id, signal_id, version, call, size in receipts:
            event = delivered.pop((job_id, signal_id), None)
            assert event is not None, f"lost: call {call} to job {job_id} was acknowledged"
            assert event.version == version
            assert event.payload == {"call": call, "fill": chr(97 + call % 26) * size}
        for call, jobs in calls.items():
            assert set(jobs.values()) == {1}, f"call {call} is there more than once: {jobs}"
            assert len(jobs) in (1, len(job_ids)), f"call {call} is there by halves: {jobs}"
        # It goes on.
        receipt = await ledger.signal(job_ids[0], "after the fault")
        assert receipt.outcome == "buffered"
    return len(delivered)
