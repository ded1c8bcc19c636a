-- Read the list of repairs.
--
-- Parameters: none.
-- Rows: job_id, cause.

SELECT job_id, cause
FROM signal_ledger_repairs
ORDER BY job_id
LIMIT 1000
