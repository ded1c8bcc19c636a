-- Write what changes in a job's life.
--
-- Parameters: the columns in the order below, then id.
-- Rows: none.

UPDATE oban_jobs
SET state = ?,
    attempt = ?,
    max_attempts = ?,
    meta = ?,
    errors = ?,
    attempted_by = ?,
    scheduled_at = ?,
    attempted_at = ?,
    cancelled_at = ?,
    completed_at = ?,
    discarded_at = ?,
    execution = ?,
    node = ?,
    cancel_requested = ?
WHERE id = ?
