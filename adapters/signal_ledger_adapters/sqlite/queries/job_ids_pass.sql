-- Give no id again up to this one, though there may be no job that has it.
--
-- Parameters: the id, twice.
-- Rows: none.

UPDATE sqlite_sequence SET seq = ? WHERE name = 'oban_jobs' AND seq < ?
