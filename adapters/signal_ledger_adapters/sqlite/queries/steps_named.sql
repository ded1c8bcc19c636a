-- Read steps by their names.
--
-- Parameters: workflow_id TEXT; a JSON array of names.
-- Rows: job_id, plan, held, planned_at, ended_as, ended_at.

-- CROSS JOIN keeps SQLite from the other order: through all steps of the workflow.
SELECT job_id, plan, held, planned_at, ended_as, ended_at
FROM json_each(?2) AS wanted
CROSS JOIN signal_ledger_steps AS step ON step.workflow_id = ?1 AND step.name = wanted.value
