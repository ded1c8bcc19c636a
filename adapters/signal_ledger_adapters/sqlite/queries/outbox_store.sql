-- Store a signal for several jobs in a caller's own transaction, in one statement: on a connection that commits each
-- statement by itself, it is still all or none.
--
-- Parameters: channel TEXT, payload BLOB, payload_digest TEXT, key TEXT, source TEXT, stored_at TEXT, and deliveries
-- TEXT: a JSON array of [signal_id, job_id, key_ids].
-- Rows: none.

INSERT INTO signal_ledger_outbox (
    signal_id, job_id, key_ids, channel, payload, payload_digest, key, source, stored_at
)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), ?, ?, ?, ?, ?, ?
FROM json_each(?) AS deliveries
ORDER BY deliveries.key
