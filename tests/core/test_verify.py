"""`verify` names what is wrong (promises L1, L3, L7, and the rules that the log must bear out)."""

import dataclasses
import tracemalloc

import pytest

from signal_ledger.causes import Cause
from signal_ledger.codec import encode_with_digest
from signal_ledger.evolve import fold
from signal_ledger.ledger import Ledger
from signal_ledger.memory import MemoryStore
from signal_ledger.ports import StoredStep
from signal_ledger.steps import Step
from signal_ledger.stored import SCHEMA_VERSION, checksum, to_stored
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.verify import verify
from signal_ledger.wait_state import WaitState
from tests.core.given import (
    JOB,
    a_plan,
    at,
    awaited,
    cascaded,
    closed,
    consumed,
    delivered,
    planned,
    recorded,
    released,
    skipped,
    snoozed,
    timed_out,
)

PAYLOAD = encode_with_digest({"b": 1, "a": 2})


def signal(signal_id="s1", **fields):
    return delivered(signal_id, payload=PAYLOAD.data, digest=PAYLOAD.digest, **fields)


class Log:
    """A snapshot of rows that a test has laid out, whatever the rules say."""

    def __init__(self, *events, states=None, steps=()):
        self.list = [
            to_stored(event, job_id=JOB, version=version, recorded_at=at(seconds))
            for version, (seconds, event) in enumerate(events, start=1)
        ]
        self.state_list = [(JOB, fold(JOB, recorded(events)))] if states is None else states
        self.step_list = steps
        self.repair_list = []
        self.wrong_block_list = []

    async def rows(self):
        for position, row in enumerate(self.list, start=1):
            yield position, row

    async def states(self):
        for pair in self.state_list:
            yield pair

    async def steps(self):
        for step in self.step_list:
            yield step

    async def wrong_blocks(self):
        for cursor in self.wrong_block_list:
            yield cursor

    async def repairs(self):
        return self.repair_list

    async def newest_position(self):
        return len(self.list)

    def change(self, which, *, seal=True, **columns):
        """Alter a row; ``seal`` makes its checksum right again, so that the rules have to notice."""
        row = self.list[which - 1]._replace(**columns)
        self.list[which - 1] = row._replace(checksum=checksum(row)) if seal else row
        return self


GOOD = [
    (0, awaited()),
    (5, snoozed(deadline=60)),
    (6, signal("s1", outcome="woken")),
    (7, consumed("s1", 3, execution=2)),
    (7, awaited(2, execution=2, deadline=9)),
    (10, timed_out(2, deadline=9, execution=2)),
    (11, signal("s2")),
    (12, closed(execution=2)),
    (20, signal("s3", run=2)),
    (21, consumed("s3", 9, run=2, execution=3)),
]


async def findings(log):
    return (await verify(log)).findings


async def test_a_good_log_is_ok():
    report = await verify(Log(*GOOD))
    assert (report.ok, report.events, report.streams, str(report)) == (True, 10, 1, "verify: ok (10 events, 1 stream)")


async def test_l7_a_changed_column_is_found_and_named():
    report = await verify(Log(*GOOD).change(3, seal=False, source="somebody else"))
    assert not report.ok
    [finding] = report.findings
    assert (finding.job_id, finding.version, finding.rule) == (JOB, 3, "L7 checksum")
    assert str(finding).startswith(f"job {JOB}, version 3: L7 checksum: expected checksum")
    assert str(report).splitlines()[0] == "verify: 1 finding (10 events, 1 stream)"


async def test_l7_a_changed_payload_is_found_and_never_shown():
    other = encode_with_digest({"secret": "hunter2"}).data
    [finding] = await findings(Log(*GOOD).change(3, seal=False, payload=other))
    assert finding.rule == "L7 payload"
    assert "hunter2" not in str(finding)


async def test_l7_an_erased_payload_breaks_nothing():
    assert await findings(Log(*GOOD).change(3, seal=False, payload=None)) == ()


async def test_l7_the_digest_of_another_writer_may_be_that_of_the_bytes():
    import hashlib

    digest = hashlib.sha256(PAYLOAD.data).hexdigest()
    assert digest != PAYLOAD.digest
    assert await findings(Log(*GOOD).change(3, payload_digest=digest)) == ()


