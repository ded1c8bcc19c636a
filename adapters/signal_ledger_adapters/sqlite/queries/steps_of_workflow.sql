-- Read the steps of a workflow, with the states of their jobs.
--
-- Parameters: workflow_id TEXT.
-- Rows: job_id, plan, held, planned_at, ended_as, ended_at; the job's state, NULL if it is gone. By job_id.

SELECT step.job_id, step.plan, step.held, step.planned_at, step.ended_as, step.ended_at, job.state
FROM signal_ledger_steps AS step
LEFT JOIN oban_jobs AS job ON job.id = step.job_id
WHERE step.workflow_id = ?
ORDER BY step.job_id
