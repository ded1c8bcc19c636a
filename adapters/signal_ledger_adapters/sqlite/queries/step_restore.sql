-- Keep a step that the log tells of, unless that is done.
--
-- Parameters: workflow_id TEXT, name TEXT, job_id INTEGER, plan TEXT, held INTEGER, planned_at TEXT; the first four again.
-- Rows: none.

INSERT OR REPLACE INTO signal_ledger_steps (workflow_id, name, job_id, plan, held, planned_at)
SELECT ?, ?, ?, ?, ?, ?
WHERE NOT EXISTS (
    SELECT 1
    FROM signal_ledger_steps
    WHERE workflow_id = ? AND name = ? AND job_id = ? AND plan = ?
)
