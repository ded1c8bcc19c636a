"""Clocks of nodes an hour apart from the server's, with libfaketime: on PostgreSQL they do not matter (W6, W7)."""

import datetime as dt

from oban._recorded import decode_recorded

from signal_ledger import open_ledger
from tests.eventually import eventually
from tests.fault_figures import Account
from tests.faults.clocks import check_history, needs_faketime, process, signal, skew_s
from tests.processes.clocked import Clocked

pytestmark = needs_faketime


async def test_w6_w7_the_clocks_of_nodes_do_not_matter(start, ledger_url, tmp_path, record_property):
    it = await start({})
    account, skews = Account(), []
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    slow.write_text("-3600")
    fast.write_text("+3600")
    async with (
        process(slow, "clocked_node", ledger_url, "slow") as one,
        process(fast, "clocked_node", ledger_url, "fast") as two,
        open_ledger(ledger_url) as ledger,
    ):
        for window in (0, 60):
            job = await Clocked.enqueue({"votes": 3, "window": window, "wait_for": 10})
            # The last of them times out; the deadlines of the others do not pass within an hour's error.
            for node, number in ((one, 1), (two, 2)):
                await eventually(lambda job=job: _waits(ledger, job))
                await signal(account, node, job, number)
            await eventually(lambda job=job: _has(ledger, job, "timed_out"))
            done = await it.until(job, "completed")
            assert decode_recorded(done.meta["return"]) == [1, 2, "timeout"]
            history = await ledger.history(job.id)
            check_history(history)
            for event in history:
                assert abs(event.recorded_at - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=10)
            [timed_out] = [event for event in history if event.kind == "timed_out"]
            [began] = [event for event in history if event.ordinal == 3 and event.kind in ("snoozed", "awaited")][:1]
            assert timed_out.deadline_at - began.recorded_at == dt.timedelta(seconds=10)
            # Both clocks beside the one here.
            skews += [(await skew_s(one), -3600), (await skew_s(two), 3600)]
        figures = await account.figures(ledger)
    off = [abs(skew - offset) < 60 for skew, offset in skews]
    assert all(off), skews
    figures.record(record_property, happened=sum(off))


async def _waits(ledger, job):
    state = await ledger.state(job.id)
    return state.status in ("live", "snoozed") and not state.pending


async def _has(ledger, job, kind):
    return kind in [event.kind for event in await ledger.history(job.id)]
