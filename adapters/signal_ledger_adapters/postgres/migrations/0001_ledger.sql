-- The log, its projection, and what stands beside them.
--
-- `ledger` stands for the ledger's own schema and `oban` for Oban's; both are put in when this is run. Instants are
-- timestamptz, digests lower-case hex. The columns of the events are those of signal_ledger.stored.StoredEvent; what
-- they mean is told there and in signal_ledger.events. Times are read from ledger.clock() alone.

CREATE TABLE ledger.events (
    -- Positions are drawn in the order of the inserts, which is not that of the commits. Readers go by (turn, position)
    -- and not past the oldest transaction that is still running. The turn is the id of the event's transaction, or that
    -- of the stream's last event if it is higher, so that a stream's events come in their order.
    position         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    turn             bigint      NOT NULL,
    job_id           bigint      NOT NULL,
    version          integer     NOT NULL,
    run              integer     NOT NULL,
    kind             text        NOT NULL,
    schema_version   integer     NOT NULL,
    recorded_at      timestamptz NOT NULL,
    execution        bigint,
    attempt          integer,
    channel          text        COLLATE "C",
    ordinal          integer,
    signal_id        text        COLLATE "C",
    delivery_version integer,
    key              text        COLLATE "C",
    source           text        COLLATE "C",
    deadline_at      timestamptz,
    cause            text,
    outcome          text,
    payload          bytea,
    payload_digest   text,
    checksum         text        NOT NULL,

    -- A stream in its order, and no version twice.
    PRIMARY KEY (job_id, version)
);

-- The log in the order in which readers may see it.
CREATE UNIQUE INDEX events_order ON ledger.events (turn, position);

-- One outcome a wait (promise W8); also finds the outcome to replay.
CREATE UNIQUE INDEX events_outcome ON ledger.events (job_id, run, channel, ordinal)
    WHERE kind IN ('consumed', 'timed_out');

-- One consumption a delivery (promise W8).
CREATE UNIQUE INDEX events_consumed ON ledger.events (job_id, signal_id) WHERE kind = 'consumed';

-- One event a delivery, however often its call is tried (promise D6).
CREATE UNIQUE INDEX events_delivered ON ledger.events (job_id, signal_id) WHERE kind = 'delivered';

-- One delivery a key, for ever (promise D6).
CREATE UNIQUE INDEX events_key ON ledger.events (job_id, key) WHERE kind = 'delivered' AND key IS NOT NULL;

-- The open waits and the inboxes of a state; see signal_ledger.wait_state.
CREATE TYPE ledger.open_wait AS (
    channel           text,
    ordinal           integer,
    since             timestamptz,
    deadline_is_final boolean,
    deadline_at       timestamptz,
    was_snoozed       boolean
);

CREATE TYPE ledger.inbox AS (
    channel text,
    pending integer,
    after   integer
);

-- The projection: each job's wait state, folded from its stream. It may be emptied and rebuilt.
--
--   current, ordinal, since, deadline_at   the wait that status speaks of
--   schema_version                         the newest that any event of the stream has
CREATE TABLE ledger.waits (
    job_id         bigint  PRIMARY KEY,
    run            integer NOT NULL,
    version        integer NOT NULL,
    recorded_at    timestamptz,
    status         text    NOT NULL,
    current        text    COLLATE "C",
    ordinal        integer,
    since          timestamptz,
    deadline_at    timestamptz,
    execution      bigint  NOT NULL,
    waits          ledger.open_wait[] NOT NULL,
    inboxes        ledger.inbox[]     NOT NULL,
    schema_version integer NOT NULL
) WITH (fillfactor = 70);

-- Who waits, the longest-waiting first. With those who have been woken and not run yet: their status alone changes, so
-- the row keeps its place in the indexes (HOT).
CREATE INDEX waits_since ON ledger.waits (since, job_id) WHERE since IS NOT NULL;

-- The streams that only a newer version of the library can go on with (promise L8).
CREATE INDEX waits_newer ON ledger.waits (job_id) WHERE schema_version > 1;

-- Jobs that were cancelled while they executed: Oban keeps no trace of that (promise W12).
CREATE TABLE ledger.cancels (
    job_id       bigint      PRIMARY KEY,
    requested_at timestamptz NOT NULL
);

-- Jobs whose streams lack a closed event, with its cause, because appending it failed (promise L3).
CREATE TABLE ledger.repairs (
    job_id   bigint      PRIMARY KEY,
    cause    text        NOT NULL,
    noted_at timestamptz NOT NULL
);

-- Signals that callers have stored in their own transactions (promise D8). A row leaves with its relay, or stays with
-- the refusal that it met. The columns are those of signal_ledger.commands.Deliver; key_ids are separated by commas.
--
--   place    drawn in the order of the inserts: within a transaction, that of its calls
--   turn     the transaction
--   refusal  why the relay refused it; NULL as long as it has not been relayed
--   retry_at before that the relay leaves it alone, since it could not be delivered because of a fault
CREATE TABLE ledger.outbox (
    place          bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    turn           bigint      NOT NULL,
    signal_id      text        NOT NULL COLLATE "C",
    job_id         bigint      NOT NULL,
    channel        text        NOT NULL COLLATE "C",
    payload        bytea       NOT NULL,
    payload_digest text        NOT NULL CHECK (length(payload_digest) = 64),
    key            text        COLLATE "C",
    key_ids        text        NOT NULL,
    source         text        COLLATE "C",
    stored_at      timestamptz NOT NULL,
    refusal        text,
    retry_at       timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What is to be relayed, the oldest first.
CREATE INDEX outbox_pending ON ledger.outbox (place) WHERE refusal IS NULL;
