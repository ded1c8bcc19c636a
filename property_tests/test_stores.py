"""Random histories, with several executors, crashes and a clock of their own, against the reference model."""

import pytest

from signal_ledger.testing.comparing import play
from signal_ledger.testing.machine import LedgerMachine


@pytest.mark.timeout(900)
def test_the_store_does_as_the_reference_does(stores, is_glance):
    class Machine(stores, LedgerMachine):
        """The reference store, and the one of the URL."""

    play(Machine, rounds_max=12, complete=not is_glance)
