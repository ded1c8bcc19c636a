"""Random workflows, with everything that can happen to their steps, against the reference model."""

import pytest

from signal_ledger.testing.comparing import play
from signal_ledger.testing.flow_machine import FlowMachine


@pytest.mark.timeout(900)
def test_f1_to_f5_hold_as_they_do_in_the_reference(stores, is_glance):
    class Machine(stores, FlowMachine):
        """The reference store, and the one of the URL."""

    play(Machine, rounds_max=12, complete=not is_glance)
