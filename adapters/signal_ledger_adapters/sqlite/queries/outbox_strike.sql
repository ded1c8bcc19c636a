-- Strike a signal from the outbox: it was delivered.
--
-- Parameters: place INTEGER.
-- Rows: none.

DELETE FROM signal_ledger_outbox
WHERE place = ?
