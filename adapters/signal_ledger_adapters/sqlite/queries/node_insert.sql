-- Draw the id of an engine.
--
-- Parameters: name TEXT, started_at TEXT.
-- Rows: one: id.

INSERT INTO signal_ledger_nodes (name, started_at)
VALUES (?, ?)
RETURNING id
