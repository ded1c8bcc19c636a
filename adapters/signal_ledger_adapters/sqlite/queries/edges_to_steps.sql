-- Read the edges that lead to some steps.
--
-- Parameters: workflow_id TEXT; a JSON array of names.
-- Rows: name, dep, ended_as.

-- CROSS JOIN and INDEXED BY keep SQLite from another way: through all edges of the workflow, for each name.
SELECT edge.name, edge.dep, edge.ended_as
FROM json_each(?2) AS wanted
CROSS JOIN signal_ledger_edges AS edge INDEXED BY signal_ledger_edges_name
    ON edge.workflow_id = ?1 AND edge.name = wanted.value
