-- Note on the open edges from a step how it ended.
--
-- Parameters: ended_as TEXT, workflow_id TEXT, dep TEXT.
-- Rows: name: who depends on it by these.

UPDATE signal_ledger_edges
SET ended_as = ?
WHERE workflow_id = ? AND dep = ? AND ended_as IS NULL
RETURNING name
