-- The trace of who signalled, for those who follow traces (docs/adr/0020-telemetry.md). No part of the log: a row is there
-- only while somebody may ask for it, and nothing is decided by it.
--
--   traceparent  of the W3C's trace context, version 00
--   noted_at     when; a row that nobody has asked for is deleted after 7 days
CREATE TABLE signal_ledger_traces (
    job_id      INTEGER NOT NULL,
    signal_id   TEXT    NOT NULL,
    traceparent TEXT    NOT NULL CHECK (length(traceparent) = 55),
    noted_at    TEXT    NOT NULL CHECK (length(noted_at) = 27),

    PRIMARY KEY (job_id, signal_id)
) STRICT;

CREATE INDEX signal_ledger_traces_noted ON signal_ledger_traces (noted_at);
