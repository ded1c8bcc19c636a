-- Delete traces that were noted before an instant.
--
-- Parameters: before TEXT, limit INTEGER.
-- Rows: job_id of each.

DELETE FROM signal_ledger_traces
WHERE rowid IN (
    SELECT rowid
    FROM signal_ledger_traces
    WHERE noted_at < ?
    ORDER BY noted_at
    LIMIT ?
)
RETURNING job_id
