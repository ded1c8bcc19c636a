"""The checker finds what is wrong, and nothing in what is right: one good and one bad history for each rule."""

import pytest

from signal_ledger.codec import encode
from signal_ledger.wait_state import WaitState
from tests.torture.checker import RULES, check
from tests.torture.given import (
    JOB,
    asleep,
    awaited,
    call,
    closed,
    consumed,
    delivered,
    history,
    saw_signal,
    saw_timeout,
    second,
    snoozed,
    stream,
    timed_out,
    told,
    without,
)
from tests.torture.history import FOR_EVER, JobSeen, Play, Step, Stored, calls_of, mark_of
from tests.torture.holdings import held_more
from tests.torture.report import committed_without_answer

NO_ANSWER = {"status": "unknown", "ended": FOR_EVER, "answered_at": second(2), "timeout_s": 1.0}
SLEEPS = (snoozed(), delivered("a", outcome="woken"), consumed("a", 2), closed())
CONSUMED_ONE = (delivered("a"), consumed("a", 1))
LATE = [
    (snoozed(deadline=10), 1),
    (delivered("a"), 11),
    (timed_out(10, execution=2), 12),
    (consumed("a", 2, execution=2, ordinal=2), 13),
]
KEYED = delivered("a", key="k")
FATES = [
    # Events, one a second; the reason of a duplicate whose call began and ended when; how many findings.
    ((KEYED,), "pending", (2, 3), 0),
    ((KEYED,), "pending", (-3, -2), 1),
    ((KEYED,), "consumed", (2, 3), 1),
    ((KEYED,), "ended with its run", (2, 3), 1),
    ((KEYED,), None, (2, 3), 1),
    ((KEYED, consumed("a", 1)), "consumed", (2, 3), 0),
    ((KEYED, consumed("a", 1)), "consumed", (0, 1), 1),
    ((KEYED, consumed("a", 1)), "pending", (1, 3), 0),
    ((KEYED, consumed("a", 1)), "pending", (3, 4), 1),
    ((KEYED, consumed("a", 1), closed()), "consumed", (4, 5), 0),
    ((KEYED, consumed("a", 1), closed()), "ended with its run", (4, 5), 1),
    ((KEYED, closed()), "ended with its run", (3, 4), 0),
    ((KEYED, closed()), "ended with its run", (0, 1), 1),
    ((KEYED, closed()), "pending", (3, 4), 1),
    ((KEYED, closed(), awaited(run=2, execution=2)), "pending", (4, 5), 1),
    ((snoozed(), snoozed()), "pending", (2, 3), 1),
]
LISTED = {"jobs": {JOB: JobSeen(state="scheduled"), 8: JobSeen(state="scheduled")}}


def _repeat(reason, began, ended):
    """A call with a key that was there, of the delivery at version 1."""
    return call("b", key="k", began=began, ended=ended, receipts=(told("a", 1, "duplicate", reason=reason),))


