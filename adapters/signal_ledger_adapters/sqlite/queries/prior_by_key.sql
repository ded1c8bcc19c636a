-- Find the delivery that has a key.
--
-- Parameters: job_id INTEGER, key TEXT.
-- Rows: at most one: version, run, channel, signal_id, key, payload_digest, outcome, whether it is consumed.

SELECT version, run, channel, signal_id, key, payload_digest, outcome,
       EXISTS (SELECT 1 FROM signal_ledger_events AS consumed
               WHERE consumed.job_id = delivered.job_id
                 AND consumed.signal_id = delivered.signal_id
                 AND consumed.kind = 'consumed')
FROM signal_ledger_events AS delivered
WHERE job_id = ?
  AND key = ?
  AND kind = 'delivered'
  AND key IS NOT NULL
