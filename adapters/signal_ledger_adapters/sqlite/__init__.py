"""The ledger and the jobs in one SQLite file."""
