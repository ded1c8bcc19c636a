-- Let the ids of jobs be counted, if none has been given yet.
--
-- Parameters: none.
-- Rows: none.

INSERT INTO sqlite_sequence (name, seq)
SELECT 'oban_jobs', coalesce((SELECT max(id) FROM oban_jobs), 0)
WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'oban_jobs')
