-- Read jobs.
--
-- Parameters: a JSON array of job ids.
-- Rows: the columns of JobRow in their order.

SELECT id, state, queue, worker, attempt, max_attempts, priority, args, meta, tags, errors, attempted_by,
       inserted_at, scheduled_at, attempted_at, cancelled_at, completed_at, discarded_at, execution, node,
       cancel_requested
FROM oban_jobs
WHERE id IN (SELECT value FROM json_each(?))