CASES = {
    "acknowledged signals are in the log": [
        (history(delivered("a", 1), calls=[call("a", 1, receipts=(told("a", 1),))]), 0),
        (history(calls=[call("a", 1, receipts=(told("a", 1),))]), 1),
        (history(delivered("a", 1), calls=[call("a", 2, receipts=(told("a", 1),))]), 1),
        (history(delivered("a", 1), calls=[call("a", 1, receipts=(told("a", 1, "woken"),))]), 1),
    ],
    "stored signals are relayed": [
        (history(delivered("a"), calls=[call("a", transaction=("t", 0))]), 0),
        (history(calls=[call("a", transaction=("t", 0), status="rolled back")]), 0),
        (history(calls=[call("a", transaction=("t", 0))]), 1),
        (
            history(
                calls=[call("a", transaction=("t", 0))],
                outbox=[Stored(signal_id="id-a", job_id=JOB, source="a", refusal="completed")],
            ),
            0,
        ),
    ],
    "stored signals keep their order": [
        (
            history(
                delivered("a"),
                delivered("b"),
                calls=[call("a", transaction=("t", 0)), call("b", transaction=("t", 1))],
            ),
            0,
        ),
        (
            history(
                delivered("b"),
                delivered("a"),
                calls=[call("a", transaction=("t", 0)), call("b", transaction=("t", 1))],
            ),
            1,
        ),
    ],
    "nothing is in the log that nobody sent": [
        (history(delivered("a"), calls=[call("a", status="unknown")]), 0),
        (history(delivered("a")), 1),
        (history(delivered("a"), calls=[call("a", targets=(8,))]), 1),
        (history(delivered("a"), calls=[call("a", status="rolled back", transaction=("t", 0))]), 1),
        (history(delivered("a"), calls=[call("a", receipts=(told("a", None, "ignored"),))]), 1),
        (history(delivered("a", 1), calls=[call("a", 2, status="unknown")]), 1),
    ],
    "duplicates are told what became of the first": [
        *[(history(*events, calls=[_repeat(reason, *span)]), count) for events, reason, span, count in FATES],
        (history(delivered("a"), calls=[call("b", receipts=(told("b", 1),))]), 0),
    ],
    "lists are all or nothing": [
        (history(delivered("b"), calls=[call("a", status="unknown", targets=(JOB, 8))], **LISTED), 0),
        (
            without(
                history(calls=[call("a", status="unknown", targets=(JOB, 8))], **LISTED),
                log=[*stream(snoozed(), job_id=8), *stream(snoozed(), delivered("a"))],
            ),
            1,
        ),
    ],
    "a signal is delivered once": [
        (history(delivered("a"), delivered("b")), 0),
        (history(delivered("a"), delivered("a", signal_id="other")), 1),
        (history(delivered("a"), delivered("b", signal_id="id-a")), 1),
    ],
    "one key is one event": [
        (history(delivered("a", key="k"), delivered("b", key="l")), 0),
        (history(delivered("a", key="k"), delivered("b", key="k")), 1),
    ],
    "the log keeps real time order": [
        (history(delivered("a"), delivered("b"), calls=[call("a", began=3, ended=6), call("b", began=1, ended=4)]), 0),
        (history(delivered("a"), delivered("b"), calls=[call("a", began=3, ended=6), call("b", began=1, ended=2)]), 1),
        (
            history(
                delivered("a"),
                delivered("b", channel="x"),
                calls=[call("a", began=3, ended=6), call("b", began=1, ended=2)],
            ),
            0,
        ),
    ],
    "a living job ignores nothing": [
        (
            history(
                delivered("a"),
                calls=[
                    call("a", began=4, ended=5, receipts=(told("a", 1),)),
                    call("b", began=1, ended=2, receipts=(told("b", None, "ignored"),)),
                ],
                jobs=asleep(),
            ),
            0,
        ),
        (
            history(
                delivered("a"),
                calls=[
                    call("a", began=1, ended=2, receipts=(told("a", 1),)),
                    call("b", began=3, ended=4, receipts=(told("b", None, "ignored"),)),
                ],
                jobs=asleep(),
            ),
            1,
        ),
    ],
    "calls end in time": [
        (history(calls=[call("a", began=0, ended=1_200_000_000, timeout_s=1.0)]), 0),
        (history(calls=[call("a", began=0, ended=1_400_000_000, timeout_s=1.0)]), 1),
        (history(calls=[call("a", began=0, ended=3_400_000_000, timeout_s=1.0, lagged_s=2.2)]), 0),
        (history(calls=[call("a", began=0, ended=100 * 10**9, timeout_s=1.0, lagged_s=2.2)]), 1),
        (history(calls=[call("a", began=0, answered=1_200_000_000, **NO_ANSWER)]), 0),
        (history(calls=[call("a", began=0, answered=100 * 10**9, **NO_ANSWER)]), 1),
        (history(calls=[call("a", began=0, answered=None, **NO_ANSWER)]), 0),
        (history(calls=[call("a", began=0, ended=100 * 10**9, timeout_s=1.0, transaction=("t", 0))]), 0),
    ],
    "clients meet only errors that are told": [
        (history(calls=[call("a", status="unknown", error="DeliveryUnknown")]), 0),
        (history(calls=[call("a", status="error", error="OSError")]), 1),
    ],
    "a signal is consumed at most once": [
        (history(*SLEEPS), 0),
        (history(delivered("a"), consumed("a", 1), consumed("a", 1, ordinal=2)), 1),
        (history(consumed("a", 2), delivered("a")), 1),
        (history(delivered("a"), consumed("a", 1, channel="x")), 1),
    ],
    "a wait has one outcome": [
        (history(delivered("a"), delivered("b"), consumed("a", 1), consumed("b", 2, ordinal=2)), 0),
        (history(delivered("a"), delivered("b"), consumed("a", 1), consumed("b", 2, ordinal=1)), 1),
    ],
    "every execution sees the recorded outcome": [
        (
            history(
                delivered("a", 1),
                consumed("a", 1, execution=2),
                saws=[saw_signal(1, execution=2), saw_signal(1, execution=3)],
            ),
            0,
        ),
        (history(delivered("a", 1), consumed("a", 1), saws=[saw_signal(2)]), 1),
        (history(delivered("a", 1), saws=[saw_signal(1)]), 1),
        (history(delivered("a", 1), consumed("a", 1), saws=[saw_timeout(9, execution=2)]), 1),
        (history(delivered("a", 1), consumed("a", 1), closed(), saws=[saw_signal(1, execution=2, at=2)]), 0),
        (
            history(
                delivered("a", 1),
                consumed("a", 1),
                closed(),
                awaited(execution=2, run=2),
                saws=[saw_signal(1, execution=2)],
            ),
            1,
        ),
    ],
    "channels are first in first out": [
        (history(delivered("a"), delivered("b"), consumed("a", 1), consumed("b", 2, ordinal=2)), 0),
        (history(delivered("a", channel="x"), delivered("b"), consumed("b", 2)), 0),
        (history(delivered("a"), delivered("b"), consumed("b", 2)), 1),
    ],
    "no wait times out early": [
        (history((snoozed(deadline=5), 1), (timed_out(5), 6), saws=[saw_timeout(6)]), 0),
        (history((snoozed(deadline=5), 1), (timed_out(5), 5)), 1),
        (history((snoozed(deadline=5), 1), (timed_out(5), 6), saws=[saw_timeout(4)]), 1),
    ],
    "only the oldest signal is judged by the deadline": [
        (history(*LATE), 0),
        (history((snoozed(deadline=10), 1), (delivered("a"), 10), (timed_out(10), 12)), 1),
        (history((snoozed(deadline=10), 1), (delivered("a"), 11), (consumed("a", 2), 12)), 1),
    ],
    "deadlines never move": [
        (history(awaited(), snoozed(deadline=10), snoozed(deadline=10, execution=2)), 0),
        (history(snoozed(deadline=10), snoozed(deadline=11, execution=2)), 1),
        (history(snoozed(), snoozed(deadline=11, execution=2)), 1),
        (history((snoozed(deadline=10), 1), (timed_out(11), 12)), 1),
    ],
    "deadlines are what was asked for": [
        (history((awaited(), 1), (snoozed(deadline=5), 2), scripts={JOB: [Step(channel="", wait_for=3.0)]}), 0),
        (history((snoozed(deadline=6), 2), scripts={JOB: [Step(channel="", wait_for=3.0)]}), 1),
        (history((awaited(deadline=2), 1), scripts={JOB: [Step(channel="", wait_for=1.0, window=1.0)]}), 0),
        (history((awaited(), 1), scripts={JOB: [Step(channel="", wait_for=1.0, window=1.0)]}), 1),
        (history(snoozed(ordinal=2), scripts={JOB: [Step(channel="")]}), 1),
    ],
    "streams have no gaps and time never runs backwards": [
        (history(snoozed(), delivered("a")), 0),
        (without(history(), log=stream(snoozed(), delivered("a"))[1:]), 1),
        (history((snoozed(), 5), (delivered("a"), 4)), 1),
    ],
    "no older execution writes": [
        (history(awaited(execution=1), snoozed(execution=2), began={(JOB, 1): 5, (JOB, 2): 6}), 0),
        (history(awaited(execution=1), snoozed(execution=2), began={(JOB, 1): 6, (JOB, 2): 5}), 1),
        (history(awaited(execution=1), awaited(execution=2), snoozed(execution=1)), 1),
    ],
    "each snapshot is a prefix of the next": [
        (history(snoozed(), snapshots=[[], [mark_of(event) for event in stream(snoozed())]]), 0),
        (history(snoozed(), snapshots=[[(JOB, 1, "another")]]), 1),
        (history(snapshots=[[mark_of(event) for event in stream(snoozed())]]), 1),
    ],
    "the run was watched": [
        (history(snoozed()), 0),
        (history(snoozed(), snapshots=[[], [(JOB, 1, "one")]]), 1),
        (history(snoozed(), snapshots=[]), 1),
        (history(snoozed(), samples=[]), 1),
        (history(snoozed(), samples=[WaitState(job_id=JOB)]), 1),
        (history(snoozed(), samples=[], snapshots=[]), 2),
    ],
    "a follower misses nothing": [
        (history(snoozed(), delivered("a")), 0),
        (history(snoozed(), delivered("a"), followed=[mark_of(stream(snoozed(), snoozed())[1])]), 1),
        (history(snoozed(), followed=[mark_of(event) for event in stream(snoozed(), snoozed())]), 1),
    ],
    "the projection is the fold of the log": [
        (history(*SLEEPS, samples=list(history(*SLEEPS[:2]).states.values())), 0),
        (history(*SLEEPS, states={}), 1),
        (history(*SLEEPS, states=history(*SLEEPS[:2]).states), 1),
        (history(*SLEEPS, samples=list(history(snoozed(), snoozed()).states.values())), 1),
    ],
    "outcomes of deliveries fit the wait": [
        (history(*SLEEPS), 0),
        (history(delivered("a", outcome="woken")), 1),
        (history(awaited(channel="x"), delivered("a", outcome="live")), 1),
        (history((snoozed(deadline=5), 1), (delivered("a", outcome="woken"), 6)), 1),
    ],
    "the librarys own verify agrees": [
        (history(), 0),
        (history(verified=["job 7: L7 checksum"]), 1),
    ],
    "everything is accounted for": [
        (history(*SLEEPS), 0),
        (history(snoozed(), delivered("a", channel="x"), jobs=asleep()), 0),
        (history(*SLEEPS[:3]), 1),
        (history(snoozed(), delivered("a", outcome="buffered"), jobs=asleep()), 1),
        (history(snoozed(deadline=3600), jobs=asleep()), 0),
        (history(snoozed(deadline=3600), delivered("a"), jobs=asleep()), 1),
        (history(snoozed(deadline=3600), delivered("a", channel="x"), jobs=asleep()), 0),
        (history(delivered("a"), snoozed(deadline=3600), jobs=asleep()), 1),
        (history(*CONSUMED_ONE, snoozed(deadline=3600, ordinal=2), jobs=asleep()), 0),
        (history(*CONSUMED_ONE, snoozed(deadline=3600, ordinal=2), delivered("b"), jobs=asleep()), 1),
        # At its deadline, and too late: only the first could have ended it.
        (history((snoozed(deadline=2000), 1), (delivered("a"), 2000), jobs=asleep()), 1),
        (history((snoozed(deadline=2000), 1), (delivered("a"), 2001), jobs=asleep()), 0),
        (history(snoozed(deadline=5), jobs=asleep()), 1),
        (history(awaited(), jobs={JOB: JobSeen(state="executing")}), 1),
        (history(jobs={JOB: JobSeen(state="available")}), 1),
    ],
    "completed jobs have followed their script": [
        (history(*SLEEPS, scripts={JOB: [Step(channel="")]}), 0),
        (history(*SLEEPS, scripts={JOB: [Step(channel=""), Step(channel="")]}), 1),
    ],
    "nothing is left in the outbox": [
        (history(outbox=[Stored(signal_id="i", job_id=JOB, source="a", refusal="missing")]), 0),
        (history(outbox=[Stored(signal_id="i", job_id=JOB, source="a", refusal=None)]), 1),
    ],
    "every fault that was played happened": [
        (history(plays=[Play(kind="crash", times=1), Play(kind="crash", times=3)]), 0),
        (history(plays=[Play(kind="crash", times=1), Play(kind="crash", times=0)]), 1),
        (history(plays=[Play(kind="jobs pruned", times=0, may_miss=True)]), 0),
    ],
    "every kind of fault happened": [
        (history(plays=[Play(kind="crash", times=0), Play(kind="crash", times=1)], kinds=("crash",)), 0),
        (history(plays=[Play(kind="crash", times=1)], kinds=("crash", "jobs pruned")), 1),
        (history(plays=[Play(kind="jobs pruned", times=0, may_miss=True)], kinds=("jobs pruned",)), 1),
        (history(), 0),
    ],
    "nothing leaks": [(history(), 0), (history(leaks=["a lock"]), 1)],
    "processes meet no errors": [(history(), 0), (history(errors=["an error"]), 1)],
}


