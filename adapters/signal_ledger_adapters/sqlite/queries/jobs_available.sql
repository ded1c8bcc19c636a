-- Find the jobs of a queue to run next.
--
-- Parameters: queue TEXT, limit INTEGER.
-- Rows: the columns of JobRow in their order, in the order in which to run them.

SELECT id, state, queue, worker, attempt, max_attempts, priority, args, meta, tags, errors, attempted_by,
       inserted_at, scheduled_at, attempted_at, cancelled_at, completed_at, discarded_at, execution, node,
       cancel_requested
FROM oban_jobs
WHERE queue = ?
  AND state = 'available'
  AND attempt < max_attempts
ORDER BY priority, scheduled_at, id
LIMIT ?
