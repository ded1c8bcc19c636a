"""The checker finds what is wrong, and nothing in what is right: one good and one bad history for each rule."""

import pytest

from signal_ledger.codec import encode
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
    snoozed,
    stream,
    timed_out,
    told,
    without,
)
from tests.torture.history import JobSeen, Step, Stored, mark_of

SLEEPS = (snoozed(), delivered("a", outcome="woken"), consumed("a", 2), closed())
LATE = [
    (snoozed(deadline=10), 1),
    (delivered("a"), 11),
    (timed_out(10, execution=2), 12),
    (consumed("a", 2, execution=2, ordinal=2), 13),
]
LISTED = {"jobs": {JOB: JobSeen(state="scheduled"), 8: JobSeen(state="scheduled")}}

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
        (history(calls=[call("a", began=0, ended=11 * 10**9, timeout_s=1.0)]), 0),
        (history(calls=[call("a", began=0, ended=12 * 10**9, timeout_s=1.0)]), 1),
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
