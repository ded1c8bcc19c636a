-- Delete the stored states that have no stream.
--
-- Parameters: none.
-- Rows: none.

DELETE FROM signal_ledger_waits
WHERE NOT EXISTS (SELECT 1 FROM signal_ledger_events WHERE job_id = signal_ledger_waits.job_id)
