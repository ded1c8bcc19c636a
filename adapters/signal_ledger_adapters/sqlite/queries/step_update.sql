-- Write a changed step.
--
-- Parameters: held INTEGER, ended_as TEXT, ended_at TEXT, job_id INTEGER.
-- Rows: none.

UPDATE signal_ledger_steps
SET held = ?, ended_as = ?, ended_at = ?
WHERE job_id = ?