def test_every_rule_has_a_good_and_a_bad_history():
    assert list(CASES) == list(RULES)
    for rule, cases in CASES.items():
        assert {count > 0 for _, count in cases} == {False, True}, rule


@pytest.mark.parametrize(
    ("rule", "given", "count"), [(rule, given, count) for rule, cases in CASES.items() for given, count in cases]
)
def test_a_rule_finds_what_is_wrong_and_nothing_else(rule, given, count):
    found = check(given)[rule]
    assert len(found) == count, [str(finding) for finding in found]
    assert all(finding.rule == rule and str(finding).startswith(rule) for finding in found)


def test_equal_values_in_other_bytes_are_found():
    given = history(delivered("a", {"x": 1}), calls=[call("a", {"x": 1}, receipts=(told("a", 1),))])
    assert encode({"x": 1}) == given.log[0].event.payload
    other = without(given, calls=[without(given.calls[0], bytes_digest="another")])
    assert len(check(other)["acknowledged signals are in the log"]) == 1


def test_a_whole_history_that_is_right_breaks_no_rule():
    given = history(
        snoozed(),
        delivered("a", 1, outcome="woken"),
        consumed("a", 2, execution=2),
        closed(execution=2),
        calls=[call("a", 1, receipts=(told("a", 2, "woken"),))],
        saws=[saw_signal(1, execution=2)],
        scripts={JOB: [Step(channel="")]},
        jobs={JOB: JobSeen(state="completed")},
    )
    assert not any(check(given).values())


