-- Find the jobs that are said to execute on an engine.
--
-- Parameters: node INTEGER.
-- Rows: the columns of JobRow in their order, by id.

SELECT id, state, queue, worker, attempt, max_attempts, priority, args, meta, tags, errors, attempted_by,
       inserted_at, scheduled_at, attempted_at, cancelled_at, completed_at, discarded_at, execution, node,
       cancel_requested
FROM oban_jobs
WHERE node = ?
  AND state = 'executing'
ORDER BY id
