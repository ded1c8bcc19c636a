-- Find the next streams of the log.
--
-- Parameters: after INTEGER, limit INTEGER.
-- Rows: job_id, ascending.

SELECT DISTINCT job_id
FROM signal_ledger_events
WHERE job_id > ?
ORDER BY job_id
LIMIT ?
