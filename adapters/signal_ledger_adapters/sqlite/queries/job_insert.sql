-- Insert a job.
--
-- Parameters: the columns in the order below.
-- Rows: one: the id.

INSERT INTO oban_jobs (
    state, queue, worker, max_attempts, priority, args, meta, tags, inserted_at, scheduled_at
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
RETURNING id
