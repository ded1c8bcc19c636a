-- Read the edges of a workflow.
--
-- Parameters: workflow_id TEXT.
-- Rows: name, dep, ended_as.

SELECT name, dep, ended_as
FROM signal_ledger_edges
WHERE workflow_id = ?
