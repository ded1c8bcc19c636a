"""The embedded demo: purchase approvals that survive kill -9. Run it with ``python -m signal_ledger_adapters.demo``."""
