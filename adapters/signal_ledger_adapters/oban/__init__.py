"""The engine for production: Oban on PostgreSQL, with the ledger attached to it."""
