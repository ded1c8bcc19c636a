"""The rules of the embedded engine's jobs: those of Oban's own statements."""

from dataclasses import replace
from datetime import timedelta

import pytest

from signal_ledger.embedded.job_row import INDEFINITELY, Acknowledgement, NewJob, inserted
from signal_ledger.embedded.operations import (
    Acknowledge,
    AddNode,
    CancelJobs,
    DeleteJobs,
    FetchJobs,
    InsertJobs,
    Look,
    PruneJobs,
    Repair,
    RescueJobs,
    RetryJobs,
)
from signal_ledger.jobs import JobState
from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench, take
from signal_ledger.testing.clock import ManualClock
from signal_ledger.upcast import NewerEventError
from tests.core.given import at


def new_job(**fields):
    defaults = {
        "worker": "app.Worker",
        "queue": "default",
        "state": JobState.AVAILABLE,
        "priority": 0,
        "max_attempts": 3,
        "args": {"a": 1},
        "meta": {"m": 1},
        "tags": ("t",),
        "scheduled_at": None,
        "inserted_at": None,
    }
    return NewJob(**{**defaults, **fields})


def job(**fields):
    return replace(inserted(7, new_job(), at(0)), **fields)


def ack(state, **fields):
    return Acknowledgement(job_id=7, execution=1, state=state, **fields)


