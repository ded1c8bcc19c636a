"""Reads in the event loop: what one of them sees is of one moment."""

import contextlib
import sqlite3

from signal_ledger.embedded.operations import GetJobs
from signal_ledger.jobs import JobState
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.sqlite.reader import Reader
from signal_ledger_adapters.sqlite.store import SqliteStore


async def test_what_a_read_sees_is_of_one_moment_whoever_writes_meanwhile(path):
    clock = ManualClock()
    store = await SqliteStore.open(path, clock=clock, create=True)
    reader = Reader(path, clock)
    bench = EmbeddedBench(store, clock)
    first, second = [GetJobs(job_ids=(await bench.insert(),)) for _ in range(2)]
    read = []

    class Twice:
        def run(self, unit):
            read.append(first.run(unit)[0].state)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("UPDATE oban_jobs SET state = 'cancelled'")
            read.append(second.run(unit)[0].state)

    reader.run(Twice())
    assert read == [JobState.AVAILABLE, JobState.AVAILABLE]
    [row] = reader.run(second)
    assert row.state is JobState.CANCELLED
    reader.close()
    await store.close()
