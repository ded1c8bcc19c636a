-- Find the jobs of a queue whose time has come.
--
-- Parameters: queue TEXT, now TEXT, limit INTEGER.
-- Rows: the columns of JobRow in their order, the earliest first.

SELECT id, state, queue, worker, attempt, max_attempts, priority, args, meta, tags, errors, attempted_by,
       inserted_at, scheduled_at, attempted_at, cancelled_at, completed_at, discarded_at, execution, node,
       cancel_requested
FROM oban_jobs
WHERE queue = ?
  AND scheduled_at <= ?
  AND (state = 'scheduled' OR state = 'retryable')
ORDER BY scheduled_at, id
LIMIT ?
