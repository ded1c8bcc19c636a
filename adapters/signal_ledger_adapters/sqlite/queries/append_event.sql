-- Append an event. The position is drawn by SQLite; the guards refuse a version gap.
--
-- Parameters: the columns of StoredEvent in their order.
-- Rows: none.

INSERT INTO signal_ledger_events (
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
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
