-- Delete a job.
--
-- Parameters: id INTEGER.
-- Rows: none.

DELETE FROM oban_jobs
WHERE id = ?
