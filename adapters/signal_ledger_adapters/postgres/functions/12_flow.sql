-- How steps of workflows begin and end: signal_ledger.embedded.flow, in the database; see docs/adr/0016-workflows.md.
--
-- Whoever changes a step holds the lock on its job, if there is one; and locks jobs, then steps, each in ascending order
-- of their jobs' ids. What is decided is read by the statement after that.
--
-- Every look-up goes by a whole key, whatever the planner thinks of tables that were small when it looked: that is what
-- the settings are for, and the subqueries with OFFSET 0. Those hide that all rows are of one workflow, lest all that it
-- has is read.

-- Append the plan of a job to its stream. Call it under the job's lock.
CREATE OR REPLACE FUNCTION ledger.append_plan(job_id bigint, plan text, moment timestamptz) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    state ledger.waits := ledger.state_of(append_plan.job_id);
    event ledger.events;
BEGIN
    IF state.schema_version > ledger.newest_schema_version() THEN
        RAISE EXCEPTION 'signal_ledger L8: a newer version of the library has written to the stream of job %', job_id
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    event.kind := 'planned';
    event.run := ledger.open_run(state);
    event.recorded_at := greatest(moment, state.recorded_at);
    event.plan := append_plan.plan;
    PERFORM ledger.save(ledger.append(state, event));
END;
$$;

