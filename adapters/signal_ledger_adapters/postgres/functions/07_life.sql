-- What the jobs' own life means for the log: ends, cancels, repairs.
--
-- The triggers run with the rights of the schema's owner: whoever may change a job, the log hears of it. Nobody else may
-- make a trigger of these functions, which would record the end of jobs that go on.

-- Append the end of a job's run, if the run left events.
CREATE OR REPLACE FUNCTION ledger.close(job_id bigint, cause text, execution bigint, attempt integer) RETURNS void
LANGUAGE plpgsql
AS $$
#variable_conflict use_variable
DECLARE
    state ledger.waits;
    event ledger.events;
BEGIN
    -- What ledger.append, ledger.evolve and ledger.save do, in two statements.
    UPDATE ledger.waits AS w
    SET version = w.version + 1, recorded_at = greatest(ledger.clock(), w.recorded_at), status = 'closed', current = NULL,
        ordinal = NULL, since = NULL, deadline_at = NULL, execution = 0, waits = '{}', inboxes = '{}'
    WHERE w.job_id = close.job_id AND w.version > 0 AND w.status <> 'closed'
      AND w.schema_version <= ledger.newest_schema_version()
    RETURNING w.* INTO state;
    IF FOUND THEN
        INSERT INTO ledger.events (
            job_id, version, run, kind, schema_version, recorded_at, execution, attempt, cause, checksum
        ) VALUES (
            job_id, state.version, state.run, 'closed', 1, state.recorded_at, execution, attempt, cause,
            ledger.checksum_of(
                job_id, state.version, state.run, 'closed', 1, state.recorded_at, execution, attempt, NULL, NULL, NULL,
                NULL, NULL, NULL, NULL, cause, NULL, NULL)
        );
        RETURN;
    END IF;
    state := ledger.state_of(job_id);
    IF state.version = 0 OR state.status = 'closed' THEN
        RETURN;
    END IF;
    IF state.schema_version > ledger.newest_schema_version() THEN
        RAISE EXCEPTION 'signal_ledger L8: a newer version of the library has written to the stream of job %', job_id;
    END IF;
    -- The projection was dropped.
    event.recorded_at := greatest(ledger.clock(), state.recorded_at);
    event.run := state.run;
    event.kind := 'closed';
    event.execution := execution;
    event.attempt := attempt;
    event.cause := cause;
    PERFORM ledger.save(ledger.append(state, event));
END;
$$;

-- Trigger: a job ended, was deleted while alive, or is retried after its end (promise W10). A fault here must never stop
-- Oban's own statement (promise L3): the job is noted for repair, and at the worst a warning is all that is left of it.
--
-- It is one trigger for all three, since every UPDATE of a state pays for the condition of each.
CREATE OR REPLACE FUNCTION ledger.job_moved() RETURNS trigger
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
            DELETE FROM ledger.cancels AS c WHERE c.job_id = OLD.id;
            -- A transaction that may not see the newest event notes the job, too.
            PERFORM ledger.require_read_committed();
            IF TG_OP = 'DELETE' THEN
                PERFORM ledger.close(OLD.id, ended_as, ledger.to_execution(OLD.attempted_at), OLD.attempt);
            ELSE
                PERFORM ledger.close(OLD.id, ended_as, ledger.to_execution(NEW.attempted_at), NEW.attempt);
            END IF;
            -- Few jobs are steps: this one look-up is all that they cost the others.
            PERFORM FROM ledger.steps AS s WHERE s.job_id = OLD.id;
            IF FOUND THEN
                PERFORM ledger.end_step(OLD.id, ended_as);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            BEGIN
                DELETE FROM ledger.cancels AS c WHERE c.job_id = OLD.id;
                INSERT INTO ledger.repairs (job_id, cause, noted_at) VALUES (OLD.id, ended_as, clock_timestamp())
                ON CONFLICT (job_id) DO NOTHING;
            EXCEPTION WHEN OTHERS THEN
                RAISE WARNING 'signal_ledger: the end of job % could not be noted: %', OLD.id, SQLERRM;
            END;
        END;
    ELSE
        -- If the end of the old run is not in the log, it is appended now, or the new run's events would belong to it.
        BEGIN
            SELECT r.cause INTO noted_as FROM ledger.repairs AS r WHERE r.job_id = OLD.id;
            PERFORM ledger.close(
                OLD.id, coalesce(noted_as, ended_as), ledger.to_execution(OLD.attempted_at), OLD.attempt);
            IF noted_as IS NOT NULL THEN
                UPDATE ledger.steps AS s SET ended_as = noted_as, ended_at = ledger.clock()
                WHERE s.job_id = OLD.id AND s.ended_as IS NULL;
            END IF;
            PERFORM ledger.revive_step(OLD.id);
            IF noted_as IS NOT NULL THEN
                -- Needs the locks of other jobs, without which the new run begins all the same.
                BEGIN
                    PERFORM ledger.tell_dependants_of(OLD.id, noted_as);
                    DELETE FROM ledger.repairs AS r WHERE r.job_id = OLD.id;
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
CREATE OR REPLACE FUNCTION ledger.cancel_requested() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    BEGIN
        INSERT INTO ledger.cancels (job_id, requested_at) VALUES (NEW.id, clock_timestamp())
        ON CONFLICT (job_id) DO NOTHING;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'signal_ledger: the cancel of job % could not be noted: %', NEW.id, SQLERRM;
    END;
    RETURN NULL;
