-- The traces of signals, beside the log. A role without rights on their table, as those of an older version are, keeps and
-- gets none; its signals and waits are as ever.

-- Whether the caller may do something to the traces.
CREATE OR REPLACE FUNCTION ledger.may_trace(what text) RETURNS boolean
LANGUAGE sql STABLE
AS $$ SELECT has_table_privilege(format('%I.traces', <'ledger'>), what) $$;

-- Keep the traces of deliveries. Parameters, arrays of equal length, one place for each delivery; without a traceparent
-- there is nothing to keep.
CREATE OR REPLACE FUNCTION ledger.note_traces(job_ids bigint[], signal_ids text[], traceparents text[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF ledger.may_trace('INSERT') THEN
        INSERT INTO ledger.traces (job_id, signal_id, traceparent)
        SELECT t.job_id, t.signal_id, t.traceparent
        FROM unnest(job_ids, signal_ids, traceparents) AS t (job_id, signal_id, traceparent)
        WHERE t.traceparent IS NOT NULL;
    END IF;
END;
$$;

-- ledger.deliver_batch for a batch with calls that are traced.
--
-- Parameters: those of ledger.deliver_batch, and the traceparent of each call, NULL for one that is not traced. Returns
-- what that returns.
CREATE OR REPLACE FUNCTION ledger.deliver_traced(
    calls integer[], first_tries boolean[], job_ids bigint[], signal_ids text[], channels text[], payloads bytea[],
    digests text[], keys text[], key_ids text[], sources text[], patience integer, traceparents text[],
    OUT outcomes text[], OUT versions integer[], OUT ids text[], OUT reasons text[], OUT jobs bigint[]
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_variable
BEGIN
    SELECT b.outcomes, b.versions, b.ids, b.reasons, b.jobs INTO outcomes, versions, ids, reasons, jobs
    FROM ledger.deliver_batch(
        calls, first_tries, job_ids, signal_ids, channels, payloads, digests, keys, key_ids, sources, patience) AS b;
    -- Of what has been stored, and by these calls.
    PERFORM ledger.note_traces(array_agg(d.job_id), array_agg(d.signal_id), array_agg(traceparents[d.call]))
    FROM unnest(calls, job_ids, signal_ids, outcomes) AS d (call, job_id, signal_id, outcome)
    WHERE d.outcome IN ('woken', 'live', 'buffered')
    HAVING count(*) > 0;
END;
$$;

-- ledger.store for a call that is traced. Parameters: those of ledger.store, and the traceparent. Returns what that returns.
CREATE OR REPLACE FUNCTION ledger.store_traced(
    ledger_id text, job_ids bigint[], signal_ids text[], key_ids text[], channel text, payload bytea, digest text,
    key text, source text, traceparent text
) RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT ledger.store(ledger_id, job_ids, signal_ids, key_ids, channel, payload, digest, key, source) THEN
        RETURN false;
    END IF;
    PERFORM ledger.note_traces(
        job_ids, signal_ids, array_fill(traceparent, ARRAY[cardinality(job_ids)]));
    RETURN true;
END;
$$;

-- Return the trace of a delivery, and keep it no longer.
CREATE OR REPLACE FUNCTION ledger.take_trace(job_id bigint, signal_id text) RETURNS text
LANGUAGE sql
AS $$
    WITH gone AS (
        DELETE FROM ledger.traces AS t WHERE t.job_id = take_trace.job_id AND t.signal_id = take_trace.signal_id
        RETURNING t.traceparent, t.place
    )
    SELECT g.traceparent FROM gone AS g ORDER BY g.place LIMIT 1
$$;

-- Delete the traces that nobody has asked for in 7 days. Returns how many were deleted.
CREATE OR REPLACE FUNCTION ledger.forget_traces(most integer) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    forgotten integer;
BEGIN
    IF NOT (ledger.may_trace('SELECT') AND ledger.may_trace('UPDATE') AND ledger.may_trace('DELETE')) THEN
        RETURN 0;
    END IF;
    WITH old AS (
        -- Past what somebody else deletes just now: he may wait for a job that this transaction has locked.
        SELECT t.place FROM ledger.traces AS t
        WHERE t.noted_at < clock_timestamp() - interval '7 days'
        ORDER BY t.noted_at LIMIT most FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM ledger.traces AS t USING old
        WHERE t.place = old.place
        RETURNING 1
    )
    SELECT count(*) INTO forgotten FROM gone;
    RETURN forgotten;
END;
$$;
