"""Random workflows, with everything that can happen to their steps, on PostgreSQL against the reference model."""

from collections import Counter

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.flow_machine import REACHED, FlowMachine
from signal_ledger_adapters.postgres.connection import to_url
from signal_ledger_adapters.postgres.schema import Names
from signal_ledger_adapters.postgres.store import PostgresStore
from tests.effort import share_of
from tests.postgres.bench import DatabaseClock, PostgresBench
from tests.postgres.test_machine import EMPTY

ROUNDS_MAX = 12


@pytest.mark.timeout(900)
def test_f1_to_f5_hold_on_postgresql_as_they_do_in_the_reference(ledger_url):
    with psycopg.connect(ledger_url, autocommit=True) as connection:

        class Machine(FlowMachine):
            reached = Counter()

            async def open_benches(self):
                clock = ManualClock()
                memory = MemoryStore(clock)
                connection.execute(EMPTY)
                store = await PostgresStore.open(to_url(ledger_url), Names())
                return [
                    EmbeddedBench(memory, clock, memory.begin),
                    PostgresBench(store, connection, DatabaseClock(connection)),
                ]

        missing = list(REACHED)
        for _ in range(ROUNDS_MAX):
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=share_of(20),
                    stateful_step_count=40,
                    deadline=None,
                    # Each round must be another one.
                    derandomize=False,
                    print_blob=True,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
            missing = [case for case in REACHED if not Machine.reached[case]]
            if not missing:
                break
    assert not missing, f"a run that never met {missing} proves little: {Machine.reached}"
