-- Say whether there is a signal to relay; see outbox_pending.sql.
--
-- Parameters: schema_version INTEGER, the newest one that is known here.
-- Rows: one: 1 or 0.

SELECT EXISTS (SELECT 1 FROM signal_ledger_outbox AS stored
               WHERE refusal IS NULL
                 AND NOT EXISTS (SELECT 1 FROM signal_ledger_waits AS state
                                 WHERE state.job_id = stored.job_id
                                   AND state.schema_version > ?))
