-- What events add up to: signal_ledger.evolve, in the database. Total: a recorded fact is never refused.

CREATE OR REPLACE FUNCTION ledger.new_state(job_id bigint, run integer) RETURNS ledger.waits
LANGUAGE sql IMMUTABLE
AS $$
    SELECT ROW(job_id, run, 0, NULL, 'idle', NULL, NULL, NULL, NULL, 0, '{}', '{}', 1)::ledger.waits
$$;

CREATE OR REPLACE FUNCTION ledger.wait_on(waits ledger.open_wait[], channel text) RETURNS ledger.open_wait
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    wait ledger.open_wait;
BEGIN
    FOREACH wait IN ARRAY waits LOOP
        IF wait.channel = wait_on.channel THEN
            RETURN wait;
        END IF;
    END LOOP;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE FUNCTION ledger.inbox_of(inboxes ledger.inbox[], channel text) RETURNS ledger.inbox
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    inbox ledger.inbox;
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
CREATE OR REPLACE FUNCTION ledger.with_wait(waits ledger.open_wait[], channel text, wait ledger.open_wait)
RETURNS ledger.open_wait[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    others ledger.open_wait[] := array_remove(waits, ledger.wait_on(waits, channel));
BEGIN
    IF wait.channel IS NULL THEN
        RETURN others;
    ELSIF others = '{}' THEN
        RETURN ARRAY[wait];
    END IF;
    RETURN (SELECT array_agg(one ORDER BY one.channel COLLATE "C") FROM unnest(others || wait) AS one);
END;
$$;

CREATE OR REPLACE FUNCTION ledger.with_inbox(inboxes ledger.inbox[], channel text, inbox ledger.inbox)
RETURNS ledger.inbox[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    others ledger.inbox[] := array_remove(inboxes, ledger.inbox_of(inboxes, channel));
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
CREATE OR REPLACE FUNCTION ledger.evolve(state ledger.waits, event ledger.events) RETURNS ledger.waits
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    wait       ledger.open_wait;
    inbox      ledger.inbox;
    newest     integer := greatest(state.schema_version, event.schema_version);
BEGIN
    IF event.run <> state.run OR (state.status = 'closed' AND event.kind <> 'closed') THEN
        state := ledger.new_state(state.job_id, event.run);
    END IF;
    CASE event.kind
    WHEN 'awaited', 'snoozed' THEN
        wait := ledger.wait_on(state.waits, event.channel);
        wait.since := coalesce(wait.since, event.recorded_at);
        wait.channel := event.channel;
        wait.ordinal := event.ordinal;
        wait.deadline_at := event.deadline_at;
        wait.was_snoozed := event.kind = 'snoozed';
        wait.deadline_is_final := wait.was_snoozed OR event.deadline_at IS NOT NULL;
        state.waits := ledger.with_wait(state.waits, event.channel, wait);
        inbox := ledger.inbox_of(state.inboxes, event.channel);
        -- With a signal already there a snoozed job is made runnable in the same transaction: it does not sleep.
        state.status := CASE WHEN event.kind = 'awaited' THEN 'live'
                             WHEN inbox.channel IS NULL THEN 'snoozed' ELSE 'idle' END;
        state.current := event.channel;
        state.execution := event.execution;
    WHEN 'delivered' THEN
        inbox := ledger.inbox_of(state.inboxes, event.channel);
        inbox.after := coalesce(inbox.after, event.version - 1);
        inbox.pending := coalesce(inbox.pending, 0) + 1;
        inbox.channel := event.channel;
        state.inboxes := ledger.with_inbox(state.inboxes, event.channel, inbox);
        IF event.outcome = 'woken' THEN
            state.status := 'idle';
        END IF;
    WHEN 'consumed', 'timed_out' THEN
        IF event.kind = 'consumed' THEN
            inbox := ledger.inbox_of(state.inboxes, event.channel);
            IF inbox.pending > 1 THEN
                inbox.pending := inbox.pending - 1;
                inbox.after := event.delivery_version;
            ELSE
                inbox := NULL;
            END IF;
            state.inboxes := ledger.with_inbox(state.inboxes, event.channel, inbox);
        END IF;
        state.waits := ledger.with_wait(state.waits, event.channel, NULL);
        IF state.current = event.channel THEN
            state.status := 'idle';
            state.current := NULL;
        END IF;
    WHEN 'closed' THEN
        state := ledger.new_state(state.job_id, event.run);
        state.status := 'closed';
    WHEN 'planned', 'released', 'skipped', 'cascaded' THEN
        -- They tell of the job's place in its workflow, not of its waits.
        NULL;
    END CASE;
    state.version := event.version;
    state.recorded_at := event.recorded_at;
    state.schema_version := newest;
    wait := CASE WHEN state.current IS NOT NULL THEN ledger.wait_on(state.waits, state.current) END;
    state.ordinal := wait.ordinal;
    state.since := wait.since;
    state.deadline_at := wait.deadline_at;
    RETURN state;
END;
$$;

-- A stream folded anew.
CREATE OR REPLACE FUNCTION ledger.fold(job_id bigint) RETURNS ledger.waits
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    state ledger.waits := ledger.new_state(fold.job_id, 1);
    event ledger.events;
BEGIN
    FOR event IN SELECT * FROM ledger.events AS e WHERE e.job_id = fold.job_id ORDER BY e.version LOOP
        state := ledger.evolve(state, event);
    END LOOP;
    RETURN state;
END;
$$;

-- The stored state, or the fold where none is stored. Call it under the job's lock.
CREATE OR REPLACE FUNCTION ledger.state_of(job_id bigint) RETURNS ledger.waits
LANGUAGE plpgsql
AS $$
DECLARE
    state ledger.waits;
BEGIN
    SELECT * INTO state FROM ledger.waits AS w WHERE w.job_id = state_of.job_id;
    IF NOT FOUND THEN
        state := ledger.fold(state_of.job_id);
    END IF;
    RETURN state;
END;
$$;

CREATE OR REPLACE FUNCTION ledger.open_run(state ledger.waits) RETURNS integer
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE WHEN state.status = 'closed' THEN state.run + 1 ELSE state.run END $$;

-- Append an event to a stream and return the state after it; ledger.save stores that.
--
-- The caller fills in what the kind has; version, schema version and checksum are given here.
CREATE OR REPLACE FUNCTION ledger.append(state ledger.waits, event ledger.events) RETURNS ledger.waits
LANGUAGE plpgsql
AS $$
BEGIN
    event.job_id := state.job_id;
    event.version := state.version + 1;
    -- The version that each kind is written in is that of its last change; see signal_ledger.stored.WRITTEN.
    IF event.kind IN ('planned', 'released', 'skipped', 'cascaded') THEN
        event.schema_version := 2;
        event.checksum := ledger.checksum_of_step(
            event.job_id, event.version, event.run, event.kind, event.schema_version, event.recorded_at, event.cause,
            event.dep, event.plan);
    ELSE
        event.schema_version := 1;
        event.checksum := ledger.checksum_of(
            event.job_id, event.version, event.run, event.kind, event.schema_version, event.recorded_at, event.execution,
            event.attempt, event.channel, event.ordinal, event.signal_id, event.delivery_version, event.key,
            event.source, event.deadline_at, event.cause, event.outcome, event.payload_digest);
    END IF;
    INSERT INTO ledger.events (
        job_id, version, run, kind, schema_version, recorded_at, execution, attempt, channel, ordinal, signal_id,
        delivery_version, key, source, deadline_at, cause, outcome, payload, payload_digest, checksum, dep, plan
    ) VALUES (
        event.job_id, event.version, event.run, event.kind, event.schema_version, event.recorded_at, event.execution,
        event.attempt, event.channel, event.ordinal, event.signal_id, event.delivery_version, event.key, event.source,
        event.deadline_at, event.cause, event.outcome, event.payload, event.payload_digest, event.checksum, event.dep,
        event.plan
    );
    RETURN ledger.evolve(state, event);
END;
$$;

-- In PL/pgSQL, which keeps its plan; SQL functions that are not inlined are planned at every call.
CREATE OR REPLACE FUNCTION ledger.save(state ledger.waits) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO ledger.waits VALUES (state.*)
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
