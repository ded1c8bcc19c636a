-- Read what the log tells of when the steps of a workflow began and ended.
--
-- Parameters: workflow_id TEXT.
-- Rows: position and the columns of StoredEvent, in the order of the log.

SELECT
    event.position,
    event.job_id,
    event.version,
    event.run,
    event.kind,
    event.schema_version,
    event.recorded_at,
    event.execution,
    event.attempt,
    event.channel,
    event.ordinal,
    event.signal_id,
    event.delivery_version,
    event.key,
    event.source,
    event.deadline_at,
    event.cause,
    event.outcome,
    event.payload,
    event.payload_digest,
    event.dep,
    event.plan,
    event.checksum
FROM signal_ledger_steps AS step
CROSS JOIN signal_ledger_events AS event INDEXED BY signal_ledger_events_version ON event.job_id = step.job_id
WHERE step.workflow_id = ? AND (event.kind = 'planned' OR event.kind = 'closed')
ORDER BY event.position
