-- Count the waits on a channel that ended in a run: their ordinals have no gaps.
--
-- Parameters: job_id INTEGER, run INTEGER, channel TEXT.
-- Rows: one: the highest ordinal, or 0.

SELECT coalesce(max(ordinal), 0)
FROM signal_ledger_events
WHERE job_id = ?
  AND run = ?
  AND channel = ?
  AND (kind = 'consumed' OR kind = 'timed_out')
