"""The stores that state machines compare with the reference: a SQLite file and PostgreSQL, which survive crashes.

Each is a class that goes before a machine among the bases of a class.
"""

import asyncio
import tempfile
from pathlib import Path

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.crashes import cut_power
from tests.postgres.bench import DatabaseClock, PostgresBench, empty
from tests.postgres.crashes import kill_clients, open_mortal
from tests.transactions import sqlite_transaction


def reference():
    clock = ManualClock()
    memory = MemoryStore(clock)
    return EmbeddedBench(memory, clock, memory.begin)


class FileAndMemory:
    """Files in a folder of their own, below the one that ``parent`` names."""

    parent = None

    async def open_benches(self):
        self.folder = tempfile.TemporaryDirectory(dir=self.parent, prefix="signal-ledger-")
        self.path = Path(self.folder.name).resolve() / "0.db"
        clock = ManualClock()
        store = await SqliteStore.open(self.path, clock=clock, create=True)
        return [reference(), EmbeddedBench(store, clock, lambda: sqlite_transaction(self.path))]

    async def crash_benches(self):
        _, bench = self.benches
        self.path = await cut_power(bench, self.path)
        return self.benches

    async def close_benches(self):
        await super().close_benches()
        await asyncio.to_thread(self.folder.cleanup)


class DatabaseAndMemory:
    """A ledger on PostgreSQL, for testing, that is emptied for each example. ``site`` says where."""

    site = None

    async def open_benches(self):
        site = self.site
        empty(site.connection, site.names)
        store = await open_mortal(site.url, site.names)
        clock = DatabaseClock(site.connection, site.names)
        return [reference(), PostgresBench(store, site.connection, clock, site.names)]

    async def crash_benches(self):
        await kill_clients(self.benches[-1], self.site.url, self.site.names)
        return self.benches
