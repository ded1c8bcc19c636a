-- Keep a step that the log tells of, unless that is done.
--
-- Parameters: workflow_id TEXT, name TEXT, job_id INTEGER, plan TEXT, held INTEGER, planned_at TEXT.
-- Rows: none.

INSERT OR REPLACE INTO signal_ledger_steps (workflow_id, name, job_id, plan, held, planned_at)
SELECT ?1, ?2, ?3, ?4, ?5, ?6
WHERE NOT EXISTS (
    SELECT 1
    FROM signal_ledger_steps
    WHERE job_id = ?3 AND workflow_id = ?1 AND name = ?2 AND plan = ?4
)
