"""The contract of stores, bound to PostgreSQL."""

from signal_ledger.testing.contract import StoreContract


class TestPostgresStore(StoreContract):
    """Its ``bench`` is in conftest.py."""
