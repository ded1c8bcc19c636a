-- Read the edges that lead to some steps.
--
-- Parameters: a JSON array of names; workflow_id TEXT.
-- Rows: name, dep, ended_as.

-- CROSS JOIN and INDEXED BY keep SQLite from another way: through all edges of the workflow, for each name.
SELECT edge.name, edge.dep, edge.ended_as
FROM json_each(?) AS wanted
CROSS JOIN signal_ledger_edges AS edge INDEXED BY signal_ledger_edges_name
    ON edge.workflow_id = ? AND edge.name = wanted.value