class TestTransitions:
    def test_a_new_job_is_available_now(self):
        row = inserted(7, new_job(), at(5))
        assert (row.state, row.inserted_at, row.scheduled_at) == ("available", at(5), at(5))
        assert (row.attempt, row.execution, row.errors, row.args, row.tags) == (0, 0, (), {"a": 1}, ("t",))

    @pytest.mark.parametrize("seconds", [60, -60])
    def test_a_job_with_a_time_is_scheduled_even_if_that_is_past(self, seconds):
        row = inserted(7, new_job(scheduled_at=at(seconds), inserted_at=at(-1)), at(0))
        assert (row.state, row.scheduled_at, row.inserted_at) == ("scheduled", at(seconds), at(-1))

    def test_a_job_may_be_inserted_suspended(self):
        assert inserted(7, new_job(state=JobState.SUSPENDED), at(0)).state == "suspended"

    def test_a_fetch_counts_attempt_and_execution(self):
        row = job(attempt=1, execution=4).fetched(at(9), 2, ("node", "uuid"))
        assert (row.state, row.attempt, row.execution, row.attempted_at) == ("executing", 2, 5, at(9))
        assert (row.node, row.attempted_by) == (2, ("node", "uuid"))

    @pytest.mark.parametrize(
        ("state", "column"),
        [("completed", "completed_at"), ("cancelled", "cancelled_at"), ("discarded", "discarded_at")],
    )
    def test_an_end_has_its_time(self, state, column):
        row = job(state=JobState.EXECUTING, cancel_requested=True).acknowledged(ack(JobState(state)), at(9))
        assert (row.state, getattr(row, column), row.ended_at) == (state, at(9), at(9))
        assert row.is_terminal
        assert not row.cancel_requested

    def test_a_failure_is_retried_later_with_its_error(self):
        failed = ack(JobState.RETRYABLE, schedule_in=timedelta(seconds=15), error={"error": "boom"})
        row = job(attempt=1, errors=({"error": "first"},), cancel_requested=True).acknowledged(failed, at(9))
        assert (row.state, row.scheduled_at, row.attempt, row.ended_at) == ("retryable", at(24), 1, None)
        assert [error["error"] for error in row.errors] == ["first", "boom"]
        assert row.cancel_requested

    def test_a_snooze_gives_the_attempt_back_and_merges_meta(self):
        snoozed = ack(JobState.SCHEDULED, attempt_change=-1, schedule_in=timedelta(seconds=1), meta={"snoozed": 1})
        row = job(attempt=1).acknowledged(snoozed, at(9))
        assert (row.attempt, row.meta) == (0, {"m": 1, "snoozed": 1})

    def test_a_sleeping_job_is_due_when_its_deadline_lies_behind(self):
        row = job().asleep(at(60), at(9))
        assert (row.state, row.scheduled_at) == ("scheduled", at(60.000001))
        assert row.meta == {"m": 1, "wait_until": 1767268860000}
        forever = job().asleep(None, at(9))
        assert (forever.scheduled_at, forever.meta["wait_until"]) == (at(9) + INDEFINITELY, "infinity")

    def test_a_job_that_wakes_waits_no_more(self):
        row = job().asleep(at(60), at(9)).available(at(10))
        assert (row.state, row.scheduled_at, row.meta) == ("available", at(10), {"m": 1})
        due = job(scheduled_at=at(5)).available(at(10))
        assert due.scheduled_at == at(5)

    @pytest.mark.parametrize("state", ["available", "scheduled", "retryable", "suspended"])
    def test_a_cancelled_job_ends_at_once(self, state):
        row = job(state=JobState(state), meta={"wait_until": "infinity"}).cancelled(at(9))
        assert (row.state, row.cancelled_at) == ("cancelled", at(9))
        assert row.meta == {"cancel_attempted_at": "2026-01-01T12:00:09.000000Z"}

    def test_an_executing_job_is_asked_to_stop(self):
        row = job(state=JobState.EXECUTING).cancelled(at(9))
        assert (row.state, row.cancel_requested, row.cancelled_at) == ("executing", True, None)

    def test_a_retry_makes_room_for_one_more_attempt(self):
        row = job(state=JobState.DISCARDED, attempt=3, discarded_at=at(1), cancel_requested=True).retried(at(9))
        assert (row.state, row.max_attempts, row.scheduled_at, row.discarded_at) == ("available", 4, at(9), None)
        assert not row.cancel_requested
        assert job(attempt=1).retried(at(9)).max_attempts == 3

    def test_a_rescued_job_runs_again_and_says_how_often(self):
        row = job(state=JobState.EXECUTING, attempt=1).rescued(at(9))
        assert (row.state, row.meta["rescued"]) == ("available", 1)
        assert row.rescued(at(9)).meta["rescued"] == 2
        assert job(meta={"rescued": "nonsense"}).rescued(at(9)).meta["rescued"] == 1

    def test_a_rescued_job_without_attempts_is_discarded(self):
        row = job(state=JobState.EXECUTING, attempt=3).rescued(at(9))
        assert (row.state, row.discarded_at) == ("discarded", at(9))

    def test_w12_a_rescued_job_that_was_cancelled_is_cancelled(self):
        row = job(state=JobState.EXECUTING, cancel_requested=True).rescued(at(9))
        assert (row.state, row.cancelled_at, row.cancel_requested) == ("cancelled", at(9), False)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def store(clock):
    return MemoryStore(clock)


def fetch(**slots):
    return FetchJobs(slots=slots, node=1, attempted_by=("n",))


