"""The contract of stores: what every store must do, whatever it is made of.

Each test names the promise of the design that it checks. Bind it by a subclass of `StoreContract` with a pytest fixture
``bench`` that yields a fresh `signal_ledger.testing.bench.Bench`.
"""

from signal_ledger.testing.contract.delivery import DeliveryContract
from signal_ledger.testing.contract.flow import FlowContract
from signal_ledger.testing.contract.life import LifeContract
from signal_ledger.testing.contract.log import LogContract
from signal_ledger.testing.contract.outbox import OutboxContract
from signal_ledger.testing.contract.waiting import WaitContract


class StoreContract(DeliveryContract, WaitContract, LifeContract, LogContract, OutboxContract, FlowContract):
    """All of it."""