async def test_d9_an_undecodable_payload_is_found():
    import hashlib

    found = await findings(Log(*GOOD).change(3, payload=b"\x83P", payload_digest=hashlib.sha256(b"\x83P").hexdigest()))
    assert [finding.rule for finding in found] == ["D9 payload"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"version": 9}, "L1 version"),
        ({"recorded_at": at(0)}, "W7 time"),
        ({"run": 2}, "W10 run"),
        ({"schema_version": SCHEMA_VERSION + 1}, "L8 readable"),
        ({"kind": "reopened"}, "L8 readable"),
        ({"outcome": "unheard of"}, "L8 readable"),
    ],
)
async def test_a_row_that_breaks_a_rule_is_named_though_its_checksum_is_right(change, rule):
    found = await findings(Log(*GOOD).change(3, **change))
    assert rule in {finding.rule for finding in found}


BROKEN = {
    "W9 ordinal": [(0, awaited(2))],
    "W6 deadline moved": [(0, snoozed(deadline=5)), (1, snoozed(execution=2, deadline=6))],
    "W6 deadline of nothing": [(9, timed_out(deadline=5))],
    "W6 deadline of another wait": [(0, snoozed(deadline=4)), (9, timed_out(deadline=5))],
    "W7 deadline not passed": [(0, snoozed(deadline=5)), (5, timed_out(deadline=5))],
    "W7 deadline over an eligible signal": [
        (0, snoozed(deadline=5)),
        (5, signal(outcome="woken")),
        (6, timed_out(deadline=5)),
    ],
    "W7 deadline of a late signal": [(0, snoozed(deadline=5)), (6, signal()), (7, consumed("s1", 2))],
    "W8 at most once": [(0, signal()), (1, consumed()), (2, consumed(ordinal=2))],
    "W8 at most once, of nothing": [(0, consumed())],
    "W8 one outcome a wait": [(0, signal("s1")), (0, signal("s2")), (1, consumed()), (2, consumed("s2", 2, 1))],
    "D4 first in, first out": [(0, signal("s1")), (0, signal("s2")), (1, consumed("s2", 2))],
    "W10 run closed twice": [(0, signal()), (1, closed()), (2, closed())],
    "W10 run skipped": [(0, signal()), (1, closed()), (2, signal("s2", run=3))],
    "F5 plan in the midst of a run": [(0, signal()), (1, planned())],
    "F5 plan of another step": [(0, planned("a")), (1, closed()), (2, planned("b", run=2))],
    "F5 plan that ignores something else": [(0, planned()), (1, closed()), (2, planned(ignore=["deleted"], run=2))],
    "F5 plan that is missing, released": [(0, released())],
    "F5 plan that is missing, skipped": [(0, signal()), (1, skipped())],
    "F5 plan of the run before": [(0, planned()), (1, closed()), (2, cascaded(run=2))],
    "W8 at most once, over the end of a run": [(0, signal()), (1, closed()), (2, consumed(run=2))],
}


@pytest.mark.parametrize("name", BROKEN)
async def test_histories_that_the_rules_could_not_have_written_are_found(name):
    rules = {finding.rule for finding in await findings(Log(*BROKEN[name]))}
    assert any(name.startswith(rule) for rule in rules), rules


async def test_l3_a_stored_state_that_is_not_the_fold_is_found():
    wrong = dataclasses.replace(fold(JOB, recorded(GOOD)), version=3)
    [finding] = await findings(Log(*GOOD, states=[(JOB, wrong)]))
    assert (finding.rule, finding.version) == ("L3 projection", None)
    assert "version 10" in finding.expected
    assert "version 3" in finding.found
    assert str(finding).startswith(f"job {JOB}: L3 projection")


async def test_l3_a_missing_an_unreadable_and_a_superfluous_state_are_found():
    assert [finding.found for finding in await findings(Log(*GOOD, states=[]))] == ["nothing"]
    assert [finding.found for finding in await findings(Log(*GOOD, states=[(JOB, None)]))] == [
        "a state that cannot be read"
    ]
    right = fold(JOB, recorded(GOOD))
    extra = [(JOB - 1, WaitState(job_id=JOB - 1)), (JOB, right), (JOB + 1, WaitState(job_id=JOB + 1))]
    assert [(finding.job_id, finding.found) for finding in await findings(Log(*GOOD, states=extra))] == [
        (JOB - 1, "a state"),
        (JOB + 1, "a state"),
    ]
    assert [finding.job_id for finding in await findings(Log(states=extra))] == [JOB - 1, JOB, JOB + 1]
    later = [(JOB + 2, WaitState(job_id=JOB + 2))]
    log = Log(*GOOD, states=later)
    log.list.append(to_stored(signal(), job_id=JOB + 1, version=1, recorded_at=at(0)))
    assert [(finding.job_id, finding.found) for finding in await findings(log)] == [
        (JOB, "nothing"),
        (JOB + 1, "nothing"),
        (JOB + 2, "a state"),
    ]


