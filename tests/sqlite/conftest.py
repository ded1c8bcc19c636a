import pytest

from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.transactions import sqlite_transaction


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signals.db"


@pytest.fixture
async def bench(path):
    clock = ManualClock()
    store = await SqliteStore.open(path, clock=clock, create=True)

    yield EmbeddedBench(store, clock, lambda: sqlite_transaction(path))
    await store.close()
