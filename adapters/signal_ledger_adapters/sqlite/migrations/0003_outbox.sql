-- Signals that callers have stored in their own transactions (promise D8).
--
-- A row leaves with its relay, or stays with the refusal that it met. The columns are those of
-- signal_ledger.commands.Deliver; key_ids are separated by commas.
--
--   place    the order in which they were stored, and are relayed
--   refusal  why the relay refused it; NULL as long as it has not been relayed
CREATE TABLE signal_ledger_outbox (
    place          INTEGER PRIMARY KEY AUTOINCREMENT,
    signal_id      TEXT    NOT NULL,
    job_id         INTEGER NOT NULL,
    channel        TEXT    NOT NULL,
    payload        BLOB    NOT NULL,
    payload_digest TEXT    NOT NULL CHECK (length(payload_digest) = 64),
    key            TEXT,
    key_ids        TEXT    NOT NULL,
    source         TEXT,
    stored_at      TEXT    NOT NULL CHECK (length(stored_at) = 27),
    refusal        TEXT
) STRICT;

-- What is to be relayed, the oldest first.
CREATE INDEX signal_ledger_outbox_pending
    ON signal_ledger_outbox (place)
    WHERE refusal IS NULL;
