-- Keep the edges that lead to a step, unless that is done.
--
-- Parameters: workflow_id TEXT; name TEXT; a JSON array of its deps.
-- Rows: none.

INSERT OR IGNORE INTO signal_ledger_edges (workflow_id, name, dep)
SELECT ?, ?, wanted.value
FROM json_each(?) AS wanted
