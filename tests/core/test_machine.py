"""The state machine that is shipped needs nothing from a subclass but its stores."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.flow_machine import FlowMachine
from signal_ledger.testing.machine import LedgerMachine


class Twins:
    async def open_benches(self):
        clocks = [ManualClock(), ManualClock()]
        stores = [MemoryStore(clock) for clock in clocks]
        return [EmbeddedBench(store, clock, store.begin) for store, clock in zip(stores, clocks, strict=True)]


class LedgerTwins(Twins, LedgerMachine):
    pass


class FlowTwins(Twins, FlowMachine):
    pass


@pytest.mark.parametrize("machine", [LedgerTwins, FlowTwins])
def test_two_stores_of_one_kind_agree(machine):
    run_state_machine_as_test(machine, settings=settings(max_examples=5, stateful_step_count=20, deadline=None))


async def test_stores_that_do_not_crash_go_on_as_they_are():
    assert await LedgerTwins().crash_benches() == []
