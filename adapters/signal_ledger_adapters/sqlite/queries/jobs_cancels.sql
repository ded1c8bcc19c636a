-- Find which of these executing jobs were asked to stop.
--
-- Parameters: a JSON array of job ids.
-- Rows: id.

SELECT id
FROM oban_jobs
WHERE id IN (SELECT value FROM json_each(?))
  AND state = 'executing'
  AND cancel_requested = 1
