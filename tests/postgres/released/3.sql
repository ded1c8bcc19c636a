DO $$
DECLARE
    jobs  regclass := to_regclass(format('%I.oban_jobs', 'public'));
    owner text;
BEGIN
    IF jobs IS NULL THEN
        RAISE EXCEPTION 'there is no table oban_jobs in schema %; install Oban''s schema first, or say where it is: '
            'oban_prefix= (--oban-prefix)', quote_literal('public');
    END IF;
    SELECT n.nspname INTO owner
    FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE t.tgrelid = jobs AND t.tgname = 'signal_ledger_moved' AND n.nspname <> 'signal_ledger';
    IF FOUND THEN
        RAISE EXCEPTION 'the Oban in schema % has a ledger, in schema %; use schema=% (--schema) for it, or drop that '
            'one first, and its log with it', quote_literal('public'), quote_literal(owner), quote_literal(owner);
    END IF;
END;
$$;

DO $$
BEGIN
    IF to_regnamespace(quote_ident('signal_ledger')) IS NULL THEN
        CREATE SCHEMA "signal_ledger";
    END IF;
END;
$$;
CREATE TABLE IF NOT EXISTS "signal_ledger".settings (
    only_one    boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    id          uuid    NOT NULL DEFAULT gen_random_uuid(),
    version     integer NOT NULL,
    functions   text    NOT NULL,
    oban_prefix text    NOT NULL,
    testing     boolean NOT NULL
);

CREATE OR REPLACE FUNCTION "signal_ledger".oban_prefix() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'public'::text $$;

-- The log, its projection, and what stands beside them.
--
-- `ledger` stands for the ledger's own schema and `oban` for Oban's; both are put in when this is run. Instants are
-- timestamptz, digests lower-case hex. The columns of the events are those of signal_ledger.stored.StoredEvent; what
-- they mean is told there and in signal_ledger.events. Times are read from "signal_ledger".clock() alone.

