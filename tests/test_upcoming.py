"""What an engine that runs whatever queue there is asks of the stores that keep jobs."""

import pytest

from signal_ledger.embedded.operations import SeeUpcoming, Upcoming
from signal_ledger.jobs import JobState
from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.contract.steps import executing
from signal_ledger_adapters.sqlite.store import SqliteStore


@pytest.fixture(params=["memory", "sqlite"])
async def bench(request, tmp_path):
    clock = ManualClock()
    if request.param == "memory":
        store = MemoryStore(clock)
    else:
        store = await SqliteStore.open(tmp_path / "signals.db", clock=clock, create=True)
    yield EmbeddedBench(store, clock)
    await store.close()


async def upcoming(bench):
    return await bench.store.transact(SeeUpcoming())


async def test_an_empty_store_has_nothing_to_run(bench):
    assert await upcoming(bench) == Upcoming(queues=(), next_due_at=None)


async def test_queues_are_those_of_jobs_that_may_run_now_or_later(bench):
    ended, failed, executes = [await bench.insert() for _ in range(3)]
    await bench.insert(scheduled_in=60)
    await bench.insert()
    await bench.finish(ended, await executing(bench, ended), JobState.COMPLETED)
    await bench.finish(failed, await executing(bench, failed), JobState.RETRYABLE, delay=5)
    await executing(bench, executes)
    seen = await upcoming(bench)
    assert seen.queues == ("queue-2", "queue-4", "queue-5")
    assert (seen.next_due_at - bench.clock()).total_seconds() == 5
