-- Keep the trace of a signal that was stored for several jobs in a caller's own transaction.
--
-- Parameters: traceparent TEXT, noted_at TEXT, and deliveries TEXT: a JSON array of [signal_id, job_id].
-- Rows: none.

INSERT INTO signal_ledger_traces (job_id, signal_id, traceparent, noted_at)
SELECT json_extract(value, '$[1]'), json_extract(value, '$[0]'), ?, ?
FROM json_each(?) AS deliveries
WHERE true
ON CONFLICT (job_id, signal_id) DO NOTHING
