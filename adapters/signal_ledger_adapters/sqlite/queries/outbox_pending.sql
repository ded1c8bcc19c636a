-- Find the signals to relay, except those for streams that a newer version of the library has written to.
--
-- Parameters: schema_version INTEGER, the newest one that is known here; limit INTEGER.
-- Rows: place, job_id, signal_id, channel, payload, payload_digest, key, key_ids, source; in the order of the places.

SELECT place, job_id, signal_id, channel, payload, payload_digest, key, key_ids, source
FROM signal_ledger_outbox AS stored
WHERE refusal IS NULL
  AND NOT EXISTS (SELECT 1 FROM signal_ledger_waits AS state
                  WHERE state.job_id = stored.job_id
                    AND state.schema_version > ?)
ORDER BY place
LIMIT ?
