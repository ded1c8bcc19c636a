-- Delete the steps that the log does not tell of.
--
-- Parameters: none.
-- Rows: none.

DELETE FROM signal_ledger_steps
WHERE NOT EXISTS (
    SELECT 1
    FROM signal_ledger_events AS event
    WHERE event.job_id = signal_ledger_steps.job_id AND event.kind = 'planned'
)