CREATE TABLE "signal_ledger".events (
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
CREATE UNIQUE INDEX events_order ON "signal_ledger".events (turn, position);

-- One outcome a wait (promise W8); also finds the outcome to replay.
CREATE UNIQUE INDEX events_outcome ON "signal_ledger".events (job_id, run, channel, ordinal)
    WHERE kind IN ('consumed', 'timed_out');

-- One consumption a delivery (promise W8).
CREATE UNIQUE INDEX events_consumed ON "signal_ledger".events (job_id, signal_id) WHERE kind = 'consumed';

-- One event a delivery, however often its call is tried (promise D6).
CREATE UNIQUE INDEX events_delivered ON "signal_ledger".events (job_id, signal_id) WHERE kind = 'delivered';

-- One delivery a key, for ever (promise D6).
CREATE UNIQUE INDEX events_key ON "signal_ledger".events (job_id, key) WHERE kind = 'delivered' AND key IS NOT NULL;

-- The open waits and the inboxes of a state; see signal_ledger.wait_state.
CREATE TYPE "signal_ledger".open_wait AS (
    channel           text,
    ordinal           integer,
    since             timestamptz,
    deadline_is_final boolean,
    deadline_at       timestamptz,
    was_snoozed       boolean
);

CREATE TYPE "signal_ledger".inbox AS (
    channel text,
    pending integer,
    after   integer
);

-- The projection: each job's wait state, folded from its stream. It may be emptied and rebuilt.
--
--   current, ordinal, since, deadline_at   the wait that status speaks of
--   schema_version                         the newest that any event of the stream has
CREATE TABLE "signal_ledger".waits (
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
    waits          "signal_ledger".open_wait[] NOT NULL,
    inboxes        "signal_ledger".inbox[]     NOT NULL,
    schema_version integer NOT NULL
) WITH (fillfactor = 70);

-- Who waits, the longest-waiting first. With those who have been woken and not run yet: their status alone changes, so
-- the row keeps its place in the indexes (HOT).
CREATE INDEX waits_since ON "signal_ledger".waits (since, job_id) WHERE since IS NOT NULL;

-- The streams that only a newer version of the library can go on with (promise L8).
CREATE INDEX waits_newer ON "signal_ledger".waits (job_id) WHERE schema_version > 1;

-- Jobs that were cancelled while they executed: Oban keeps no trace of that (promise W12).
CREATE TABLE "signal_ledger".cancels (
    job_id       bigint      PRIMARY KEY,
    requested_at timestamptz NOT NULL
);

-- Jobs whose streams lack a closed event, with its cause, because appending it failed (promise L3).
CREATE TABLE "signal_ledger".repairs (
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
CREATE TABLE "signal_ledger".outbox (
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
CREATE INDEX outbox_pending ON "signal_ledger".outbox (place) WHERE refusal IS NULL;

-- Workflows: what the log tells of steps, and what is kept of them beside it; see docs/adr/0016-workflows.md.

-- Events of schema version 2 may have:
--   dep    the step because of whose end a step was released or cancelled, or whose end it ignored
--   plan   JSON: what the job is to its workflow (see signal_ledger.plan.Plan.text)
ALTER TABLE "signal_ledger".events ADD COLUMN dep text COLLATE "C", ADD COLUMN plan text;

-- The streams that only a newer version of the library can go on with (promise L8); see "signal_ledger".newest_schema_version.
DROP INDEX "signal_ledger".waits_newer;
CREATE INDEX waits_newer ON "signal_ledger".waits (job_id) WHERE schema_version > 2;

-- The steps. Projected from the log, and rebuilt from it.
--
--   job_id      NULL as long as there is nothing but steps that depend on it
--   ignore      of the plan: how deps may end besides being completed
--   held        how many of its deps have not ended
--   planned_at  when it was enqueued
--   ended_as    how it ended; NULL while its job is alive
CREATE TABLE "signal_ledger".steps (
    workflow_id text    NOT NULL COLLATE "C",
    name        text    NOT NULL COLLATE "C",
    job_id      bigint,
    plan        text,
    ignore      text[]  NOT NULL DEFAULT '{}',
    held        integer NOT NULL DEFAULT 0,
    planned_at  timestamptz,
    ended_as    text,
    ended_at    timestamptz,

    -- A workflow in its order, and no name twice (promise F4).
    PRIMARY KEY (workflow_id, name)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX steps_job ON "signal_ledger".steps (job_id);

-- From each dep to who depends on it. An edge ends once, as its dep did. No index has the column that changes (HOT), and
-- none begins with the workflow: nobody, and no planner, can look for an edge by reading all that the workflow has.
CREATE TABLE "signal_ledger".edges (
    workflow_id text NOT NULL COLLATE "C",
    dep         text NOT NULL COLLATE "C",
    name        text NOT NULL COLLATE "C",
    ended_as    text,

    PRIMARY KEY (dep, workflow_id, name)
) WITH (fillfactor = 70);

-- Those that lead to a step.
CREATE INDEX edges_name ON "signal_ledger".edges (name, workflow_id);

-- Steps whose jobs have ended in a transaction that is not committed yet: at its commit their dependants are told, of all
-- of them at once, and the rows leave. Nobody else ever sees them.
CREATE TABLE "signal_ledger".ends (
    place       bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    job_id      bigint NOT NULL,
    workflow_id text   NOT NULL COLLATE "C",
    name        text   NOT NULL COLLATE "C",
    cause       text   NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What the questions of auditors are answered by; see docs/adr/0017-audit-queries.md.
--
-- Every page of events comes in the log's order from an index that begins with what is asked for. Two values are had by
-- most events and would cost every signal an index entry: the kind delivered, and on it the default channel. Those are
-- found by the blocks below.
--
-- On tables that hold something, "signal_ledger".migrate makes these indexes before this is run, and nobody waits for that.

CREATE INDEX IF NOT EXISTS events_kind ON "signal_ledger".events (kind COLLATE "C", turn, position) WHERE kind <> 'delivered';

CREATE INDEX IF NOT EXISTS events_channel ON "signal_ledger".events (channel, kind COLLATE "C", turn, position)
    WHERE channel IS NOT NULL AND (channel <> '' OR kind <> 'delivered');

CREATE INDEX IF NOT EXISTS events_source ON "signal_ledger".events (source, turn, position) WHERE source IS NOT NULL;

-- Who waits on a channel, the longest-waiting first; and whose deadline ends first. A wake-up changes none of their
-- columns, so the row keeps its place in them (HOT).
CREATE INDEX IF NOT EXISTS waits_channel ON "signal_ledger".waits (current, since, job_id) WHERE since IS NOT NULL;

CREATE INDEX IF NOT EXISTS waits_deadline ON "signal_ledger".waits (deadline_at) WHERE since IS NOT NULL AND deadline_at IS NOT NULL;

-- What 256 events of the log hold, in its order: those behind the row before, up to this one's place. The sweeper writes
-- them once they are settled, so they never change, and who appends events pays nothing. Projected from the log, and
-- rebuilt from it.
--
--   low, high   the earliest and the latest recorded_at
--   delivered   how many of the events are deliveries
--   unnamed     how many of those are on the default channel
--   peak        the latest recorded_at up to here: the first block with a later one is found by it
--   crest       the highest low up to here. Clocks step back at times: then low is lower than it
CREATE TABLE "signal_ledger".blocks (
    turn      bigint      NOT NULL,
    position  bigint      NOT NULL,
    low       timestamptz NOT NULL,
    high      timestamptz NOT NULL,
    delivered integer     NOT NULL,
    unnamed   integer     NOT NULL,
    peak      timestamptz NOT NULL,
    crest     timestamptz NOT NULL,

    PRIMARY KEY (turn, position)
);

CREATE INDEX blocks_peak ON "signal_ledger".blocks (peak, turn, position);
CREATE INDEX blocks_crest ON "signal_ledger".blocks (crest, turn, position);
CREATE INDEX blocks_dip ON "signal_ledger".blocks (turn, position) WHERE low < crest;
CREATE INDEX blocks_delivered ON "signal_ledger".blocks (turn, position) WHERE delivered > 0;
CREATE INDEX blocks_unnamed ON "signal_ledger".blocks (turn, position) WHERE unnamed > 0;

-- They tell when there were events, and nothing of what is in them.
GRANT SELECT ON "signal_ledger".blocks TO public;

-- Small functions that the others stand on.

-- The time of the ledger. Tests put another one in its place, in schemas made for testing.
CREATE OR REPLACE FUNCTION "signal_ledger".clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$ SELECT clock_timestamp() $$;

-- The newest version of events that this library can read (promise L8): signal_ledger.stored.SCHEMA_VERSION. The index
-- waits_newer has the same number.
CREATE OR REPLACE FUNCTION "signal_ledger".newest_schema_version() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 2 $$;

-- Which ledger this is, among all there are: copies of a database have the same id in their settings.
CREATE OR REPLACE FUNCTION "signal_ledger".identity() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT concat_ws('/', s.id, d.oid, c.system_identifier)
    FROM "signal_ledger".settings AS s, pg_database AS d, pg_control_system() AS c
    WHERE d.datname = current_database()
$$;

-- An execution's token: its attempted_at in microseconds since the epoch; 0 before the first.
CREATE OR REPLACE FUNCTION "signal_ledger".to_execution(attempted_at timestamp) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT coalesce((extract(epoch FROM attempted_at) * 1000000)::bigint, 0) $$;

CREATE OR REPLACE FUNCTION "signal_ledger".is_terminal(state text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT state IN ('completed', 'cancelled', 'discarded') $$;

-- Refuse what no channel, key or source can be; see signal_ledger.arguments.
CREATE OR REPLACE FUNCTION "signal_ledger".check_text(name text, value text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF octet_length(convert_to(value, 'UTF8')) NOT BETWEEN 1 AND 255 THEN
        RAISE EXCEPTION 'signal_ledger: % must have 1 to 255 bytes, or be NULL', name
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END;
$$;

-- Refuse what cannot be a payload, as far as that can be seen without decoding it; see signal_ledger.codec.
CREATE OR REPLACE FUNCTION "signal_ledger".check_payload(payload bytea) RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF octet_length(payload) = 0 OR get_byte(payload, 0) <> 131 THEN
        RAISE EXCEPTION 'signal_ledger D9: payload must be in Erlang''s external term format, whose first byte is 131'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END;
$$;

-- Refuse REPEATABLE READ and SERIALIZABLE: there, a statement does not see what was committed while it waited for a lock.
-- A signal between a job's last look and its snooze would wake nobody, and no conflict would be reported for it.
CREATE OR REPLACE FUNCTION "signal_ledger".require_read_committed() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'signal_ledger W5: expected a transaction of isolation level READ COMMITTED, this one is %: it '
            'does not see what others have just committed, and wake-ups would be lost',
            upper(current_setting('transaction_isolation')) USING ERRCODE = 'invalid_transaction_state';
    END IF;
END;
$$;

-- What writers stand on, whatever the defaults of the database, the role, or a pooler's connection are; and the time. What
-- was answered must survive a power cut (promise D1). Call it when the jobs are locked, and before anything is written.
CREATE OR REPLACE FUNCTION "signal_ledger".begin_writing() RETURNS timestamptz
LANGUAGE plpgsql
AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        PERFORM "signal_ledger".require_read_committed();
    END IF;
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN "signal_ledger".clock();
END;
$$;

-- Notify the listeners on one of Oban's channels. PostgreSQL refuses channels of more than 63 bytes, which a long prefix
-- makes; then nobody listens, and everybody looks within the second.
CREATE OR REPLACE FUNCTION "signal_ledger".notify(channel text, message json) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    full_name text := "signal_ledger".oban_prefix() || '.oban_' || channel;
BEGIN
    IF octet_length(full_name) <= 63 THEN
        PERFORM pg_notify(full_name, message::text);
    END IF;
END;
$$;

-- A part of an event's byte form: a netstring, or -, for NULL.
CREATE OR REPLACE FUNCTION "signal_ledger".netstring(part text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT coalesce(octet_length(part)::text || ':' || part || ',', '-,') $$;

CREATE OR REPLACE FUNCTION "signal_ledger".microseconds(instant timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT ((extract(epoch FROM instant - timestamptz 'epoch') * 1000000)::bigint)::text $$;

-- The checksum of an event: lower-case hex SHA-256 of its byte form (promise L7), which is a netstring of each column; see
-- signal_ledger.stored.byte_form. It becomes a part of the statement that appends the event, which costs a third of what a
-- query over an array of the columns does; so it is declared as STABLE, as convert_to is.
CREATE OR REPLACE FUNCTION "signal_ledger".checksum_of(
    job_id bigint, version integer, run integer, kind text, schema_version integer, recorded_at timestamptz,
    execution bigint, attempt integer, channel text, ordinal integer, signal_id text, delivery_version integer, key text,
    source text, deadline_at timestamptz, cause text, outcome text, payload_digest text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT encode(sha256(convert_to(
        "signal_ledger".netstring(job_id::text) || "signal_ledger".netstring(version::text) || "signal_ledger".netstring(run::text)
        || "signal_ledger".netstring(kind) || "signal_ledger".netstring(schema_version::text)
        || "signal_ledger".netstring("signal_ledger".microseconds(recorded_at)) || "signal_ledger".netstring(execution::text)
        || "signal_ledger".netstring(attempt::text) || "signal_ledger".netstring(channel) || "signal_ledger".netstring(ordinal::text)
        || "signal_ledger".netstring(signal_id) || "signal_ledger".netstring(delivery_version::text) || "signal_ledger".netstring(key)
        || "signal_ledger".netstring(source) || "signal_ledger".netstring("signal_ledger".microseconds(deadline_at)) || "signal_ledger".netstring(cause)
        || "signal_ledger".netstring(outcome) || "signal_ledger".netstring(payload_digest), 'UTF8')), 'hex')
$$;

-- The same of an event that tells of a step. Those are of schema version 2, whose byte form covers dep and plan.
CREATE OR REPLACE FUNCTION "signal_ledger".checksum_of_step(
    job_id bigint, version integer, run integer, kind text, schema_version integer, recorded_at timestamptz, cause text,
    dep text, plan text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT encode(sha256(convert_to(
        "signal_ledger".netstring(job_id::text) || "signal_ledger".netstring(version::text) || "signal_ledger".netstring(run::text)
        || "signal_ledger".netstring(kind) || "signal_ledger".netstring(schema_version::text)
        || "signal_ledger".netstring("signal_ledger".microseconds(recorded_at)) || '-,-,-,-,-,-,-,-,-,' || "signal_ledger".netstring(cause)
        || '-,-,' || "signal_ledger".netstring(dep) || "signal_ledger".netstring(plan), 'UTF8')), 'hex')
$$;

-- What events add up to: signal_ledger.evolve, in the database. Total: a recorded fact is never refused.

CREATE OR REPLACE FUNCTION "signal_ledger".new_state(job_id bigint, run integer) RETURNS "signal_ledger".waits
LANGUAGE sql IMMUTABLE
AS $$
    SELECT ROW(job_id, run, 0, NULL, 'idle', NULL, NULL, NULL, NULL, 0, '{}', '{}', 1)::"signal_ledger".waits
$$;

CREATE OR REPLACE FUNCTION "signal_ledger".wait_on(waits "signal_ledger".open_wait[], channel text) RETURNS "signal_ledger".open_wait
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    wait "signal_ledger".open_wait;
BEGIN
    FOREACH wait IN ARRAY waits LOOP
        IF wait.channel = wait_on.channel THEN
            RETURN wait;
        END IF;
    END LOOP;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION "signal_ledger".inbox_of(inboxes "signal_ledger".inbox[], channel text) RETURNS "signal_ledger".inbox
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    inbox "signal_ledger".inbox;
BEGIN
    FOREACH inbox IN ARRAY inboxes LOOP
        IF inbox.channel = inbox_of.channel THEN
            RETURN inbox;
        END IF;
    END LOOP;
    RETURN NULL;
END;
$$;

-- The other channels' waits, and this channel's new one if there is one; ordered by channel.
CREATE OR REPLACE FUNCTION "signal_ledger".with_wait(waits "signal_ledger".open_wait[], channel text, wait "signal_ledger".open_wait)
RETURNS "signal_ledger".open_wait[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    others "signal_ledger".open_wait[] := array_remove(waits, "signal_ledger".wait_on(waits, channel));
BEGIN
    IF wait.channel IS NULL THEN
        RETURN others;
    ELSIF others = '{}' THEN
        RETURN ARRAY[wait];
    END IF;
    RETURN (SELECT array_agg(one ORDER BY one.channel COLLATE "C") FROM unnest(others || wait) AS one);
END;
$$;

CREATE OR REPLACE FUNCTION "signal_ledger".with_inbox(inboxes "signal_ledger".inbox[], channel text, inbox "signal_ledger".inbox)
RETURNS "signal_ledger".inbox[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    others "signal_ledger".inbox[] := array_remove(inboxes, "signal_ledger".inbox_of(inboxes, channel));
BEGIN
    IF inbox.channel IS NULL THEN
        RETURN others;
    ELSIF others = '{}' THEN
        RETURN ARRAY[inbox];
    END IF;
    RETURN (SELECT array_agg(one ORDER BY one.channel COLLATE "C") FROM unnest(others || inbox) AS one);
END;
$$;

-- The state after an event.
CREATE OR REPLACE FUNCTION "signal_ledger".evolve(state "signal_ledger".waits, event "signal_ledger".events) RETURNS "signal_ledger".waits
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    wait       "signal_ledger".open_wait;
    inbox      "signal_ledger".inbox;
    newest     integer := greatest(state.schema_version, event.schema_version);
BEGIN
    IF event.run <> state.run OR (state.status = 'closed' AND event.kind <> 'closed') THEN
        state := "signal_ledger".new_state(state.job_id, event.run);
    END IF;
    CASE event.kind
    WHEN 'awaited', 'snoozed' THEN
        wait := "signal_ledger".wait_on(state.waits, event.channel);
        wait.since := coalesce(wait.since, event.recorded_at);
        wait.channel := event.channel;
        wait.ordinal := event.ordinal;
        wait.deadline_at := event.deadline_at;
        wait.was_snoozed := event.kind = 'snoozed';
        wait.deadline_is_final := wait.was_snoozed OR event.deadline_at IS NOT NULL;
        state.waits := "signal_ledger".with_wait(state.waits, event.channel, wait);
        inbox := "signal_ledger".inbox_of(state.inboxes, event.channel);
        -- With a signal already there a snoozed job is made runnable in the same transaction: it does not sleep.
        state.status := CASE WHEN event.kind = 'awaited' THEN 'live'
                             WHEN inbox.channel IS NULL THEN 'snoozed' ELSE 'idle' END;
        state.current := event.channel;
        state.execution := event.execution;
    WHEN 'delivered' THEN
        inbox := "signal_ledger".inbox_of(state.inboxes, event.channel);
        inbox.after := coalesce(inbox.after, event.version - 1);
        inbox.pending := coalesce(inbox.pending, 0) + 1;
        inbox.channel := event.channel;
        state.inboxes := "signal_ledger".with_inbox(state.inboxes, event.channel, inbox);
        IF event.outcome = 'woken' THEN
            state.status := 'idle';
        END IF;
    WHEN 'consumed', 'timed_out' THEN
        IF event.kind = 'consumed' THEN
            inbox := "signal_ledger".inbox_of(state.inboxes, event.channel);
            IF inbox.pending > 1 THEN
                inbox.pending := inbox.pending - 1;
                inbox.after := event.delivery_version;
            ELSE
                inbox := NULL;
            END IF;
            state.inboxes := "signal_ledger".with_inbox(state.inboxes, event.channel, inbox);
        END IF;
        state.waits := "signal_ledger".with_wait(state.waits, event.channel, NULL);
        IF state.current = event.channel THEN
            state.status := 'idle';
            state.current := NULL;
        END IF;
    WHEN 'closed' THEN
        state := "signal_ledger".new_state(state.job_id, event.run);
        state.status := 'closed';
    WHEN 'planned', 'released', 'skipped', 'cascaded' THEN
        -- They tell of the job's place in its workflow, not of its waits.
        NULL;
    END CASE;
    state.version := event.version;
    state.recorded_at := event.recorded_at;
    state.schema_version := newest;
    wait := CASE WHEN state.current IS NOT NULL THEN "signal_ledger".wait_on(state.waits, state.current) END;
    state.ordinal := wait.ordinal;
    state.since := wait.since;
    state.deadline_at := wait.deadline_at;
    RETURN state;
END;
$$;

-- A stream folded anew.
CREATE OR REPLACE FUNCTION "signal_ledger".fold(job_id bigint) RETURNS "signal_ledger".waits
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    state "signal_ledger".waits := "signal_ledger".new_state(fold.job_id, 1);
    event "signal_ledger".events;
BEGIN
    FOR event IN SELECT * FROM "signal_ledger".events AS e WHERE e.job_id = fold.job_id ORDER BY e.version LOOP
        state := "signal_ledger".evolve(state, event);
    END LOOP;
    RETURN state;
END;
$$;

-- The stored state, or the fold where none is stored. Call it under the job's lock.
CREATE OR REPLACE FUNCTION "signal_ledger".state_of(job_id bigint) RETURNS "signal_ledger".waits
LANGUAGE plpgsql
AS $$
DECLARE
    state "signal_ledger".waits;
BEGIN
    SELECT * INTO state FROM "signal_ledger".waits AS w WHERE w.job_id = state_of.job_id;
    IF NOT FOUND THEN
        state := "signal_ledger".fold(state_of.job_id);
    END IF;
    RETURN state;
END;
$$;

CREATE OR REPLACE FUNCTION "signal_ledger".open_run(state "signal_ledger".waits) RETURNS integer
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE WHEN state.status = 'closed' THEN state.run + 1 ELSE state.run END $$;

-- Append an event to a stream and return the state after it; "signal_ledger".save stores that.
--
-- The caller fills in what the kind has; version, schema version and checksum are given here.
CREATE OR REPLACE FUNCTION "signal_ledger".append(state "signal_ledger".waits, event "signal_ledger".events) RETURNS "signal_ledger".waits
LANGUAGE plpgsql
AS $$
BEGIN
    event.job_id := state.job_id;
    event.version := state.version + 1;
    -- The version that each kind is written in is that of its last change; see signal_ledger.stored.WRITTEN.
    IF event.kind IN ('planned', 'released', 'skipped', 'cascaded') THEN
        event.schema_version := 2;
        event.checksum := "signal_ledger".checksum_of_step(
            event.job_id, event.version, event.run, event.kind, event.schema_version, event.recorded_at, event.cause,
            event.dep, event.plan);
    ELSE
        event.schema_version := 1;
        event.checksum := "signal_ledger".checksum_of(
            event.job_id, event.version, event.run, event.kind, event.schema_version, event.recorded_at, event.execution,
            event.attempt, event.channel, event.ordinal, event.signal_id, event.delivery_version, event.key,
            event.source, event.deadline_at, event.cause, event.outcome, event.payload_digest);
    END IF;
    INSERT INTO "signal_ledger".events (
        job_id, version, run, kind, schema_version, recorded_at, execution, attempt, channel, ordinal, signal_id,
        delivery_version, key, source, deadline_at, cause, outcome, payload, payload_digest, checksum, dep, plan
    ) VALUES (
        event.job_id, event.version, event.run, event.kind, event.schema_version, event.recorded_at, event.execution,
        event.attempt, event.channel, event.ordinal, event.signal_id, event.delivery_version, event.key, event.source,
        event.deadline_at, event.cause, event.outcome, event.payload, event.payload_digest, event.checksum, event.dep,
        event.plan
    );
    RETURN "signal_ledger".evolve(state, event);
END;
$$;

-- In PL/pgSQL, which keeps its plan; SQL functions that are not inlined are planned at every call.
CREATE OR REPLACE FUNCTION "signal_ledger".save(state "signal_ledger".waits) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO "signal_ledger".waits VALUES (state.*)
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
        schema_version = excluded.schema_version;
END;
$$;

-- Locking jobs before anything is written, and telling those who wait afterwards.

-- Lock jobs, in ascending order.
--
-- Parameters: the jobs; patience, for how many milliseconds to wait for those that somebody else has locked, after which
-- it is an error (SQLSTATE 55P03). With NULL it waits for ever, and with 0 not at all.
-- Returns the jobs that are there and could not be locked, none unless patience is 0; and whether the jobs are distinct,
-- all there, and all locked.
CREATE OR REPLACE FUNCTION "signal_ledger".lock(job_ids bigint[], patience integer, OUT held bigint[], OUT is_plain boolean)
LANGUAGE plpgsql
AS $$
DECLARE
    locked bigint[];
BEGIN
    held := '{}';
    IF patience = 0 THEN
        SELECT array_agg(j.id) INTO locked FROM (
            SELECT job.id FROM "public".oban_jobs AS job
            WHERE job.id = ANY (job_ids) ORDER BY job.id FOR NO KEY UPDATE SKIP LOCKED
        ) AS j;
    ELSE
        IF patience > 0 THEN
            PERFORM set_config('lock_timeout', patience::text, true);
        END IF;
        SELECT array_agg(j.id) INTO locked FROM (
            SELECT job.id FROM "public".oban_jobs AS job
            WHERE job.id = ANY (job_ids) ORDER BY job.id FOR NO KEY UPDATE
        ) AS j;
    END IF;
    is_plain := coalesce(cardinality(locked), 0) = cardinality(job_ids);
    IF NOT is_plain AND patience = 0 THEN
        SELECT coalesce(array_agg(DISTINCT job.id), '{}') INTO held
        FROM unnest(job_ids) AS wanted (id) JOIN "public".oban_jobs AS job ON job.id = wanted.id
        LEFT JOIN unnest(locked) AS got (id) ON got.id = wanted.id
        WHERE got.id IS NULL;
    END IF;
END;
$$;

-- A job's meta once it does not wait any more (promise W14). Somebody may have put another thing than an object there.
CREATE OR REPLACE FUNCTION "signal_ledger".without_wait_until(meta jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE jsonb_typeof(meta) WHEN 'object' THEN meta - 'wait_until' ELSE meta END $$;

-- Make snoozed jobs available now and tell Oban's queues, once for each.
CREATE OR REPLACE FUNCTION "signal_ledger".wake(job_ids bigint[], moment timestamptz) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    queues text[];
    queue  text;
BEGIN
    WITH woken AS (
        -- Without wait_until here, so that "signal_ledger".job_changes is not called for it.
        UPDATE "public".oban_jobs AS job
        SET state = 'available', scheduled_at = least(job.scheduled_at, timezone('UTC', moment)),
            meta = "signal_ledger".without_wait_until(job.meta)
        FROM unnest(job_ids) AS wanted (id)
        WHERE job.id = wanted.id
        RETURNING job.queue
    )
    SELECT array_agg(DISTINCT w.queue) INTO queues FROM woken AS w;
    FOREACH queue IN ARRAY coalesce(queues, '{}') LOOP
        PERFORM "signal_ledger".notify('insert', json_build_object('queue', queue));
    END LOOP;
END;
$$;

-- Tell live waits to look; 350 ids fit into a notification.
CREATE OR REPLACE FUNCTION "signal_ledger".hint(job_ids bigint[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    place integer;
BEGIN
    FOR place IN 1 .. cardinality(job_ids) BY 350 LOOP
        PERFORM "signal_ledger".notify('signal_ledger', json_build_object('jobs', to_json(job_ids[place : place + 349])));
    END LOOP;
END;
$$;

-- Delivering signals: signal_ledger.decide for a batch of calls, in one transaction.
--
-- There are three ways, and all append the same: "signal_ledger".deliver_one for a call that came alone, with as few statements as
-- can be; "signal_ledger".deliver_batch, where one statement serves all that need no look at earlier signals; and
-- "signal_ledger".deliver_others for what is left of a batch, one signal after the other.

-- The delivery that has a key or an id already, and what became of it; see signal_ledger.facts.PriorDelivery.
CREATE OR REPLACE FUNCTION "signal_ledger".prior(job_id bigint, key text, ids text[]) RETURNS "signal_ledger".events
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    found_event "signal_ledger".events;
    wanted text;
BEGIN
    IF key IS NOT NULL THEN
        SELECT * INTO found_event FROM "signal_ledger".events AS e
        WHERE e.job_id = prior.job_id AND e.key = prior.key AND e.kind = 'delivered';
        IF FOUND THEN
            RETURN found_event;
        END IF;
    END IF;
    FOREACH wanted IN ARRAY ids LOOP
        SELECT * INTO found_event FROM "signal_ledger".events AS e
        WHERE e.job_id = prior.job_id AND e.signal_id = wanted AND e.kind = 'delivered';
        IF FOUND THEN
            RETURN found_event;
        END IF;
    END LOOP;
    RETURN NULL;
END;
$$;

-- Whether a delivery contradicts an earlier one of its key, and the row that says so.
CREATE OR REPLACE FUNCTION "signal_ledger".conflict(
    prior "signal_ledger".events, job_id bigint, channel text, digest text,
    OUT refused boolean, OUT outcome text, OUT version integer, OUT first_id text, OUT reason text, OUT refused_job bigint
)
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    refused := prior.signal_id IS NOT NULL
        AND (prior.channel <> conflict.channel OR prior.payload_digest <> conflict.digest);
    outcome := 'conflict';
    version := prior.version;
    first_id := prior.signal_id;
    reason := CASE WHEN prior.channel <> conflict.channel THEN 'channel' ELSE 'payload' END;
    refused_job := conflict.job_id;
END;
$$;

-- The inboxes after a delivery; see "signal_ledger".evolve.
CREATE OR REPLACE FUNCTION "signal_ledger".inboxes_after(inboxes "signal_ledger".inbox[], channel text, version integer)
RETURNS "signal_ledger".inbox[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    inbox "signal_ledger".inbox;
BEGIN
    IF cardinality(inboxes) = 0 THEN
        RETURN ARRAY[ROW(channel, 1, version - 1)::"signal_ledger".inbox];
    END IF;
    inbox := "signal_ledger".inbox_of(inboxes, channel);
    RETURN "signal_ledger".with_inbox(inboxes, channel, ROW(
        channel, coalesce(inbox.pending, 0) + 1, coalesce(inbox.after, version - 1))::"signal_ledger".inbox);
END;
$$;

-- What becomes of a signal. It is woken or live if it resumes the current wait: only one on the awaited channel, by the
-- deadline, to the execution that waits does so (promise W5).
CREATE OR REPLACE FUNCTION "signal_ledger".outcome_of(
    status text, current text, deadline_at timestamptz, execution bigint, channel text, recorded_at timestamptz,
    job_state text, job_execution bigint
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE
        WHEN current = channel AND execution = job_execution AND (deadline_at IS NULL OR recorded_at <= deadline_at)
        THEN CASE WHEN status = 'snoozed' AND job_state = 'scheduled' THEN 'woken'
                  WHEN status = 'live' AND job_state = 'executing' THEN 'live'
                  ELSE 'buffered' END
        ELSE 'buffered' END
$$;

-- Append a signal that is known to be new to the stream of a job whose lock is held, and store the state after it: what
-- "signal_ledger".append, "signal_ledger".evolve and "signal_ledger".save do for any event, at a fraction of the cost.
--
-- Returns woken, live or buffered, and the event's version; or newer, and nothing was written, because a newer version of
-- the library has written to the stream.
CREATE OR REPLACE FUNCTION "signal_ledger".append_delivery(
    moment timestamptz, job_id bigint, job_state text, job_execution bigint, signal_id text, channel text, payload bytea,
    digest text, key text, source text, OUT outcome text, OUT version integer
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_variable
DECLARE
    state     "signal_ledger".waits;
    newest    integer;
    is_stored boolean;
BEGIN
    SELECT w.* INTO state FROM "signal_ledger".waits AS w WHERE w.job_id = append_delivery.job_id;
    is_stored := FOUND;
    IF NOT is_stored THEN
        state := "signal_ledger".fold(job_id);
    END IF;
    IF state.schema_version > "signal_ledger".newest_schema_version() THEN
        outcome := 'newer';
        RETURN;
    END IF;
    version := state.version + 1;
    moment := greatest(moment, state.recorded_at);
    IF state.status = 'closed' THEN
        newest := state.schema_version;
        state := "signal_ledger".new_state(job_id, state.run + 1);
        state.schema_version := newest;
        is_stored := false;
    END IF;
    outcome := "signal_ledger".outcome_of(
        state.status, state.current, state.deadline_at, state.execution, channel, moment, job_state, job_execution);
    INSERT INTO "signal_ledger".events (
        job_id, version, run, kind, schema_version, recorded_at, channel, signal_id, key, source, outcome, payload,
        payload_digest, checksum
    ) VALUES (
        job_id, version, state.run, 'delivered', 1, moment, channel, signal_id, key, source, outcome, payload, digest,
        "signal_ledger".checksum_of(
            job_id, version, state.run, 'delivered', 1, moment, NULL, NULL, channel, NULL, signal_id, NULL, key, source,
            NULL, NULL, outcome, digest)
    );
    state.version := version;
    state.recorded_at := moment;
    state.inboxes := "signal_ledger".inboxes_after(state.inboxes, channel, version);
    IF outcome = 'woken' THEN
        state.status := 'idle';
    END IF;
    IF is_stored THEN
        UPDATE "signal_ledger".waits AS w
        SET version = state.version, recorded_at = state.recorded_at, status = state.status, inboxes = state.inboxes
        WHERE w.job_id = append_delivery.job_id;
    ELSE
        PERFORM "signal_ledger".save(state);
    END IF;
END;
$$;

-- The jobs whose streams a newer version of the library has written to.
CREATE OR REPLACE FUNCTION "signal_ledger".newer_streams(job_ids bigint[]) RETURNS bigint[]
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(array_agg(w.job_id), '{}')
    FROM "signal_ledger".waits AS w WHERE w.schema_version > "signal_ledger".newest_schema_version() AND w.job_id = ANY (job_ids)
$$;

-- Deliver the other signals of a batch, one after the other, in the order of their places.
--
-- Parameters: those of "signal_ledger".deliver_batch; the places that it has served itself; the jobs that are held, and those whose
-- streams a newer version of the library has written to. Rows: as the elements of what that returns; is_told is whether
-- the job is to be woken or told.
CREATE OR REPLACE FUNCTION "signal_ledger".deliver_others(
    moment timestamptz, calls integer[], first_tries boolean[], job_ids bigint[], signal_ids text[], channels text[],
    payloads bytea[], digests text[], keys text[], key_ids text[], sources text[], served bigint[], held bigint[],
    newer bigint[]
) RETURNS TABLE (
    place bigint, outcome text, version integer, signal_id text, reason text, job_id bigint, is_told boolean
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    given   record;
    other   record;
    job     record;
    call    integer;
    prior   "signal_ledger".events;
    state   "signal_ledger".waits;
    refused boolean;
BEGIN
    FOR given IN
        SELECT d.*, count(*) OVER (PARTITION BY d.call) AS size
        FROM unnest(calls, first_tries, job_ids, signal_ids, channels, digests, keys, key_ids, sources)
            WITH ORDINALITY AS d (call, first_try, job_id, signal_id, channel, digest, key, key_ids, source, place)
        WHERE d.place <> ALL (served)
        ORDER BY d.place
    LOOP
        place := given.place;
        is_told := false;
        prior := NULL;
        IF given.key IS NOT NULL OR NOT given.first_try THEN
            prior := "signal_ledger".prior(
                given.job_id, given.key, ARRAY[given.signal_id] || string_to_array(given.key_ids, ','));
        END IF;
        IF call IS DISTINCT FROM given.call THEN
            -- Nothing is written before the whole call is known to be accepted (D2).
            call := given.call;
            refused := false;
            IF given.job_id = ANY (held) OR given.job_id = ANY (newer) THEN
                refused := true;
                outcome := CASE WHEN given.job_id = ANY (held) THEN 'held' ELSE 'newer' END;
                version := NULL; signal_id := NULL; reason := NULL; job_id := given.job_id;
            ELSIF given.size = 1 THEN
                IF prior.signal_id IS NOT NULL THEN
                    SELECT * INTO refused, outcome, version, signal_id, reason, job_id
                    FROM "signal_ledger".conflict(prior, given.job_id, given.channel, given.digest);
                END IF;
            ELSE
                FOR other IN
                    SELECT d.*
                    FROM unnest(calls, first_tries, job_ids, signal_ids, channels, digests, keys, key_ids)
                        AS d (call, first_try, job_id, signal_id, channel, digest, key, key_ids)
                    WHERE d.call = given.call
                      AND (d.key IS NOT NULL OR NOT d.first_try OR d.job_id = ANY (newer) OR d.job_id = ANY (held))
                LOOP
                    IF other.job_id = ANY (held) OR other.job_id = ANY (newer) THEN
                        refused := true;
                        outcome := CASE WHEN other.job_id = ANY (held) THEN 'held' ELSE 'newer' END;
                        version := NULL; signal_id := NULL; reason := NULL; job_id := other.job_id;
                    ELSE
                        SELECT * INTO refused, outcome, version, signal_id, reason, job_id
                        FROM "signal_ledger".conflict(
                            "signal_ledger".prior(other.job_id, other.key,
                                         ARRAY[other.signal_id] || string_to_array(other.key_ids, ',')),
                            other.job_id, other.channel, other.digest);
                    END IF;
                    EXIT WHEN refused;
                END LOOP;
            END IF;
        END IF;
        IF refused THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        job_id := given.job_id;
        signal_id := coalesce(prior.signal_id, given.signal_id);
        version := prior.version;
        reason := NULL;
        -- The key comes first: a repeated call is told what became of the first one, whatever the job does (D6).
        IF NOT given.first_try AND prior.signal_id = given.signal_id AND prior.key IS NOT DISTINCT FROM given.key THEN
            outcome := prior.outcome;
            RETURN NEXT;
            CONTINUE;
        END IF;
        state := "signal_ledger".state_of(given.job_id);
        IF prior.signal_id IS NOT NULL THEN
            outcome := 'duplicate';
            reason := CASE
                WHEN EXISTS (SELECT FROM "signal_ledger".events AS e WHERE e.job_id = given.job_id
                             AND e.signal_id = prior.signal_id AND e.kind = 'consumed') THEN 'consumed'
                WHEN prior.run <> "signal_ledger".open_run(state) THEN 'ended with its run'
                ELSE 'pending' END;
            RETURN NEXT;
            CONTINUE;
        END IF;
        SELECT j.state::text AS state, "signal_ledger".to_execution(j.attempted_at) AS execution
        INTO job FROM "public".oban_jobs AS j WHERE j.id = given.job_id;
        IF NOT FOUND OR "signal_ledger".is_terminal(job.state) THEN
            outcome := 'ignored'; signal_id := NULL; version := NULL;
            reason := coalesce(job.state, 'missing');
            RETURN NEXT;
            CONTINUE;
        END IF;
        SELECT a.outcome, a.version INTO outcome, version
        FROM "signal_ledger".append_delivery(
            moment, given.job_id, job.state, job.execution, given.signal_id, given.channel, payloads[given.call],
            given.digest, given.key, given.source) AS a;
        IF outcome = 'newer' THEN
            -- The projection was dropped, or it would have been known before anything of the call was written.
            RAISE EXCEPTION 'signal_ledger L8: a newer version of the library has written to the stream of job %', job_id;
        END IF;
        is_told := outcome IN ('woken', 'live');
        RETURN NEXT;
    END LOOP;
END;
$$;

-- Deliver the signals of several calls. Each call is all or none; none shares another's fate.
--
-- Parameters, arrays of equal length, one place for each delivery; those of a call stand together:
--   calls        the number of the call, from 1
--   first_tries  whether the call's ids are new, so that no earlier try can have stored them
--   job_ids, signal_ids, channels, digests, keys, sources   the delivery; see signal_ledger.commands.Deliver
--   key_ids      the ids under which the key may be stored, separated by commas; "" for none
-- and
--   payloads     that of each call
--   patience     for how many milliseconds to wait for a job that somebody else has locked, after which it is an error
--                (SQLSTATE 55P03); with 0, calls to such jobs are answered with held; with NULL it waits for ever
-- Returns arrays, one element for each delivery, in the order of their places:
--   outcomes     woken, live, buffered, duplicate, ignored; for each delivery of a call of which nothing was written:
--                conflict, newer, held
--   versions, ids, reasons   of the receipt; for a conflict, the reason is what differs
--   jobs         the job; for a call that was refused, the one because of which it was
CREATE OR REPLACE FUNCTION "signal_ledger".deliver_batch(
    calls integer[], first_tries boolean[], job_ids bigint[], signal_ids text[], channels text[], payloads bytea[],
    digests text[], keys text[], key_ids text[], sources text[], patience integer,
    OUT outcomes text[], OUT versions integer[], OUT ids text[], OUT reasons text[], OUT jobs bigint[]
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    moment   timestamptz;
    locks    record;
    newer    bigint[];
    repeated bigint[] := '{}';
    refused  integer[] := '{}';
    served   bigint[];
    others   record;
    woken    bigint[];
    hinted   bigint[];
BEGIN
    -- The jobs' locks first, in ascending order, before the time is read: no event is recorded before its turn (W7).
    locks := "signal_ledger".lock(job_ids, patience);
    moment := "signal_ledger".begin_writing();
    IF NOT locks.is_plain THEN
        SELECT coalesce(array_agg(r.job_id), '{}') INTO repeated
        FROM (SELECT d.job_id FROM unnest(job_ids) AS d (job_id) GROUP BY d.job_id HAVING count(*) > 1) AS r;
    END IF;
    -- Calls of several signals are refused as a whole, before anything of them is written.
    IF cardinality(payloads) < cardinality(job_ids) THEN
        newer := "signal_ledger".newer_streams(job_ids);
    END IF;
    IF (locks.held || newer) <> '{}' THEN
        SELECT coalesce(array_agg(DISTINCT d.call), '{}') INTO refused
        FROM unnest(calls, job_ids) AS d (call, job_id) WHERE d.job_id = ANY (locks.held || newer);
    END IF;
    -- In one statement all that need no look at earlier signals: they are new, have no key, and are the only one of the
    -- batch for their job, whose run has not ended. So nothing can be refused, but for the calls that are left out.
    WITH told AS MATERIALIZED (
        SELECT n.*, CASE WHEN n.job_state IS NULL OR "signal_ledger".is_terminal(n.job_state) THEN 'ignored'
                         ELSE "signal_ledger".outcome_of(n.status, n.current, n.deadline_at, n.execution, n.channel, n.recorded_at,
                                                n.job_state, n.job_execution) END AS outcome
        FROM (
            SELECT d.place, d.call, d.job_id, d.signal_id, d.channel, d.digest, d.source, j.state::text AS job_state,
                   "signal_ledger".to_execution(j.attempted_at) AS job_execution, coalesce(w.run, 1) AS run,
                   coalesce(w.version, 0) + 1 AS version, greatest(moment, w.recorded_at) AS recorded_at, w.status,
                   w.current, w.ordinal, w.since, w.deadline_at, w.execution, w.waits, w.inboxes, w.schema_version
            FROM unnest(calls, first_tries, job_ids, signal_ids, channels, digests, keys, sources) WITH ORDINALITY
                AS d (call, first_try, job_id, signal_id, channel, digest, key, source, place)
            -- One look-up each by the key, whatever the planner thinks of the tables.
            LEFT JOIN LATERAL (
                SELECT job.state, job.attempted_at FROM "public".oban_jobs AS job WHERE job.id = d.job_id OFFSET 0
            ) AS j ON true
            LEFT JOIN LATERAL (
                SELECT * FROM "signal_ledger".waits AS state WHERE state.job_id = d.job_id OFFSET 0
            ) AS w ON true
            WHERE d.first_try AND d.key IS NULL AND d.job_id <> ALL (repeated) AND d.call <> ALL (refused)
              AND CASE WHEN w.job_id IS NOT NULL
                       THEN w.status <> 'closed' AND w.schema_version <= "signal_ledger".newest_schema_version()
                       -- The projection may have been dropped.
                       ELSE NOT EXISTS (SELECT FROM "signal_ledger".events AS e WHERE e.job_id = d.job_id) END
        ) AS n
    ), appended AS (
        INSERT INTO "signal_ledger".events (
            job_id, version, run, kind, schema_version, recorded_at, channel, signal_id, source, outcome, payload,
            payload_digest, checksum
        )
        SELECT t.job_id, t.version, t.run, 'delivered', 1, t.recorded_at, t.channel, t.signal_id, t.source, t.outcome,
               payloads[t.call], t.digest, "signal_ledger".checksum_of(
                   t.job_id, t.version, t.run, 'delivered', 1, t.recorded_at, NULL, NULL, t.channel, NULL, t.signal_id,
                   NULL, NULL, t.source, NULL, NULL, t.outcome, t.digest)
        FROM told AS t WHERE t.outcome <> 'ignored'
    ), saved AS (
        -- Whole: a row that was there may be gone when this comes to it, if somebody drops the projection.
        INSERT INTO "signal_ledger".waits AS w (
            job_id, run, version, recorded_at, status, current, ordinal, since, deadline_at, execution, waits, inboxes,
            schema_version
        )
        SELECT t.job_id, t.run, t.version, t.recorded_at,
               CASE WHEN t.outcome = 'woken' THEN 'idle' ELSE coalesce(t.status, 'idle') END, t.current, t.ordinal,
               t.since, t.deadline_at, coalesce(t.execution, 0), coalesce(t.waits, '{}'),
               CASE WHEN cardinality(t.inboxes) > 0 THEN "signal_ledger".inboxes_after(t.inboxes, t.channel, t.version)
                    ELSE ARRAY[ROW(t.channel, 1, t.version - 1)::"signal_ledger".inbox] END, coalesce(t.schema_version, 1)
        FROM told AS t WHERE t.outcome <> 'ignored'
        ON CONFLICT (job_id) DO UPDATE SET
            version = excluded.version, recorded_at = excluded.recorded_at, status = excluded.status,
            inboxes = excluded.inboxes
    )
    SELECT coalesce(array_agg(t.place), '{}'), array_agg(t.outcome), array_agg(t.version), array_agg(t.signal_id),
           array_agg(t.reason), array_agg(t.job_id),
           array_agg(t.job_id) FILTER (WHERE t.outcome = 'woken'), array_agg(t.job_id) FILTER (WHERE t.outcome = 'live')
    INTO served, outcomes, versions, ids, reasons, jobs, woken, hinted
    FROM (
        SELECT place, outcome, job_id, CASE WHEN outcome <> 'ignored' THEN version END AS version,
               CASE WHEN outcome <> 'ignored' THEN signal_id END AS signal_id,
               CASE WHEN outcome = 'ignored' THEN coalesce(job_state, 'missing') END AS reason
        FROM told ORDER BY place
    ) AS t;
    IF cardinality(served) < cardinality(job_ids) THEN
        SELECT array_agg(o.place) AS places, array_agg(o.outcome) AS outcomes, array_agg(o.version) AS versions,
               array_agg(o.signal_id) AS ids, array_agg(o.reason) AS reasons, array_agg(o.job_id) AS jobs,
               array_agg(o.job_id) FILTER (WHERE o.is_told AND o.outcome = 'woken') AS woken,
               array_agg(o.job_id) FILTER (WHERE o.is_told AND o.outcome = 'live') AS hinted
        INTO others
        FROM "signal_ledger".deliver_others(
            moment, calls, first_tries, job_ids, signal_ids, channels, payloads, digests, keys, key_ids, sources, served,
            locks.held, coalesce(newer, "signal_ledger".newer_streams(job_ids))) AS o;
        SELECT array_agg(r.outcome ORDER BY r.place), array_agg(r.version ORDER BY r.place),
               array_agg(r.signal_id ORDER BY r.place), array_agg(r.reason ORDER BY r.place),
               array_agg(r.job_id ORDER BY r.place)
        INTO outcomes, versions, ids, reasons, jobs
        FROM unnest(served || others.places, outcomes || others.outcomes, versions || others.versions,
                    ids || others.ids, reasons || others.reasons, jobs || others.jobs)
            AS r (place, outcome, version, signal_id, reason, job_id);
        woken := woken || others.woken;
        hinted := hinted || others.hinted;
    END IF;
    IF woken <> '{}' THEN
        PERFORM "signal_ledger".wake(woken, moment);
    END IF;
    IF hinted <> '{}' THEN
        PERFORM "signal_ledger".hint(hinted);
    END IF;
END;
$$;

-- "signal_ledger".deliver_batch for those who want rows, one for each delivery, in the order of their places.
CREATE OR REPLACE FUNCTION "signal_ledger".deliver(
    calls integer[], first_tries boolean[], job_ids bigint[], signal_ids text[], channels text[], payloads bytea[],
    digests text[], keys text[], key_ids text[], sources text[], patience integer DEFAULT NULL
) RETURNS TABLE (outcome text, version integer, signal_id text, reason text, job_id bigint)
LANGUAGE sql
AS $$
    SELECT r.*
    FROM "signal_ledger".deliver_batch(
            calls, first_tries, job_ids, signal_ids, channels, payloads, digests, keys, key_ids, sources, patience) AS b,
        unnest(b.outcomes, b.versions, b.ids, b.reasons, b.jobs) AS r
$$;

-- Deliver one signal.
--
-- Parameters: those of "signal_ledger".deliver_batch, for a call that came alone. Returns what that returns of it.
CREATE OR REPLACE FUNCTION "signal_ledger".deliver_one(
    first_try boolean, INOUT job_id bigint, INOUT signal_id text, channel text, payload bytea, digest text, key text,
    key_ids text, source text, patience integer, OUT outcome text, OUT version integer, OUT reason text
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_variable
DECLARE
    job      record;
    appended record;
    moment   timestamptz;
BEGIN
    IF patience = 0 THEN
        -- The lock first, before the time is read; see "signal_ledger".deliver_batch.
        SELECT j.state::text AS state, "signal_ledger".to_execution(j.attempted_at) AS execution, j.queue INTO job
        FROM "public".oban_jobs AS j WHERE j.id = deliver_one.job_id FOR NO KEY UPDATE SKIP LOCKED;
        IF FOUND AND NOT "signal_ledger".is_terminal(job.state)
           AND ((first_try AND key IS NULL)
                OR ("signal_ledger".prior(job_id, key, signal_id || string_to_array(key_ids, ','))).signal_id IS NULL) THEN
            moment := "signal_ledger".begin_writing();
            appended := "signal_ledger".append_delivery(
                moment, job_id, job.state, job.execution, signal_id, channel, payload, digest, key, source);
            outcome := appended.outcome;
            version := appended.version;
            IF outcome = 'newer' THEN
                signal_id := NULL;
            ELSIF outcome = 'woken' THEN
                UPDATE "public".oban_jobs AS j
                SET state = 'available', scheduled_at = least(j.scheduled_at, timezone('UTC', moment)),
                    meta = "signal_ledger".without_wait_until(j.meta)
                WHERE j.id = deliver_one.job_id;
                PERFORM "signal_ledger".notify('insert', json_build_object('queue', job.queue));
            ELSIF outcome = 'live' THEN
                PERFORM "signal_ledger".hint(ARRAY[job_id]);
            END IF;
            RETURN;
        END IF;
    END IF;
    SELECT d.outcome, d.version, d.signal_id, d.reason, d.job_id INTO STRICT outcome, version, signal_id, reason, job_id
    FROM "signal_ledger".deliver(
        ARRAY[1], ARRAY[first_try], ARRAY[job_id], ARRAY[signal_id], ARRAY[channel], ARRAY[payload], ARRAY[digest],
        ARRAY[key], ARRAY[key_ids], ARRAY[source], patience) AS d;
END;
$$;

-- Taking the outcomes of waits: signal_ledger.decide for a batch of executions.
--
-- Parameters, arrays of equal length: see signal_ledger.commands.Take.
-- Rows, one for each take, in the order of their places:
--   reply        signal, timeout, waiting, snooze; stale, cancel, order, newer; held, see patience of "signal_ledger".deliver
--   signal_id, payload   of the signal
--   deadline_at  of the timeout
--   left_s       of the live window: seconds until the wait's deadline, if it has one
--   expected     the ordinal that is next, if the take is out of order
CREATE OR REPLACE FUNCTION "signal_ledger".take(
    job_ids bigint[], executions bigint[], channels text[], ordinals integer[], wait_fors interval[],
    in_places boolean[], windows boolean[], patience integer DEFAULT NULL
) RETURNS TABLE (reply text, signal_id text, payload bytea, deadline_at timestamptz, remaining interval, expected integer)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    moment   timestamptz;
    locks    record;
    now      timestamptz;
    here     integer;
    job      record;
    state    "signal_ledger".waits;
    wait     "signal_ledger".open_wait;
    inbox    "signal_ledger".inbox;
    event    "signal_ledger".events;
    found_event "signal_ledger".events;
    ended    integer;
BEGIN
    locks := "signal_ledger".lock(job_ids, patience);
    moment := "signal_ledger".begin_writing();
    FOR here IN 1 .. cardinality(job_ids) LOOP
        signal_id := NULL; payload := NULL; deadline_at := NULL; remaining := NULL; expected := NULL;
        IF job_ids[here] = ANY (locks.held) THEN
            reply := 'held'; RETURN NEXT; CONTINUE;
        END IF;
        -- The fence: only the newest execution may ask (W13).
        SELECT j.attempt, EXISTS (SELECT FROM "signal_ledger".cancels AS c WHERE c.job_id = job_ids[here]) AS is_cancelled
        INTO job
        FROM "public".oban_jobs AS j
        WHERE j.id = job_ids[here] AND j.state = 'executing' AND "signal_ledger".to_execution(j.attempted_at) = executions[here];
        IF NOT FOUND THEN
            reply := 'stale'; RETURN NEXT; CONTINUE;
        END IF;
        state := "signal_ledger".state_of(job_ids[here]);
        IF state.schema_version > "signal_ledger".newest_schema_version() THEN
            reply := 'newer'; RETURN NEXT; CONTINUE;
        END IF;
        IF job.is_cancelled THEN
            reply := 'cancel'; RETURN NEXT; CONTINUE;
        END IF;
        wait := "signal_ledger".wait_on(state.waits, channels[here]);
        -- An open wait of that ordinal has not ended, and is the next one.
        IF wait.ordinal IS DISTINCT FROM ordinals[here] THEN
            -- A wait that has ended is replayed (W9).
            SELECT e.* INTO found_event FROM "signal_ledger".events AS e
            WHERE e.job_id = job_ids[here] AND e.run = "signal_ledger".open_run(state) AND e.channel = channels[here]
              AND e.ordinal = ordinals[here] AND e.kind IN ('consumed', 'timed_out');
            IF FOUND THEN
                IF found_event.kind = 'timed_out' THEN
                    reply := 'timeout'; deadline_at := found_event.deadline_at;
                ELSE
                    reply := 'signal'; signal_id := found_event.signal_id;
                    SELECT e.payload INTO payload FROM "signal_ledger".events AS e
                    WHERE e.job_id = job_ids[here] AND e.version = found_event.delivery_version;
                END IF;
                RETURN NEXT; CONTINUE;
            END IF;
            SELECT count(*) INTO ended FROM "signal_ledger".events AS e
            WHERE e.job_id = job_ids[here] AND e.run = "signal_ledger".open_run(state) AND e.channel = channels[here]
              AND e.kind IN ('consumed', 'timed_out');
            IF ordinals[here] <> ended + 1 THEN
                reply := 'order'; expected := ended + 1; RETURN NEXT; CONTINUE;
            END IF;
        END IF;
        now := greatest(moment, state.recorded_at);
        inbox := "signal_ledger".inbox_of(state.inboxes, channels[here]);
        event := NULL;
        event.recorded_at := now;
        event.run := "signal_ledger".open_run(state);
        event.execution := executions[here];
        event.attempt := job.attempt;
        event.channel := channels[here];
        event.ordinal := ordinals[here];
        -- Only the oldest pending signal is judged: in time, it is consumed, however late the job wakes (W7).
        IF inbox.channel IS NOT NULL THEN
            SELECT e.* INTO STRICT found_event FROM "signal_ledger".events AS e
            WHERE e.job_id = job_ids[here] AND e.version > inbox.after AND e.kind = 'delivered'
              AND e.channel = channels[here]
            ORDER BY e.version LIMIT 1;
            IF wait.deadline_at IS NULL OR found_event.recorded_at <= wait.deadline_at THEN
                event.kind := 'consumed';
                event.signal_id := found_event.signal_id;
                event.delivery_version := found_event.version;
                PERFORM "signal_ledger".save("signal_ledger".append(state, event));
                reply := 'signal'; signal_id := found_event.signal_id; payload := found_event.payload;
                RETURN NEXT; CONTINUE;
            END IF;
        END IF;
        IF now > wait.deadline_at THEN
            event.kind := 'timed_out';
            event.deadline_at := wait.deadline_at;
            PERFORM "signal_ledger".save("signal_ledger".append(state, event));
            reply := 'timeout'; deadline_at := wait.deadline_at;
            RETURN NEXT; CONTINUE;
        END IF;
        IF NOT windows[here] OR wait.was_snoozed THEN
            reply := 'snooze'; RETURN NEXT; CONTINUE;
        END IF;
        event.kind := 'awaited';
        event.deadline_at := wait.deadline_at;
        IF event.deadline_at IS NULL AND in_places[here] AND wait_fors[here] IS NOT NULL THEN
            event.deadline_at := now + wait_fors[here];
        END IF;
        reply := 'waiting';
        remaining := event.deadline_at - now;
        IF NOT (state.status = 'live' AND state.current = channels[here] AND state.execution = executions[here]
                AND wait.channel IS NOT NULL AND wait.deadline_at IS NOT DISTINCT FROM event.deadline_at) THEN
            PERFORM "signal_ledger".save("signal_ledger".append(state, event));
        END IF;
        RETURN NEXT;
    END LOOP;
END;
$$;

-- Putting jobs to sleep: signal_ledger.decide for a batch of snoozes.
--
-- Runs in the transaction of the acknowledgement, as the statement after it: its rows are scheduled and theirs is the
-- fence, so that what is pending by now is seen, and what comes later finds the snooze (promise W5). The jobs are
-- given in ascending order.
--
-- Parameters, arrays of equal length: see signal_ledger.commands.Snooze; cancel_reason is what a job's errors say of a
-- cancel that came before its snooze.
-- Rows, one for each snooze, in the order of their places: reply is asleep, runnable or cancel; newer lets the job
-- run again in a minute.
CREATE OR REPLACE FUNCTION "signal_ledger".snooze(
    job_ids bigint[], executions bigint[], channels text[], ordinals integer[], wait_fors interval[], cancel_reason text
) RETURNS TABLE (reply text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    moment   timestamptz := "signal_ledger".begin_writing();
    now      timestamptz;
    here     integer;
    job      record;
    state    "signal_ledger".waits;
    wait     "signal_ledger".open_wait;
    event    "signal_ledger".events;
    woken    bigint[] := '{}';
BEGIN
    FOR here IN 1 .. cardinality(job_ids) LOOP
        SELECT j.attempt, EXISTS (SELECT FROM "signal_ledger".cancels AS c WHERE c.job_id = job_ids[here]) AS is_cancelled
        INTO STRICT job
        FROM "public".oban_jobs AS j
        WHERE j.id = job_ids[here];
        state := "signal_ledger".state_of(job_ids[here]);
        IF state.schema_version > "signal_ledger".newest_schema_version() THEN
            -- Only a newer version of the library can go on with it (L8).
            UPDATE "public".oban_jobs AS j SET scheduled_at = timezone('UTC', moment) + interval '60 seconds'
            WHERE j.id = job_ids[here];
            reply := 'newer'; RETURN NEXT; CONTINUE;
        END IF;
        IF job.is_cancelled THEN
            -- The acknowledgement has given the attempt back, which belongs to a snooze only.
            UPDATE "public".oban_jobs AS j
            SET state = 'cancelled', cancelled_at = timezone('UTC', moment), attempt = j.attempt + 1,
                errors = j.errors || jsonb_build_object(
                    'attempt', j.attempt + 1, 'at', to_jsonb(moment), 'error', cancel_reason)
            WHERE j.id = job_ids[here];
            reply := 'cancel'; RETURN NEXT; CONTINUE;
        END IF;
        IF EXISTS (SELECT FROM "signal_ledger".events AS e
                   WHERE e.job_id = job_ids[here] AND e.run = "signal_ledger".open_run(state) AND e.channel = channels[here]
                     AND e.ordinal = ordinals[here] AND e.kind IN ('consumed', 'timed_out')) THEN
            woken := woken || job_ids[here];
            reply := 'runnable'; RETURN NEXT; CONTINUE;
        END IF;
        now := greatest(moment, state.recorded_at);
        wait := "signal_ledger".wait_on(state.waits, channels[here]);
        event := NULL;
        event.recorded_at := now;
        event.run := "signal_ledger".open_run(state);
        event.kind := 'snoozed';
        event.execution := executions[here];
        event.attempt := job.attempt + 1;
        event.channel := channels[here];
        event.ordinal := ordinals[here];
        -- The deadline is decided once (W6).
        event.deadline_at := CASE WHEN wait.deadline_is_final THEN wait.deadline_at ELSE now + wait_fors[here] END;
        state := "signal_ledger".append(state, event);
        PERFORM "signal_ledger".save(state);
        IF ("signal_ledger".inbox_of(state.inboxes, channels[here])).channel IS NOT NULL OR now > event.deadline_at THEN
            woken := woken || job_ids[here];
            reply := 'runnable';
        ELSE
            -- A wait times out once its deadline lies behind: the first microsecond for that is the next one.
            UPDATE "public".oban_jobs AS j
            SET scheduled_at = timezone('UTC', coalesce(event.deadline_at + interval '1 microsecond',
                                                        now + interval '438300 hours')),
                meta = j.meta || jsonb_build_object('wait_until', CASE
                    WHEN event.deadline_at IS NULL THEN to_jsonb('infinity'::text)
                    ELSE to_jsonb(floor(extract(epoch FROM event.deadline_at) * 1000)::bigint) END)
            WHERE j.id = job_ids[here];
            reply := 'asleep';
        END IF;
        RETURN NEXT;
    END LOOP;
    IF woken <> '{}' THEN
        PERFORM "signal_ledger".wake(woken, moment);
    END IF;
END;
$$;

-- What the jobs' own life means for the log: ends, cancels, repairs.
--
-- The triggers run with the rights of the schema's owner: whoever may change a job, the log hears of it. Nobody else may
-- make a trigger of these functions, which would record the end of jobs that go on.

-- Append the end of a job's run, if the run left events.
CREATE OR REPLACE FUNCTION "signal_ledger".close(job_id bigint, cause text, execution bigint, attempt integer) RETURNS void
LANGUAGE plpgsql
AS $$
#variable_conflict use_variable
DECLARE
    state "signal_ledger".waits;
    event "signal_ledger".events;
BEGIN
    -- What "signal_ledger".append, "signal_ledger".evolve and "signal_ledger".save do, in two statements.
    UPDATE "signal_ledger".waits AS w
    SET version = w.version + 1, recorded_at = greatest("signal_ledger".clock(), w.recorded_at), status = 'closed', current = NULL,
        ordinal = NULL, since = NULL, deadline_at = NULL, execution = 0, waits = '{}', inboxes = '{}'
    WHERE w.job_id = close.job_id AND w.version > 0 AND w.status <> 'closed'
      AND w.schema_version <= "signal_ledger".newest_schema_version()
    RETURNING w.* INTO state;
    IF FOUND THEN
        INSERT INTO "signal_ledger".events (
            job_id, version, run, kind, schema_version, recorded_at, execution, attempt, cause, checksum
        ) VALUES (
            job_id, state.version, state.run, 'closed', 1, state.recorded_at, execution, attempt, cause,
            "signal_ledger".checksum_of(
                job_id, state.version, state.run, 'closed', 1, state.recorded_at, execution, attempt, NULL, NULL, NULL,
                NULL, NULL, NULL, NULL, cause, NULL, NULL)
        );
        RETURN;
    END IF;
    state := "signal_ledger".state_of(job_id);
    IF state.version = 0 OR state.status = 'closed' THEN
        RETURN;
    END IF;
    IF state.schema_version > "signal_ledger".newest_schema_version() THEN
        RAISE EXCEPTION 'signal_ledger L8: a newer version of the library has written to the stream of job %', job_id;
    END IF;
    -- The projection was dropped.
    event.recorded_at := greatest("signal_ledger".clock(), state.recorded_at);
    event.run := state.run;
    event.kind := 'closed';
    event.execution := execution;
    event.attempt := attempt;
    event.cause := cause;
    PERFORM "signal_ledger".save("signal_ledger".append(state, event));
END;
$$;

-- Trigger: a job ended, was deleted while alive, or is retried after its end (promise W10). A fault here must never stop
-- Oban's own statement (promise L3): the job is noted for repair, and at the worst a warning is all that is left of it.
--
-- It is one trigger for all three, since every UPDATE of a state pays for the condition of each.
CREATE OR REPLACE FUNCTION "signal_ledger".job_moved() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
DECLARE
    has_ended boolean := TG_OP = 'DELETE' OR NEW.state IN ('completed', 'cancelled', 'discarded');
    ended_as  text    := CASE WHEN TG_OP = 'DELETE' THEN 'deleted' WHEN has_ended THEN NEW.state::text
                              ELSE OLD.state::text END;
    noted_as  text;
BEGIN
    IF has_ended THEN
        BEGIN
            DELETE FROM "signal_ledger".cancels AS c WHERE c.job_id = OLD.id;
            -- A transaction that may not see the newest event notes the job, too.
            PERFORM "signal_ledger".require_read_committed();
            IF TG_OP = 'DELETE' THEN
                PERFORM "signal_ledger".close(OLD.id, ended_as, "signal_ledger".to_execution(OLD.attempted_at), OLD.attempt);
            ELSE
                PERFORM "signal_ledger".close(OLD.id, ended_as, "signal_ledger".to_execution(NEW.attempted_at), NEW.attempt);
            END IF;
            -- Few jobs are steps: this one look-up is all that they cost the others.
            PERFORM FROM "signal_ledger".steps AS s WHERE s.job_id = OLD.id;
            IF FOUND THEN
                PERFORM "signal_ledger".end_step(OLD.id, ended_as);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            BEGIN
                DELETE FROM "signal_ledger".cancels AS c WHERE c.job_id = OLD.id;
                INSERT INTO "signal_ledger".repairs (job_id, cause, noted_at) VALUES (OLD.id, ended_as, clock_timestamp())
                ON CONFLICT (job_id) DO NOTHING;
            EXCEPTION WHEN OTHERS THEN
                RAISE WARNING 'signal_ledger: the end of job % could not be noted: %', OLD.id, SQLERRM;
            END;
        END;
    ELSE
        -- If the end of the old run is not in the log, it is appended now, or the new run's events would belong to it.
        BEGIN
            SELECT r.cause INTO noted_as FROM "signal_ledger".repairs AS r WHERE r.job_id = OLD.id;
            PERFORM "signal_ledger".close(
                OLD.id, coalesce(noted_as, ended_as), "signal_ledger".to_execution(OLD.attempted_at), OLD.attempt);
            IF noted_as IS NOT NULL THEN
                UPDATE "signal_ledger".steps AS s SET ended_as = noted_as, ended_at = "signal_ledger".clock()
                WHERE s.job_id = OLD.id AND s.ended_as IS NULL;
            END IF;
            PERFORM "signal_ledger".revive_step(OLD.id);
            IF noted_as IS NOT NULL THEN
                -- Needs the locks of other jobs, without which the new run begins all the same.
                BEGIN
                    PERFORM "signal_ledger".tell_dependants_of(OLD.id, noted_as);
                    DELETE FROM "signal_ledger".repairs AS r WHERE r.job_id = OLD.id;
                EXCEPTION WHEN OTHERS THEN
                    RAISE WARNING 'signal_ledger: those that depend on job % are told later: %', OLD.id, SQLERRM;
                END;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'signal_ledger: the old run of job % could not be closed: %', OLD.id, SQLERRM;
        END;
    END IF;
    RETURN NULL;
END;
$$;

-- Trigger: an executing job was cancelled. Oban's statement changes nothing but names cancelled_at (promise W12).
CREATE OR REPLACE FUNCTION "signal_ledger".cancel_requested() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    BEGIN
        INSERT INTO "signal_ledger".cancels (job_id, requested_at) VALUES (NEW.id, clock_timestamp())
        ON CONFLICT (job_id) DO NOTHING;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'signal_ledger: the cancel of job % could not be noted: %', NEW.id, SQLERRM;
    END;
    RETURN NULL;
END;
$$;

-- Trigger: a waiting job leaves its sleep, by whatever path (promise W14); and a job that was cancelled while it
-- executed is rescued, which honours the cancel (promise W12).
CREATE OR REPLACE FUNCTION "signal_ledger".job_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.meta := "signal_ledger".without_wait_until(NEW.meta);
    IF OLD.state = 'executing' AND NEW.state = 'available' THEN
        BEGIN
            IF EXISTS (SELECT FROM "signal_ledger".cancels AS c WHERE c.job_id = NEW.id) THEN
                NEW.state := 'cancelled';
                NEW.cancelled_at := timezone('UTC', "signal_ledger".clock());
                -- Without what the rescue notes in it, that there was one.
                NEW.meta := "signal_ledger".without_wait_until(OLD.meta);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'signal_ledger: whether job % was cancelled could not be seen: %', NEW.id, SQLERRM;
        END;
    END IF;
    RETURN NEW;
END;
$$;

CREATE OR REPLACE TRIGGER signal_ledger_changes
    BEFORE UPDATE OF state ON "public".oban_jobs FOR EACH ROW
    WHEN ((NEW.meta ? 'wait_until' AND NEW.state <> 'scheduled')
          OR (OLD.state = 'executing' AND NEW.state = 'available'))
    EXECUTE FUNCTION "signal_ledger".job_changes();

CREATE OR REPLACE TRIGGER signal_ledger_moved
    AFTER UPDATE OF state ON "public".oban_jobs FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND (OLD.state IN ('completed', 'cancelled', 'discarded')
                                      OR NEW.state IN ('completed', 'cancelled', 'discarded')))
    EXECUTE FUNCTION "signal_ledger".job_moved();

CREATE OR REPLACE TRIGGER signal_ledger_deleted
    AFTER DELETE ON "public".oban_jobs FOR EACH ROW
    WHEN (OLD.state NOT IN ('completed', 'cancelled', 'discarded'))
    EXECUTE FUNCTION "signal_ledger".job_moved();

CREATE OR REPLACE TRIGGER signal_ledger_cancel_requested
    AFTER UPDATE OF cancelled_at ON "public".oban_jobs FOR EACH ROW
    WHEN (OLD.state = 'executing' AND NEW.state = 'executing')
    EXECUTE FUNCTION "signal_ledger".cancel_requested();

-- Trigger: a job that does not execute is retried by hand, which withdraws a cancel that was asked of an earlier
-- execution. Of Oban's statements only that one names max_attempts and makes a job available.
CREATE OR REPLACE FUNCTION "signal_ledger".job_retried() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    BEGIN
        DELETE FROM "signal_ledger".cancels AS c WHERE c.job_id = NEW.id;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'signal_ledger: the cancel of job % could not be withdrawn: %', NEW.id, SQLERRM;
    END;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE TRIGGER signal_ledger_retried
    AFTER UPDATE OF max_attempts ON "public".oban_jobs FOR EACH ROW
    WHEN (OLD.state NOT IN ('available', 'executing') AND NEW.state = 'available')
    EXECUTE FUNCTION "signal_ledger".job_retried();

REVOKE EXECUTE ON FUNCTION
    "signal_ledger".job_moved(), "signal_ledger".job_changes(), "signal_ledger".cancel_requested(), "signal_ledger".job_retried()
FROM PUBLIC;

-- Make up for the end of a job that was noted. Call it under the job's lock.
CREATE OR REPLACE FUNCTION "signal_ledger".repair_job(job_id bigint, cause text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    job record;
BEGIN
    SELECT j.attempted_at, j.attempt, j.state INTO job FROM "public".oban_jobs AS j WHERE j.id = repair_job.job_id;
    -- One that was taken up again has a new run since, with signals of its own: that is not what ended.
    IF NOT FOUND OR "signal_ledger".is_terminal(job.state::text) THEN
        PERFORM "signal_ledger".close(job_id, cause, "signal_ledger".to_execution(job.attempted_at), coalesce(job.attempt, 0));
        UPDATE "signal_ledger".steps AS s SET ended_as = cause, ended_at = "signal_ledger".clock()
        WHERE s.job_id = repair_job.job_id AND s.ended_as IS NULL;
    END IF;
    PERFORM "signal_ledger".tell_dependants_of(job_id, cause);
    DELETE FROM "signal_ledger".repairs AS r WHERE r.job_id = repair_job.job_id;
END;
$$;

-- Append the closed events that could not be appended when their jobs ended. Returns how many were appended.
--
-- One that fails again waits for a minute. Streams that only a newer version of the library can read stay on the list,
-- and nothing is written for them.
CREATE OR REPLACE FUNCTION "signal_ledger".repair(most integer) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '100ms'
AS $$
DECLARE
    noted record;
    count integer := 0;
BEGIN
    FOR noted IN
        SELECT r.job_id, r.cause FROM "signal_ledger".repairs AS r LEFT JOIN "signal_ledger".waits AS w ON w.job_id = r.job_id
        WHERE r.noted_at <= clock_timestamp() AND coalesce(w.schema_version, 1) <= "signal_ledger".newest_schema_version()
        ORDER BY r.noted_at, r.job_id LIMIT most
    LOOP
        BEGIN
            CONTINUE WHEN ("signal_ledger".state_of(noted.job_id)).schema_version > "signal_ledger".newest_schema_version();
            -- Hardly waits for a lock: the stager's tick does not begin before this is done.
            PERFORM FROM "public".oban_jobs AS j WHERE j.id = noted.job_id FOR NO KEY UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND AND EXISTS (SELECT FROM "public".oban_jobs AS j WHERE j.id = noted.job_id);
            PERFORM FROM "signal_ledger".repairs AS r WHERE r.job_id = noted.job_id FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
            PERFORM "signal_ledger".repair_job(noted.job_id, noted.cause);
            count := count + 1;
        EXCEPTION
        WHEN lock_not_available OR deadlock_detected THEN
            -- Somebody holds a job that depends on this one. In a second is as good.
            NULL;
        WHEN OTHERS THEN
            UPDATE "signal_ledger".repairs AS r SET noted_at = clock_timestamp() + interval '1 minute'
            WHERE r.job_id = noted.job_id;
            RAISE WARNING 'signal_ledger: the end of job % cannot be appended: %', noted.job_id, SQLERRM;
        END;
    END LOOP;
    RETURN count;
END;
$$;

-- Release the waits whose deadline has passed, in this tick of the stager and not in the next.
CREATE OR REPLACE FUNCTION "signal_ledger".release_due(most integer) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    due bigint[];
BEGIN
    SELECT array_agg(found.id) INTO due FROM (
        SELECT j.id FROM "public".oban_jobs AS j
        WHERE j.state = 'scheduled' AND j.scheduled_at <= timezone('UTC', now()) AND j.meta ? 'wait_until'
        -- In the order of Oban's index for staging, which has no entries of jobs that have left their sleep.
        ORDER BY j.scheduled_at, j.id LIMIT most FOR NO KEY UPDATE SKIP LOCKED
    ) AS found;
    IF due IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM "signal_ledger".wake(due, now());
    RETURN cardinality(due);
END;
$$;

-- What is done every second, before the stager's tick. Writes nothing when nothing is due.
CREATE OR REPLACE FUNCTION "signal_ledger".tick(most integer) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM "signal_ledger".release_due(most);
    PERFORM "signal_ledger".repair(most);
END;
$$;

-- What live waits should know: those that have a signal on the awaited channel, a cancel, or a newer execution.
CREATE OR REPLACE FUNCTION "signal_ledger".look(job_ids bigint[], executions bigint[]) RETURNS TABLE (job_id bigint)
LANGUAGE sql STABLE
AS $$
    SELECT asked.job_id
    FROM unnest(job_ids, executions) AS asked (job_id, execution)
    LEFT JOIN "public".oban_jobs AS j ON j.id = asked.job_id
    LEFT JOIN "signal_ledger".waits AS w ON w.job_id = asked.job_id
    LEFT JOIN "signal_ledger".cancels AS c ON c.job_id = asked.job_id
    WHERE c.job_id IS NOT NULL
       -- A job that has never waited has no state yet.
       OR (w.job_id IS NOT NULL AND w.inboxes <> '{}' AND ("signal_ledger".inbox_of(w.inboxes, w.current)).channel IS NOT NULL)
       OR j.state IS DISTINCT FROM 'executing'
       OR "signal_ledger".to_execution(j.attempted_at) <> asked.execution
$$;

-- Fold the next streams anew and store their states, and the steps that they tell of. Returns the jobs; NULL when there
-- are none behind `after`.
CREATE OR REPLACE FUNCTION "signal_ledger".rebuild(after bigint, most integer) RETURNS bigint[]
LANGUAGE plpgsql
AS $$
DECLARE
    found bigint[];
    here  bigint;
BEGIN
    PERFORM "signal_ledger".begin_writing();
    WITH RECURSIVE streams AS (
        (SELECT e.job_id, 1 AS place FROM "signal_ledger".events AS e WHERE e.job_id > after ORDER BY e.job_id LIMIT 1)
        UNION ALL
        SELECT (SELECT e.job_id FROM "signal_ledger".events AS e WHERE e.job_id > s.job_id ORDER BY e.job_id LIMIT 1), s.place + 1
        FROM streams AS s WHERE s.job_id IS NOT NULL AND s.place < most
    )
    SELECT array_agg(s.job_id ORDER BY s.job_id) INTO found FROM streams AS s WHERE s.job_id IS NOT NULL;
    IF found IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM FROM "public".oban_jobs AS j WHERE j.id = ANY (found) ORDER BY j.id FOR NO KEY UPDATE;
    -- Jobs that are gone cannot be locked, and the end of their run may be appended just now: their states are locked.
    INSERT INTO "signal_ledger".waits
    SELECT s.* FROM unnest(found) AS missing (id), "signal_ledger".new_state(missing.id, 1) AS s ORDER BY missing.id
    ON CONFLICT (job_id) DO NOTHING;
    PERFORM FROM "signal_ledger".waits AS w WHERE w.job_id = ANY (found) ORDER BY w.job_id FOR UPDATE;
    FOREACH here IN ARRAY found LOOP
        PERFORM "signal_ledger".save("signal_ledger".fold(here));
    END LOOP;
    PERFORM "signal_ledger".rebuild_steps(found);
    RETURN found;
END;
$$;

-- Delete the stored states, and the steps, that have no stream.
CREATE OR REPLACE FUNCTION "signal_ledger".drop_orphans() RETURNS void
LANGUAGE sql
AS $$
    DELETE FROM "signal_ledger".waits AS w WHERE NOT EXISTS (SELECT FROM "signal_ledger".events AS e WHERE e.job_id = w.job_id);
    WITH gone AS (
        DELETE FROM "signal_ledger".steps AS s
        WHERE s.job_id IS NOT NULL AND NOT EXISTS (SELECT FROM "signal_ledger".events AS e WHERE e.job_id = s.job_id)
        RETURNING s.workflow_id, s.name
    )
    DELETE FROM "signal_ledger".edges AS e USING gone AS g WHERE e.workflow_id = g.workflow_id AND e.name = g.name;
$$;

-- Empty the ledger, as Oban's own reset empties its tables and lets ids begin anew. For tests (promise L1).
CREATE OR REPLACE FUNCTION "signal_ledger".reset() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT (SELECT s.testing FROM "signal_ledger".settings AS s) THEN
        RAISE EXCEPTION 'signal_ledger L1: reset is refused, the ledger''s schema was not made with testing=True';
    END IF;
    TRUNCATE "signal_ledger".events, "signal_ledger".waits, "signal_ledger".cancels, "signal_ledger".repairs, "signal_ledger".outbox, "signal_ledger".steps, "signal_ledger".edges,
        "signal_ledger".ends, "signal_ledger".blocks;
END;
$$;

-- The log defends itself (promise L1).

CREATE OR REPLACE FUNCTION "signal_ledger".refuse_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'signal_ledger L1: the log is append-only, % is refused', TG_OP;
END;
$$;

CREATE OR REPLACE TRIGGER no_update BEFORE UPDATE ON "signal_ledger".events
    FOR EACH ROW EXECUTE FUNCTION "signal_ledger".refuse_change();
CREATE OR REPLACE TRIGGER no_delete BEFORE DELETE ON "signal_ledger".events
    FOR EACH ROW EXECUTE FUNCTION "signal_ledger".refuse_change();
CREATE OR REPLACE TRIGGER no_truncate BEFORE TRUNCATE ON "signal_ledger".events
    FOR EACH STATEMENT EXECUTE FUNCTION "signal_ledger".refuse_change();

-- Versions have no gaps; an event's turn comes after its stream's last one (promise L4); and every kind has its columns. A
-- unique index does not compare NULLs, so the columns of those of the log must not be NULL (promise W8).
CREATE OR REPLACE FUNCTION "signal_ledger".append_in_turn() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    last_version integer;
    last_turn    bigint;
BEGIN
    -- That a stream has one first event, the primary key sees to.
    IF NEW.version <> 1 THEN
        SELECT e.version, e.turn INTO last_version, last_turn FROM "signal_ledger".events AS e
        WHERE e.job_id = NEW.job_id ORDER BY e.version DESC LIMIT 1;
        IF NEW.version <> coalesce(last_version, 0) + 1 THEN
            RAISE EXCEPTION 'signal_ledger L1: versions have no gaps, the next version of the stream is expected';
        END IF;
    END IF;
    IF (NEW.run > 0 AND NEW.schema_version > 0 AND length(NEW.checksum) = 64 AND CASE NEW.kind
        WHEN 'delivered' THEN (NEW.channel, NEW.signal_id, NEW.outcome) IS NOT NULL AND length(NEW.payload_digest) = 64
        WHEN 'consumed'  THEN (NEW.execution, NEW.channel, NEW.signal_id, NEW.delivery_version) IS NOT NULL
                              AND NEW.ordinal > 0
        WHEN 'timed_out' THEN (NEW.execution, NEW.channel, NEW.deadline_at) IS NOT NULL AND NEW.ordinal > 0
        WHEN 'awaited'   THEN (NEW.execution, NEW.channel) IS NOT NULL AND NEW.ordinal > 0
        WHEN 'snoozed'   THEN (NEW.execution, NEW.channel) IS NOT NULL AND NEW.ordinal > 0
        WHEN 'closed'    THEN NEW.cause IS NOT NULL
        WHEN 'planned'   THEN NEW.plan IS NOT NULL
        WHEN 'released'  THEN NEW.dep IS NOT NULL
        WHEN 'skipped'   THEN (NEW.dep, NEW.cause) IS NOT NULL
        WHEN 'cascaded'  THEN (NEW.dep, NEW.cause) IS NOT NULL
        ELSE true END) IS NOT TRUE
    THEN
        RAISE EXCEPTION 'signal_ledger W8: an event of kind % lacks a column that its kind must have', NEW.kind
            USING ERRCODE = 'check_violation';
    END IF;
    NEW.turn := greatest(pg_current_xact_id()::text::bigint, last_turn);
    RETURN NEW;
END;
$$;

CREATE OR REPLACE TRIGGER append_in_turn BEFORE INSERT ON "signal_ledger".events
    FOR EACH ROW EXECUTE FUNCTION "signal_ledger".append_in_turn();

-- What readers ask.

-- Where the log is settled: every event with a lower turn has been committed, or never will be (promise L4).
CREATE OR REPLACE FUNCTION "signal_ledger".horizon() RETURNS bigint
LANGUAGE sql STABLE
AS $$ SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint $$;

-- Whether no event can still be recorded at or before an instant (promise L5). Events are stamped by transactions that have
-- an id by then: who began later stamps later. A transaction has a lock on its id, which everybody can see, also one that
-- is prepared; a snapshot does not list the newest ones. When another user's began is not shown to everybody, and on a
-- standby there are no such locks: then the answer is no.
CREATE OR REPLACE FUNCTION "signal_ledger".is_settled(instant timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    -- First the instant has to be over, then one looks who is left from before.
    IF instant >= "signal_ledger".clock() OR pg_is_in_recovery() THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM pg_locks AS running
        WHERE running.locktype = 'transactionid' AND running.mode = 'ExclusiveLock' AND running.granted
          AND NOT EXISTS (
              SELECT FROM pg_stat_activity AS activity
              WHERE activity.pid = running.pid AND activity.xact_start > instant));
END;
$$;

-- Signals in callers' own transactions (promise D8): stored by the caller's connection, relayed after its commit.

-- Store a signal for several jobs in the caller's transaction. Takes no lock on a job.
--
-- Parameters:
--   ledger_id    which ledger the caller means: what "signal_ledger".identity() says of it
--   job_ids, signal_ids, key_ids   arrays of equal length, one place for each delivery; key_ids as for "signal_ledger".deliver
--   channel, payload, digest, key, source   what the deliveries have in common; see signal_ledger.commands.Deliver
-- Returns whether this is that ledger; if it is not, nothing was written. Arguments that no signal can have are refused
-- (SQLSTATE 22023), as by "signal_ledger".signal.
CREATE OR REPLACE FUNCTION "signal_ledger".store(
    ledger_id text, job_ids bigint[], signal_ids text[], key_ids text[], channel text, payload bytea, digest text,
    key text, source text
) RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    IF "signal_ledger".identity() IS DISTINCT FROM store.ledger_id THEN
        RETURN false;
    END IF;
    PERFORM "signal_ledger".check_payload(payload), "signal_ledger".check_text('channel', nullif(channel, '')),
            "signal_ledger".check_text('key', key), "signal_ledger".check_text('source', source);
    -- The signal must be as durable as one that was sent (promise D1), whatever the caller's own changes need.
    IF current_setting('synchronous_commit') <> 'remote_apply' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    INSERT INTO "signal_ledger".outbox (
        turn, signal_id, job_id, channel, payload, payload_digest, key, key_ids, source, stored_at
    )
    SELECT pg_current_xact_id()::text::bigint, delivery.signal_id, delivery.job_id, store.channel, store.payload,
           store.digest, store.key, delivery.key_ids, store.source, "signal_ledger".clock()
    FROM unnest(store.job_ids, store.signal_ids, store.key_ids) WITH ORDINALITY
        AS delivery (job_id, signal_id, key_ids, number)
    ORDER BY delivery.number;
    -- Sent by PostgreSQL itself at the caller's commit, once for the transaction. Only a hint: engines look anyway.
    PERFORM "signal_ledger".notify('signal_ledger', json_build_object('relay', true));
    RETURN true;
END;
$$;

-- Whether a row that was not refused may be relayed now: by this version of the library, and not after a fault of late.
CREATE OR REPLACE FUNCTION "signal_ledger".can_be_relayed(stored "signal_ledger".outbox) RETURNS boolean
LANGUAGE sql VOLATILE
AS $$
    SELECT (stored.retry_at IS NULL OR stored.retry_at <= clock_timestamp())
       AND NOT EXISTS (SELECT FROM "signal_ledger".waits AS w
                       WHERE w.job_id = stored.job_id AND w.schema_version > "signal_ledger".newest_schema_version())
$$;

-- Deliver rows of the outbox, in the order of their places, and strike them. Returns how many were delivered or refused.
CREATE OR REPLACE FUNCTION "signal_ledger".relay_rows(places bigint[]) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    reply   record;
    struck  bigint[] := '{}';
    relayed integer := 0;
BEGIN
    FOR reply IN
        SELECT chosen.places[d.number] AS place, d.outcome, d.reason
        FROM (
            SELECT array_agg(o.place) AS places, array_agg(o.number) AS calls, array_agg(false) AS first_tries,
                   array_agg(o.job_id) AS job_ids, array_agg(o.signal_id) AS signal_ids,
                   array_agg(o.channel) AS channels, array_agg(o.payload) AS payloads,
                   array_agg(o.payload_digest) AS digests, array_agg(o.key) AS keys, array_agg(o.key_ids) AS key_ids,
                   array_agg(o.source) AS sources
            FROM (
                SELECT row_number() OVER (ORDER BY r.place)::integer AS number, r.*
                FROM (
                    -- What somebody is just deleting by hand is left alone.
                    SELECT * FROM "signal_ledger".outbox AS p WHERE p.place = ANY (relay_rows.places) FOR UPDATE SKIP LOCKED
                ) AS r
                ORDER BY r.place
            ) AS o
        ) AS chosen,
        "signal_ledger".deliver(
            chosen.calls, chosen.first_tries, chosen.job_ids, chosen.signal_ids, chosen.channels, chosen.payloads,
            chosen.digests, chosen.keys, chosen.key_ids, chosen.sources
        ) WITH ORDINALITY AS d (outcome, version, signal_id, reason, job_id, number)
        WHERE d.outcome <> 'newer'
    LOOP
        relayed := relayed + 1;
        IF reply.outcome IN ('ignored', 'conflict') THEN
            UPDATE "signal_ledger".outbox AS o
            SET refusal = CASE reply.outcome WHEN 'ignored' THEN reply.reason ELSE 'conflict: ' || reply.reason END
            WHERE o.place = reply.place;
        ELSE
            struck := struck || reply.place;
        END IF;
    END LOOP;
    DELETE FROM "signal_ledger".outbox AS o WHERE o.place = ANY (struck);
    RETURN relayed;
END;
$$;

-- Relay the oldest stored signals, in the order of their places, by "signal_ledger".deliver. Any number of processes may ask.
--
-- One relay works at a time, and the others return at once: so the rows of a transaction are relayed in the order of
-- their calls. Two side by side would take turns with the rows of one transaction, and the later one may have the
-- earlier transaction id, by which the log is ordered. Nor would they be faster: processors are the limit.
--
-- It waits for nobody: whose job is locked by somebody else is left for later, and so is everything that was stored in
-- the same transaction. What cannot be delivered because of a fault is tried again in a minute.
--
-- Parameters: at most so many signals; and no more once their payloads have so many bytes together.
-- Rows, one: how many were delivered or refused; and whether something is left to relay, now or a little later.
CREATE OR REPLACE FUNCTION "signal_ledger".relay(most integer, most_bytes bigint) RETURNS TABLE (relayed integer, is_left boolean)
LANGUAGE plpgsql
AS $$
DECLARE
    outbox oid;
    places bigint[];
    wanted bigint[];
    locked bigint[];
    held   bigint[] := '{}';
    turns  bigint[] := '{}';
    here   bigint;
    faulty record;
BEGIN
    relayed := 0;
    SELECT o.tableoid INTO outbox FROM "signal_ledger".outbox AS o
    WHERE o.refusal IS NULL AND "signal_ledger".can_be_relayed(o) LIMIT 1;
    is_left := FOUND;
    IF NOT is_left OR NOT pg_try_advisory_xact_lock(hashtext('signal_ledger.relay'), outbox::integer) THEN
        RETURN NEXT; RETURN;
    END IF;
    -- Each round looks past the jobs that were found to be held. If there are very many, another time is as good.
    FOR round IN 1 .. 10 LOOP
        SELECT array_agg(o.place ORDER BY o.place), array_agg(DISTINCT o.job_id) INTO places, wanted
        FROM (
            SELECT p.place, p.job_id,
                   sum(octet_length(p.payload)) OVER (ORDER BY p.place ROWS UNBOUNDED PRECEDING)
                   - octet_length(p.payload) AS bytes_before
            FROM "signal_ledger".outbox AS p
            WHERE p.refusal IS NULL AND p.turn <> ALL (turns) AND "signal_ledger".can_be_relayed(p)
            ORDER BY p.place LIMIT most
        ) AS o
        WHERE o.bytes_before < most_bytes;
        SELECT coalesce(array_agg(j.id), '{}') INTO locked FROM (
            SELECT job.id FROM "public".oban_jobs AS job
            WHERE job.id = ANY (wanted) ORDER BY job.id FOR NO KEY UPDATE SKIP LOCKED
        ) AS j;
        SELECT array_agg(j.id) INTO wanted
        FROM "public".oban_jobs AS j WHERE j.id = ANY (wanted) AND j.id <> ALL (locked);
        EXIT WHEN wanted IS NULL;
        places := NULL;
        held := held || wanted;
        SELECT coalesce(array_agg(DISTINCT o.turn), '{}') INTO turns
        FROM "signal_ledger".outbox AS o WHERE o.refusal IS NULL AND o.job_id = ANY (held);
    END LOOP;
    IF places IS NULL THEN
        RETURN NEXT; RETURN;
    END IF;
    BEGIN
        relayed := "signal_ledger".relay_rows(places);
    EXCEPTION
    WHEN deadlock_detected OR serialization_failure OR lock_not_available THEN
        RAISE;
    WHEN OTHERS THEN
        -- Some row is at fault, and the others do not wait for it; but those of its transaction keep their order.
        FOREACH here IN ARRAY places LOOP
            SELECT o.turn, o.signal_id INTO faulty FROM "signal_ledger".outbox AS o WHERE o.place = here;
            CONTINUE WHEN faulty.turn = ANY (turns);
            BEGIN
                relayed := relayed + "signal_ledger".relay_rows(ARRAY[here]);
            EXCEPTION
            WHEN deadlock_detected OR serialization_failure OR lock_not_available THEN
                RAISE;
            WHEN OTHERS THEN
                turns := turns || faulty.turn;
                UPDATE "signal_ledger".outbox AS o SET retry_at = clock_timestamp() + interval '1 minute'
                WHERE o.turn = faulty.turn AND o.refusal IS NULL;
                RAISE WARNING 'signal_ledger: the stored signal % cannot be relayed: %', faulty.signal_id, SQLERRM;
            END;
        END LOOP;
    END;
    is_left := EXISTS (SELECT FROM "signal_ledger".outbox AS o WHERE o.refusal IS NULL AND "signal_ledger".can_be_relayed(o));
    RETURN NEXT;
END;
$$;

-- The door for other languages: a signal to a job, from whatever speaks SQL.
--
-- It runs in the caller's transaction and holds the lock on the job until that ends: then nobody can signal, take from or
-- acknowledge the job, and its queue may stand still. In a transaction that stays open for longer, or that signals several
-- jobs, which must be locked in ascending order, use "signal_ledger".store, which locks nothing.
--
-- Parameters:
--   job_id   the job
--   payload  Erlang's external term format, from term_to_binary or an equivalent: the first byte is 131
--   channel  1 to 255 bytes of text; NULL for the default channel
--   key      the caller's idempotency key, 1 to 255 bytes: it delivers once to the job, for ever (promise D6)
--   source   who or what signals, 1 to 255 bytes (promise D7)
-- Returns the receipt, see signal_ledger.receipt: outcome is woken, live, buffered, duplicate or ignored; signal_id and
-- version are those of the delivery, or of the first one with the key; reason says why it was ignored, or what became of
-- the first one.
--
-- A key that was used with another channel or payload is an error, and nothing is written (SQLSTATE 23505). Payloads are
-- equal here if their bytes are: two encodings of one map are not.
CREATE OR REPLACE FUNCTION "signal_ledger".signal(
    INOUT job_id bigint, payload bytea, channel text DEFAULT NULL, key text DEFAULT NULL, source text DEFAULT NULL,
    OUT outcome text, OUT signal_id text, OUT version integer, OUT reason text
)
LANGUAGE plpgsql
AS $$
DECLARE
    -- Of the whole library: signal_ledger.codec, where it can be set.
    payload_bytes_max CONSTANT integer := 16777216;
    -- A call has an id, by which its caller may repeat it as a key; the repeat has its id. See
    -- signal_ledger.DeliveryUnknown.
    call_id           CONSTANT text := '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$';
    repeated_id       CONSTANT text := CASE WHEN key ~ call_id THEN key END;
    digest            text;
    found_digest      text;
BEGIN
    IF job_id IS NULL OR payload IS NULL THEN
        RAISE EXCEPTION 'signal_ledger: job_id and payload must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    ELSIF octet_length(payload) > payload_bytes_max THEN
        RAISE EXCEPTION 'signal_ledger D9: payload has % bytes, at most % are allowed', octet_length(payload),
            payload_bytes_max USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM "signal_ledger".check_payload(payload), "signal_ledger".check_text('channel', channel), "signal_ledger".check_text('key', key),
            "signal_ledger".check_text('source', source);
    digest := encode(sha256(payload), 'hex');
    IF key IS NOT NULL THEN
        -- The library's own digests are of the sorted encoding: the same bytes are the same payload, whatever it says.
        PERFORM FROM "public".oban_jobs AS j WHERE j.id = signal.job_id FOR NO KEY UPDATE;
        SELECT e.payload_digest INTO found_digest FROM "signal_ledger".events AS e
        WHERE e.job_id = signal.job_id AND e.kind = 'delivered' AND (e.key = signal.key OR e.signal_id = signal.key)
          AND e.payload = signal.payload;
        digest := coalesce(found_digest, digest);
    END IF;
    SELECT d.outcome, d.signal_id, d.version, d.reason
    INTO STRICT signal.outcome, signal.signal_id, signal.version, signal.reason
    FROM "signal_ledger".deliver(
        ARRAY[1], ARRAY[true], ARRAY[signal.job_id], ARRAY[coalesce(repeated_id, gen_random_uuid()::text)],
        ARRAY[coalesce(channel, '')], ARRAY[payload], ARRAY[digest], ARRAY[key], ARRAY[coalesce(repeated_id, '')],
        ARRAY[source]
    ) AS d;
    IF signal.outcome = 'newer' THEN
        RAISE EXCEPTION 'signal_ledger L8: a newer version of the library has written to the stream of job %',
            signal.job_id USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF signal.outcome = 'conflict' THEN
        RAISE EXCEPTION 'signal_ledger D6: the key was used for job % with another %', signal.job_id, signal.reason
            USING ERRCODE = 'unique_violation', DETAIL = format('The first delivery is %s.', signal.signal_id);
    END IF;
END;
$$;

-- How steps of workflows begin and end: signal_ledger.embedded.flow, in the database; see docs/adr/0016-workflows.md.
--
-- Whoever changes a step holds the lock on its job, if there is one; and locks jobs, then steps, each in ascending order
-- of their jobs' ids. What is decided is read by the statement after that.
--
-- Every look-up goes by a whole key, whatever the planner thinks of tables that were small when it looked: that is what
-- the settings are for, and the subqueries with OFFSET 0. Those hide that all rows are of one workflow, lest all that it
-- has is read.

-- Append the plan of a job to its stream. Call it under the job's lock.
CREATE OR REPLACE FUNCTION "signal_ledger".append_plan(job_id bigint, plan text, moment timestamptz) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    state "signal_ledger".waits := "signal_ledger".state_of(append_plan.job_id);
    event "signal_ledger".events;
BEGIN
    IF state.schema_version > "signal_ledger".newest_schema_version() THEN
        RAISE EXCEPTION 'signal_ledger L8: a newer version of the library has written to the stream of job %', job_id
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    event.kind := 'planned';
    event.run := "signal_ledger".open_run(state);
    event.recorded_at := greatest(moment, state.recorded_at);
    event.plan := append_plan.plan;
    PERFORM "signal_ledger".save("signal_ledger".append(state, event));
END;
$$;

-- Jobs that were made available: tell Oban's queues, once for each.
CREATE OR REPLACE FUNCTION "signal_ledger".announce(job_ids bigint[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    queue text;
BEGIN
    FOR queue IN
        SELECT DISTINCT job.queue
        FROM unnest(job_ids) AS wanted (id),
             LATERAL (SELECT j.queue, j.state FROM "public".oban_jobs AS j WHERE j.id = wanted.id OFFSET 0) AS job
        WHERE job.state = 'available'
    LOOP
        PERFORM "signal_ledger".notify('insert', json_build_object('queue', queue));
    END LOOP;
END;
$$;

-- Let the dependants of steps that have ended go on without them, or be cancelled, and so on to their own dependants:
-- level by level (promises F2, F3).
--
-- Parameters: the workflow; the steps, and how each ended, in the order in which their dependants are to hear of it.
CREATE OR REPLACE FUNCTION "signal_ledger".tell_dependants(workflow_id text, deps text[], causes text[]) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    ended   record;
    job_ids bigint[];
    is_due  boolean;
    missing bigint;
    moment  timestamptz;
    told    record;
BEGIN
    LOOP
        -- An edge ends once.
        WITH edge AS (
            UPDATE "signal_ledger".edges AS e SET ended_as = level.cause
            FROM (SELECT tell_dependants.workflow_id, l.*
                  FROM unnest(deps, causes) WITH ORDINALITY AS l (dep, cause, place) OFFSET 0) AS level
            WHERE e.workflow_id = level.workflow_id AND e.dep = level.dep AND e.ended_as IS NULL
            RETURNING e.name, level.dep, level.cause, level.place
        )
        SELECT array_agg(edge.name) AS names, array_agg(edge.dep) AS deps, array_agg(edge.cause) AS causes,
               array_agg(edge.place) AS places, bool_or(edge.cause <> 'completed') AS has_failed
        INTO ended FROM edge;
        IF ended.names IS NULL THEN
            RETURN;
        END IF;
        -- Of two deps that end together the second one waits here for the first, and then sees what it left.
        SELECT array_agg(dependant.job_id ORDER BY dependant.job_id) INTO job_ids
        FROM (
            SELECT s.job_id
            FROM (SELECT DISTINCT tell_dependants.workflow_id, n.name FROM unnest(ended.names) AS n (name) OFFSET 0) AS told
            JOIN "signal_ledger".steps AS s ON s.workflow_id = told.workflow_id AND s.name = told.name
        ) AS dependant;
        PERFORM FROM "public".oban_jobs AS j WHERE j.id = ANY (job_ids) ORDER BY j.id FOR NO KEY UPDATE;
        PERFORM FROM "signal_ledger".steps AS s WHERE s.job_id = ANY (job_ids) ORDER BY s.job_id FOR NO KEY UPDATE;
        WITH lowered AS (
            UPDATE "signal_ledger".steps AS s SET held = s.held - told.count
            FROM (SELECT tell_dependants.workflow_id, n.name, count(*)::integer AS count
                  FROM unnest(ended.names) AS n (name) GROUP BY n.name OFFSET 0) AS told
            WHERE s.workflow_id = told.workflow_id AND s.name = told.name
            RETURNING s.held
        )
        SELECT bool_or(lowered.held = 0) INTO is_due FROM lowered;
        IF NOT is_due AND NOT ended.has_failed THEN
            RETURN;
        END IF;
        -- The projection may have been dropped.
        FOR missing IN
            SELECT wanted.id FROM unnest(job_ids) AS wanted (id)
            WHERE NOT EXISTS (SELECT FROM "signal_ledger".waits AS w WHERE w.job_id = wanted.id)
        LOOP
            PERFORM "signal_ledger".save("signal_ledger".fold(missing));
        END LOOP;
        moment := "signal_ledger".clock();
        -- What "signal_ledger".append, "signal_ledger".evolve and "signal_ledger".save do, for all dependants at once. A stream that a newer version
        -- of the library has written to is that version's: the step goes on all the same.
        WITH edge AS MATERIALIZED (
            SELECT s.job_id, s.name, s.held, e.dep, e.cause, e.place, max(e.place) OVER of_step AS last_at,
                   min(e.place) FILTER (WHERE e.cause <> 'completed' AND e.cause <> ALL (s.ignore))
                       OVER of_step AS failed_at
            FROM (SELECT tell_dependants.workflow_id, n.*
                  FROM unnest(ended.names, ended.deps, ended.causes, ended.places) AS n (name, dep, cause, place)
                  OFFSET 0) AS e
            JOIN "signal_ledger".steps AS s ON s.workflow_id = e.workflow_id AND s.name = e.name
            JOIN "public".oban_jobs AS j ON j.id = s.job_id AND j.state = 'suspended'
            WINDOW of_step AS (PARTITION BY s.job_id)
        ), tale AS MATERIALIZED (
            SELECT e.job_id, e.name, e.place, e.dep, part.kind,
                   CASE WHEN part.kind <> 'released' THEN e.cause END AS cause,
                   row_number() OVER (PARTITION BY e.job_id ORDER BY e.place, part.number)::integer AS number
            FROM edge AS e, LATERAL (VALUES
                (1, CASE WHEN e.place = e.failed_at THEN 'cascaded'
                         WHEN e.cause <> 'completed' AND (e.failed_at IS NULL OR e.place < e.failed_at)
                         THEN 'skipped' END),
                (2, CASE WHEN e.held = 0 AND e.failed_at IS NULL AND e.place = e.last_at THEN 'released' END)
            ) AS part (number, kind)
            WHERE part.kind IS NOT NULL
        ), event AS MATERIALIZED (
            SELECT t.job_id, w.version + t.number AS version, w.run + (w.status = 'closed')::integer AS run, t.kind,
                   greatest(moment, w.recorded_at) AS recorded_at, t.cause, t.dep
            FROM tale AS t JOIN "signal_ledger".waits AS w ON w.job_id = t.job_id
            WHERE w.schema_version <= "signal_ledger".newest_schema_version()
        ), appended AS (
            INSERT INTO "signal_ledger".events (job_id, version, run, kind, schema_version, recorded_at, cause, dep, checksum)
            SELECT e.job_id, e.version, e.run, e.kind, 2, e.recorded_at, e.cause, e.dep, "signal_ledger".checksum_of_step(
                       e.job_id, e.version, e.run, e.kind, 2, e.recorded_at, e.cause, e.dep, NULL)
            FROM event AS e ORDER BY e.job_id, e.version
        ), saved AS (
            UPDATE "signal_ledger".waits AS w
            SET version = e.version, run = e.run, recorded_at = e.recorded_at,
                status = CASE WHEN w.status = 'closed' THEN 'idle' ELSE w.status END,
                schema_version = greatest(w.schema_version, 2)
            FROM (SELECT n.job_id, max(n.version) AS version, n.run, n.recorded_at FROM event AS n
                  GROUP BY n.job_id, n.run, n.recorded_at) AS e
            WHERE w.job_id = e.job_id
        )
        SELECT array_agg(t.job_id ORDER BY t.job_id) FILTER (WHERE t.kind = 'released') AS released,
               array_agg(t.job_id ORDER BY t.place, t.job_id) FILTER (WHERE t.kind = 'cascaded') AS cancelled,
               array_agg(t.name ORDER BY t.place, t.job_id) FILTER (WHERE t.kind = 'cascaded') AS names
        INTO told FROM tale AS t;
        IF told.released IS NOT NULL THEN
            UPDATE "public".oban_jobs AS j
            SET state = CASE WHEN j.scheduled_at > timezone('UTC', moment) THEN 'scheduled' ELSE 'available' END
                ::"public".oban_job_state
            FROM unnest(told.released) AS wanted (id) WHERE j.id = wanted.id;
            PERFORM "signal_ledger".announce(told.released);
        END IF;
        IF told.cancelled IS NULL THEN
            RETURN;
        END IF;
        -- They have ended before the triggers of their jobs look: these only close their runs, and their dependants are
        -- the next level. A thousand levels of triggers that call triggers would be a thousand calls deep.
        UPDATE "signal_ledger".steps AS s SET ended_as = 'cancelled', ended_at = moment
        FROM unnest(told.cancelled) AS wanted (id) WHERE s.job_id = wanted.id;
        UPDATE "public".oban_jobs AS j
        SET state = 'cancelled', cancelled_at = timezone('UTC', moment),
            meta = CASE jsonb_typeof(j.meta)
                   WHEN 'object' THEN j.meta || jsonb_build_object('cancel_attempted_at', timezone('UTC', moment))
                   ELSE j.meta END
        FROM unnest(told.cancelled) AS wanted (id) WHERE j.id = wanted.id;
        deps := told.names;
        causes := array_fill('cancelled'::text, ARRAY[cardinality(deps)]);
    END LOOP;
END;
$$;

-- Note how a step ended. Those that depend on it are told at the commit, by "signal_ledger".tell_ends.
CREATE OR REPLACE FUNCTION "signal_ledger".end_step(job_id bigint, cause text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    ended record;
BEGIN
    UPDATE "signal_ledger".steps AS s SET ended_as = cause, ended_at = "signal_ledger".clock()
    WHERE s.job_id = end_step.job_id AND s.ended_as IS NULL
    RETURNING s.workflow_id, s.name INTO ended;
    IF FOUND THEN
        INSERT INTO "signal_ledger".ends (job_id, workflow_id, name, cause) VALUES (job_id, ended.workflow_id, ended.name, cause);
    END IF;
END;
$$;

-- Tell those that depend on a job, if it is a step, of an end of which they could not be told.
CREATE OR REPLACE FUNCTION "signal_ledger".tell_dependants_of(job_id bigint, cause text) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off
AS $$
DECLARE
    ended record;
BEGIN
    SELECT s.workflow_id, s.name INTO ended FROM "signal_ledger".steps AS s WHERE s.job_id = tell_dependants_of.job_id;
    IF FOUND THEN
        PERFORM "signal_ledger".tell_dependants(ended.workflow_id, ARRAY[ended.name], ARRAY[cause]);
    END IF;
END;
$$;

-- Trigger, at the commit: tell the dependants of all steps that have ended in the transaction, in the order of their jobs.
-- The first end speaks for all. So the dependants of many are told once, their jobs are locked in ascending order, and
-- for moments.
--
-- A fault must not stop the commit, which is one of Oban's (promise L3): the ends are noted for repair.
CREATE OR REPLACE FUNCTION "signal_ledger".tell_ends() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
    -- Statement timeouts do not end a commit. Whoever keeps a dependant locked must not keep Oban's acknowledgements, too.
    SET lock_timeout = '1s'
AS $$
DECLARE
    ended record;
BEGIN
    IF NOT EXISTS (SELECT FROM "signal_ledger".ends AS e WHERE e.place = NEW.place) THEN
        RETURN NULL;
    END IF;
    BEGIN
        FOR ended IN
            WITH own AS (
                DELETE FROM "signal_ledger".ends AS e WHERE e.place >= NEW.place RETURNING e.*
            ), first AS (
                -- Of a job that ended, was retried and ended again.
                SELECT DISTINCT ON (o.job_id) o.* FROM own AS o ORDER BY o.job_id, o.place
            )
            SELECT f.workflow_id, array_agg(f.name ORDER BY f.job_id) AS names,
                   array_agg(f.cause ORDER BY f.job_id) AS causes
            FROM first AS f GROUP BY f.workflow_id ORDER BY f.workflow_id
        LOOP
            PERFORM "signal_ledger".tell_dependants(ended.workflow_id, ended.names, ended.causes);
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            RAISE WARNING 'signal_ledger: the dependants of a step are told later: %', SQLERRM;
            WITH own AS (DELETE FROM "signal_ledger".ends AS e WHERE e.place >= NEW.place RETURNING e.*)
            INSERT INTO "signal_ledger".repairs (job_id, cause, noted_at)
            SELECT DISTINCT ON (o.job_id) o.job_id, o.cause, clock_timestamp() FROM own AS o ORDER BY o.job_id, o.place
            ON CONFLICT (job_id) DO NOTHING;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'signal_ledger: the end of step %, job %, could not be noted: %', NEW.name, NEW.job_id, SQLERRM;
        END;
    END;
    RETURN NULL;
END;
$$;

DROP TRIGGER IF EXISTS tell_ends ON "signal_ledger".ends;
CREATE CONSTRAINT TRIGGER tell_ends AFTER INSERT ON "signal_ledger".ends DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION "signal_ledger".tell_ends();

-- A plan as the log holds it; see signal_ledger.plan.Plan.text.
CREATE OR REPLACE FUNCTION "signal_ledger".plan_text(workflow_id text, workflow_name text, name text, deps text[], ignore text[])
RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format(
        '{"workflow_id":%s,"workflow_name":%s,"name":%s,"deps":[%s],"ignore":[%s]}',
        to_json(workflow_id), coalesce(to_json(workflow_name)::text, 'null'), to_json(name),
        (SELECT string_agg(to_json(d.dep)::text, ',' ORDER BY d.place) FROM unnest(deps) WITH ORDINALITY AS d (dep, place)),
        (SELECT string_agg(to_json(i.cause)::text, ',' ORDER BY i.place)
         FROM unnest(ignore) WITH ORDINALITY AS i (cause, place)))
$$;

-- The plan of a step's next run, as the log holds it: with those of its deps that have not ended.
CREATE OR REPLACE FUNCTION "signal_ledger".next_plan(workflow_id text, name text, plan text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT "signal_ledger".plan_text(
        workflow_id, plan::jsonb ->> 'workflow_name', name,
        ARRAY(SELECT e.dep FROM "signal_ledger".edges AS e
              WHERE e.workflow_id = next_plan.workflow_id AND e.name = next_plan.name AND e.ended_as IS NULL
              ORDER BY e.dep),
        ARRAY(SELECT jsonb_array_elements_text(plan::jsonb -> 'ignore')))
$$;

-- Begin a new run of a step that had ended, if the job is one. Its dependants have gone on without it.
CREATE OR REPLACE FUNCTION "signal_ledger".revive_step(job_id bigint) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    step record;
BEGIN
    UPDATE "signal_ledger".steps AS s SET ended_as = NULL, ended_at = NULL
    WHERE s.job_id = revive_step.job_id AND s.ended_as IS NOT NULL
    RETURNING s.workflow_id, s.name, s.plan INTO step;
    IF FOUND THEN
        PERFORM "signal_ledger".append_plan(
            job_id, "signal_ledger".next_plan(step.workflow_id, step.name, step.plan), "signal_ledger".clock());
    END IF;
END;
$$;

-- The plan that a job carries in its meta, under Oban's own names; see signal_ledger.plan.Plan.
--
-- Returns the columns of a step, the deps in the order in which they were given, and the plan as the log holds it. What
-- is incomplete, or of another type, is refused (SQLSTATE 22023).
CREATE OR REPLACE FUNCTION "signal_ledger".plan_of(
    meta jsonb, OUT workflow_id text, OUT name text, OUT deps text[], OUT ignore text[], OUT plan text
)
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    given CONSTANT jsonb := CASE WHEN meta ? 'deps' THEN meta -> 'deps' ELSE '[]' END;
BEGIN
    IF jsonb_typeof(meta -> 'workflow_id') IS DISTINCT FROM 'string'
       OR jsonb_typeof(meta -> 'name') IS DISTINCT FROM 'string'
       OR coalesce(jsonb_typeof(meta -> 'workflow_name'), 'null') NOT IN ('string', 'null')
       OR jsonb_typeof(given) <> 'array'
       OR EXISTS (SELECT FROM jsonb_array_elements(given) AS d (dep) WHERE jsonb_typeof(d.dep) <> 'string')
    THEN
        RAISE EXCEPTION 'signal_ledger F5: a job''s meta has no plan of a step: expected workflow_id and name as text, deps '
            'as an array of names, and workflow_name as text if there is one; found workflow_id %, name %, deps %, '
            'workflow_name %', meta -> 'workflow_id', meta -> 'name',
            left(given::text, 200), meta -> 'workflow_name'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    workflow_id := meta ->> 'workflow_id';
    name := meta ->> 'name';
    deps := ARRAY(SELECT d.dep FROM jsonb_array_elements_text(given) WITH ORDINALITY AS d (dep, place) ORDER BY d.place);
    ignore := ARRAY(
        SELECT cause FROM unnest(ARRAY['cancelled', 'discarded', 'deleted']) WITH ORDINALITY AS failure (cause, place)
        WHERE meta -> ('ignore_' || cause) = 'true' ORDER BY place);
    plan := "signal_ledger".plan_text(workflow_id, meta ->> 'workflow_name', name, deps, ignore);
    IF cardinality(deps) <> (SELECT count(DISTINCT d.dep) FROM unnest(deps) AS d (dep)) THEN
        RAISE EXCEPTION 'signal_ledger F5: workflow %, step %: expected each dep once, found %', workflow_id, name,
            left(given::text, 200) USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF name = ANY (deps) THEN
        RAISE EXCEPTION 'signal_ledger F5: workflow %, step %: expected other steps as deps, it cannot wait for itself',
            workflow_id, name USING ERRCODE = 'invalid_parameter_value';
    END IF;
END;
$$;

-- Trigger: a step of a workflow was enqueued. A plan that cannot be kept is refused, and with it the INSERT: nobody would
-- ever release what depends on it. No other trigger stops a statement on Oban's table.
CREATE OR REPLACE FUNCTION "signal_ledger".job_planned() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    step   record := "signal_ledger".plan_of(NEW.meta);
    moment timestamptz := "signal_ledger".clock();
    ended  record;
BEGIN
    IF "signal_ledger".is_terminal(NEW.state::text) OR (NEW.state = 'suspended') <> (step.deps <> '{}') THEN
        RAISE EXCEPTION 'signal_ledger F1: workflow %, step %: expected state suspended if it has deps, and one of a job '
            'that may run if it has none; found state %, deps %', step.workflow_id, step.name, NEW.state, step.deps
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Whoever has just now enqueued the same step, or one that depends on it, is waited for.
    INSERT INTO "signal_ledger".steps AS s (workflow_id, name, job_id, plan, ignore, held, planned_at)
    VALUES (step.workflow_id, step.name, NEW.id, step.plan, step.ignore, cardinality(step.deps), moment)
    ON CONFLICT (workflow_id, name) DO UPDATE
    SET job_id = excluded.job_id, plan = excluded.plan, ignore = excluded.ignore, held = excluded.held,
        planned_at = excluded.planned_at
    WHERE s.job_id IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'signal_ledger F4: workflow %: expected new names for its steps, "%" is in it already; a workflow '
            'is enqueued once', step.workflow_id, step.name USING ERRCODE = 'unique_violation';
    END IF;
    IF step.deps = '{}' THEN
        PERFORM "signal_ledger".append_plan(NEW.id, step.plan, moment);
    ELSE
        INSERT INTO "signal_ledger".edges (workflow_id, dep, name)
        SELECT step.workflow_id, d.dep, step.name FROM unnest(step.deps) AS d (dep);
        -- A dep that is not there yet gets a row, on which whoever enqueues it waits until our edge can be seen.
        INSERT INTO "signal_ledger".steps (workflow_id, name)
        SELECT d.workflow_id, d.dep
        FROM (SELECT step.workflow_id, n.dep FROM unnest(step.deps) AS n (dep) OFFSET 0) AS d
        WHERE NOT EXISTS (SELECT FROM "signal_ledger".steps AS s WHERE s.workflow_id = d.workflow_id AND s.name = d.dep)
        ON CONFLICT (workflow_id, name) DO NOTHING;
        -- One that is ending is waited for, and one that ends later sees the edge.
        SELECT array_agg(e.name ORDER BY e.place) FILTER (WHERE e.ended_as IS NOT NULL) AS names,
               array_agg(e.ended_as ORDER BY e.place) FILTER (WHERE e.ended_as IS NOT NULL) AS causes
        INTO ended
        FROM (
            -- Without a condition on ended_as, which would be looked at before the lock is there.
            SELECT s.name, s.ended_as, d.place
            FROM (SELECT step.workflow_id, n.* FROM unnest(step.deps) WITH ORDINALITY AS n (dep, place) OFFSET 0) AS d
            JOIN "signal_ledger".steps AS s ON s.workflow_id = d.workflow_id AND s.name = d.dep
            FOR SHARE OF s
        ) AS e;
        -- Behind what was waited for, as "signal_ledger".edge_of reads the log.
        PERFORM "signal_ledger".append_plan(NEW.id, step.plan, moment);
        IF ended.names IS NOT NULL THEN
            PERFORM "signal_ledger".tell_dependants(step.workflow_id, ended.names, ended.causes);
        END IF;
    END IF;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE TRIGGER signal_ledger_planned
    AFTER INSERT ON "public".oban_jobs FOR EACH ROW
    WHEN (NEW.meta -> 'workflow_id' IS NOT NULL)
    EXECUTE FUNCTION "signal_ledger".job_planned();

REVOKE EXECUTE ON FUNCTION "signal_ledger".job_planned(), "signal_ledger".tell_ends() FROM PUBLIC;

-- Take up steps again that have failed; see signal_ledger.steps.steps_to_retry. Those that have not, or whose jobs are
-- gone, are left as they are. Returns how many were taken up.
CREATE OR REPLACE FUNCTION "signal_ledger".retry_steps(workflow_id text, names text[]) RETURNS integer
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    moment  timestamptz;
    job_ids bigint[];
    failed  record;
    step    record;
BEGIN
    -- The ends of this very transaction are told now and not at its commit, where they would cancel what is retried.
    SET CONSTRAINTS "signal_ledger".tell_ends IMMEDIATE;
    SET CONSTRAINTS "signal_ledger".tell_ends DEFERRED;
    SELECT array_agg(found.job_id) INTO job_ids FROM (
        SELECT s.job_id
        FROM (SELECT DISTINCT retry_steps.workflow_id, n.name FROM unnest(names) AS n (name) OFFSET 0) AS wanted
        JOIN "signal_ledger".steps AS s ON s.workflow_id = wanted.workflow_id AND s.name = wanted.name
        WHERE s.job_id IS NOT NULL
    ) AS found;
    PERFORM FROM "public".oban_jobs AS j WHERE j.id = ANY (job_ids) ORDER BY j.id FOR NO KEY UPDATE;
    moment := "signal_ledger".begin_writing();
    -- Ends of which nobody has been told yet come first.
    FOR step IN SELECT r.job_id, r.cause FROM "signal_ledger".repairs AS r WHERE r.job_id = ANY (job_ids) ORDER BY r.job_id LOOP
        PERFORM "signal_ledger".repair_job(step.job_id, step.cause);
    END LOOP;
    PERFORM FROM "signal_ledger".steps AS s WHERE s.job_id = ANY (job_ids) ORDER BY s.job_id FOR NO KEY UPDATE;
    -- Marked by a number of deps that no step has.
    WITH marked AS (
        UPDATE "signal_ledger".steps AS s SET held = -1
        FROM unnest(job_ids) AS wanted (id) JOIN "public".oban_jobs AS j ON j.id = wanted.id
        WHERE s.job_id = wanted.id AND s.ended_as IN ('cancelled', 'discarded') AND "signal_ledger".is_terminal(j.state::text)
        RETURNING s.job_id, s.name
    )
    SELECT array_agg(m.job_id ORDER BY m.job_id) AS job_ids, array_agg(m.name) AS names INTO failed FROM marked AS m;
    IF failed.job_ids IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE "signal_ledger".edges AS e SET ended_as = NULL
    FROM (
        SELECT o.workflow_id, o.dep, o.name
        FROM (SELECT retry_steps.workflow_id, n.name FROM unnest(failed.names) AS n (name) OFFSET 0) AS again
        JOIN "signal_ledger".edges AS o ON o.workflow_id = again.workflow_id AND o.name = again.name
        JOIN "signal_ledger".steps AS dep ON dep.workflow_id = o.workflow_id AND dep.name = o.dep
        WHERE o.ended_as IS NOT NULL AND dep.held = -1
        OFFSET 0
    ) AS again
    WHERE e.workflow_id = again.workflow_id AND e.dep = again.dep AND e.name = again.name;
    -- Alive from now on: the trigger of their jobs finds nothing to revive.
    UPDATE "signal_ledger".steps AS s
    SET held = (SELECT count(*) FROM "signal_ledger".edges AS e
                WHERE e.workflow_id = s.workflow_id AND e.name = s.name AND e.ended_as IS NULL),
        ended_as = NULL, ended_at = NULL
    FROM unnest(failed.job_ids) AS again (id) WHERE s.job_id = again.id;
    -- As Oban's own retry. Its trigger closes the old run, if that is not done.
    UPDATE "public".oban_jobs AS j
    SET state = CASE WHEN s.held > 0 THEN 'suspended' ELSE 'available' END::"public".oban_job_state,
        max_attempts = greatest(j.max_attempts, j.attempt + 1), scheduled_at = timezone('UTC', moment),
        completed_at = NULL, cancelled_at = NULL, discarded_at = NULL,
        meta = CASE jsonb_typeof(j.meta)
               WHEN 'object' THEN jsonb_set("signal_ledger".without_wait_until(j.meta), '{uniq_bmp}', '[]') ELSE j.meta END
    FROM unnest(failed.job_ids) AS again (id) JOIN "signal_ledger".steps AS s ON s.job_id = again.id
    WHERE j.id = again.id;
    FOR step IN
        SELECT s.job_id, "signal_ledger".next_plan(s.workflow_id, s.name, s.plan) AS plan
        FROM unnest(failed.job_ids) AS again (id) JOIN "signal_ledger".steps AS s ON s.job_id = again.id
        ORDER BY s.job_id
    LOOP
        PERFORM "signal_ledger".append_plan(step.job_id, step.plan, moment);
    END LOOP;
    PERFORM "signal_ledger".announce(failed.job_ids);
    RETURN cardinality(failed.job_ids);
END;
$$;

-- How the dep of a step ended, by the log, as the edge between them has it; NULL for one that has not.
--
-- The edge was opened by the step's first plan, and again by each later one that names the dep. It ended with the first end
-- of the dep after that; at once, if the dep had ended before the step came.
CREATE OR REPLACE FUNCTION "signal_ledger".edge_of(job_id bigint, dep_id bigint, dep text) RETURNS text
LANGUAGE plpgsql STABLE SET enable_seqscan = off
AS $$
DECLARE
    opened record;
    before record;
    cause  text;
BEGIN
    SELECT e.position, e.version INTO opened FROM "signal_ledger".events AS e
    WHERE e.job_id = edge_of.job_id AND e.kind = 'planned'
      AND (e.version = 1 OR e.plan::jsonb -> 'deps' ? edge_of.dep)
    ORDER BY e.version DESC LIMIT 1;
    IF opened.version = 1 THEN
        SELECT d.kind, d.cause INTO before FROM "signal_ledger".events AS d
        WHERE d.job_id = dep_id AND d.position < opened.position ORDER BY d.version DESC LIMIT 1;
        IF before.kind = 'closed' THEN
            RETURN before.cause;
        END IF;
    END IF;
    SELECT d.cause INTO cause FROM "signal_ledger".events AS d
    WHERE d.job_id = dep_id AND d.kind = 'closed' AND d.position > opened.position ORDER BY d.version LIMIT 1;
    IF cause IS NULL AND opened.version <> 1 THEN
        -- A dep that was ending while the later plan was made had its end appended before it, and committed behind it.
        SELECT CASE WHEN d.kind = 'closed' THEN d.cause END INTO cause FROM "signal_ledger".events AS d
        WHERE d.job_id = dep_id ORDER BY d.version DESC LIMIT 1;
    END IF;
    RETURN cause;
END;
$$;

-- Say whether the log has a plan by which a job is a step.
CREATE OR REPLACE FUNCTION "signal_ledger".is_planned_as(job_id bigint, workflow_id text, name text) RETURNS boolean
LANGUAGE sql STABLE SET enable_seqscan = off
AS $$
    SELECT EXISTS (
        SELECT FROM "signal_ledger".events AS p
        WHERE p.job_id = is_planned_as.job_id AND p.kind = 'planned'
          AND p.plan::jsonb ->> 'workflow_id' = is_planned_as.workflow_id AND p.plan::jsonb ->> 'name' = is_planned_as.name)
$$;

-- Keep the steps anew that these jobs are, by their streams. Call it under the locks of the jobs.
--
-- How a step ended, its job tells; one whose job is gone ended as its last run did.
CREATE OR REPLACE FUNCTION "signal_ledger".rebuild_steps(job_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
DECLARE
    found record;
BEGIN
    -- What says that it is one of these jobs, and is not by the job's own plan.
    UPDATE "signal_ledger".steps AS s SET job_id = NULL
    FROM unnest(job_ids) AS wanted (id)
    WHERE s.job_id = wanted.id AND NOT "signal_ledger".is_planned_as(wanted.id, s.workflow_id, s.name);
    FOR found IN
        SELECT e.job_id, e.recorded_at, e.plan, j.id IS NOT NULL AS has_job, j.state::text AS state, last.cause,
               last.recorded_at AS closed_at
        FROM unnest(job_ids) AS wanted (id)
        JOIN LATERAL (SELECT * FROM "signal_ledger".events AS p WHERE p.job_id = wanted.id AND p.kind = 'planned'
                      ORDER BY p.version LIMIT 1) AS e ON true
        LEFT JOIN "public".oban_jobs AS j ON j.id = wanted.id
        LEFT JOIN LATERAL (SELECT * FROM "signal_ledger".events AS c WHERE c.job_id = wanted.id AND c.kind = 'closed'
                           ORDER BY c.version DESC LIMIT 1) AS last ON true
        ORDER BY e.job_id
    LOOP
        INSERT INTO "signal_ledger".steps AS s (workflow_id, name, job_id, plan, ignore, planned_at, ended_as, ended_at)
        SELECT found.plan::jsonb ->> 'workflow_id', found.plan::jsonb ->> 'name', found.job_id, found.plan,
               ARRAY(SELECT jsonb_array_elements_text(found.plan::jsonb -> 'ignore')), found.recorded_at, n.ended_as,
               CASE WHEN n.ended_as IS NOT NULL THEN found.closed_at END
        FROM (SELECT CASE WHEN NOT found.has_job THEN found.cause
                          WHEN "signal_ledger".is_terminal(found.state) THEN found.state END) AS n (ended_as)
        ON CONFLICT (workflow_id, name) DO UPDATE
        SET job_id = excluded.job_id, plan = excluded.plan, ignore = excluded.ignore,
            planned_at = coalesce(s.planned_at, excluded.planned_at), ended_as = excluded.ended_as,
            ended_at = CASE WHEN s.ended_as = excluded.ended_as THEN s.ended_at ELSE excluded.ended_at END
        WHERE s.job_id IS NULL OR (s.job_id = excluded.job_id AND s.ended_as IS DISTINCT FROM excluded.ended_as)
           OR s.plan IS DISTINCT FROM excluded.plan OR NOT "signal_ledger".is_planned_as(s.job_id, s.workflow_id, s.name);
    END LOOP;
END;
$$;

-- Keep the edges anew that are missing or not as the log has them, and count again what the next steps are held for.
-- Returns the jobs of these steps; NULL when there are none behind `after`. All steps must be there.
--
-- A step whose last dep ended while its edges were missing is released now, or cancelled.
CREATE OR REPLACE FUNCTION "signal_ledger".rebuild_edges(after bigint, most integer) RETURNS bigint[]
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    found   bigint[];
    step    record;
    missing text[];
    told    text[];
    causes  text[];
    untold  text[];
BEGIN
    PERFORM "signal_ledger".begin_writing();
    SELECT array_agg(s.job_id ORDER BY s.job_id) INTO found
    FROM (SELECT t.job_id FROM "signal_ledger".steps AS t WHERE t.job_id > after ORDER BY t.job_id LIMIT most) AS s;
    IF found IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM FROM "public".oban_jobs AS j WHERE j.id = ANY (found) ORDER BY j.id FOR NO KEY UPDATE;
    PERFORM FROM "signal_ledger".steps AS s WHERE s.job_id = ANY (found) ORDER BY s.job_id FOR NO KEY UPDATE;
    FOR step IN
        SELECT s.workflow_id, s.name, s.job_id, s.ignore, j.state::text AS state,
               ARRAY(SELECT jsonb_array_elements_text(s.plan::jsonb -> 'deps')) AS deps
        FROM unnest(found) AS wanted (id) JOIN "signal_ledger".steps AS s ON s.job_id = wanted.id
        LEFT JOIN "public".oban_jobs AS j ON j.id = s.job_id
        ORDER BY s.job_id
    LOOP
        -- The end of a dep and that of the edge are of one transaction: nobody sees the one without the other. An edge that
        -- has ended is never opened: whoever waits for it would wait for ever, should there be an order that was not thought of.
        DELETE FROM "signal_ledger".edges AS e
        USING (SELECT o.dep, o.ended_as, d.job_id AS dep_id
               FROM (SELECT step.workflow_id, step.name OFFSET 0) AS own
               JOIN "signal_ledger".edges AS o ON o.name = own.name AND o.workflow_id = own.workflow_id
               LEFT JOIN "signal_ledger".steps AS d ON d.workflow_id = o.workflow_id AND d.name = o.dep
               OFFSET 0) AS o
        WHERE e.dep = o.dep AND e.workflow_id = step.workflow_id AND e.name = step.name
          AND (e.dep <> ALL (step.deps)
               OR (SELECT n.cause IS NOT NULL AND e.ended_as IS DISTINCT FROM n.cause
                   FROM "signal_ledger".edge_of(step.job_id, o.dep_id, e.dep) AS n (cause)));
        missing := ARRAY(
            SELECT d.dep FROM (SELECT step.workflow_id, step.name, n.* FROM unnest(step.deps) WITH ORDINALITY
                               AS n (dep, place) OFFSET 0) AS d
            WHERE NOT EXISTS (SELECT FROM "signal_ledger".edges AS e
                              WHERE e.workflow_id = d.workflow_id AND e.dep = d.dep AND e.name = d.name)
            ORDER BY d.place);
        untold := '{}';
        IF missing <> '{}' THEN
            INSERT INTO "signal_ledger".steps (workflow_id, name)
            SELECT step.workflow_id, m.dep FROM unnest(missing) AS m (dep) ON CONFLICT (workflow_id, name) DO NOTHING;
            -- One that is ending is waited for, and one that ends later sees the edge.
            WITH dep AS MATERIALIZED (
                SELECT s.name, s.job_id FROM (SELECT step.workflow_id, m.dep FROM unnest(missing) AS m (dep) OFFSET 0) AS d
                JOIN "signal_ledger".steps AS s ON s.workflow_id = d.workflow_id AND s.name = d.dep
                FOR SHARE OF s
            )
            SELECT array_agg(dep.name ORDER BY dep.job_id), array_agg("signal_ledger".edge_of(step.job_id, dep.job_id, dep.name)
                                                                      ORDER BY dep.job_id)
            INTO told, causes FROM dep;
            -- Who is still held hears now of an end that nobody told it of.
            untold := '{}';
            IF step.state = 'suspended' THEN
                SELECT coalesce(array_agg(d.dep ORDER BY d.place), '{}') INTO untold
                FROM unnest(told, causes) WITH ORDINALITY AS d (dep, cause, place)
                WHERE d.cause <> 'completed' AND NOT (d.cause = ANY (step.ignore) AND EXISTS (
                    SELECT FROM "signal_ledger".events AS e
                    WHERE e.job_id = step.job_id AND e.kind = 'skipped' AND e.dep = d.dep));
            END IF;
            INSERT INTO "signal_ledger".edges (workflow_id, dep, name, ended_as)
            SELECT step.workflow_id, d.dep, step.name, CASE WHEN d.dep <> ALL (untold) THEN d.cause END
            FROM unnest(told, causes) AS d (dep, cause);
            IF step.state = 'suspended' AND untold = '{}' AND NOT EXISTS (
                SELECT FROM "signal_ledger".edges AS e
                WHERE e.workflow_id = step.workflow_id AND e.name = step.name AND e.ended_as IS NULL)
            THEN
                untold := told[cardinality(told):];
                UPDATE "signal_ledger".edges AS e SET ended_as = NULL
                WHERE e.workflow_id = step.workflow_id AND e.dep = ANY (untold) AND e.name = step.name;
            END IF;
        END IF;
        UPDATE "signal_ledger".steps AS s
        SET held = n.count
        FROM (SELECT count(*)::integer AS count FROM "signal_ledger".edges AS e
              WHERE e.workflow_id = step.workflow_id AND e.name = step.name AND e.ended_as IS NULL) AS n
        WHERE s.job_id = step.job_id AND s.held <> n.count;
        IF untold <> '{}' THEN
            PERFORM "signal_ledger".tell_dependants(step.workflow_id, untold, ARRAY(
                SELECT d.cause FROM unnest(untold) WITH ORDINALITY AS u (dep, place)
                JOIN unnest(told, causes) AS d (dep, cause) ON d.dep = u.dep ORDER BY u.place));
        END IF;
    END LOOP;
    RETURN found;
END;
$$;

-- Blocks: what 256 events of the log hold, so that readers find events by their time, and deliveries where they are rare.

-- Write the next blocks, as far as the log is settled: so many at most. Returns how many; 0 also while somebody else does
-- so.
--
-- With the rights of its owner: the roles of an older version need no new ones.
CREATE OR REPLACE FUNCTION "signal_ledger".write_blocks(most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_sort = off
AS $$
DECLARE
    settled bigint;
    before  record;
    newest  bigint;
    told    record;
BEGIN
    settled := "signal_ledger".horizon();
    SELECT e.position INTO newest FROM "signal_ledger".events AS e WHERE e.turn < settled ORDER BY e.turn DESC, e.position DESC LIMIT 1;
    SELECT b.turn, b.position, b.peak, b.crest INTO before
    FROM "signal_ledger".blocks AS b ORDER BY b.turn DESC, b.position DESC LIMIT 1;
    -- Positions are hardly ever left out, so there are not enough events yet.
    IF newest IS NULL OR newest - coalesce(before.position, 0) < 256
       OR NOT pg_try_advisory_xact_lock(hashtext('signal_ledger.blocks'), hashtext('signal_ledger')) THEN
        RETURN 0;
    END IF;
    FOR done IN 0 .. most - 1 LOOP
        -- In each turn of the loop anew: somebody else may have written them before the lock was had.
        SELECT b.turn, b.position, b.peak, b.crest INTO before
        FROM "signal_ledger".blocks AS b ORDER BY b.turn DESC, b.position DESC LIMIT 1;
        SELECT count(*) AS size, max(e.turn) AS turn, (array_agg(e.position))[256] AS position,
               min(e.recorded_at) AS low, max(e.recorded_at) AS high,
               count(*) FILTER (WHERE e.kind = 'delivered') AS delivered,
               count(*) FILTER (WHERE e.kind = 'delivered' AND e.channel = '') AS unnamed
        INTO told
        FROM (
            SELECT * FROM "signal_ledger".events AS one
            WHERE (one.turn, one.position) > (coalesce(before.turn, 0), coalesce(before.position, 0)) AND one.turn < settled
            ORDER BY one.turn, one.position LIMIT 256
        ) AS e;
        IF told.size < 256 THEN
            RETURN done;
        END IF;
        INSERT INTO "signal_ledger".blocks (turn, position, low, high, delivered, unnamed, peak, crest)
        VALUES (told.turn, told.position, told.low, told.high, told.delivered, told.unnamed,
                greatest(before.peak, told.high), greatest(before.crest, told.low));
    END LOOP;
    RETURN most;
END;
$$;

-- Where in the log events of some times can be: behind a place, and up to another one. No event is left out, whatever the
-- clock has done: it begins before the first block with an event of that time or a later one, and ends with the last block
-- that has one of an earlier time. What no block tells of yet is looked at.
--
-- Parameters: the earliest time, and the one that they are before; NULL for any.
-- Returns the places; the last one is NULL for the end of the log.
CREATE OR REPLACE FUNCTION "signal_ledger".places(
    since timestamptz, until timestamptz,
    OUT behind_turn bigint, OUT behind_position bigint, OUT last_turn bigint, OUT last_position bigint
)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_sort = off
AS $$
DECLARE
    told  record;
    first record;
    dip   record;
BEGIN
    SELECT b.turn, b.position INTO told FROM "signal_ledger".blocks AS b ORDER BY b.turn DESC, b.position DESC LIMIT 1;
    told.turn := coalesce(told.turn, 0);
    told.position := coalesce(told.position, 0);
    behind_turn := 0;
    behind_position := 0;
    IF since IS NOT NULL THEN
        SELECT b.turn, b.position INTO first
        FROM "signal_ledger".blocks AS b WHERE b.peak >= since ORDER BY b.peak, b.turn, b.position LIMIT 1;
        IF NOT FOUND THEN
            behind_turn := told.turn;
            behind_position := told.position;
        ELSE
            SELECT b.turn, b.position INTO behind_turn, behind_position
            FROM "signal_ledger".blocks AS b WHERE (b.turn, b.position) < (first.turn, first.position)
            ORDER BY b.turn DESC, b.position DESC LIMIT 1;
            behind_turn := coalesce(behind_turn, 0);
            behind_position := coalesce(behind_position, 0);
        END IF;
    END IF;
    IF until IS NULL OR EXISTS (
        SELECT FROM "signal_ledger".events AS e
        WHERE (e.turn, e.position) > (told.turn, told.position) AND e.turn < (SELECT "signal_ledger".horizon())
          AND e.recorded_at < until
    ) THEN
        RETURN;
    END IF;
    SELECT b.turn, b.position INTO last_turn, last_position
    FROM "signal_ledger".blocks AS b WHERE b.crest < until ORDER BY b.crest DESC, b.turn DESC, b.position DESC LIMIT 1;
    SELECT b.turn, b.position INTO dip
    FROM "signal_ledger".blocks AS b WHERE b.low < b.crest AND b.low < until ORDER BY b.turn DESC, b.position DESC LIMIT 1;
    IF dip.turn IS NOT NULL AND (last_turn IS NULL OR (dip.turn, dip.position) > (last_turn, last_position)) THEN
        last_turn := dip.turn;
        last_position := dip.position;
    END IF;
    last_turn := coalesce(last_turn, 0);
    last_position := coalesce(last_position, 0);
END;
$$;

-- The first deliveries behind a place, in the log's order, past the blocks that have none.
--
-- Parameters: whether only those on the default channel; the place, and the last one, NULL for the end of the log; the
-- times that they are recorded at, or before, NULL for any; how many at most.
CREATE OR REPLACE FUNCTION "signal_ledger".deliveries(
    unnamed boolean, behind_turn bigint, behind_position bigint, last_turn bigint, last_position bigint,
    since timestamptz, until timestamptz, most integer
) RETURNS SETOF "signal_ledger".events
LANGUAGE plpgsql STABLE ROWS 500 SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_sort = off
AS $$
DECLARE
    settled bigint := "signal_ledger".horizon();
    block   record;
    start   record;
    wanted  integer := most;
    found   integer;
BEGIN
    last_turn := coalesce(last_turn, settled);
    last_position := coalesce(last_position, 0);
    WHILE wanted > 0 AND (behind_turn, behind_position) < (last_turn, last_position) LOOP
        IF unnamed THEN
            SELECT b.turn, b.position INTO block FROM "signal_ledger".blocks AS b
            WHERE b.unnamed > 0 AND (b.turn, b.position) > (behind_turn, behind_position)
            ORDER BY b.turn, b.position LIMIT 1;
        ELSE
            SELECT b.turn, b.position INTO block FROM "signal_ledger".blocks AS b
            WHERE b.delivered > 0 AND (b.turn, b.position) > (behind_turn, behind_position)
            ORDER BY b.turn, b.position LIMIT 1;
        END IF;
        IF block.turn IS NULL THEN
            -- Behind the last block, whatever that has.
            SELECT b.turn, b.position INTO start FROM "signal_ledger".blocks AS b ORDER BY b.turn DESC, b.position DESC LIMIT 1;
            block.turn := last_turn;
            block.position := last_position;
        ELSE
            SELECT b.turn, b.position INTO start FROM "signal_ledger".blocks AS b
            WHERE (b.turn, b.position) < (block.turn, block.position) ORDER BY b.turn DESC, b.position DESC LIMIT 1;
        END IF;
        IF start.turn IS NOT NULL AND (start.turn, start.position) > (behind_turn, behind_position) THEN
            behind_turn := start.turn;
            behind_position := start.position;
        END IF;
        IF (block.turn, block.position) > (last_turn, last_position) THEN
            block.turn := last_turn;
            block.position := last_position;
        END IF;
        RETURN QUERY
        SELECT e.* FROM "signal_ledger".events AS e
        WHERE (e.turn, e.position) > (behind_turn, behind_position)
          AND (e.turn, e.position) <= (block.turn, block.position) AND e.turn < settled
          AND e.kind = 'delivered' AND (e.channel = '' OR NOT unnamed)
          AND (since IS NULL OR e.recorded_at >= since) AND (until IS NULL OR e.recorded_at < until)
        ORDER BY e.turn, e.position LIMIT wanted;
        GET DIAGNOSTICS found = ROW_COUNT;
        wanted := wanted - found;
        behind_turn := block.turn;
        behind_position := block.position;
    END LOOP;
END;
$$;

-- Write the next blocks, as `write_blocks`, once nobody else does so.
CREATE OR REPLACE FUNCTION "signal_ledger".rewrite_blocks(most integer) RETURNS integer
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('signal_ledger.blocks'), hashtext('signal_ledger'));
    RETURN "signal_ledger".write_blocks(most);
END;
$$;

-- Forget all blocks, to write them anew. Until that is done readers look at more events.
CREATE OR REPLACE FUNCTION "signal_ledger".forget_blocks() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- Whoever writes blocks has read the last one, which the next must follow: it is waited for, and then seen.
    PERFORM pg_advisory_xact_lock(hashtext('signal_ledger.blocks'), hashtext('signal_ledger'));
    DELETE FROM "signal_ledger".blocks;
END;
$$;

INSERT INTO "signal_ledger".settings (version, functions, oban_prefix, testing) VALUES (3, '194dcb08eb87d6f883fd6c2fa6f9ef767fd0197a13b4c9c9fca262debcac7547', 'public', false);
