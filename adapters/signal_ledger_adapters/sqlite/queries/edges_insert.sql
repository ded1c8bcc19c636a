-- Keep the open edges that lead to a step.
--
-- Parameters: workflow_id TEXT; name TEXT; a JSON array of its deps.
-- Rows: none.

INSERT INTO signal_ledger_edges (workflow_id, name, dep)
SELECT ?, ?, wanted.value
FROM json_each(?) AS wanted
