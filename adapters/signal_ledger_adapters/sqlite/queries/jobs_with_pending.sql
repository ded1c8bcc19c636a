-- Find which of these jobs have a signal that nobody has consumed.
--
-- Parameters: a JSON array of job ids.
-- Rows: job_id.

SELECT job_id
FROM signal_ledger_waits
WHERE job_id IN (SELECT value FROM json_each(?))
  AND inboxes <> '[]'
