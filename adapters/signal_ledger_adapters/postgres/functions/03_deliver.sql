-- Delivering signals: signal_ledger.decide for a batch of calls, in one transaction.

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

-- Make snoozed jobs available now and tell Oban's queues, once for each.
CREATE OR REPLACE FUNCTION ledger.wake(job_ids bigint[], moment timestamptz) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    woken_queue text;
BEGIN
    FOR woken_queue IN
        WITH woken AS (
            UPDATE oban.oban_jobs AS job
            SET state = 'available', scheduled_at = least(job.scheduled_at, timezone('UTC', moment))
            FROM unnest(job_ids) AS wanted (id)
            WHERE job.id = wanted.id
            RETURNING job.queue
        )
        SELECT DISTINCT queue FROM woken
    LOOP
        PERFORM ledger.notify('insert', json_build_object('queue', woken_queue));
    END LOOP;
END;
$$;

-- Tell live waits to look; 350 ids fit into a notification.
CREATE OR REPLACE FUNCTION ledger.hint(job_ids bigint[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    place integer;
BEGIN
    FOR place IN 1 .. cardinality(job_ids) BY 350 LOOP
        PERFORM ledger.notify('signal_ledger', json_build_object('jobs', to_json(job_ids[place : place + 349])));
    END LOOP;
END;
$$;

-- Lock jobs, in ascending order. Returns those that are there and were not locked; none unless patience is 0, see below.
CREATE OR REPLACE FUNCTION ledger.lock(job_ids bigint[], patience integer) RETURNS bigint[]
LANGUAGE plpgsql
AS $$
DECLARE
    locked bigint[];
BEGIN
    IF patience = 0 THEN
        SELECT array_agg(j.id) INTO locked FROM (
            SELECT job.id FROM oban.oban_jobs AS job
            WHERE job.id = ANY (job_ids) ORDER BY job.id FOR NO KEY UPDATE SKIP LOCKED
        ) AS j;
        IF cardinality(locked) = cardinality(job_ids) THEN
            RETURN '{}';
        END IF;
        RETURN (SELECT coalesce(array_agg(DISTINCT job.id), '{}')
                FROM unnest(job_ids) AS wanted (id) JOIN oban.oban_jobs AS job ON job.id = wanted.id
                LEFT JOIN unnest(locked) AS got (id) ON got.id = wanted.id
                WHERE got.id IS NULL);
    END IF;
    IF patience > 0 THEN
        PERFORM set_config('lock_timeout', patience::text, true);
    END IF;
    PERFORM FROM oban.oban_jobs AS job
    WHERE job.id = ANY (job_ids) ORDER BY job.id FOR NO KEY UPDATE;
    RETURN '{}';
END;
$$;

-- The inboxes after a delivery; see ledger.evolve.
CREATE OR REPLACE FUNCTION ledger.inboxes_after(inboxes ledger.inbox[], channel text, version integer)
RETURNS ledger.inbox[]
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    inbox ledger.inbox := ledger.inbox_of(inboxes, channel);
BEGIN
    RETURN ledger.with_inbox(inboxes, channel, ROW(
        channel, coalesce(inbox.pending, 0) + 1, coalesce(inbox.after, version - 1))::ledger.inbox);
END;
$$;

-- Deliver the signals that need no look at earlier ones, all in one statement: they are new, have no key, and are the only
-- one of the batch for their job, whose run has not ended. So nothing can be refused, but for a call to a job that is left
-- out. What it does for each is what ledger.deliver_others does, at a fraction of the cost.
--
-- Rows, one for each place that it has served; see ledger.deliver. is_told is whether the job is to be woken or told.
CREATE OR REPLACE FUNCTION ledger.deliver_new(
    moment timestamptz, calls integer[], first_tries boolean[], job_ids bigint[], signal_ids text[], channels text[],
    payloads bytea[], digests text[], keys text[], sources text[], left_out bigint[]
) RETURNS TABLE (
    place bigint, outcome text, version integer, signal_id text, reason text, job_id bigint, is_told boolean
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH new AS MATERIALIZED (
        SELECT d.place, d.call, d.job_id, d.signal_id, d.channel, d.digest, d.source, j.state::text AS job_state,
               coalesce(w.run, 1) AS run, coalesce(w.version, 0) + 1 AS version, w.job_id IS NULL AS is_first,
               greatest(moment, w.recorded_at) AS recorded_at, coalesce(w.inboxes, '{}') AS inboxes, w.status,
               w.current = d.channel AND w.execution = ledger.to_execution(j.attempted_at)
                   AND (w.deadline_at IS NULL OR greatest(moment, w.recorded_at) <= w.deadline_at) AS is_awaited
        FROM (
            SELECT u.*, count(*) OVER (PARTITION BY u.job_id) AS of_job,
                   bool_or(u.job_id = ANY (left_out)) OVER (PARTITION BY u.call) AS is_left_out
            FROM unnest(calls, first_tries, job_ids, signal_ids, channels, digests, keys, sources) WITH ORDINALITY
                AS u (call, first_try, job_id, signal_id, channel, digest, key, source, place)
        ) AS d
        -- One look-up each by the key, whatever the planner thinks of the tables.
        LEFT JOIN LATERAL (
            SELECT job.id, job.state, job.attempted_at FROM oban.oban_jobs AS job WHERE job.id = d.job_id OFFSET 0
        ) AS j ON true
        LEFT JOIN LATERAL (
            SELECT * FROM ledger.waits AS state WHERE state.job_id = d.job_id OFFSET 0
        ) AS w ON true
        WHERE d.of_job = 1 AND d.first_try AND d.key IS NULL AND NOT d.is_left_out
          AND w.status IS DISTINCT FROM 'closed'
          -- The projection may have been dropped.
          AND (w.job_id IS NOT NULL OR NOT EXISTS (SELECT FROM ledger.events AS e WHERE e.job_id = d.job_id))
    ), told AS MATERIALIZED (
        SELECT n.*, CASE
            WHEN n.job_state IS NULL OR ledger.is_terminal(n.job_state) THEN 'ignored'
            WHEN n.is_awaited AND n.status = 'snoozed' AND n.job_state = 'scheduled' THEN 'woken'
            WHEN n.is_awaited AND n.status = 'live' AND n.job_state = 'executing' THEN 'live'
            ELSE 'buffered' END AS outcome
        FROM new AS n
    ), appended AS (
        INSERT INTO ledger.events (
            job_id, version, run, kind, schema_version, recorded_at, channel, signal_id, source, outcome, payload,
            payload_digest, checksum
        )
        SELECT t.job_id, t.version, t.run, 'delivered', 1, t.recorded_at, t.channel, t.signal_id, t.source, t.outcome,
               payloads[t.call], t.digest,
               ledger.checksum(ROW(
                   NULL, NULL, t.job_id, t.version, t.run, 'delivered', 1, t.recorded_at, NULL, NULL, t.channel, NULL,
                   t.signal_id, NULL, NULL, t.source, NULL, NULL, t.outcome, NULL, t.digest, NULL)::ledger.events)
        FROM told AS t WHERE t.outcome <> 'ignored' ORDER BY t.place
    ), changed AS (
        UPDATE ledger.waits AS w
        SET version = t.version,
            recorded_at = t.recorded_at,
            status = CASE WHEN t.outcome = 'woken' THEN 'idle' ELSE w.status END,
            inboxes = CASE WHEN t.inboxes = '{}' THEN ARRAY[ROW(t.channel, 1, t.version - 1)::ledger.inbox]
                           ELSE ledger.inboxes_after(t.inboxes, t.channel, t.version) END
        FROM told AS t WHERE w.job_id = t.job_id AND t.outcome <> 'ignored'
    ), made AS (
        INSERT INTO ledger.waits
        SELECT t.job_id, t.run, t.version, t.recorded_at, 'idle', NULL, NULL, NULL, NULL, 0, '{}',
               ARRAY[ROW(t.channel, 1, t.version - 1)::ledger.inbox], 1
        FROM told AS t WHERE t.is_first AND t.outcome <> 'ignored'
    )
    SELECT t.place, t.outcome, CASE WHEN t.outcome <> 'ignored' THEN t.version END,
           CASE WHEN t.outcome <> 'ignored' THEN t.signal_id END,
           CASE WHEN t.outcome = 'ignored' THEN coalesce(t.job_state, 'missing') END, t.job_id,
           t.outcome IN ('woken', 'live')
    FROM told AS t;
END;
$$;

-- Deliver the other signals of a batch, one after the other, in the order of their places.
--
-- Parameters: those of ledger.deliver; the places that ledger.deliver_new has served; the jobs that are held, and those
-- whose streams a newer version of the library has written to. Rows: as those of ledger.deliver_new.
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
    event   ledger.events;
    told    text;
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
        event := NULL;
        event.recorded_at := greatest(moment, state.recorded_at);
        told := 'buffered';
        -- Only a signal on the awaited channel, by the deadline, to the execution that waits resumes it (W5).
        IF state.current = given.channel AND job.execution = state.execution
           AND (state.deadline_at IS NULL OR event.recorded_at <= state.deadline_at) THEN
            IF state.status = 'snoozed' AND job.state = 'scheduled' THEN
                told := 'woken';
            ELSIF state.status = 'live' AND job.state = 'executing' THEN
                told := 'live';
            END IF;
        END IF;
        event.run := ledger.open_run(state);
        event.kind := 'delivered';
        event.channel := given.channel;
        event.signal_id := given.signal_id;
        event.key := given.key;
        event.source := given.source;
        event.outcome := told;
        event.payload := payloads[given.call];
        event.payload_digest := given.digest;
        state := ledger.append(state, event);
        PERFORM ledger.save(state);
        outcome := told;
        is_told := told IN ('woken', 'live');
        version := state.version;
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
-- Rows, one for each delivery, in the order of their places:
--   outcome      woken, live, buffered, duplicate, ignored; for each delivery of a call of which nothing was written:
--                conflict, newer, held
--   version, signal_id, reason   of the receipt; for a conflict, reason is what differs
CREATE OR REPLACE FUNCTION ledger.deliver(
    calls integer[], first_tries boolean[], job_ids bigint[], signal_ids text[], channels text[], payloads bytea[],
    digests text[], keys text[], key_ids text[], sources text[], patience integer DEFAULT NULL
) RETURNS TABLE (outcome text, version integer, signal_id text, reason text, job_id bigint)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    moment    timestamptz;
    held      bigint[];
    newer     bigint[];
    served    bigint[];
    outcomes  text[];
    versions  integer[];
    ids       text[];
    reasons   text[];
    jobs      bigint[];
    are_told  boolean[];
    others    record;
    woken     bigint[];
    hinted    bigint[];
BEGIN
    PERFORM ledger.begin_writing();
    -- The jobs' locks first, in ascending order, before the time is read: no event is recorded before its turn (W7).
    held := ledger.lock(job_ids, patience);
    moment := ledger.clock();
    SELECT coalesce(array_agg(w.job_id), '{}') INTO newer
    FROM ledger.waits AS w WHERE w.job_id = ANY (job_ids) AND w.schema_version > 1;
    SELECT coalesce(array_agg(n.place), '{}'), array_agg(n.outcome), array_agg(n.version), array_agg(n.signal_id),
           array_agg(n.reason), array_agg(n.job_id), array_agg(n.is_told)
    INTO served, outcomes, versions, ids, reasons, jobs, are_told
    FROM ledger.deliver_new(
        moment, calls, first_tries, job_ids, signal_ids, channels, payloads, digests, keys, sources, held || newer) AS n;
    IF cardinality(served) < cardinality(job_ids) THEN
        SELECT array_agg(o.place) AS places, array_agg(o.outcome) AS outcomes, array_agg(o.version) AS versions,
               array_agg(o.signal_id) AS ids, array_agg(o.reason) AS reasons, array_agg(o.job_id) AS jobs,
               array_agg(o.is_told) AS are_told
        INTO others
        FROM ledger.deliver_others(
            moment, calls, first_tries, job_ids, signal_ids, channels, payloads, digests, keys, key_ids, sources, served,
            held, newer) AS o;
        served := served || others.places; outcomes := outcomes || others.outcomes;
        versions := versions || others.versions; ids := ids || others.ids; reasons := reasons || others.reasons;
        jobs := jobs || others.jobs; are_told := are_told || others.are_told;
    END IF;
    SELECT array_agg(t.job_id) FILTER (WHERE t.outcome = 'woken'), array_agg(t.job_id) FILTER (WHERE t.outcome = 'live')
    INTO woken, hinted
    FROM unnest(outcomes, jobs, are_told) AS t (outcome, job_id, is_told) WHERE t.is_told;
    IF woken IS NOT NULL THEN
        PERFORM ledger.wake(woken, moment);
    END IF;
    IF hinted IS NOT NULL THEN
        PERFORM ledger.hint(hinted);
    END IF;
    RETURN QUERY
        SELECT r.outcome, r.version, r.signal_id, r.reason, r.job_id
        FROM unnest(served, outcomes, versions, ids, reasons, jobs)
            AS r (place, outcome, version, signal_id, reason, job_id)
        ORDER BY r.place;
END;
$$;
