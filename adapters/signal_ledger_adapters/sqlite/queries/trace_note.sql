-- Keep the trace of a delivery.
--
-- Parameters: job_id INTEGER, signal_id TEXT, traceparent TEXT, noted_at TEXT.
-- Rows: none.

INSERT INTO signal_ledger_traces (job_id, signal_id, traceparent, noted_at)
VALUES (?, ?, ?, ?)
ON CONFLICT (job_id, signal_id) DO NOTHING
