"""Random histories, with several executors, crashes and a clock of their own, against the reference model."""

import asyncio
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.machine import REACHED, LedgerMachine
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.transactions import sqlite_transaction

ROUNDS_MAX = 3


class Machine(LedgerMachine):
    """The reference store and the SQLite store, which crashes."""

    reached = Counter()

    async def open_benches(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name).resolve() / "0.db"
        clock = ManualClock()
        memory = MemoryStore(clock)
        reference = EmbeddedBench(memory, clock, memory.begin)
        own_clock = ManualClock()
        store = await SqliteStore.open(self.path, clock=own_clock, create=True)
        return [reference, EmbeddedBench(store, own_clock, lambda: sqlite_transaction(self.path))]

    async def crash_benches(self):
        """Go on with a copy of the files as they lie on the disk, as after a power cut: what was answered is synced."""
        reference, bench = self._benches
        path = self.path.with_name(f"{int(self.path.stem) + 1}.db")
        for suffix in ("", "-wal"):
            if Path(f"{self.path}{suffix}").exists():
                shutil.copyfile(f"{self.path}{suffix}", f"{path}{suffix}")
        await bench.store.close()
        self.path = path
        bench.store = await SqliteStore.open(path, clock=bench.clock)
        bench.signaller._store = bench.store
        return [reference, bench]

    async def close_benches(self):
        await super().close_benches()
        await asyncio.to_thread(self.folder.cleanup)


@pytest.mark.timeout(900)
def test_the_sqlite_store_does_as_the_reference_does():
    Machine.reached.clear()
    # Rare cases may need a second round; a run without them would prove little.
    missing = list(REACHED)
    for _ in range(ROUNDS_MAX):
        run_state_machine_as_test(Machine, settings=settings())
        missing = [case for case in REACHED if not Machine.reached[case]]
        if not missing:
            break
    assert not missing, f"a run that never met {missing} proves little: {Machine.reached}"
