-- Find the block of the newest event.
--
-- Parameters: none.
-- Rows: one: the block INTEGER, -1 for an empty log.

SELECT (coalesce(max(position), -255) - 1) / 256
FROM signal_ledger_events