async def test_l3_a_stream_that_is_known_to_lack_an_event_is_found():
    log = Log(*GOOD)
    log.repair_list = [JOB]
    assert [finding.rule for finding in await findings(log)] == ["L3 repair"]


async def test_f5_a_plan_without_a_plan_is_found():
    found = await findings(Log((0, planned()), steps=[stored()]).change(1, plan=None))
    assert [(finding.rule, finding.found) for finding in found] == [("L8 readable", "a planned event without plan")]


STEP = [
    (0, planned("charge", ["approval", "order"])),
    (1, skipped("order")),
    (2, cascaded()),
    (3, closed("cancelled")),
    (4, planned("charge", ["approval"], run=2)),
    (5, released(run=2)),
]


def stored(*, open_edges=0, job_id=JOB, plan=None, **fields):
    """A stored step; as the events of ``STEP`` have it, but for what is given."""
    step = Step(plan=plan or a_plan(), job_id=job_id, held=0, planned_at=at(0))
    return StoredStep(job_id=job_id, step=dataclasses.replace(step, **fields), open_edges=open_edges)


async def test_f5_a_step_that_is_as_the_log_tells_is_right():
    assert await findings(Log(*STEP, steps=[stored()])) == ()
    assert await findings(Log(*STEP[:4], steps=[stored(ended_as=Cause.CANCELLED, held=1, open_edges=1)])) == ()


@pytest.mark.parametrize(
    ("steps", "expected", "found"),
    [
        ([], "step 'charge' of workflow w", "no step"),
        ([StoredStep(job_id=JOB, step=None, open_edges=0)], "a step", "a step that cannot be read"),
        ([stored(plan=a_plan("other"))], f"plan {a_plan().text}", f"a step with plan {a_plan('other').text}"),
        ([stored(plan=a_plan(ignore=["deleted"]))], "plan", "a step with plan"),
        ([stored(ended_as=Cause.COMPLETED)], "has not ended", "a step that was completed"),
        ([stored(held=1)], "a step held for 0", "one held for 1"),
        ([stored(open_edges=2)], "a step held for 2", "one held for 0"),
    ],
)
async def test_f5_a_stored_step_that_contradicts_the_log_is_found(steps, expected, found):
    [finding] = await findings(Log(*STEP, steps=steps))
    assert (finding.job_id, finding.rule, finding.version) == (JOB, "L3 projection", None)
    assert finding.expected.startswith(expected)
    assert finding.found.startswith(found)


async def test_f5_a_step_that_has_not_ended_though_its_last_run_has_is_found():
    [finding] = await findings(Log(*STEP[:4], steps=[stored()]))
    assert (finding.expected, finding.found) == ("was cancelled", "a step that has not ended")


async def test_f5_a_step_that_the_log_does_not_know_is_found():
    [finding] = await findings(Log(*GOOD, steps=[stored()]))
    assert (finding.expected, finding.found) == ("no plan", f"a step with plan {a_plan().text}")
    extra = [stored(job_id=JOB - 1), stored(), stored(job_id=JOB + 1)]
    found = [(finding.job_id, finding.found) for finding in await findings(Log(*STEP, steps=extra))]
    assert found == [(JOB - 1, "a step"), (JOB + 1, "a step")]


async def test_f5_of_a_job_that_is_to_be_repaired_only_that_is_told():
    log = Log(*STEP, steps=[stored(ended_as=Cause.COMPLETED)])
    log.repair_list = [JOB]
    assert [finding.rule for finding in await findings(log)] == ["L3 repair"]


async def test_f5_a_step_whose_stream_cannot_be_read_is_not_judged():
    log = Log(*STEP, steps=[stored(ended_as=Cause.COMPLETED)])
    assert {finding.rule for finding in await findings(log.change(1, kind="reopened"))} == {"L8 readable"}


async def test_retrying_steps_needs_a_workflow_and_a_ledger_that_can_be_written():
    clock = ManualClock()
    bench = EmbeddedBench(MemoryStore(clock), clock)
    ledger = Ledger(bench.store, bench.signaller._sender)
    with pytest.raises(LookupError, match="expected the id of one that was enqueued, found none with 'w'"):
        await ledger.retry_steps("w")
    job_id = await bench.insert(plan=a_plan())
    assert await ledger.retry_steps("w") == 0
    await bench.cancel(job_id)
    with pytest.raises(RuntimeError, match="opened read-only"):
        await Ledger(bench.store, None).retry_steps("w")
    assert await ledger.retry_steps("w") == 1
    for workflow_id, error in ((7, TypeError), ("", ValueError)):
        with pytest.raises(error, match="workflow_id: expected a str"):
            await ledger.steps(workflow_id)


