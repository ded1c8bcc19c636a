-- Find the next workflow.
--
-- Parameters: after TEXT.
-- Rows: workflow_id; none behind the last one.

SELECT workflow_id
FROM signal_ledger_steps
WHERE workflow_id > ?
ORDER BY workflow_id
LIMIT 1
