-- Write an edge as the log has it.
--
-- Parameters: workflow_id TEXT, dep TEXT, name TEXT, ended_as TEXT.
-- Rows: none.

INSERT INTO signal_ledger_edges (workflow_id, dep, name, ended_as)
VALUES (?, ?, ?, ?)
