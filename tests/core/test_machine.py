"""The state machine that is shipped needs nothing from a subclass but its stores."""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from signal_ledger.memory import MemoryStore
from signal_ledger.testing.bench import EmbeddedBench
from signal_ledger.testing.clock import ManualClock
from signal_ledger.testing.machine import LedgerMachine


class Twins(LedgerMachine):
    async def open_benches(self):
        clocks = [ManualClock(), ManualClock()]
        stores = [MemoryStore(clock) for clock in clocks]
        return [EmbeddedBench(store, clock, store.begin) for store, clock in zip(stores, clocks, strict=True)]


def test_two_stores_of_one_kind_agree():
    run_state_machine_as_test(Twins, settings=settings(max_examples=5, stateful_step_count=20, deadline=None))


async def test_stores_that_do_not_crash_go_on_as_they_are():
    assert await Twins().crash_benches() == []
