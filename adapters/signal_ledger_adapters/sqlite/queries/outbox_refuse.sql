-- Note why a signal was refused at relay.
--
-- Parameters: refusal TEXT, place INTEGER.
-- Rows: none.

UPDATE signal_ledger_outbox
SET refusal = ?
WHERE place = ?
