-- Return the trace of a delivery, and keep it no longer.
--
-- Parameters: job_id INTEGER, signal_id TEXT.
-- Rows: at most one: traceparent.

DELETE FROM signal_ledger_traces
WHERE job_id = ?
  AND signal_id = ?
RETURNING traceparent