-- Jobs that were made available: tell Oban's queues, once for each.
CREATE OR REPLACE FUNCTION ledger.announce(job_ids bigint[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    queue text;
BEGIN
    FOR queue IN
        SELECT DISTINCT job.queue
        FROM unnest(job_ids) AS wanted (id),
             LATERAL (SELECT j.queue, j.state FROM oban.oban_jobs AS j WHERE j.id = wanted.id OFFSET 0) AS job
        WHERE job.state = 'available'
    LOOP
        PERFORM ledger.notify('insert', json_build_object('queue', queue));
    END LOOP;
END;
$$;

-- Let the dependants of steps that have ended go on without them, or be cancelled, and so on to their own dependants:
-- level by level (promises F2, F3).
--
-- Parameters: the workflow; the steps, and how each ended, in the order in which their dependants are to hear of it.
CREATE OR REPLACE FUNCTION ledger.tell_dependants(workflow_id text, deps text[], causes text[]) RETURNS void
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
            UPDATE ledger.edges AS e SET ended_as = level.cause
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
            JOIN ledger.steps AS s ON s.workflow_id = told.workflow_id AND s.name = told.name
        ) AS dependant;
        PERFORM FROM oban.oban_jobs AS j WHERE j.id = ANY (job_ids) ORDER BY j.id FOR NO KEY UPDATE;
        PERFORM FROM ledger.steps AS s WHERE s.job_id = ANY (job_ids) ORDER BY s.job_id FOR NO KEY UPDATE;
        WITH lowered AS (
            UPDATE ledger.steps AS s SET held = s.held - told.count
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
            WHERE NOT EXISTS (SELECT FROM ledger.waits AS w WHERE w.job_id = wanted.id)
        LOOP
            PERFORM ledger.save(ledger.fold(missing));
        END LOOP;
        moment := ledger.clock();
        -- What ledger.append, ledger.evolve and ledger.save do, for all dependants at once. A stream that a newer version
        -- of the library has written to is that version's: the step goes on all the same.
        WITH edge AS MATERIALIZED (
            SELECT s.job_id, s.name, s.held, e.dep, e.cause, e.place, max(e.place) OVER of_step AS last_at,
                   min(e.place) FILTER (WHERE e.cause <> 'completed' AND e.cause <> ALL (s.ignore))
                       OVER of_step AS failed_at
            FROM (SELECT tell_dependants.workflow_id, n.*
                  FROM unnest(ended.names, ended.deps, ended.causes, ended.places) AS n (name, dep, cause, place)
                  OFFSET 0) AS e
            JOIN ledger.steps AS s ON s.workflow_id = e.workflow_id AND s.name = e.name
            JOIN oban.oban_jobs AS j ON j.id = s.job_id AND j.state = 'suspended'
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
            FROM tale AS t JOIN ledger.waits AS w ON w.job_id = t.job_id
            WHERE w.schema_version <= ledger.newest_schema_version()
        ), appended AS (
            INSERT INTO ledger.events (job_id, version, run, kind, schema_version, recorded_at, cause, dep, checksum)
            SELECT e.job_id, e.version, e.run, e.kind, 2, e.recorded_at, e.cause, e.dep, ledger.checksum_of_step(
                       e.job_id, e.version, e.run, e.kind, 2, e.recorded_at, e.cause, e.dep, NULL)
            FROM event AS e ORDER BY e.job_id, e.version
        ), saved AS (
            UPDATE ledger.waits AS w
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
            UPDATE oban.oban_jobs AS j
            SET state = CASE WHEN j.scheduled_at > timezone('UTC', moment) THEN 'scheduled' ELSE 'available' END
                ::oban.oban_job_state
            FROM unnest(told.released) AS wanted (id) WHERE j.id = wanted.id;
            PERFORM ledger.announce(told.released);
        END IF;
        IF told.cancelled IS NULL THEN
            RETURN;
        END IF;
        -- They have ended before the triggers of their jobs look: these only close their runs, and their dependants are
        -- the next level. A thousand levels of triggers that call triggers would be a thousand calls deep.
        UPDATE ledger.steps AS s SET ended_as = 'cancelled', ended_at = moment
        FROM unnest(told.cancelled) AS wanted (id) WHERE s.job_id = wanted.id;
        UPDATE oban.oban_jobs AS j
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

-- Note how a step ended. Those that depend on it are told at the commit, by ledger.tell_ends.
CREATE OR REPLACE FUNCTION ledger.end_step(job_id bigint, cause text) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    ended record;
BEGIN
    UPDATE ledger.steps AS s SET ended_as = cause, ended_at = ledger.clock()
    WHERE s.job_id = end_step.job_id AND s.ended_as IS NULL
    RETURNING s.workflow_id, s.name INTO ended;
    IF FOUND THEN
        INSERT INTO ledger.ends (job_id, workflow_id, name, cause) VALUES (job_id, ended.workflow_id, ended.name, cause);
    END IF;
END;
$$;

-- Tell those that depend on a job, if it is a step, of an end of which they could not be told.
CREATE OR REPLACE FUNCTION ledger.tell_dependants_of(job_id bigint, cause text) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off
AS $$
DECLARE
    ended record;
BEGIN
    SELECT s.workflow_id, s.name INTO ended FROM ledger.steps AS s WHERE s.job_id = tell_dependants_of.job_id;
    IF FOUND THEN
        PERFORM ledger.tell_dependants(ended.workflow_id, ARRAY[ended.name], ARRAY[cause]);
    END IF;
END;
$$;

-- Trigger, at the commit: tell the dependants of all steps that have ended in the transaction, in the order of their jobs.
-- The first end speaks for all. So the dependants of many are told once, their jobs are locked in ascending order, and
-- for moments.
--
-- A fault must not stop the commit, which is one of Oban's (promise L3): the ends are noted for repair.
CREATE OR REPLACE FUNCTION ledger.tell_ends() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
    -- Statement timeouts do not end a commit. Whoever keeps a dependant locked must not keep Oban's acknowledgements, too.
    SET lock_timeout = '1s'
AS $$
DECLARE
    ended record;
BEGIN
    IF NOT EXISTS (SELECT FROM ledger.ends AS e WHERE e.place = NEW.place) THEN
        RETURN NULL;
    END IF;
    BEGIN
        FOR ended IN
            WITH own AS (
                DELETE FROM ledger.ends AS e WHERE e.place >= NEW.place RETURNING e.*
            ), first AS (
                -- Of a job that ended, was retried and ended again.
                SELECT DISTINCT ON (o.job_id) o.* FROM own AS o ORDER BY o.job_id, o.place
            )
            SELECT f.workflow_id, array_agg(f.name ORDER BY f.job_id) AS names,
                   array_agg(f.cause ORDER BY f.job_id) AS causes
            FROM first AS f GROUP BY f.workflow_id ORDER BY f.workflow_id
        LOOP
            PERFORM ledger.tell_dependants(ended.workflow_id, ended.names, ended.causes);
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            RAISE WARNING 'signal_ledger: the dependants of a step are told later: %', SQLERRM;
            WITH own AS (DELETE FROM ledger.ends AS e WHERE e.place >= NEW.place RETURNING e.*)
            INSERT INTO ledger.repairs (job_id, cause, noted_at)
            SELECT DISTINCT ON (o.job_id) o.job_id, o.cause, clock_timestamp() FROM own AS o ORDER BY o.job_id, o.place
            ON CONFLICT (job_id) DO NOTHING;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'signal_ledger: the end of step %, job %, could not be noted: %', NEW.name, NEW.job_id, SQLERRM;
        END;
    END;
    RETURN NULL;
END;
$$;

DROP TRIGGER IF EXISTS tell_ends ON ledger.ends;
CREATE CONSTRAINT TRIGGER tell_ends AFTER INSERT ON ledger.ends DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION ledger.tell_ends();

-- A plan as the log holds it; see signal_ledger.plan.Plan.text.
CREATE OR REPLACE FUNCTION ledger.plan_text(workflow_id text, workflow_name text, name text, deps text[], ignore text[])
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
CREATE OR REPLACE FUNCTION ledger.next_plan(workflow_id text, name text, plan text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT ledger.plan_text(
        workflow_id, plan::jsonb ->> 'workflow_name', name,
        ARRAY(SELECT e.dep FROM ledger.edges AS e
              WHERE e.workflow_id = next_plan.workflow_id AND e.name = next_plan.name AND e.ended_as IS NULL
              ORDER BY e.dep),
        ARRAY(SELECT jsonb_array_elements_text(plan::jsonb -> 'ignore')))
$$;

-- Begin a new run of a step that had ended, if the job is one. Its dependants have gone on without it.
CREATE OR REPLACE FUNCTION ledger.revive_step(job_id bigint) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    step record;
BEGIN
    UPDATE ledger.steps AS s SET ended_as = NULL, ended_at = NULL
    WHERE s.job_id = revive_step.job_id AND s.ended_as IS NOT NULL
    RETURNING s.workflow_id, s.name, s.plan INTO step;
    IF FOUND THEN
        PERFORM ledger.append_plan(
            job_id, ledger.next_plan(step.workflow_id, step.name, step.plan), ledger.clock());
    END IF;
END;
$$;

-- The plan that a job carries in its meta, under Oban's own names; see signal_ledger.plan.Plan.
--
-- Returns the columns of a step, the deps in the order in which they were given, and the plan as the log holds it. What
-- is incomplete, or of another type, is refused (SQLSTATE 22023).
CREATE OR REPLACE FUNCTION ledger.plan_of(
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
    plan := ledger.plan_text(workflow_id, meta ->> 'workflow_name', name, deps, ignore);
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
CREATE OR REPLACE FUNCTION ledger.job_planned() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    step   record := ledger.plan_of(NEW.meta);
    moment timestamptz := ledger.clock();
    ended  record;
BEGIN
    IF ledger.is_terminal(NEW.state::text) OR (NEW.state = 'suspended') <> (step.deps <> '{}') THEN
        RAISE EXCEPTION 'signal_ledger F1: workflow %, step %: expected state suspended if it has deps, and one of a job '
            'that may run if it has none; found state %, deps %', step.workflow_id, step.name, NEW.state, step.deps
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Whoever has just now enqueued the same step, or one that depends on it, is waited for.
    INSERT INTO ledger.steps AS s (workflow_id, name, job_id, plan, ignore, held, planned_at)
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
        PERFORM ledger.append_plan(NEW.id, step.plan, moment);
    ELSE
        INSERT INTO ledger.edges (workflow_id, dep, name)
        SELECT step.workflow_id, d.dep, step.name FROM unnest(step.deps) AS d (dep);
        -- A dep that is not there yet gets a row, on which whoever enqueues it waits until our edge can be seen.
        INSERT INTO ledger.steps (workflow_id, name)
        SELECT d.workflow_id, d.dep
        FROM (SELECT step.workflow_id, n.dep FROM unnest(step.deps) AS n (dep) OFFSET 0) AS d
        WHERE NOT EXISTS (SELECT FROM ledger.steps AS s WHERE s.workflow_id = d.workflow_id AND s.name = d.dep)
        ON CONFLICT (workflow_id, name) DO NOTHING;
        -- One that is ending is waited for, and one that ends later sees the edge.
        SELECT array_agg(e.name ORDER BY e.place) FILTER (WHERE e.ended_as IS NOT NULL) AS names,
               array_agg(e.ended_as ORDER BY e.place) FILTER (WHERE e.ended_as IS NOT NULL) AS causes
        INTO ended
        FROM (
            -- Without a condition on ended_as, which would be looked at before the lock is there.
            SELECT s.name, s.ended_as, d.place
            FROM (SELECT step.workflow_id, n.* FROM unnest(step.deps) WITH ORDINALITY AS n (dep, place) OFFSET 0) AS d
            JOIN ledger.steps AS s ON s.workflow_id = d.workflow_id AND s.name = d.dep
            FOR SHARE OF s
        ) AS e;
        -- Behind what was waited for, as ledger.edge_of reads the log.
        PERFORM ledger.append_plan(NEW.id, step.plan, moment);
        IF ended.names IS NOT NULL THEN
            PERFORM ledger.tell_dependants(step.workflow_id, ended.names, ended.causes);
        END IF;
    END IF;
    RETURN NULL;
END;
$$;

CREATE OR REPLACE TRIGGER signal_ledger_planned
    AFTER INSERT ON oban.oban_jobs FOR EACH ROW
    WHEN (NEW.meta -> 'workflow_id' IS NOT NULL)
    EXECUTE FUNCTION ledger.job_planned();

REVOKE EXECUTE ON FUNCTION ledger.job_planned(), ledger.tell_ends() FROM PUBLIC;

-- Take up steps again that have failed; see signal_ledger.steps.steps_to_retry. Those that have not, or whose jobs are
-- gone, are left as they are. Returns how many were taken up.
CREATE OR REPLACE FUNCTION ledger.retry_steps(workflow_id text, names text[]) RETURNS integer
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
    SET CONSTRAINTS ledger.tell_ends IMMEDIATE;
    SET CONSTRAINTS ledger.tell_ends DEFERRED;
    SELECT array_agg(found.job_id) INTO job_ids FROM (
        SELECT s.job_id
        FROM (SELECT DISTINCT retry_steps.workflow_id, n.name FROM unnest(names) AS n (name) OFFSET 0) AS wanted
        JOIN ledger.steps AS s ON s.workflow_id = wanted.workflow_id AND s.name = wanted.name
        WHERE s.job_id IS NOT NULL
    ) AS found;
    PERFORM FROM oban.oban_jobs AS j WHERE j.id = ANY (job_ids) ORDER BY j.id FOR NO KEY UPDATE;
    moment := ledger.begin_writing();
    -- Ends of which nobody has been told yet come first.
    FOR step IN SELECT r.job_id, r.cause FROM ledger.repairs AS r WHERE r.job_id = ANY (job_ids) ORDER BY r.job_id LOOP
        PERFORM ledger.repair_job(step.job_id, step.cause);
    END LOOP;
    PERFORM FROM ledger.steps AS s WHERE s.job_id = ANY (job_ids) ORDER BY s.job_id FOR NO KEY UPDATE;
    -- Marked by a number of deps that no step has.
    WITH marked AS (
        UPDATE ledger.steps AS s SET held = -1
        FROM unnest(job_ids) AS wanted (id) JOIN oban.oban_jobs AS j ON j.id = wanted.id
        WHERE s.job_id = wanted.id AND s.ended_as IN ('cancelled', 'discarded') AND ledger.is_terminal(j.state::text)
        RETURNING s.job_id, s.name
    )
    SELECT array_agg(m.job_id ORDER BY m.job_id) AS job_ids, array_agg(m.name) AS names INTO failed FROM marked AS m;
    IF failed.job_ids IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE ledger.edges AS e SET ended_as = NULL
    FROM (
        SELECT o.workflow_id, o.dep, o.name
        FROM (SELECT retry_steps.workflow_id, n.name FROM unnest(failed.names) AS n (name) OFFSET 0) AS again
        JOIN ledger.edges AS o ON o.workflow_id = again.workflow_id AND o.name = again.name
        JOIN ledger.steps AS dep ON dep.workflow_id = o.workflow_id AND dep.name = o.dep
        WHERE o.ended_as IS NOT NULL AND dep.held = -1
        OFFSET 0
    ) AS again
    WHERE e.workflow_id = again.workflow_id AND e.dep = again.dep AND e.name = again.name;
    -- Alive from now on: the trigger of their jobs finds nothing to revive.
    UPDATE ledger.steps AS s
    SET held = (SELECT count(*) FROM ledger.edges AS e
                WHERE e.workflow_id = s.workflow_id AND e.name = s.name AND e.ended_as IS NULL),
        ended_as = NULL, ended_at = NULL
    FROM unnest(failed.job_ids) AS again (id) WHERE s.job_id = again.id;
    -- As Oban's own retry. Its trigger closes the old run, if that is not done.
    UPDATE oban.oban_jobs AS j
    SET state = CASE WHEN s.held > 0 THEN 'suspended' ELSE 'available' END::oban.oban_job_state,
        max_attempts = greatest(j.max_attempts, j.attempt + 1), scheduled_at = timezone('UTC', moment),
        completed_at = NULL, cancelled_at = NULL, discarded_at = NULL,
        meta = CASE jsonb_typeof(j.meta)
               WHEN 'object' THEN jsonb_set(ledger.without_wait_until(j.meta), '{uniq_bmp}', '[]') ELSE j.meta END
    FROM unnest(failed.job_ids) AS again (id) JOIN ledger.steps AS s ON s.job_id = again.id
    WHERE j.id = again.id;
    FOR step IN
        SELECT s.job_id, ledger.next_plan(s.workflow_id, s.name, s.plan) AS plan
        FROM unnest(failed.job_ids) AS again (id) JOIN ledger.steps AS s ON s.job_id = again.id
        ORDER BY s.job_id
    LOOP
        PERFORM ledger.append_plan(step.job_id, step.plan, moment);
    END LOOP;
    PERFORM ledger.announce(failed.job_ids);
    RETURN cardinality(failed.job_ids);
END;
$$;

-- How the dep of a step ended, by the log, as the edge between them has it; NULL for one that has not.
--
-- The edge was opened by the step's first plan, and again by each later one that names the dep. It ended with the first end
-- of the dep after that; at once, if the dep had ended before the step came.
CREATE OR REPLACE FUNCTION ledger.edge_of(job_id bigint, dep_id bigint, dep text) RETURNS text
LANGUAGE plpgsql STABLE SET enable_seqscan = off
AS $$
DECLARE
    opened record;
    before record;
    cause  text;
BEGIN
    SELECT e.position, e.version INTO opened FROM ledger.events AS e
    WHERE e.job_id = edge_of.job_id AND e.kind = 'planned'
      AND (e.version = 1 OR e.plan::jsonb -> 'deps' ? edge_of.dep)
    ORDER BY e.version DESC LIMIT 1;
    IF opened.version = 1 THEN
        SELECT d.kind, d.cause INTO before FROM ledger.events AS d
        WHERE d.job_id = dep_id AND d.position < opened.position ORDER BY d.version DESC LIMIT 1;
        IF before.kind = 'closed' THEN
            RETURN before.cause;
        END IF;
    END IF;
    SELECT d.cause INTO cause FROM ledger.events AS d
    WHERE d.job_id = dep_id AND d.kind = 'closed' AND d.position > opened.position ORDER BY d.version LIMIT 1;
    IF cause IS NULL AND opened.version <> 1 THEN
        -- A dep that was ending while the later plan was made had its end appended before it, and committed behind it.
        SELECT CASE WHEN d.kind = 'closed' THEN d.cause END INTO cause FROM ledger.events AS d
        WHERE d.job_id = dep_id ORDER BY d.version DESC LIMIT 1;
    END IF;
    RETURN cause;
END;
$$;

-- Say whether the log has a plan by which a job is a step.
CREATE OR REPLACE FUNCTION ledger.is_planned_as(job_id bigint, workflow_id text, name text) RETURNS boolean
LANGUAGE sql STABLE SET enable_seqscan = off
AS $$
    SELECT EXISTS (
        SELECT FROM ledger.events AS p
        WHERE p.job_id = is_planned_as.job_id AND p.kind = 'planned'
          AND p.plan::jsonb ->> 'workflow_id' = is_planned_as.workflow_id AND p.plan::jsonb ->> 'name' = is_planned_as.name)
$$;

-- Keep the steps anew that these jobs are, by their streams. Call it under the locks of the jobs.
--
-- How a step ended, its job tells; one whose job is gone ended as its last run did.
CREATE OR REPLACE FUNCTION ledger.rebuild_steps(job_ids bigint[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off
AS $$
DECLARE
    found record;
BEGIN
    -- What says that it is one of these jobs, and is not by the job's own plan.
    UPDATE ledger.steps AS s SET job_id = NULL
    FROM unnest(job_ids) AS wanted (id)
    WHERE s.job_id = wanted.id AND NOT ledger.is_planned_as(wanted.id, s.workflow_id, s.name);
    FOR found IN
        SELECT e.job_id, e.recorded_at, e.plan, j.id IS NOT NULL AS has_job, j.state::text AS state, last.cause,
               last.recorded_at AS closed_at
        FROM unnest(job_ids) AS wanted (id)
        JOIN LATERAL (SELECT * FROM ledger.events AS p WHERE p.job_id = wanted.id AND p.kind = 'planned'
                      ORDER BY p.version LIMIT 1) AS e ON true
        LEFT JOIN oban.oban_jobs AS j ON j.id = wanted.id
        LEFT JOIN LATERAL (SELECT * FROM ledger.events AS c WHERE c.job_id = wanted.id AND c.kind = 'closed'
                           ORDER BY c.version DESC LIMIT 1) AS last ON true
        ORDER BY e.job_id
    LOOP
        INSERT INTO ledger.steps AS s (workflow_id, name, job_id, plan, ignore, planned_at, ended_as, ended_at)
        SELECT found.plan::jsonb ->> 'workflow_id', found.plan::jsonb ->> 'name', found.job_id, found.plan,
               ARRAY(SELECT jsonb_array_elements_text(found.plan::jsonb -> 'ignore')), found.recorded_at, n.ended_as,
               CASE WHEN n.ended_as IS NOT NULL THEN found.closed_at END
        FROM (SELECT CASE WHEN NOT found.has_job THEN found.cause
                          WHEN ledger.is_terminal(found.state) THEN found.state END) AS n (ended_as)
        ON CONFLICT (workflow_id, name) DO UPDATE
        SET job_id = excluded.job_id, plan = excluded.plan, ignore = excluded.ignore,
            planned_at = coalesce(s.planned_at, excluded.planned_at), ended_as = excluded.ended_as,
            ended_at = CASE WHEN s.ended_as = excluded.ended_as THEN s.ended_at ELSE excluded.ended_at END
        WHERE s.job_id IS NULL OR (s.job_id = excluded.job_id AND s.ended_as IS DISTINCT FROM excluded.ended_as)
           OR s.plan IS DISTINCT FROM excluded.plan OR NOT ledger.is_planned_as(s.job_id, s.workflow_id, s.name);
    END LOOP;
END;
$$;

-- Keep the edges anew that are missing or not as the log has them, and count again what the next steps are held for.
-- Returns the jobs of these steps; NULL when there are none behind `after`. All steps must be there.
--
-- A step whose last dep ended while its edges were missing is released now, or cancelled.
CREATE OR REPLACE FUNCTION ledger.rebuild_edges(after bigint, most integer) RETURNS bigint[]
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
    PERFORM ledger.begin_writing();
    SELECT array_agg(s.job_id ORDER BY s.job_id) INTO found
    FROM (SELECT t.job_id FROM ledger.steps AS t WHERE t.job_id > after ORDER BY t.job_id LIMIT most) AS s;
    IF found IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM FROM oban.oban_jobs AS j WHERE j.id = ANY (found) ORDER BY j.id FOR NO KEY UPDATE;
    PERFORM FROM ledger.steps AS s WHERE s.job_id = ANY (found) ORDER BY s.job_id FOR NO KEY UPDATE;
    FOR step IN
        SELECT s.workflow_id, s.name, s.job_id, s.ignore, j.state::text AS state,
               ARRAY(SELECT jsonb_array_elements_text(s.plan::jsonb -> 'deps')) AS deps
        FROM unnest(found) AS wanted (id) JOIN ledger.steps AS s ON s.job_id = wanted.id
        LEFT JOIN oban.oban_jobs AS j ON j.id = s.job_id
        ORDER BY s.job_id
    LOOP
        -- The end of a dep and that of the edge are of one transaction: nobody sees the one without the other. An edge that
        -- has ended is never opened: whoever waits for it would wait for ever, should there be an order that was not thought of.
        DELETE FROM ledger.edges AS e
        USING (SELECT o.dep, o.ended_as, d.job_id AS dep_id
               FROM (SELECT step.workflow_id, step.name OFFSET 0) AS own
               JOIN ledger.edges AS o ON o.name = own.name AND o.workflow_id = own.workflow_id
               LEFT JOIN ledger.steps AS d ON d.workflow_id = o.workflow_id AND d.name = o.dep
               OFFSET 0) AS o
        WHERE e.dep = o.dep AND e.workflow_id = step.workflow_id AND e.name = step.name
          AND (e.dep <> ALL (step.deps)
               OR (SELECT n.cause IS NOT NULL AND e.ended_as IS DISTINCT FROM n.cause
                   FROM ledger.edge_of(step.job_id, o.dep_id, e.dep) AS n (cause)));
        missing := ARRAY(
            SELECT d.dep FROM (SELECT step.workflow_id, step.name, n.* FROM unnest(step.deps) WITH ORDINALITY
                               AS n (dep, place) OFFSET 0) AS d
            WHERE NOT EXISTS (SELECT FROM ledger.edges AS e
                              WHERE e.workflow_id = d.workflow_id AND e.dep = d.dep AND e.name = d.name)
            ORDER BY d.place);
        untold := '{}';
        IF missing <> '{}' THEN
            INSERT INTO ledger.steps (workflow_id, name)
            SELECT step.workflow_id, m.dep FROM unnest(missing) AS m (dep) ON CONFLICT (workflow_id, name) DO NOTHING;
            -- One that is ending is waited for, and one that ends later sees the edge.
            WITH dep AS MATERIALIZED (
                SELECT s.name, s.job_id FROM (SELECT step.workflow_id, m.dep FROM unnest(missing) AS m (dep) OFFSET 0) AS d
                JOIN ledger.steps AS s ON s.workflow_id = d.workflow_id AND s.name = d.dep
                FOR SHARE OF s
            )
            SELECT array_agg(dep.name ORDER BY dep.job_id), array_agg(ledger.edge_of(step.job_id, dep.job_id, dep.name)
                                                                      ORDER BY dep.job_id)
            INTO told, causes FROM dep;
            -- Who is still held hears now of an end that nobody told it of.
            untold := '{}';
            IF step.state = 'suspended' THEN
                SELECT coalesce(array_agg(d.dep ORDER BY d.place), '{}') INTO untold
                FROM unnest(told, causes) WITH ORDINALITY AS d (dep, cause, place)
                WHERE d.cause <> 'completed' AND NOT (d.cause = ANY (step.ignore) AND EXISTS (
                    SELECT FROM ledger.events AS e
                    WHERE e.job_id = step.job_id AND e.kind = 'skipped' AND e.dep = d.dep));
            END IF;
            INSERT INTO ledger.edges (workflow_id, dep, name, ended_as)
            SELECT step.workflow_id, d.dep, step.name, CASE WHEN d.dep <> ALL (untold) THEN d.cause END
            FROM unnest(told, causes) AS d (dep, cause);
            IF step.state = 'suspended' AND untold = '{}' AND NOT EXISTS (
                SELECT FROM ledger.edges AS e
                WHERE e.workflow_id = step.workflow_id AND e.name = step.name AND e.ended_as IS NULL)
            THEN
                untold := told[cardinality(told):];
                UPDATE ledger.edges AS e SET ended_as = NULL
                WHERE e.workflow_id = step.workflow_id AND e.dep = ANY (untold) AND e.name = step.name;
            END IF;
        END IF;
        UPDATE ledger.steps AS s
        SET held = n.count
        FROM (SELECT count(*)::integer AS count FROM ledger.edges AS e
              WHERE e.workflow_id = step.workflow_id AND e.name = step.name AND e.ended_as IS NULL) AS n
        WHERE s.job_id = step.job_id AND s.held <> n.count;
        IF untold <> '{}' THEN
            PERFORM ledger.tell_dependants(step.workflow_id, untold, ARRAY(
                SELECT d.cause FROM unnest(untold) WITH ORDINALITY AS u (dep, place)
                JOIN unnest(told, causes) AS d (dep, cause) ON d.dep = u.dep ORDER BY u.place));
        END IF;
    END LOOP;
    RETURN found;
END;
$$;