END;
$$;

-- Trigger: a waiting job leaves its sleep, by whatever path (promise W14); and a job that was cancelled while it
-- executed is rescued, which honours the cancel (promise W12).
CREATE OR REPLACE FUNCTION ledger.job_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.meta := ledger.without_wait_until(NEW.meta);
    IF OLD.state = 'executing' AND NEW.state = 'available' THEN
        BEGIN
            IF EXISTS (SELECT FROM ledger.cancels AS c WHERE c.job_id = NEW.id) THEN
                NEW.state := 'cancelled';
                NEW.cancelled_at := timezone('UTC', ledger.clock());
                -- Without what the rescue notes in it, that there was one.
                NEW.meta := ledger.without_wait_until(OLD.meta);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'signal_ledger: whether job % was cancelled could not be seen: %', NEW.id, SQLERRM;
        END;
    END IF;
    RETURN NEW;
END;
$$;

CREATE OR REPLACE TRIGGER signal_ledger_changes
    BEFORE UPDATE OF state ON oban.oban_jobs FOR EACH ROW
    WHEN ((NEW.meta ? 'wait_until' AND NEW.state <> 'scheduled')
          OR (OLD.state = 'executing' AND NEW.state = 'available'))
    EXECUTE FUNCTION ledger.job_changes();

CREATE OR REPLACE TRIGGER signal_ledger_moved
    AFTER UPDATE OF state ON oban.oban_jobs FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND (OLD.state IN ('completed', 'cancelled', 'discarded')
                                      OR NEW.state IN ('completed', 'cancelled', 'discarded')))
    EXECUTE FUNCTION ledger.job_moved();

CREATE OR REPLACE TRIGGER signal_ledger_deleted
    AFTER DELETE ON oban.oban_jobs FOR EACH ROW
    WHEN (OLD.state NOT IN ('completed', 'cancelled', 'discarded'))
    EXECUTE FUNCTION ledger.job_moved();

CREATE OR REPLACE TRIGGER signal_ledger_cancel_requested
    AFTER UPDATE OF cancelled_at ON oban.oban_jobs FOR EACH ROW
    WHEN (OLD.state = 'executing' AND NEW.state = 'executing')
    EXECUTE FUNCTION ledger.cancel_requested();

-- Trigger: a job that does not execute is retried by hand, which withdraws a cancel that was asked of an earlier
-- execution. Of Oban's statements only that one names max_attempts and makes a job available.
CREATE OR REPLACE FUNCTION ledger.job_retried() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    BEGIN
        DELETE FROM ledger.cancels AS c WHERE c.job_id = NEW.id;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'signal_ledger: the cancel of job % could not be withdrawn: %', NEW.id, SQLERRM;
    END;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE TRIGGER signal_ledger_retried
    AFTER UPDATE OF max_attempts ON oban.oban_jobs FOR EACH ROW
    WHEN (OLD.state NOT IN ('available', 'executing') AND NEW.state = 'available')
    EXECUTE FUNCTION ledger.job_retried();

REVOKE EXECUTE ON FUNCTION
    ledger.job_moved(), ledger.job_changes(), ledger.cancel_requested(), ledger.job_retried()
