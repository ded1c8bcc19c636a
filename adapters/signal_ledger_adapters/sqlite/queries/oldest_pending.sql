-- Find the oldest delivery on a channel behind a version: the only pending signal that is judged.
--
-- Parameters: job_id INTEGER, channel TEXT, after INTEGER (Inbox.after).
-- Rows: at most one: version, signal_id, recorded_at, payload.

SELECT version, signal_id, recorded_at, payload
FROM signal_ledger_events
WHERE job_id = ?
  AND channel = ?
  AND version > ?
  AND kind = 'delivered'
ORDER BY version
LIMIT 1
