-- Find when the next scheduled job of a queue is due. One look into an index, however many there are.
--
-- Parameters: queue TEXT.
-- Rows: one: scheduled_at, or NULL.

SELECT min(scheduled_at)
FROM oban_jobs
WHERE queue = ?
  AND (state = 'scheduled' OR state = 'retryable')
