-- Find jobs in a terminal state since before an instant.
--
-- Parameters: before TEXT (three times), limit INTEGER.
-- Rows: id.

SELECT id FROM oban_jobs WHERE state = 'completed' AND completed_at < ?
UNION ALL
SELECT id FROM oban_jobs WHERE state = 'cancelled' AND cancelled_at < ?
UNION ALL
SELECT id FROM oban_jobs WHERE state = 'discarded' AND discarded_at < ?
LIMIT ?
