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

-- Small functions that the others stand on.

-- The time of the ledger. Tests put another one in its place, in schemas made for testing.
CREATE OR REPLACE FUNCTION "signal_ledger".clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$ SELECT clock_timestamp() $$;

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
    event.schema_version := 1;
    event.checksum := "signal_ledger".checksum_of(
        event.job_id, event.version, event.run, event.kind, event.schema_version, event.recorded_at, event.execution,
        event.attempt, event.channel, event.ordinal, event.signal_id, event.delivery_version, event.key, event.source,
        event.deadline_at, event.cause, event.outcome, event.payload_digest);
    INSERT INTO "signal_ledger".events (
        job_id, version, run, kind, schema_version, recorded_at, execution, attempt, channel, ordinal, signal_id,
        delivery_version, key, source, deadline_at, cause, outcome, payload, payload_digest, checksum
    ) VALUES (
        event.job_id, event.version, event.run, event.kind, event.schema_version, event.recorded_at, event.execution,
        event.attempt, event.channel, event.ordinal, event.signal_id, event.delivery_version, event.key, event.source,
        event.deadline_at, event.cause, event.outcome, event.payload, event.payload_digest, event.checksum
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
    is_stored boolean;
BEGIN
    SELECT w.* INTO state FROM "signal_ledger".waits AS w WHERE w.job_id = append_delivery.job_id;
    is_stored := FOUND;
    IF NOT is_stored THEN
        state := "signal_ledger".fold(job_id);
    END IF;
    IF state.schema_version > 1 THEN
        outcome := 'newer';
        RETURN;
    END IF;
    version := state.version + 1;
    moment := greatest(moment, state.recorded_at);
    IF state.status = 'closed' THEN
        state := "signal_ledger".new_state(job_id, state.run + 1);
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
    FROM "signal_ledger".waits AS w WHERE w.schema_version > 1 AND w.job_id = ANY (job_ids)
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
                   w.current, w.ordinal, w.since, w.deadline_at, w.execution, w.waits, w.inboxes
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
              AND CASE WHEN w.job_id IS NOT NULL THEN w.status <> 'closed' AND w.schema_version = 1
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
                    ELSE ARRAY[ROW(t.channel, 1, t.version - 1)::"signal_ledger".inbox] END, 1
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
        IF state.schema_version > 1 THEN
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
        IF state.schema_version > 1 THEN
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
    WHERE w.job_id = close.job_id AND w.version > 0 AND w.status <> 'closed' AND w.schema_version = 1
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
    IF state.schema_version > 1 THEN
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    has_ended boolean := TG_OP = 'DELETE' OR NEW.state IN ('completed', 'cancelled', 'discarded');
    ended_as  text    := CASE WHEN TG_OP = 'DELETE' THEN 'deleted' WHEN has_ended THEN NEW.state::text
                              ELSE OLD.state::text END;
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
            PERFORM "signal_ledger".close(
                OLD.id, coalesce((SELECT r.cause FROM "signal_ledger".repairs AS r WHERE r.job_id = OLD.id), ended_as),
                "signal_ledger".to_execution(OLD.attempted_at), OLD.attempt);
            DELETE FROM "signal_ledger".repairs AS r WHERE r.job_id = OLD.id;
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

-- Append the closed events that could not be appended when their jobs ended. Returns how many were appended.
--
-- One that fails again waits for a minute. Streams that only a newer version of the library can read stay on the list,
-- and nothing is written for them.
CREATE OR REPLACE FUNCTION "signal_ledger".repair(most integer) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    noted record;
    job   record;
    count integer := 0;
BEGIN
    FOR noted IN
        SELECT r.job_id, r.cause FROM "signal_ledger".repairs AS r LEFT JOIN "signal_ledger".waits AS w ON w.job_id = r.job_id
        WHERE r.noted_at <= clock_timestamp() AND coalesce(w.schema_version, 1) <= 1
        ORDER BY r.noted_at, r.job_id LIMIT most
    LOOP
        BEGIN
            CONTINUE WHEN ("signal_ledger".state_of(noted.job_id)).schema_version > 1;
            -- Never waits for a lock: the stager's tick does not begin before this is done.
            SELECT j.attempted_at, j.attempt INTO job FROM "public".oban_jobs AS j
            WHERE j.id = noted.job_id FOR NO KEY UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND AND EXISTS (SELECT FROM "public".oban_jobs AS j WHERE j.id = noted.job_id);
            PERFORM FROM "signal_ledger".repairs AS r WHERE r.job_id = noted.job_id FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
            PERFORM "signal_ledger".close(
                noted.job_id, noted.cause, "signal_ledger".to_execution(job.attempted_at), coalesce(job.attempt, 0));
            DELETE FROM "signal_ledger".repairs AS r WHERE r.job_id = noted.job_id;
            count := count + 1;
        EXCEPTION WHEN OTHERS THEN
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

-- Fold the next streams anew and store their states. Returns the jobs; NULL when there are none behind `after`.
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
    RETURN found;
END;
$$;

-- Delete the stored states that have no stream.
CREATE OR REPLACE FUNCTION "signal_ledger".drop_orphans() RETURNS void
LANGUAGE sql
AS $$
    DELETE FROM "signal_ledger".waits AS w WHERE NOT EXISTS (SELECT FROM "signal_ledger".events AS e WHERE e.job_id = w.job_id)
$$;

-- Empty the ledger, as Oban's own reset empties its tables and lets ids begin anew. For tests (promise L1).
CREATE OR REPLACE FUNCTION "signal_ledger".reset() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT (SELECT s.testing FROM "signal_ledger".settings AS s) THEN
        RAISE EXCEPTION 'signal_ledger L1: reset is refused, the ledger''s schema was not made with testing=True';
    END IF;
    TRUNCATE "signal_ledger".events, "signal_ledger".waits, "signal_ledger".cancels, "signal_ledger".repairs, "signal_ledger".outbox;
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
       AND NOT EXISTS (SELECT FROM "signal_ledger".waits AS w WHERE w.job_id = stored.job_id AND w.schema_version > 1)
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

INSERT INTO "signal_ledger".settings (version, functions, oban_prefix, testing) VALUES (1, '6aa24028cf502d39fe76e5fd050887723511194ed377ed64ac5e7f5a6f32c4d2', 'public', false);
