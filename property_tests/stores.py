"""The stores that state machines compare here: the reference, and a file that survives crashes."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.transactions import sqlite_transaction


class FileAndMemory:
    """Goes before a machine among the bases of a class."""

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
