-- Delivering signals: signal_ledger.decide for a batch of calls, in one transaction.
--
-- There are three ways, and all append the same: ledger.deliver_one for a call that came alone, with as few statements as
-- can be; ledger.deliver_batch, where one statement serves all that need no look at earlier signals; and
-- ledger.deliver_others for what is left of a batch, one signal after the other.

-- The delivery that has a key or an id already, and what became of it; see signal_ledger.facts.PriorDelivery.
CREATE OR REPLACE FUNCTION ledger.prior(job_id bigint, key text, ids text[]) RETURNS ledger.events
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    found_event ledger.events;
    wanted text;
BEGIN
    IF key IS NOT NULL THEN
        SELECT * INTO found_event FROM ledger.events AS e
        WHERE e.job_id = prior.job_id AND e.key = prior.key AND e.kind = 'delivered';
        IF FOUND THEN
            RETURN found_event;
        END IF;
    END IF;
    FOREACH wanted IN ARRAY ids LOOP
        SELECT * INTO found_event FROM ledger.events AS e
        WHERE e.job_id = prior.job_id AND e.signal_id = wanted AND e.kind = 'delivered';
        IF FOUND THEN
            RETURN found_event;
        END IF;
    END LOOP;
    RETURN NULL;
END;
$$;

-- Whether a delivery contradicts an earlier one of its key, and the row that says so.
CREATE OR REPLACE FUNCTION ledger.conflict(
    prior ledger.events, job_id bigint, channel text, digest text,
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

-- The inboxes after a delivery; see ledger.evolve.
CREATE OR REPLACE FUNCTION ledger.inboxes_after(inboxes ledger.inbox[], channel text, version integer)
RETURNS ledger.inbox[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    inbox ledger.inbox;
BEGIN
    IF cardinality(inboxes) = 0 THEN
        RETURN ARRAY[ROW(channel, 1, version - 1)::ledger.inbox];
    END IF;
    inbox := ledger.inbox_of(inboxes, channel);
    RETURN ledger.with_inbox(inboxes, channel, ROW(
        channel, coalesce(inbox.pending, 0) + 1, coalesce(inbox.after, version - 1))::ledger.inbox);
END;
$$;

-- What becomes of a signal. It is woken or live if it resumes the current wait: only one on the awaited channel, by the
-- deadline, to the execution that waits does so (promise W5).
CREATE OR REPLACE FUNCTION ledger.outcome_of(
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
-- ledger.append, ledger.evolve and ledger.save do for any event, at a fraction of the cost.
--
-- Returns woken, live or buffered, and the event's version; or newer, and nothing was written, because a newer version of
-- the library has written to the stream.
CREATE OR REPLACE FUNCTION ledger.append_delivery(
    moment timestamptz, job_id bigint, job_state text, job_execution bigint, signal_id text, channel text, payload bytea,
    digest text, key text, source text, OUT outcome text, OUT version integer
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_variable
DECLARE
    state     ledger.waits;
    newest    integer;
    is_stored boolean;
BEGIN
    SELECT w.* INTO state FROM ledger.waits AS w WHERE w.job_id = append_delivery.job_id;
    is_stored := FOUND;
    IF NOT is_stored THEN
        state := ledger.fold(job_id);
    END IF;
    IF state.schema_version > ledger.newest_schema_version() THEN
        outcome := 'newer';
        RETURN;
    END IF;
    version := state.version + 1;
    moment := greatest(moment, state.recorded_at);
    IF state.status = 'closed' THEN
        newest := state.schema_version;
        state := ledger.new_state(job_id, state.run + 1);
        state.schema_version := newest;
        is_stored := false;
    END IF;
    outcome := ledger.outcome_of(
        state.status, state.current, state.deadline_at, state.execution, channel, moment, job_state, job_execution);
    INSERT INTO ledger.events (
        job_id, version, run, kind, schema_version, recorded_at, channel, signal_id, key, source, outcome, payload,
        payload_digest, checksum
    ) VALUES (
        job_id, version, state.run, 'delivered', 1, moment, channel, signal_id, key, source, outcome, payload, digest,
        ledger.checksum_of(
            job_id, version, state.run, 'delivered', 1, moment, NULL, NULL, channel, NULL, signal_id, NULL, key, source,
            NULL, NULL, outcome, digest)
    );
    state.version := version;
    state.recorded_at := moment;
    state.inboxes := ledger.inboxes_after(state.inboxes, channel, version);
    IF outcome = 'woken' THEN
        state.status := 'idle';
    END IF;
    IF is_stored THEN
        UPDATE ledger.waits AS w
        SET version = state.version, recorded_at = state.recorded_at, status = state.status, inboxes = state.inboxes
        WHERE w.job_id = append_delivery.job_id;
    ELSE
        PERFORM ledger.save(state);
    END IF;
END;
$$;

-- The jobs whose streams a newer version of the library has written to.
CREATE OR REPLACE FUNCTION ledger.newer_streams(job_ids bigint[]) RETURNS bigint[]
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(array_agg(w.job_id), '{}')
    FROM ledger.waits AS w WHERE w.schema_version > ledger.newest_schema_version() AND w.job_id = ANY (job_ids)
$$;

-- Deliver the other signals of a batch, one after the other, in the order of their places.
--
-- Parameters: those of ledger.deliver_batch; the places that it has served itself; the jobs that are held, and those whose
-- streams a newer version of the library has written to. Rows: as the elements of what that returns; is_told is whether
-- the job is to be woken or told.
CREATE OR REPLACE FUNCTION ledger.deliver_others(
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
    prior   ledger.events;
    state   ledger.waits;
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
            prior := ledger.prior(
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
                    FROM ledger.conflict(prior, given.job_id, given.channel, given.digest);
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
                        FROM ledger.conflict(
                            ledger.prior(other.job_id, other.key,
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
        state := ledger.state_of(given.job_id);
        IF prior.signal_id IS NOT NULL THEN
            outcome := 'duplicate';
            reason := CASE
                WHEN EXISTS (SELECT FROM ledger.events AS e WHERE e.job_id = given.job_id
                             AND e.signal_id = prior.signal_id AND e.kind = 'consumed') THEN 'consumed'
                WHEN prior.run <> ledger.open_run(state) THEN 'ended with its run'
                ELSE 'pending' END;
            RETURN NEXT;
            CONTINUE;
        END IF;
        SELECT j.state::text AS state, ledger.to_execution(j.attempted_at) AS execution
        INTO job FROM oban.oban_jobs AS j WHERE j.id = given.job_id;
        IF NOT FOUND OR ledger.is_terminal(job.state) THEN
            outcome := 'ignored'; signal_id := NULL; version := NULL;
            reason := coalesce(job.state, 'missing');
            RETURN NEXT;
            CONTINUE;
        END IF;
        SELECT a.outcome, a.version INTO outcome, version
        FROM ledger.append_delivery(
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
CREATE OR REPLACE FUNCTION ledger.deliver_batch(
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
    locks := ledger.lock(job_ids, patience);
    moment := ledger.begin_writing();
    IF NOT locks.is_plain THEN
        SELECT coalesce(array_agg(r.job_id), '{}') INTO repeated
        FROM (SELECT d.job_id FROM unnest(job_ids) AS d (job_id) GROUP BY d.job_id HAVING count(*) > 1) AS r;
    END IF;
    -- Calls of several signals are refused as a whole, before anything of them is written.
    IF cardinality(payloads) < cardinality(job_ids) THEN
        newer := ledger.newer_streams(job_ids);
    END IF;
    IF (locks.held || newer) <> '{}' THEN
        SELECT coalesce(array_agg(DISTINCT d.call), '{}') INTO refused
        FROM unnest(calls, job_ids) AS d (call, job_id) WHERE d.job_id = ANY (locks.held || newer);
    END IF;
    -- In one statement all that need no look at earlier signals: they are new, have no key, and are the only one of the
    -- batch for their job, whose run has not ended. So nothing can be refused, but for the calls that are left out.
    WITH told AS MATERIALIZED (
        SELECT n.*, CASE WHEN n.job_state IS NULL OR ledger.is_terminal(n.job_state) THEN 'ignored'
                         ELSE ledger.outcome_of(n.status, n.current, n.deadline_at, n.execution, n.channel, n.recorded_at,
                                                n.job_state, n.job_execution) END AS outcome
        FROM (
            SELECT d.place, d.call, d.job_id, d.signal_id, d.channel, d.digest, d.source, j.state::text AS job_state,
                   ledger.to_execution(j.attempted_at) AS job_execution, coalesce(w.run, 1) AS run,
                   coalesce(w.version, 0) + 1 AS version, greatest(moment, w.recorded_at) AS recorded_at, w.status,
                   w.current, w.ordinal, w.since, w.deadline_at, w.execution, w.waits, w.inboxes, w.schema_version
            FROM unnest(calls, first_tries, job_ids, signal_ids, channels, digests, keys, sources) WITH ORDINALITY
                AS d (call, first_try, job_id, signal_id, channel, digest, key, source, place)
            -- One look-up each by the key, whatever the planner thinks of the tables.
            LEFT JOIN LATERAL (
                SELECT job.state, job.attempted_at FROM oban.oban_jobs AS job WHERE job.id = d.job_id OFFSET 0
            ) AS j ON true
            LEFT JOIN LATERAL (
                SELECT * FROM ledger.waits AS state WHERE state.job_id = d.job_id OFFSET 0
            ) AS w ON true
            WHERE d.first_try AND d.key IS NULL AND d.job_id <> ALL (repeated) AND d.call <> ALL (refused)
              AND CASE WHEN w.job_id IS NOT NULL
                       THEN w.status <> 'closed' AND w.schema_version <= ledger.newest_schema_version()
                       -- The projection may have been dropped.
                       ELSE NOT EXISTS (SELECT FROM ledger.events AS e WHERE e.job_id = d.job_id) END
        ) AS n
    ), appended AS (
        INSERT INTO ledger.events (
            job_id, version, run, kind, schema_version, recorded_at, channel, signal_id, source, outcome, payload,
            payload_digest, checksum
        )
        SELECT t.job_id, t.version, t.run, 'delivered', 1, t.recorded_at, t.channel, t.signal_id, t.source, t.outcome,
               payloads[t.call], t.digest, ledger.checksum_of(
                   t.job_id, t.version, t.run, 'delivered', 1, t.recorded_at, NULL, NULL, t.channel, NULL, t.signal_id,
                   NULL, NULL, t.source, NULL, NULL, t.outcome, t.digest)
        FROM told AS t WHERE t.outcome <> 'ignored'
    ), saved AS (
        -- Whole: a row that was there may be gone when this comes to it, if somebody drops the projection.
        INSERT INTO ledger.waits AS w (
            job_id, run, version, recorded_at, status, current, ordinal, since, deadline_at, execution, waits, inboxes,
            schema_version
        )
        SELECT t.job_id, t.run, t.version, t.recorded_at,
               CASE WHEN t.outcome = 'woken' THEN 'idle' ELSE coalesce(t.status, 'idle') END, t.current, t.ordinal,
               t.since, t.deadline_at, coalesce(t.execution, 0), coalesce(t.waits, '{}'),
               CASE WHEN cardinality(t.inboxes) > 0 THEN ledger.inboxes_after(t.inboxes, t.channel, t.version)
                    ELSE ARRAY[ROW(t.channel, 1, t.version - 1)::ledger.inbox] END, coalesce(t.schema_version, 1)
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
        FROM ledger.deliver_others(
            moment, calls, first_tries, job_ids, signal_ids, channels, payloads, digests, keys, key_ids, sources, served,
            locks.held, coalesce(newer, ledger.newer_streams(job_ids))) AS o;
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
        PERFORM ledger.wake(woken, moment);
    END IF;
    IF hinted <> '{}' THEN
        PERFORM ledger.hint(hinted);
    END IF;
END;
$$;

-- ledger.deliver_batch for those who want rows, one for each delivery, in the order of their places.
CREATE OR REPLACE FUNCTION ledger.deliver(
    calls integer[], first_tries boolean[], job_ids bigint[], signal_ids text[], channels text[], payloads bytea[],
    digests text[], keys text[], key_ids text[], sources text[], patience integer DEFAULT NULL
) RETURNS TABLE (outcome text, version integer, signal_id text, reason text, job_id bigint)
LANGUAGE sql
AS $$
    SELECT r.*
    FROM ledger.deliver_batch(
            calls, first_tries, job_ids, signal_ids, channels, payloads, digests, keys, key_ids, sources, patience) AS b,
        unnest(b.outcomes, b.versions, b.ids, b.reasons, b.jobs) AS r
$$;

-- Deliver one signal.
--
-- Parameters: those of ledger.deliver_batch, for a call that came alone. Returns what that returns of it.
CREATE OR REPLACE FUNCTION ledger.deliver_one(
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
        -- The lock first, before the time is read; see ledger.deliver_batch.
        SELECT j.state::text AS state, ledger.to_execution(j.attempted_at) AS execution, j.queue INTO job
        FROM oban.oban_jobs AS j WHERE j.id = deliver_one.job_id FOR NO KEY UPDATE SKIP LOCKED;
        IF FOUND AND NOT ledger.is_terminal(job.state)
           AND ((first_try AND key IS NULL)
                OR (ledger.prior(job_id, key, signal_id || string_to_array(key_ids, ','))).signal_id IS NULL) THEN
            moment := ledger.begin_writing();
            appended := ledger.append_delivery(
                moment, job_id, job.state, job.execution, signal_id, channel, payload, digest, key, source);
            outcome := appended.outcome;
            version := appended.version;
            IF outcome = 'newer' THEN
                signal_id := NULL;
            ELSIF outcome = 'woken' THEN
                UPDATE oban.oban_jobs AS j
                SET state = 'available', scheduled_at = least(j.scheduled_at, timezone('UTC', moment)),
                    meta = ledger.without_wait_until(j.meta)
                WHERE j.id = deliver_one.job_id;
                PERFORM ledger.notify('insert', json_build_object('queue', job.queue));
            ELSIF outcome = 'live' THEN
                PERFORM ledger.hint(ARRAY[job_id]);
            END IF;
            RETURN;
        END IF;
    END IF;
    SELECT d.outcome, d.version, d.signal_id, d.reason, d.job_id INTO STRICT outcome, version, signal_id, reason, job_id
    FROM ledger.deliver(
        ARRAY[1], ARRAY[first_try], ARRAY[job_id], ARRAY[signal_id], ARRAY[channel], ARRAY[payload], ARRAY[digest],
        ARRAY[key], ARRAY[key_ids], ARRAY[source], patience) AS d;
END;
$$;
