-- Write a step as the log has it.
--
-- Parameters: held INTEGER, planned_at TEXT, ended_as TEXT, ended_at TEXT, job_id INTEGER.
-- Rows: none.

UPDATE signal_ledger_steps
SET held = ?, planned_at = ?, ended_as = ?, ended_at = ?
WHERE job_id = ?
