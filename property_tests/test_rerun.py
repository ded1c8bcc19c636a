"""Laws of reruns, on histories that the rules have written (promises W8, W9)."""

import asyncio
from collections import Counter

from hypothesis import event, given, settings
from hypothesis import strategies as st

from property_tests.test_fold import HISTORIES, JOB
from signal_ledger import SignalTimeout, await_signal
from signal_ledger.events import Awaited, Consumed, Snoozed, TimedOut
from signal_ledger.execution import Execution
from signal_ledger.history import History
from signal_ledger.names import public_channel
from signal_ledger.offline import Notebook, offline
from signal_ledger.rerunning import OfflineEngine, RecordedRoom, RecordedRun, to_report


def rerun(history, channels, run=None):
    """Run a `process` that awaits these channels in turn; return what its awaits came to, and the report."""
    got = []

    async def process():
        for channel in channels:
            try:
                got.append(await await_signal(channel=public_channel(channel)))
            except SignalTimeout as timeout:
                got.append(timeout.deadline_at)

    async def main():
        recorded_run = RecordedRun(history, run)
        room, notebook = RecordedRoom(recorded_run), Notebook()
        execution = Execution(job_id=JOB, token=1, engine=OfflineEngine(notebook), room=room)
        with offline(notebook):
            await execution.run(process)
        return to_report(
            recorded_run, room, notebook, worker="w", attempt=1, result=None, result_text="None", error=None
        )

    return got, asyncio.run(main())


def outcomes(events, run):
    """The waits of a run with an outcome, in the order of the log."""
    return [one for one in events if one.run == run and isinstance(one.event, Consumed | TimedOut)]


def opened(events, run):
    """The channels with a wait that has begun and has no outcome, in the order in which they began."""
    found = {}
    for one in events:
        if one.run == run and isinstance(one.event, Awaited | Snoozed):
            found.setdefault(one.event.channel, one.event.ordinal)
        elif one.run == run and isinstance(one.event, Consumed | TimedOut):
            found.pop(one.event.channel, None)
    return found


def expected(events, ends):
    """What the awaits come to: the payload of all signals is an empty list."""
    return [[] if isinstance(one.event, Consumed) else one.event.deadline_at for one in ends]


@given(HISTORIES)
def test_w9_awaits_in_the_recorded_order_get_the_recorded_outcomes_in_each_run(written):
    history = History(job_id=JOB, events=tuple(written.events))
    for run in {one.run for one in history}:
        ends = outcomes(history, run)
        got, report = rerun(history, [one.event.channel for one in ends], run)
        assert got == expected(history, ends)
        assert [each.version for each in report.awaits] == [one.version for one in ends]
        assert (report.unasked, report.notes) == ((), ())
        # A wait that is open was not asked for.
        assert report.ended == ("diverged" if opened(history, run) else "returned")
        event(f"outcomes: {min(len(ends), 3)}, {report.ended}")


@given(written=HISTORIES, data=st.data())
def test_w9_every_prefix_stops_at_the_next_await_or_at_the_one_that_is_open(written, data):
    whole = History(job_id=JOB, events=tuple(written.events))
    history = whole.until(data.draw(st.integers(0, len(whole))))
    run = max((one.run for one in history), default=1)
    ends = outcomes(history, run)
    waits = opened(history, run)
    later = outcomes(whole, run)[len(ends) :]
    # What the job asked for next: what it waits for, else what came to its outcome next, else just anything.
    follows = [*waits, *(one.event.channel for one in later), "votes"][0]
    got, report = rerun(history, [*(one.event.channel for one in ends), follows, ""])
    assert got == expected(history, ends)
    assert len(report.awaits) == len(ends) + 1
    is_closed = any(one.run == run and one.kind == "closed" for one in history)
    if follows in waits:
        assert (report.ended, report.stopped_at.ordinal) == ("stopped", waits[follows])
        assert report.stopped_at.version is not None
    elif is_closed:
        assert report.ended == "diverged"
    else:
        assert (report.ended, report.stopped_at.since) == ("stopped", None)
    event(f"{report.ended}, open: {bool(waits)}, closed: {is_closed}")


@given(written=HISTORIES, data=st.data())
def test_w8_no_order_of_awaits_gets_an_outcome_twice(written, data):
    history = History(job_id=JOB, events=tuple(written.events))
    channels = data.draw(st.lists(st.sampled_from(["", "votes", "other"]), max_size=12))
    _, report = rerun(history, channels)
    versions = [each.version for each in report.awaits if each.version is not None]
    assert len(versions) == len(set(versions))
    run = max((one.run for one in history), default=1)
    left = [each.version for each in report.unasked]
    assert sorted([*versions, *left]) == [one.version for one in outcomes(history, run)]
    on_channel = Counter()
    for each in report.awaits:
        on_channel[each.channel] += 1
        assert each.ordinal == on_channel[each.channel]
    event(report.ended)


def test_the_reruns_are_interesting():
    """What the laws above are checked on: every ending, every outcome."""
    met = Counter()

    # The same examples in each run: what is met must not depend on luck.
    @settings(max_examples=200, derandomize=True, database=None)
    @given(HISTORIES, st.lists(st.sampled_from(["", "votes"]), max_size=4))
    def look(written, channels):
        _, report = rerun(History(job_id=JOB, events=tuple(written.events)), channels)
        met[report.ended] += 1
        met.update(each.got for each in report.awaits)
        met["notes"] += bool(report.notes)

    look()
    assert all(met[case] for case in ["returned", "stopped", "diverged", "signal", "timeout", "nothing", "notes"]), met
