-- Read a stream.
--
-- Parameters: job_id INTEGER.
-- Rows: position and the columns of StoredEvent, by version.

SELECT position,
       job_id,
       version,
       run,
       kind,
       schema_version,
       recorded_at,
       execution,
       attempt,
       channel,
       ordinal,
       signal_id,
       delivery_version,
       key,
       source,
       deadline_at,
       cause,
       outcome,
       payload,
       payload_digest,
       dep,
       plan,
       checksum
FROM signal_ledger_events
WHERE job_id = ?
ORDER BY version
