"""The contract of stores, bound to each store that there is."""

import pytest

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.contract import StoreContract
from signal_ledger_adapters.sqlite.store import SqliteStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def bench(self):
        clock = ManualClock()
        return EmbeddedBench(MemoryStore(clock), clock)


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def bench(self, tmp_path):
        clock = ManualClock()
        store = await SqliteStore.open(tmp_path / "signals.db", clock=clock, create=True)
        yield EmbeddedBench(store, clock)
        await store.close()
