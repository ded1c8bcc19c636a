"""One rule book, two executors: random histories through the reference, SQLite and PostgreSQL, which must agree."""

import tempfile
from pathlib import Path

import psycopg
import pytest

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.comparing import play
from signal_ledger.testing.machine import LedgerMachine
from signal_ledger_adapters.sqlite.store import SqliteStore
from tests.crashes import cut_power
from tests.effort import histories
from tests.postgres.bench import DatabaseClock, PostgresBench, empty
from tests.postgres.crashes import kill_clients, open_mortal
from tests.transactions import sqlite_transaction


@pytest.mark.timeout(900)
def test_the_stores_agree_on_every_event_receipt_and_refusal(ledger_url):
    with psycopg.connect(ledger_url, autocommit=True) as connection:

        class Machine(LedgerMachine):
            async def open_benches(self):
                self.folder = tempfile.TemporaryDirectory()
                clocks = [ManualClock(), ManualClock()]
                memory = MemoryStore(clocks[0])
                reference = EmbeddedBench(memory, clocks[0], memory.begin)
                self.path = Path(self.folder.name).resolve() / "0.db"
                sqlite = EmbeddedBench(
                    await SqliteStore.open(self.path, clock=clocks[1], create=True),
                    clocks[1],
                    lambda: sqlite_transaction(self.path),
                )
                empty(connection)
                store = await open_mortal(ledger_url)
                return [reference, sqlite, PostgresBench(store, connection, DatabaseClock(connection))]

            async def crash_benches(self):
                _, sqlite, postgres = self.benches
                self.path = await cut_power(sqlite, self.path)
                await kill_clients(postgres, ledger_url)
                return self.benches

            async def close_benches(self):
                await super().close_benches()
                self.folder.cleanup()

        play(
            Machine,
            rounds_max=12,
            settings=histories(20, 40),
        )
