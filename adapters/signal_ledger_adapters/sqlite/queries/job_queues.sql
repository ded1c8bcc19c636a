-- Find the queues that hold a job which may run, now or at its time.
--
-- Parameters: none.
-- Rows: queue, in the order of their names.

SELECT queue
FROM oban_jobs INDEXED BY oban_jobs_available
WHERE state = 'available'
UNION
SELECT queue
FROM oban_jobs INDEXED BY oban_jobs_scheduled
WHERE state = 'scheduled'
   OR state = 'retryable'
ORDER BY queue
