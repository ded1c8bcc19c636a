"""What each column of an event is changed to underneath, and what `verify` must say of it: on both engines (L7)."""

import re
from dataclasses import replace

from signal_ledger.causes import Cause
from signal_ledger.jobs import JobState
from signal_ledger.plan import Plan
from signal_ledger.testing.bench import take

NO_TEXT = b"\xff\x00\xff"
"""In the place of a text: bytes that are none. Where a text column cannot hold them, they are left out."""

KINDS = [
    "awaited",
    "snoozed",
    "delivered",
    "consumed",
    "timed_out",
    "closed",
    "planned",
    "skipped",
    "released",
    "cascaded",
]
TEXT = ["nonsense", "", None, NO_TEXT, "\0", "x" * 1000]
INTEGER = [99, 0, -1, 2**63 - 1, None]
INSTANT = ["2027-01-01T12:00:00.000000Z", "2001-01-01T12:00:00.000000Z", *TEXT]
VALUES = {
    "job_id": INTEGER[:-1],
    "version": INTEGER[:-1],
    "run": INTEGER[:-1],
    "kind": [
        "delivered",
        "consumed",
        "timed_out",
        "awaited",
        "snoozed",
        "closed",
        "planned",
        "skipped",
        "released",
        "cascaded",
        *TEXT,
    ],
    "schema_version": [2, 0, -1],
    "recorded_at": INSTANT,
    "execution": INTEGER,
    "attempt": INTEGER,
    "channel": ["other", *TEXT],
    "ordinal": INTEGER,
    "signal_id": TEXT,
    "delivery_version": INTEGER,
    "key": TEXT,
    "source": TEXT,
    "deadline_at": INSTANT,
    "cause": ["deleted", *TEXT],
    "outcome": ["woken", "live", "buffered", *TEXT],
    "payload": [b"\x83a\x01", b"", b"\xff", b"\x83h\0\0"],
    "payload_digest": TEXT,
    "dep": ["other", *TEXT],
    "plan": ['{"name":"other"}', "{}", "[]", *TEXT],
    "checksum": TEXT,
}


def check(report, job_id, column, version, after, what):
    """Check that a report names the event of a job whose column has been changed, and none of another job."""
    assert not report.ok, what
    where = {(finding.job_id, finding.version) for finding in report.findings}
    if column == "job_id":
        assert (after, version) in where, what
        assert any(named == job_id for named, _ in where), what
    elif column == "version":
        assert (job_id, after) in where, what
    else:
        assert (job_id, version) in where, what
        assert {named for named, _ in where} == {job_id}, what
    assert all(finding.expected and finding.found for finding in report.findings), what
    assert re.search(r"job -?\d+, version -?\d+: \w\d+ .*: expected .*, found ", str(report)), what
    assert "swordfish" not in str(report), what


async def fill(bench):
    """Fill a log with an event of each kind, in each of two streams; return the ids of the jobs."""
    job_ids = []
    for workflow_id in ("first", "second"):
        alone = Plan(workflow_id=workflow_id, workflow_name="of tests", name="failing", deps=(), ignore=())
        failing = await bench.insert(plan=alone)
        dep = await bench.insert(plan=replace(alone, name="dep"))
        job_id = await bench.insert(
            plan=replace(alone, name="step", deps=("failing", "dep"), ignore=(Cause.DISCARDED,))
        )
        job_ids.append(job_id)
        await bench.finish(failing, await bench.fetch(failing), JobState.DISCARDED)
        await bench.finish(dep, await bench.fetch(dep), JobState.COMPLETED)
        execution = await bench.fetch(job_id)
        await take(bench, job_id, execution)
        await bench.sleep(job_id, execution, wait_for=60)
        bench.clock.advance(1)
        await bench.signaller.send(job_id, {"secret": "swordfish"}, key=f"key {job_id}")
        execution = await bench.fetch(job_id)
        await take(bench, job_id, execution)
        await take(bench, job_id, execution, ordinal=2, wait_for=1, in_place=True)
        bench.clock.advance(2)
        await take(bench, job_id, execution, ordinal=2, wait_for=1, in_place=True)
        await bench.finish(job_id, execution, JobState.DISCARDED)
        await bench.store.retry_steps(workflow_id, ["failing", "step"])
        await bench.cancel(failing)
    return job_ids
