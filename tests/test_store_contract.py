"""The contract of stores, bound to each store that there is."""

import pytest

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.contract import StoreContract
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.transactions import sqlite_transaction


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def bench(self):
        clock = ManualClock()
        store = MemoryStore(clock)
        return EmbeddedBench(store, clock, store.begin)


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def bench(self, tmp_path):
        clock = ManualClock()
        path = tmp_path / "signals.db"
        store = await SqliteStore.open(path, clock=clock, create=True)

        yield EmbeddedBench(store, clock, lambda: sqlite_transaction(path))
        await store.close()