class TestOperations:
    async def test_jobs_are_fetched_by_priority_time_and_id_within_the_slots(self, store, clock):
        for priority in (3, 1, 1):
            await store.transact(InsertJobs(jobs=(new_job(priority=priority),)))
            clock.advance(1)
        await store.transact(InsertJobs(jobs=(new_job(queue="other"),)))
        fetched = await store.transact(fetch(default=2, other=0))
        assert [row.id for row in fetched.jobs] == [2, 3]
        assert [row.id for row in (await store.transact(fetch(default=5, other=5))).jobs] == [1, 4]

    async def test_due_jobs_are_staged_and_the_next_one_is_announced(self, store, clock):
        for seconds in (10, 20):
            await store.transact(InsertJobs(jobs=(new_job(scheduled_at=at(seconds)),)))
        assert await store.transact(fetch(default=5)) == await store.transact(fetch(default=5))
        clock.advance(10)
        fetched = await store.transact(fetch(default=5))
        assert ([row.id for row in fetched.jobs], fetched.next_due_at) == ([1], at(20))

    async def test_an_exhausted_job_is_not_fetched(self, store):
        [row] = await store.transact(InsertJobs(jobs=(new_job(max_attempts=1),)))
        await store.transact(fetch(default=1))
        store._tables.jobs[row.id] = replace(store._tables.jobs[row.id], state=JobState.AVAILABLE)
        assert (await store.transact(fetch(default=1))).jobs == ()

    async def test_cancels_retries_and_deletes_count_what_they_changed(self, store):
        rows = await store.transact(InsertJobs(jobs=tuple(new_job() for _ in range(4))))
        ids = tuple(row.id for row in rows)
        await store.transact(fetch(default=1))
        cancelled = await store.transact(CancelJobs(job_ids=(*ids[:3], 404, ids[1])))
        assert (cancelled.count, cancelled.executing) == (3, (ids[0],))
        assert (await store.transact(CancelJobs(job_ids=ids[1:3]))).count == 0
        assert await store.transact(RetryJobs(job_ids=(*ids, 404))) == 2
        assert await store.transact(DeleteJobs(job_ids=(*ids, 404))) == 3
        await store.transact(CancelJobs(job_ids=ids))
        store._tables.jobs[ids[0]] = replace(store._tables.jobs[ids[0]], state=JobState.COMPLETED)
        assert await store.transact(DeleteJobs(job_ids=ids)) == 1

    async def test_a_look_tells_what_there_is_to_do(self, store, clock):
        look = Look(queues=("default",), executing=(), live=())
        assert await store.read(look) == await store.read(look)
        nothing = await store.read(look)
        assert (nothing.has_work, nothing.next_due_at, nothing.nodes) == (False, None, frozenset())
        await store.transact(InsertJobs(jobs=(new_job(scheduled_at=at(10)),)))
        assert (await store.read(look)).has_work is False
        clock.advance(10)
        assert (await store.read(look)).has_work is True
        [row] = (await store.transact(fetch(default=1))).jobs
        await store.transact(CancelJobs(job_ids=(row.id,)))
        seen = await store.read(Look(queues=("default",), executing=(row.id,), live=(row.id,)))
        assert (seen.cancels, seen.signalled, seen.nodes, seen.has_repairs) == ((row.id,), (), {1}, False)

    async def test_l3_a_run_that_another_program_ended_is_closed_by_the_sweeper(self, store, clock):
        bench = EmbeddedBench(store, clock)
        job_id = await bench.insert()
        await bench.signaller.send(job_id)
        store._tables.jobs[job_id] = replace(store._tables.jobs[job_id], state=JobState.CANCELLED)
        store._tables.repairs[job_id] = "cancelled"
        assert await store.transact(Repair()) == 1
        assert (await store.history(job_id))[-1].cause == "cancelled"
        assert await store.transact(Repair()) == 0

    async def test_w10_a_retry_waits_for_no_sweeper(self, store, clock):
        bench = EmbeddedBench(store, clock)
        job_id = await bench.insert()
        await bench.signaller.send(job_id)
        store._tables.jobs[job_id] = replace(store._tables.jobs[job_id], state=JobState.CANCELLED)
        store._tables.repairs[job_id] = "cancelled"
        await bench.retry(job_id)
        await bench.signaller.send(job_id)
        # Nor is the new run ended by what the old one left on the list.
        await store.transact(Repair())
        assert [recorded.run for recorded in await store.history(job_id)] == [1, 1, 2]

    async def test_l8_a_job_ends_though_its_stream_cannot_be_read_and_is_noted_for_repair(
        self, store, clock, monkeypatch
    ):
        bench = EmbeddedBench(store, clock)
        job_id = await bench.insert()
        execution = await bench.fetch(job_id)
        await bench.signaller.send(job_id)

        def newer(_unit, _job_id):
            raise NewerEventError(job_id=job_id, version=1, kind="delivered", schema_version=2)

        monkeypatch.setattr("signal_ledger.memory.MemoryUnit.state", newer)
        assert await bench.finish(job_id, execution, JobState.COMPLETED)
        assert store._tables.repairs == {job_id: "completed"}
        assert await store.transact(Repair()) == 0
        assert store._tables.repairs == {job_id: "completed"}

    async def test_l3_a_fault_of_the_ledger_does_not_keep_a_job_executing(self, store, clock):
        bench = EmbeddedBench(store, clock)
        sleeper, done = await bench.insert(), await bench.insert()
        from signal_ledger.commands import Snooze

        execution = await bench.fetch(sleeper)
        await take(bench, sleeper, execution)
        wait = Snooze(job_id=sleeper, execution=execution, channel="", ordinal=1, wait_for=None)
        asleep = Acknowledgement(job_id=sleeper, execution=execution, state=JobState.SCHEDULED, attempt_change=-1)
        row = await store.transact(Acknowledge(ack=asleep, wait=wait, without_log=True))
        assert (row.state, row.scheduled_at) == ("scheduled", clock() + timedelta(seconds=1))
        execution = await bench.fetch(done)
        ended = Acknowledgement(job_id=done, execution=execution, state=JobState.COMPLETED)
        acknowledge = Acknowledge(ack=ended, without_log=True)
        assert acknowledge.job_ids == []
        assert (await store.transact(acknowledge)).state == "completed"
        assert store._tables.repairs == {done: "completed"}

    async def test_l6_jobs_that_ended_are_pruned_oldest_first(self, store, clock):
        rows = await store.transact(InsertJobs(jobs=tuple(new_job() for _ in range(3))))
        for row in rows:
            await store.transact(CancelJobs(job_ids=(row.id,)))
            clock.advance(10)
        assert await store.transact(PruneJobs(before=at(15), limit=1)) == 1
        assert await store.transact(PruneJobs(before=at(15), limit=5)) == 1
        assert list(store._tables.jobs) == [rows[2].id]

    async def test_engines_are_alive_until_they_leave(self, store):
        first, second = await store.join("a"), await store.join("b")
        assert (first, second) == (1, 2)
        assert not store.is_gone(first)
        store.leave(first)
        assert store.is_gone(first)
        assert AddNode(name="x").job_ids == ()

    async def test_rescue_takes_only_the_jobs_of_its_engine(self, store):
        await store.transact(InsertJobs(jobs=(new_job(), new_job())))
        await store.transact(fetch(default=1))
        await store.transact(FetchJobs(slots={"default": 1}, node=2, attempted_by=()))
        assert await store.transact(RescueJobs(node=2)) == 1
        assert (await store.read(Look(queues=(), executing=(), live=()))).nodes == {1}

    async def test_a_store_in_memory_has_no_connections(self, store):
        with pytest.raises(TypeError, match="conn: expected None, got object"):
            await store.insert_with(object(), [])
        await store.close()


async def test_a_follower_of_a_quiet_store_looks_again_after_a_second(store, monkeypatch):
    import asyncio

    real = asyncio.wait_for
    waits = []

    async def wait_for(awaitable, timeout):
        waits.append(timeout)
        return await real(awaitable, 0.01)

    monkeypatch.setattr("signal_ledger.memory.asyncio.wait_for", wait_for)
    await store.changed(store.mark())
    assert waits == [1.0]
    await store.changed(store.mark() - 1)
    assert waits == [1.0]


async def test_an_event_filter_wants_any_if_nothing_is_named(store, clock):
    from signal_ledger.ports import EventFilter

    bench = EmbeddedBench(store, clock)
    job_id = await bench.insert()
    await bench.signaller.send(job_id)
    [recorded] = await store.history(job_id)
    assert EventFilter().matches(recorded)
    assert not EventFilter(job_id=job_id + 1).matches(recorded)
