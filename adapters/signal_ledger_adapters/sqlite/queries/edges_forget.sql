-- Delete the edges of a workflow, which are then written anew.
--
-- Parameters: workflow_id TEXT.
-- Rows: none.

DELETE FROM signal_ledger_edges
WHERE workflow_id = ?
