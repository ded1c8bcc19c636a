-- The log and its projection.
--
-- Instants are ISO 8601 text in UTC with microseconds and a Z, so that they sort by time. Digests are lower-case hex.
-- The columns of the events are those of signal_ledger.stored.StoredEvent; what they mean is told there and in
-- signal_ledger.events.

CREATE TABLE signal_ledger_events (
    position         INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id           INTEGER NOT NULL,
    version          INTEGER NOT NULL CHECK (version > 0),
    run              INTEGER NOT NULL CHECK (run > 0),
    kind             TEXT    NOT NULL,
    schema_version   INTEGER NOT NULL CHECK (schema_version > 0),
    recorded_at      TEXT    NOT NULL CHECK (length(recorded_at) = 27),
    execution        INTEGER,
    attempt          INTEGER,
    channel          TEXT,
    ordinal          INTEGER CHECK (ordinal > 0),
    signal_id        TEXT,
    delivery_version INTEGER,
    key              TEXT,
    source           TEXT,
    deadline_at      TEXT    CHECK (length(deadline_at) = 27),
    cause            TEXT,
    outcome          TEXT,
    payload          BLOB,
    payload_digest   TEXT    CHECK (length(payload_digest) = 64),
    checksum         TEXT    NOT NULL CHECK (length(checksum) = 64),

    -- A unique index does not compare NULLs, so the columns of those below must not be NULL (promise W8). Written
    -- with CASE: an IN list is built anew for every row.
    CHECK (CASE kind
           WHEN 'delivered' THEN channel IS NOT NULL AND signal_id IS NOT NULL AND payload_digest IS NOT NULL
                                 AND outcome IS NOT NULL
           WHEN 'consumed'  THEN execution IS NOT NULL AND channel IS NOT NULL AND ordinal IS NOT NULL
                                 AND signal_id IS NOT NULL AND delivery_version IS NOT NULL
           WHEN 'timed_out' THEN execution IS NOT NULL AND channel IS NOT NULL AND ordinal IS NOT NULL
                                 AND deadline_at IS NOT NULL
           WHEN 'awaited'   THEN execution IS NOT NULL AND channel IS NOT NULL AND ordinal IS NOT NULL
           WHEN 'snoozed'   THEN execution IS NOT NULL AND channel IS NOT NULL AND ordinal IS NOT NULL
           WHEN 'closed'    THEN cause IS NOT NULL
           ELSE 1 END)
) STRICT;

-- A stream in its order, and no version twice.
CREATE UNIQUE INDEX signal_ledger_events_version
    ON signal_ledger_events (job_id, version);

-- One outcome a wait (promise W8); also finds the outcome to replay.
CREATE UNIQUE INDEX signal_ledger_events_outcome
    ON signal_ledger_events (job_id, run, channel, ordinal)
    WHERE kind = 'consumed' OR kind = 'timed_out';

-- One consumption a delivery (promise W8).
CREATE UNIQUE INDEX signal_ledger_events_consumed
    ON signal_ledger_events (job_id, signal_id)
    WHERE kind = 'consumed';

-- One event a delivery, however often its call is tried (promise D6).
CREATE UNIQUE INDEX signal_ledger_events_delivered
    ON signal_ledger_events (job_id, signal_id)
    WHERE kind = 'delivered';

-- One delivery a key, for ever (promise D6).
CREATE UNIQUE INDEX signal_ledger_events_key
    ON signal_ledger_events (job_id, key)
    WHERE kind = 'delivered' AND key IS NOT NULL;

-- Append-only (promise L1).

CREATE TRIGGER signal_ledger_events_no_update
BEFORE UPDATE ON signal_ledger_events
BEGIN
    SELECT raise(ABORT, 'signal_ledger L1: the log is append-only, UPDATE is refused');
END;

CREATE TRIGGER signal_ledger_events_no_delete
BEFORE DELETE ON signal_ledger_events
BEGIN
    SELECT raise(ABORT, 'signal_ledger L1: the log is append-only, DELETE is refused');
END;

-- INSERT OR REPLACE deletes the rows that it collides with without running delete triggers, so every collision that
-- a unique index could have is refused here, before it can. NEW.position is -1 where SQLite is to draw it.
CREATE TRIGGER signal_ledger_events_append
BEFORE INSERT ON signal_ledger_events
BEGIN
    SELECT raise(ABORT, 'signal_ledger L1: versions have no gaps, the next version of the stream is expected')
    WHERE NEW.version <> 1 + coalesce(
        (SELECT max(version) FROM signal_ledger_events WHERE job_id = NEW.job_id), 0);
    SELECT raise(ABORT, 'signal_ledger L1: the log is append-only, REPLACE is refused')
    WHERE NEW.position > 0
      AND NEW.position <= (SELECT max(position) FROM signal_ledger_events);
END;

CREATE TRIGGER signal_ledger_events_append_delivered
BEFORE INSERT ON signal_ledger_events
WHEN NEW.kind = 'delivered'
BEGIN
    SELECT raise(ABORT, 'signal_ledger D6: the delivery is in the log already')
    WHERE EXISTS (SELECT 1 FROM signal_ledger_events
                  WHERE job_id = NEW.job_id AND signal_id = NEW.signal_id AND kind = 'delivered');
    SELECT raise(ABORT, 'signal_ledger D6: the key is in the log already')
    WHERE NEW.key IS NOT NULL
      AND EXISTS (SELECT 1 FROM signal_ledger_events
                  WHERE job_id = NEW.job_id AND key = NEW.key AND kind = 'delivered');
END;

CREATE TRIGGER signal_ledger_events_append_outcome
BEFORE INSERT ON signal_ledger_events
WHEN NEW.kind = 'consumed' OR NEW.kind = 'timed_out'
BEGIN
    SELECT raise(ABORT, 'signal_ledger W8: the wait has an outcome already')
    WHERE EXISTS (SELECT 1 FROM signal_ledger_events
                  WHERE job_id = NEW.job_id AND run = NEW.run AND channel = NEW.channel AND ordinal = NEW.ordinal
                    AND (kind = 'consumed' OR kind = 'timed_out'));
    SELECT raise(ABORT, 'signal_ledger W8: the delivery is consumed already')
    WHERE NEW.kind = 'consumed'
      AND EXISTS (SELECT 1 FROM signal_ledger_events
                  WHERE job_id = NEW.job_id AND signal_id = NEW.signal_id AND kind = 'consumed');
END;

-- The projection: each job's wait state, folded from its stream. It may be dropped and rebuilt.
--
--   current, ordinal, since, deadline_at   the wait that status speaks of
--   waits, inboxes                         JSON: the open waits and the pending signals (see sqlite/rows.py)
--   schema_version                         the newest that any event of the stream has
CREATE TABLE signal_ledger_waits (
    job_id         INTEGER PRIMARY KEY,
    run            INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    recorded_at    TEXT,
    status         TEXT    NOT NULL,
    current        TEXT,
    ordinal        INTEGER,
    since          TEXT,
    deadline_at    TEXT,
    execution      INTEGER NOT NULL,
    waits          TEXT    NOT NULL,
    inboxes        TEXT    NOT NULL,
    schema_version INTEGER NOT NULL
) STRICT;

-- Who waits, the longest-waiting first.
CREATE INDEX signal_ledger_waits_since
    ON signal_ledger_waits (since, job_id)
    WHERE status = 'live' OR status = 'snoozed';

-- Jobs whose streams lack a closed event, with its cause, because another program changed them (promise L3).
CREATE TABLE signal_ledger_repairs (
    job_id   INTEGER PRIMARY KEY,
    cause    TEXT NOT NULL,
    noted_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
