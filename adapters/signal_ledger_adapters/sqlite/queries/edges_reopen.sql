-- Open the edges among some steps again.
--
-- Parameters: workflow_id TEXT; a JSON array of names, twice.
-- Rows: none.

-- The plus keeps SQLite from looking for each name with each dep in the index: only the edges that there are matter.
UPDATE signal_ledger_edges
SET ended_as = NULL
WHERE workflow_id = ?
  AND name IN (SELECT value FROM json_each(?))
  AND +dep IN (SELECT value FROM json_each(?))