FROM PUBLIC;

-- Make up for the end of a job that was noted. Call it under the job's lock.
CREATE OR REPLACE FUNCTION ledger.repair_job(job_id bigint, cause text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    job record;
BEGIN
    SELECT j.attempted_at, j.attempt, j.state INTO job FROM oban.oban_jobs AS j WHERE j.id = repair_job.job_id;
    -- One that was taken up again has a new run since, with signals of its own: that is not what ended.
    IF NOT FOUND OR ledger.is_terminal(job.state::text) THEN
        PERFORM ledger.close(job_id, cause, ledger.to_execution(job.attempted_at), coalesce(job.attempt, 0));
        UPDATE ledger.steps AS s SET ended_as = cause, ended_at = ledger.clock()
        WHERE s.job_id = repair_job.job_id AND s.ended_as IS NULL;
    END IF;
    PERFORM ledger.tell_dependants_of(job_id, cause);
    DELETE FROM ledger.repairs AS r WHERE r.job_id = repair_job.job_id;
END;
$$;

-- Append the closed events that could not be appended when their jobs ended. Returns how many were appended.
--
-- One that fails again waits for a minute. Streams that only a newer version of the library can read stay on the list,
-- and nothing is written for them.
CREATE OR REPLACE FUNCTION ledger.repair(most integer) RETURNS integer
LANGUAGE plpgsql SET lock_timeout = '100ms'
AS $$
DECLARE
    noted record;
    count integer := 0;
BEGIN
    FOR noted IN
        SELECT r.job_id, r.cause FROM ledger.repairs AS r LEFT JOIN ledger.waits AS w ON w.job_id = r.job_id
        WHERE r.noted_at <= clock_timestamp() AND coalesce(w.schema_version, 1) <= ledger.newest_schema_version()
        ORDER BY r.noted_at, r.job_id LIMIT most
    LOOP
        BEGIN
            CONTINUE WHEN (ledger.state_of(noted.job_id)).schema_version > ledger.newest_schema_version();
            -- Hardly waits for a lock: the stager's tick does not begin before this is done.
            PERFORM FROM oban.oban_jobs AS j WHERE j.id = noted.job_id FOR NO KEY UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND AND EXISTS (SELECT FROM oban.oban_jobs AS j WHERE j.id = noted.job_id);
            PERFORM FROM ledger.repairs AS r WHERE r.job_id = noted.job_id FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
            PERFORM ledger.repair_job(noted.job_id, noted.cause);
            count := count + 1;
        EXCEPTION
        WHEN lock_not_available OR deadlock_detected THEN
            -- Somebody holds a job that depends on this one. In a second is as good.
            NULL;
        WHEN OTHERS THEN
            UPDATE ledger.repairs AS r SET noted_at = clock_timestamp() + interval '1 minute'
            WHERE r.job_id = noted.job_id;
            RAISE WARNING 'signal_ledger: the end of job % cannot be appended: %', noted.job_id, SQLERRM;
        END;
    END LOOP;
    RETURN count;
END;
$$;

-- Release the waits whose deadline has passed, in this tick of the stager and not in the next.
CREATE OR REPLACE FUNCTION ledger.release_due(most integer) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    due bigint[];
BEGIN
    SELECT array_agg(found.id) INTO due FROM (
        SELECT j.id FROM oban.oban_jobs AS j
        WHERE j.state = 'scheduled' AND j.scheduled_at <= timezone('UTC', now()) AND j.meta ? 'wait_until'
        -- In the order of Oban's index for staging, which has no entries of jobs that have left their sleep.
        ORDER BY j.scheduled_at, j.id LIMIT most FOR NO KEY UPDATE SKIP LOCKED
    ) AS found;
    IF due IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM ledger.wake(due, now());
    RETURN cardinality(due);
END;
$$;

-- What is done every second, before the stager's tick. Writes nothing when nothing is due. Returns how many ends of runs
-- were appended that had been missing.
CREATE OR REPLACE FUNCTION ledger.tick(most integer) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    repaired integer;
BEGIN
    PERFORM ledger.release_due(most);
    repaired := ledger.repair(most);
    PERFORM ledger.forget_traces(most);
    RETURN repaired;
END;
$$;

-- What live waits should know: those that have a signal on the awaited channel, a cancel, or a newer execution.
CREATE OR REPLACE FUNCTION ledger.look(job_ids bigint[], executions bigint[]) RETURNS TABLE (job_id bigint)
LANGUAGE sql STABLE
AS $$
    SELECT asked.job_id
    FROM unnest(job_ids, executions) AS asked (job_id, execution)
    LEFT JOIN oban.oban_jobs AS j ON j.id = asked.job_id
    LEFT JOIN ledger.waits AS w ON w.job_id = asked.job_id
    LEFT JOIN ledger.cancels AS c ON c.job_id = asked.job_id
    WHERE c.job_id IS NOT NULL
       -- A job that has never waited has no state yet.
       OR (w.job_id IS NOT NULL AND w.inboxes <> '{}' AND (ledger.inbox_of(w.inboxes, w.current)).channel IS NOT NULL)
       OR j.state IS DISTINCT FROM 'executing'
       OR ledger.to_execution(j.attempted_at) <> asked.execution
$$;

-- Fold the next streams anew and store their states, and the steps that they tell of. Returns the jobs; NULL when there
-- are none behind `after`.
CREATE OR REPLACE FUNCTION ledger.rebuild(after bigint, most integer) RETURNS bigint[]
LANGUAGE plpgsql
AS $$
DECLARE
    found bigint[];
    here  bigint;
BEGIN
    PERFORM ledger.begin_writing();
    WITH RECURSIVE streams AS (
        (SELECT e.job_id, 1 AS place FROM ledger.events AS e WHERE e.job_id > after ORDER BY e.job_id LIMIT 1)
        UNION ALL
        SELECT (SELECT e.job_id FROM ledger.events AS e WHERE e.job_id > s.job_id ORDER BY e.job_id LIMIT 1), s.place + 1
        FROM streams AS s WHERE s.job_id IS NOT NULL AND s.place < most
    )
    SELECT array_agg(s.job_id ORDER BY s.job_id) INTO found FROM streams AS s WHERE s.job_id IS NOT NULL;
    IF found IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM FROM oban.oban_jobs AS j WHERE j.id = ANY (found) ORDER BY j.id FOR NO KEY UPDATE;
    -- Jobs that are gone cannot be locked, and the end of their run may be appended just now: their states are locked.
    INSERT INTO ledger.waits
    SELECT s.* FROM unnest(found) AS missing (id), ledger.new_state(missing.id, 1) AS s ORDER BY missing.id
    ON CONFLICT (job_id) DO NOTHING;
    PERFORM FROM ledger.waits AS w WHERE w.job_id = ANY (found) ORDER BY w.job_id FOR UPDATE;
    FOREACH here IN ARRAY found LOOP
        PERFORM ledger.save(ledger.fold(here));
    END LOOP;
    PERFORM ledger.rebuild_steps(found);
    RETURN found;
END;
$$;

-- Delete the stored states, and the steps, that have no stream.
CREATE OR REPLACE FUNCTION ledger.drop_orphans() RETURNS void
LANGUAGE sql
AS $$
    DELETE FROM ledger.waits AS w WHERE NOT EXISTS (SELECT FROM ledger.events AS e WHERE e.job_id = w.job_id);
    WITH gone AS (
        DELETE FROM ledger.steps AS s
        WHERE s.job_id IS NOT NULL AND NOT EXISTS (SELECT FROM ledger.events AS e WHERE e.job_id = s.job_id)
        RETURNING s.workflow_id, s.name
    )
    DELETE FROM ledger.edges AS e USING gone AS g WHERE e.workflow_id = g.workflow_id AND e.name = g.name;
$$;

-- Empty the ledger, as Oban's own reset empties its tables and lets ids begin anew. For tests (promise L1).
CREATE OR REPLACE FUNCTION ledger.reset() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT (SELECT s.testing FROM ledger.settings AS s) THEN
        RAISE EXCEPTION 'signal_ledger L1: reset is refused, the ledger''s schema was not made with testing=True';
    END IF;
    TRUNCATE ledger.events, ledger.waits, ledger.cancels, ledger.repairs, ledger.outbox, ledger.steps, ledger.edges,
        ledger.ends, ledger.blocks, ledger.traces;
END;
$$;
