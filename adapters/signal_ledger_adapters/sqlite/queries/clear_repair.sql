-- Strike a job off the list of repairs.
--
-- Parameters: job_id INTEGER.
-- Rows: none.

DELETE FROM signal_ledger_repairs
WHERE job_id = ?
