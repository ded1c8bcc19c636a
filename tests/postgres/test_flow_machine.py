"""Random workflows, with everything that can happen to their steps, on PostgreSQL against the reference model."""

import psycopg
import pytest

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.comparing import play
from signal_ledger.testing.flow_machine import FlowMachine
from tests.effort import histories
from tests.postgres.bench import DatabaseClock, PostgresBench, empty
from tests.postgres.crashes import kill_clients, open_mortal


@pytest.mark.timeout(900)
def test_f1_to_f5_hold_on_postgresql_as_they_do_in_the_reference(ledger_url):
    with psycopg.connect(ledger_url, autocommit=True) as connection:

        class Machine(FlowMachine):
            async def open_benches(self):
                clock = ManualClock()
                memory = MemoryStore(clock)
                empty(connection)
                store = await open_mortal(ledger_url)
                return [
                    EmbeddedBench(memory, clock, memory.begin),
                    PostgresBench(store, connection, DatabaseClock(connection)),
                ]

            async def crash_benches(self):
                await kill_clients(self.benches[-1], ledger_url)
                return self.benches

        play(
            Machine,
            rounds_max=12,
            settings=histories(20, 40),
        )
