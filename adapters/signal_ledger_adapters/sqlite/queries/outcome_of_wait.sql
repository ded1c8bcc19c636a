-- Find the recorded outcome of a wait.
--
-- Parameters: job_id INTEGER, run INTEGER, channel TEXT, ordinal INTEGER.
-- Rows: at most one: deadline_at (of a timeout), signal_id (of a consumption), and the payload it got.

SELECT ended.deadline_at, ended.signal_id, delivered.payload
FROM signal_ledger_events AS ended
LEFT JOIN signal_ledger_events AS delivered
       ON delivered.job_id = ended.job_id AND delivered.version = ended.delivery_version
WHERE ended.job_id = ?
  AND ended.run = ?
  AND ended.channel = ?
  AND ended.ordinal = ?
  AND (ended.kind = 'consumed' OR ended.kind = 'timed_out')