def test_a_history_that_a_rule_cannot_read_breaks_it():
    given = history(delivered("a"), calls=[None])
    assert len(check(given)["acknowledged signals are in the log"]) == 1


UNANSWERED = {"status": "unknown", "ended": FOR_EVER}


@pytest.mark.parametrize(
    ("events", "calls", "committed"),
    [
        pytest.param([], [call("a", **UNANSWERED)], set(), id="nothing in the log"),
        pytest.param([delivered("a")], [call("a", **UNANSWERED)], {"a"}, id="not repeated, and in the log"),
        pytest.param(
            [delivered("a", key="id-a")],
            [call("a", **UNANSWERED), call("a", attempt=2, key="id-a", receipts=(told("a", 1),))],
            set(),
            id="the repeat delivered it",
        ),
        pytest.param(
            [delivered("a")],
            [call("a", **UNANSWERED), call("a", attempt=2, key="id-a", receipts=(told("a", 1, "duplicate"),))],
            {"a"},
            id="the repeat found it delivered",
        ),
        pytest.param(
            [delivered("b", key="k")],
            [call("a", key="k", **UNANSWERED), call("a", attempt=2, key="k", receipts=(told("b", 1, "duplicate"),))],
            set(),
            id="the repeat found another signal under its key",
        ),
        pytest.param(
            [delivered("a")],
            [call("a", **UNANSWERED), call("a", attempt=2, key="id-a", **UNANSWERED)],
            {"a"},
            id="two calls without an answer, of which one delivered it",
        ),
        pytest.param([delivered("a")], [call("a", receipts=(told("a", 1),))], set(), id="answered"),
    ],
)
def test_a_call_without_an_answer_counts_as_committed_only_if_it_delivered_itself(events, calls, committed):
    unknown = [given for given in calls if given.status == "unknown"]
    assert committed_without_answer(history(*events, calls=calls), unknown) == committed


