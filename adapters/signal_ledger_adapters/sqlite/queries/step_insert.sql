-- Keep a new step.
--
-- Parameters: workflow_id TEXT, name TEXT, job_id INTEGER, plan TEXT, held INTEGER, planned_at TEXT.
-- Rows: none.

INSERT INTO signal_ledger_steps (workflow_id, name, job_id, plan, held, planned_at)
VALUES (?, ?, ?, ?, ?, ?)
