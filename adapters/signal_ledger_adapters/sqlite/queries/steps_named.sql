-- Read steps by their names.
--
-- Parameters: a JSON array of names; workflow_id TEXT.
-- Rows: job_id, plan, held, planned_at, ended_as, ended_at.

-- CROSS JOIN keeps SQLite from the other order: through all steps of the workflow.
SELECT job_id, plan, held, planned_at, ended_as, ended_at
FROM json_each(?) AS wanted
CROSS JOIN signal_ledger_steps AS step ON step.workflow_id = ? AND step.name = wanted.value
