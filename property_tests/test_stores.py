"""Random histories, with several executors, crashes and a clock of their own, against the reference model."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from property_tests.stores import FileAndMemory
from signal_ledger.testing.machine import REACHED, LedgerMachine

ROUNDS_MAX = 12


class Machine(FileAndMemory, LedgerMachine):
    """The reference store and the SQLite store, which crashes."""

    reached = Counter()


@pytest.mark.timeout(900)
def test_the_sqlite_store_does_as_the_reference_does():
    Machine.reached.clear()
    # Rare cases may need a second round; a run without them would prove little.
    missing = list(REACHED)
    for _ in range(ROUNDS_MAX):
        run_state_machine_as_test(Machine, settings=settings())
        missing = [case for case in REACHED if not Machine.reached[case]]
        if not missing:
            break
    assert not missing, f"a run that never met {missing} proves little: {Machine.reached}"
