-- Locking jobs before anything is written, and telling those who wait afterwards.

-- Lock jobs, in ascending order.
--
-- Parameters: the jobs; patience, for how many milliseconds to wait for those that somebody else has locked, after which
-- it is an error (SQLSTATE 55P03). With NULL it waits for ever, and with 0 not at all.
-- Returns the jobs that are there and could not be locked, none unless patience is 0; and whether the jobs are distinct,
-- all there, and all locked.
CREATE OR REPLACE FUNCTION ledger.lock(job_ids bigint[], patience integer, OUT held bigint[], OUT is_plain boolean)
LANGUAGE plpgsql
AS $$
DECLARE
    locked bigint[];
BEGIN
    held := '{}';
    IF patience = 0 THEN
        SELECT array_agg(j.id) INTO locked FROM (
            SELECT job.id FROM oban.oban_jobs AS job
            WHERE job.id = ANY (job_ids) ORDER BY job.id FOR NO KEY UPDATE SKIP LOCKED
        ) AS j;
    ELSE
        IF patience > 0 THEN
            PERFORM set_config('lock_timeout', patience::text, true);
        END IF;
        SELECT array_agg(j.id) INTO locked FROM (
            SELECT job.id FROM oban.oban_jobs AS job
            WHERE job.id = ANY (job_ids) ORDER BY job.id FOR NO KEY UPDATE
        ) AS j;
    END IF;
    is_plain := coalesce(cardinality(locked), 0) = cardinality(job_ids);
    IF NOT is_plain AND patience = 0 THEN
        SELECT coalesce(array_agg(DISTINCT job.id), '{}') INTO held
        FROM unnest(job_ids) AS wanted (id) JOIN oban.oban_jobs AS job ON job.id = wanted.id
        LEFT JOIN unnest(locked) AS got (id) ON got.id = wanted.id
        WHERE got.id IS NULL;
    END IF;
END;
$$;

-- A job's meta once it does not wait any more (promise W14). Somebody may have put another thing than an object there.
CREATE OR REPLACE FUNCTION ledger.without_wait_until(meta jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT CASE jsonb_typeof(meta) WHEN 'object' THEN meta - 'wait_until' ELSE meta END $$;

-- Make snoozed jobs available now and tell Oban's queues, once for each.
CREATE OR REPLACE FUNCTION ledger.wake(job_ids bigint[], moment timestamptz) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    queues text[];
    queue  text;
BEGIN
    WITH woken AS (
        -- Without wait_until here, so that ledger.job_changes is not called for it.
        UPDATE oban.oban_jobs AS job
        SET state = 'available', scheduled_at = least(job.scheduled_at, timezone('UTC', moment)),
            meta = ledger.without_wait_until(job.meta)
        FROM unnest(job_ids) AS wanted (id)
        WHERE job.id = wanted.id
        RETURNING job.queue
    )
    SELECT array_agg(DISTINCT w.queue) INTO queues FROM woken AS w;
    FOREACH queue IN ARRAY coalesce(queues, '{}') LOOP
        PERFORM ledger.notify('insert', json_build_object('queue', queue));
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
