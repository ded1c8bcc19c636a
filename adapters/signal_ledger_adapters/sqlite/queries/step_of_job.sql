-- Read the step that a job is.
--
-- Parameters: job_id INTEGER.
-- Rows: job_id, plan, held, planned_at, ended_as, ended_at.

SELECT job_id, plan, held, planned_at, ended_as, ended_at
FROM signal_ledger_steps
WHERE job_id = ?