def test_a_call_keeps_when_it_ended_without_an_answer_and_how_long_its_process_stood_still():
    begun = {"what": "invoked", "call": "a.1", "signal": "a", "targets": [JOB], "channel": "", "key": None}
    begun |= {"digest": "d", "bytes_digest": "b", "transaction": None, "timeout_s": 1.0}
    ended = {"what": "ended", "call": "a.1", "status": "unknown", "error": "DeliveryUnknown", "receipts": []}
    [seen] = calls_of(
        [
            {**begun, "at": 10 * 10**9, "wall": 100.0},
            {"what": "lagged", "at": 11 * 10**9, "wall": 101.0, "lag": 2 * 10**9},
            {"what": "lagged", "at": 15 * 10**9, "wall": 105.0, "lag": 10**9},
            {**ended, "at": 16 * 10**9, "wall": 106.0},
            {"what": "lagged", "at": 18 * 10**9, "wall": 108.0, "lag": 10**9},
        ]
    )
    assert (seen.ended, seen.took_s, seen.lagged_s) == (FOR_EVER, 6.0, 2.0)


IDLE = {"tasks": {"main": 1}, "files": 10, "live": []}


@pytest.mark.parametrize(
    ("report", "connections", "count"),
    [
        pytest.param(IDLE, 3, 0, id="idle"),
        pytest.param({**IDLE, "files": 12}, 5, 0, id="with the connections of its work"),
        pytest.param({**IDLE, "files": 13}, 5, 1, id="a file"),
        pytest.param({**IDLE, "files": 12}, 6, 1, id="a connection"),
        pytest.param({**IDLE, "tasks": {"main": 1, "send": 1}}, 3, 1, id="a task"),
        pytest.param({**IDLE, "tasks": {"main": 1, "oban-notifier": 1}}, 3, 0, id="a task of Oban's"),
        pytest.param({**IDLE, "live": [JOB]}, 3, 1, id="a live wait"),
    ],
)
def test_what_a_process_holds_too_much_of_is_told(report, connections, count):
    found = held_more(report, connections, tasks=IDLE["tasks"], connections_max=5, files_max=12)
    assert len(found) == count, found