async def test_streams_are_told_apart():
    log = Log(*GOOD, states=[(JOB, fold(JOB, recorded(GOOD)))])
    more = to_stored(signal(), job_id=JOB + 1, version=1, recorded_at=at(0))
    log.list.append(more)
    assert [(finding.job_id, finding.found) for finding in await findings(log)] == [(JOB + 1, "nothing")]
    assert str(await verify(log)).splitlines()[0] == "verify: 1 finding (11 events, 2 streams)"


async def test_progress_is_told_now_and_then_and_at_the_end():
    log = Log(*[(number, signal(f"s{number}")) for number in range(25_000)]).change(1, seal=False, source="x")
    told = []
    await verify(log, progress=told.append)
    assert [(done.events, done.total, done.streams) for done in told] == [
        (events, 25_000, 1) for events in (10_000, 20_000, 25_000)
    ]
    assert [done.found for done in told] == [1, 1, 1]


async def test_whoever_is_told_of_the_progress_may_end_it():
    class EnoughError(Exception):
        pass

    def stop(_progress):
        raise EnoughError

    with pytest.raises(EnoughError):
        await Ledger(MemoryStore(ManualClock()), None).verify(progress=stop)


async def test_of_very_many_findings_the_first_are_kept_and_all_are_counted():
    log = Log(*[(number, signal(f"s{number}")) for number in range(5)])
    for number in range(1, 6):
        log.change(number, seal=False, source="x")
    report = await verify(log, findings_max=2)
    assert (report.ok, report.found, [finding.version for finding in report.findings]) == (False, 5, [1, 2])
    assert str(report).splitlines()[-1] == "  and 3 more"
    assert not (await verify(log, findings_max=0)).ok


async def test_a_ledger_that_can_be_written_signals_and_rebuilds():
    clock = ManualClock()
    bench = EmbeddedBench(MemoryStore(clock), clock)
    ledger = Ledger(bench.store, bench.signaller._sender)
    job_id = await bench.insert()
    assert (await ledger.signal(job_id, 1)).outcome == "buffered"
    assert [receipt.outcome for receipt in await ledger.signal([job_id, 404], 2)] == ["buffered", "ignored"]
    assert await ledger.rebuild() == 1
    assert (await ledger.verify()).ok


async def test_arguments_of_the_ledger_are_checked():
    ledger = Ledger(MemoryStore(ManualClock()), None)
    with pytest.raises(RuntimeError, match="opened read-only"):
        await ledger.signal(1, "p")
    with pytest.raises(RuntimeError, match="opened read-only"):
        await ledger.rebuild()
    for limit in (0, 10_001, True, "1", 1.0):
        with pytest.raises(ValueError, match="limit: expected 1 to 10000"):
            await ledger.waiting(limit=limit)
    for findings_max in (-1, True, 1.0, None):
        with pytest.raises(ValueError, match="findings_max: expected an int of 0 or more"):
            await ledger.verify(findings_max=findings_max)
    with pytest.raises(ValueError, match=r"kinds: expected some of awaited, snoozed, .*, got 'woken'"):
        _ = [one async for one in ledger.events(kinds=["woken"])]
    with pytest.raises(ValueError, match="got both"):
        await ledger.state(1, at=at(0), cursor="p1")
    with pytest.raises(ValueError, match="deadline_before: expected an aware datetime"):
        await ledger.waiting(deadline_before=at(0).replace(tzinfo=None))
    with pytest.raises(ValueError, match="cursor: expected"):
        await ledger.state(1, cursor="nonsense")
    with pytest.raises(ValueError, match="after: expected"):
        await ledger.waiting(after="nonsense")
    with pytest.raises(ValueError, match="cursor: expected"):
        _ = [one async for one in ledger.events(after="nonsense")]


async def test_l3_blocks_that_are_not_what_the_log_tells_are_found():
    log = Log((0, signal()))
    log.wrong_block_list = ["p256", "p512"]
    report = await verify(log)
    [finding] = report.findings
    assert (finding.job_id, finding.version) == (None, None)
    assert str(finding) == (
        "the log: L3 projection: expected blocks that say what the log holds, found 2 blocks that say otherwise, the "
        "first up to p256"
    )


async def test_states_without_streams_take_no_memory_but_for_the_findings_that_are_kept():
    class Orphans(Log):
        async def states(self):
            for number in range(20_000):
                yield number, None

    tracemalloc.start()
    report = await verify(Orphans(), findings_max=10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (report.found, len(report.findings)) == (20_000, 10)
    assert peak < 500_000
