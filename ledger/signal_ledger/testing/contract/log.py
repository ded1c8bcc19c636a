"""The log and its questions: promises L3 to L6."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from signal_ledger.events import Kind
from signal_ledger.evolve import fold
from signal_ledger.jobs import JobState
from signal_ledger.ledger import Ledger
from signal_ledger.names import JobId
from signal_ledger.plan import Plan
from signal_ledger.ports import EventFilter
from signal_ledger.recorded import RecordedEvent
from signal_ledger.stats import Durations
from signal_ledger.testing.bench import Bench, take
from signal_ledger.testing.contract.steps import asleep, executing, kinds
from signal_ledger.verify import Progress


class LogContract:
    """Promises L3 to L6, and the audit queries."""

    async def test_l3_the_stored_state_is_the_fold_and_can_be_rebuilt(self, bench: Bench) -> None:
        signaller = bench.signaller
        job_ids = [(await asleep(bench, wait_for=60))[0], (await asleep(bench, channel="c"))[0]]
        for job_id in job_ids:
            await signaller.send(job_id, "a")
            await signaller.send(job_id, "b", channel="other")
        before = [await bench.store.state(job_id) for job_id in job_ids]
        assert before == [fold(job_id, await bench.store.history(job_id)) for job_id in job_ids]
        assert await bench.store.rebuild() == 2
        assert [await bench.store.state(job_id) for job_id in job_ids] == before
        assert (await Ledger(bench.store, None).verify()).ok

    async def test_l3_rebuilding_tells_how_far_it_is_and_ends_where_that_raises(self, bench: Bench) -> None:
        job_ids = [(await asleep(bench, wait_for=60))[0] for _ in range(3)]
        told: list[int] = []
        ledger = Ledger(bench.store, bench.signaller._sender)  # noqa: SLF001 - any sender: a reader may not rebuild
        assert await ledger.rebuild(progress=told.append) == 3
        assert told == sorted(told)
        assert told[-1] == 3

        def stop(done: int) -> None:
            raise InterruptedError(done)

        with pytest.raises(InterruptedError):
            await ledger.rebuild(progress=stop)
        assert [(await ledger.state(job_id)).status for job_id in job_ids] == ["snoozed"] * 3
        assert (await ledger.verify()).ok

    async def test_figures_tell_how_long_decisions_take_what_timed_out_and_what_was_late(self, bench: Bench) -> None:
        ledger = Ledger(bench.store, None)
        begin = bench.clock()
        decided, _ = await asleep(bench, wait_for=60)
        bench.clock.advance(30)
        await bench.signaller.send(decided, "yes")
        bench.clock.advance(2)
        await take(bench, decided, await executing(bench, decided), wait_for=60)
        failed, _ = await asleep(bench, wait_for=60, channel="c")
        bench.clock.advance(61)
        await bench.signaller.send(failed, "too late", channel="c")
        await take(bench, failed, await executing(bench, failed), channel="c", wait_for=60)
        bench.clock.advance(1)
        open_for_longest, _ = await asleep(bench, channel="c")
        await asleep(bench)
        found = await ledger.stats()
        assert (found.events, found.streams) == (12, 4)
        assert (found.delivered, found.consumed, found.timed_out, found.late) == ({"woken": 1, "buffered": 1}, 1, 1, 1)
        assert found.time_to_decision == Durations.of([30.0])
        assert found.time_to_resume == Durations.of([2.0])
        assert found.open_waits == {"c": 1, None: 1}
        assert found.oldest is not None
        assert found.oldest.job_id == open_for_longest
        in_the_end = await ledger.stats(since=begin + timedelta(seconds=40), until=bench.clock())
        assert (in_the_end.consumed, in_the_end.timed_out, in_the_end.late, in_the_end.streams) == (0, 1, 1, 1)
        on_default = await ledger.stats(since=begin, channel="")
        assert (on_default.delivered, on_default.timed_out, on_default.open_waits) == ({"woken": 1}, 0, {None: 1})
        assert replace(await ledger.stats(since=begin), since=None, events=12, streams=4) == found

    async def test_a_snapshot_has_the_events_of_some_jobs(self, bench: Bench) -> None:
        job_ids = [await bench.insert() for _ in range(4)]
        for _ in range(2):
            await bench.signaller.send_all(job_ids)
        async with bench.store.snapshot() as snapshot:
            everything = [row async for row in snapshot.rows()]
            for some in (job_ids[::2], [job_ids[3]], [], [*job_ids, JobId(404)]):
                found = [row async for row in snapshot.rows(some)]
                assert found == [row for row in everything if row[1].job_id in some]

    async def test_verify_tells_how_far_it_is(self, bench: Bench) -> None:
        ledger = Ledger(bench.store, None)
        told: list[Progress] = []
        await ledger.verify(progress=told.append)
        job_ids = [await bench.insert() for _ in range(2)]
        await bench.signaller.send_all(job_ids)
        await ledger.verify(progress=told.append)
        assert [(done.events, done.streams, done.found) for done in told] == [(0, 0, 0), (2, 2, 0)]
        assert told[0].total == 0
        assert told[1].total >= 2

    async def test_l4_reading_the_log_by_its_cursors_skips_nothing(self, bench: Bench) -> None:
        signaller = bench.signaller
        job_ids = [await bench.insert() for _ in range(3)]
        for number in range(10):
            await signaller.send(job_ids[number % 3], number)
        read: list[object] = []
        after = None
        while page := await bench.store.page(EventFilter(after=after), 3):
            read += [recorded.payload for recorded in page]
            after = page[-1].cursor
        assert read == list(range(10))
        assert await bench.store.end() == after

    async def test_l5_the_state_as_of_a_cursor_is_the_fold_up_to_it(self, bench: Bench) -> None:
        job_id, _ = await asleep(bench, wait_for=60)
        await bench.signaller.send(job_id)
        await take(bench, job_id, await executing(bench, job_id))
        ledger = Ledger(bench.store, None)
        history = await ledger.history(job_id)
        for count, recorded in enumerate(history, start=1):
            assert await ledger.state(job_id, cursor=recorded.cursor) == fold(job_id, history[:count])

    async def test_l5_the_state_as_of_a_time_folds_what_was_recorded_by_then(self, bench: Bench) -> None:
        ledger = Ledger(bench.store, None)
        job_id = await bench.insert()
        signaller = bench.signaller
        for _ in range(3):
            await signaller.send(job_id)
            bench.clock.advance(10)
        first, second, third = await ledger.history(job_id)
        assert (await ledger.state(job_id, at=second.recorded_at)).version == 2
        assert (await ledger.state(job_id, at=first.recorded_at - timedelta(microseconds=1))).version == 0
        settled = await ledger.state(job_id, at=third.recorded_at)
        assert (settled.version, settled.provisional) == (3, False)
        assert (await ledger.state(job_id, at=bench.clock() + timedelta(days=1))).provisional

    async def test_l6_history_outlives_the_job(self, bench: Bench) -> None:
        job_id = await bench.insert()
        await bench.signaller.send(job_id)
        await bench.finish(job_id, await executing(bench, job_id), JobState.COMPLETED)
        bench.clock.advance(10)
        await bench.prune()
        assert await bench.job(job_id) is None
        assert await kinds(bench, job_id) == ["delivered", "closed"]
        assert await bench.insert() != job_id

    async def test_the_row_of_a_job_is_there_as_long_as_the_job_is(self, bench: Bench) -> None:
        plan = Plan(workflow_id="w", workflow_name=None, name="charge", deps=(), ignore=())
        job_id = await bench.insert(max_attempts=3, plan=plan)
        fresh = await bench.store.job(job_id)
        assert fresh is not None
        assert (fresh.worker, fresh.state, fresh.attempt, fresh.max_attempts) == ("tests.Worker", "available", 0, 3)
        assert (fresh.args, fresh.meta, fresh.tags, fresh.errors, fresh.priority) == ({}, plan.to_meta(), (), (), 0)
        assert (fresh.attempted_at, fresh.completed_at) == (None, None)
        assert fresh.inserted_at.utcoffset() == fresh.scheduled_at.utcoffset() == timedelta(0)
        await bench.finish(job_id, await executing(bench, job_id), JobState.COMPLETED)
        done = await bench.store.job(job_id)
        assert done is not None
        assert (done.state, done.attempt, done.queue) == ("completed", 1, fresh.queue)
        assert done.attempted_at is not None
        assert done.completed_at is not None
        bench.clock.advance(10)
        await bench.prune()
        assert await bench.store.job(job_id) is None

    async def test_waiting_lists_who_waits_the_longest_first(self, bench: Bench) -> None:
        ledger = Ledger(bench.store, None)
        waiting = []
        for wait_for, channel in ((60, ""), (None, "c"), (600, "c")):
            waiting.append((await asleep(bench, wait_for=wait_for, channel=channel))[0])
            bench.clock.advance(1)
        live = await bench.insert()
        await take(bench, live, await executing(bench, live))
        woken, _ = await asleep(bench)
        await bench.signaller.send(woken)
        rows = await ledger.waiting()
        assert [row.job_id for row in rows] == [*waiting, live]
        assert [row.status for row in rows] == ["snoozed"] * 3 + ["live"]
        assert [row.channel for row in rows] == [None, "c", "c", None]
        assert [row.deadline_at is None for row in rows] == [False, True, False, True]
        assert [row.job_id for row in await ledger.waiting(channel="")] == [waiting[0], live]
        assert [row.job_id for row in await ledger.waiting(channel="c", limit=1)] == [waiting[1]]
        assert [row.job_id for row in await ledger.waiting(after=rows[1].cursor)] == [waiting[2], live]
        soon = datetime(2026, 1, 1, 12, 5, tzinfo=UTC)
        assert [row.job_id for row in await ledger.waiting(deadline_before=soon)] == [waiting[0]]

    async def test_events_can_be_filtered(self, bench: Bench) -> None:
        ledger = Ledger(bench.store, None)
        first, second = await bench.insert(), await bench.insert()
        signaller = bench.signaller
        await signaller.send(first, 1, channel="c")
        bench.clock.advance(10)
        await signaller.send(second, 2)
        await take(bench, second, await executing(bench, second))

        async def seen(events: AsyncIterator[RecordedEvent]) -> list[tuple[str, object]]:
            return [(recorded.kind.value, recorded.payload) async for recorded in events]

        everything = [("delivered", 1), ("delivered", 2), ("consumed", None)]
        assert await seen(ledger.events()) == everything
        assert await seen(ledger.events(job_id=first)) == everything[:1]
        assert await seen(ledger.events(kinds=["consumed"])) == everything[2:]
        assert await seen(ledger.events(since=bench.clock())) == everything[1:]
        assert await seen(ledger.events(until=bench.clock())) == everything[:1]
        assert await seen(ledger.events(source="test")) == everything[:2]
        assert await seen(ledger.events(source="nobody")) == []
        assert await seen(ledger.events(channel="c")) == everything[:1]
        assert await seen(ledger.events(channel="")) == everything[1:]
        [one] = await ledger.history(first)
        assert await seen(ledger.events(after=one.cursor)) == everything[1:]

    async def test_events_are_found_by_their_time_whatever_the_clock_has_done(self, bench: Bench) -> None:
        ledger = Ledger(bench.store, None)
        job_ids = [await bench.insert() for _ in range(5)]
        for number in range(15):
            # Three seconds on, and seven back now and then.
            bench.clock.advance(-7 if number % 4 == 3 else 3)
            await bench.signaller.send(job_ids[number % 5], number, channel="c" if number % 3 else None)
        everything = [recorded async for recorded in ledger.events()]
        times = [recorded.recorded_at for recorded in everything]
        assert times != sorted(times)
        for since in [None, *times]:
            for until in [None, *times[::3]]:
                wanted = EventFilter(since=since, until=until, channel="c", kinds=frozenset({Kind.DELIVERED}))
                read: list[RecordedEvent] = []
                while page := await bench.store.page(replace(wanted, after=read[-1].cursor if read else None), 4):
                    read += page
                assert read == [recorded for recorded in everything if wanted.matches(recorded)]

    async def test_a_page_of_a_stream_begins_behind_any_cursor(self, bench: Bench) -> None:
        ledger = Ledger(bench.store, None)
        first, second = await bench.insert(), await bench.insert()
        for number in range(6):
            await bench.signaller.send(first if number % 2 else second, number)
        everything = [recorded async for recorded in ledger.events()]
        for place, recorded in enumerate(everything, start=1):
            for job_id in (first, second):
                page = await bench.store.page(EventFilter(job_id=job_id, after=recorded.cursor), 2)
                assert page == [other for other in everything[place:] if other.job_id == job_id][:2]

    async def test_l4_following_the_log_sees_what_was_and_what_comes(self, bench: Bench) -> None:
        ledger = Ledger(bench.store, None)
        job_id = await bench.insert()
        await bench.signaller.send(job_id, "before")
        from_start, from_end = ledger.follow(), ledger.follow(after="end")
        assert (await anext(from_start)).payload == "before"
        next_of_both = [asyncio.ensure_future(anext(from_start)), asyncio.ensure_future(anext(from_end))]
        # Where the end is, is looked up when the iteration begins: signal until both have seen one.
        while not all(task.done() for task in next_of_both):
            await bench.signaller.send(job_id, "after")
            await asyncio.sleep(0.01)
        assert [recorded.payload for recorded in await asyncio.gather(*next_of_both)] == ["after", "after"]
        await from_start.aclose()
        await from_end.aclose()

    async def test_l4_following_a_part_of_the_log_misses_none_of_it_and_doubles_none(self, bench: Bench) -> None:
        ledger = Ledger(bench.store, None)
        wanted, other = await bench.insert(), await bench.insert()
        assert await ledger.end() is None
        await bench.signaller.send_all([wanted, other], "before", channel="c")
        end = await ledger.end()
        assert end == [recorded.cursor async for recorded in ledger.events()][-1]
        of_job = ledger.follow(job_id=wanted, kinds={"delivered"}, source="test", channel="c")
        behind = ledger.follow(end, job_id=wanted, channel="c")
        assert (await anext(of_job)).payload == "before"
        for number in range(7):
            await bench.signaller.send_all([other, wanted], number, channel="c")
            await bench.signaller.send(wanted, "elsewhere")
            for follower in (of_job, behind):
                recorded = await anext(follower)
                assert (recorded.job_id, recorded.payload) == (wanted, number)
        for follower in (of_job, behind):
            await follower.aclose()
        with pytest.raises(ValueError, match="kinds: expected some of"):
            await anext(ledger.follow(kinds={"nonsense"}))
        with pytest.raises(ValueError, match="cursor: expected the cursor of an event"):
            await anext(ledger.follow("nonsense"))
