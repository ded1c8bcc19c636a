-- Store a projection.
--
-- Parameters: the columns in the order below.
-- Rows: none.

INSERT INTO signal_ledger_waits (
    job_id, run, version, recorded_at, status, current, ordinal, since, deadline_at, execution, waits, inboxes,
    schema_version
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (job_id) DO UPDATE SET
    run = excluded.run,
    version = excluded.version,
    recorded_at = excluded.recorded_at,
    status = excluded.status,
    current = excluded.current,
    ordinal = excluded.ordinal,
    since = excluded.since,
    deadline_at = excluded.deadline_at,
    execution = excluded.execution,
    waits = excluded.waits,
    inboxes = excluded.inboxes,
    schema_version = excluded.schema_version
