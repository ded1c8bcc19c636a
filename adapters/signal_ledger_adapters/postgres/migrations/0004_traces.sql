-- The trace of who signalled, for those who follow traces (docs/adr/0020-telemetry.md). No part of the log: a row is there
-- only while somebody may ask for it, and nothing is decided by it.
--
-- A signal that was sent again may have several rows. A unique index would have the later call wait for the earlier one's
-- transaction, which may be a caller's own and stay open for long.
--
--   traceparent  of the W3C's trace context, version 00
--   noted_at     when, by the server's clock; a row that nobody has asked for is deleted after 7 days
CREATE TABLE ledger.traces (
    place       bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    job_id      bigint      NOT NULL,
    signal_id   text        NOT NULL COLLATE "C",
    traceparent text        NOT NULL CHECK (length(traceparent) = 55),
    noted_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX traces_signal ON ledger.traces (job_id, signal_id);
CREATE INDEX traces_noted ON ledger.traces (noted_at);
