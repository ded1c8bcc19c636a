"""The ledger in PostgreSQL, and clusters of one's own to try it on."""
