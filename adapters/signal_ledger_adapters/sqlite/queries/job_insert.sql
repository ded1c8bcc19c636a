-- Insert a job. Its id is above all that the table has and has had, and above one that is given: SQLite would give the ids
-- of inserts that were rolled back again.
--
-- Parameters: the highest id that must not be given; then the columns in the order below.
-- Rows: one: the id.

INSERT INTO oban_jobs (
    id, state, queue, worker, max_attempts, priority, args, meta, tags, inserted_at, scheduled_at
) VALUES (
    1 + max(?, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'oban_jobs'), 0),
            coalesce((SELECT max(id) FROM oban_jobs), 0)), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
)
RETURNING id
