-- Make a snoozed job available now; it waits no more (JobRow.available).
--
-- Parameters: now TEXT, job_id INTEGER.
-- Rows: none.

UPDATE oban_jobs
SET state = 'available',
    scheduled_at = min(scheduled_at, ?),
    meta = json_remove(meta, '$.wait_until')
WHERE id = ?
