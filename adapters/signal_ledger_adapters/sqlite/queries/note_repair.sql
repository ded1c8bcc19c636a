-- Note that a stream lacks its closed event.
--
-- Parameters: job_id INTEGER, cause TEXT.
-- Rows: none.

INSERT INTO signal_ledger_repairs (job_id, cause)
VALUES (?, ?)
ON CONFLICT (job_id) DO NOTHING
