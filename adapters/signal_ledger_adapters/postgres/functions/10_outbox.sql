-- Signals in callers' own transactions (promise D8): stored by the caller's connection, relayed after its commit.

-- Store a signal for several jobs in the caller's transaction. Takes no lock on a job.
--
-- Parameters:
--   ledger_id    which ledger the caller means: what ledger.identity() says of it
--   job_ids, signal_ids, key_ids   arrays of equal length, one place for each delivery; key_ids as for ledger.deliver
--   channel, payload, digest, key, source   what the deliveries have in common; see signal_ledger.commands.Deliver
-- Returns whether this is that ledger; if it is not, nothing was written. Arguments that no signal can have are refused
-- (SQLSTATE 22023), as by ledger.signal.
CREATE OR REPLACE FUNCTION ledger.store(
    ledger_id text, job_ids bigint[], signal_ids text[], key_ids text[], channel text, payload bytea, digest text,
    key text, source text
) RETURNS boolean
LANGUAGE plpgsql
AS $$
BEGIN
    IF ledger.identity() IS DISTINCT FROM store.ledger_id THEN
        RETURN false;
    END IF;
    PERFORM ledger.check_payload(payload), ledger.check_text('channel', nullif(channel, '')),
            ledger.check_text('key', key), ledger.check_text('source', source);
    -- The signal must be as durable as one that was sent (promise D1), whatever the caller's own changes need.
    IF current_setting('synchronous_commit') <> 'remote_apply' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    INSERT INTO ledger.outbox (
        turn, signal_id, job_id, channel, payload, payload_digest, key, key_ids, source, stored_at
    )
    SELECT pg_current_xact_id()::text::bigint, delivery.signal_id, delivery.job_id, store.channel, store.payload,
           store.digest, store.key, delivery.key_ids, store.source, ledger.clock()
    FROM unnest(store.job_ids, store.signal_ids, store.key_ids) WITH ORDINALITY
        AS delivery (job_id, signal_id, key_ids, number)
    ORDER BY delivery.number;
    -- Sent by PostgreSQL itself at the caller's commit, once for the transaction. Only a hint: engines look anyway.
    PERFORM ledger.notify('signal_ledger', json_build_object('relay', true));
    RETURN true;
END;
$$;

-- Whether a row that was not refused may be relayed now: by this version of the library, and not after a fault of late.
CREATE OR REPLACE FUNCTION ledger.can_be_relayed(stored ledger.outbox) RETURNS boolean
LANGUAGE sql VOLATILE
AS $$
    SELECT (stored.retry_at IS NULL OR stored.retry_at <= clock_timestamp())
       AND NOT EXISTS (SELECT FROM ledger.waits AS w
                       WHERE w.job_id = stored.job_id AND w.schema_version > ledger.newest_schema_version())
$$;

-- Deliver rows of the outbox, in the order of their places, and strike them. Returns how many were delivered or refused.
CREATE OR REPLACE FUNCTION ledger.relay_rows(places bigint[]) RETURNS integer
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
                    SELECT * FROM ledger.outbox AS p WHERE p.place = ANY (relay_rows.places) FOR UPDATE SKIP LOCKED
                ) AS r
                ORDER BY r.place
            ) AS o
        ) AS chosen,
        ledger.deliver(
            chosen.calls, chosen.first_tries, chosen.job_ids, chosen.signal_ids, chosen.channels, chosen.payloads,
            chosen.digests, chosen.keys, chosen.key_ids, chosen.sources
        ) WITH ORDINALITY AS d (outcome, version, signal_id, reason, job_id, number)
        WHERE d.outcome <> 'newer'
    LOOP
        relayed := relayed + 1;
        IF reply.outcome IN ('ignored', 'conflict') THEN
            UPDATE ledger.outbox AS o
            SET refusal = CASE reply.outcome WHEN 'ignored' THEN reply.reason ELSE 'conflict: ' || reply.reason END
            WHERE o.place = reply.place;
        ELSE
            struck := struck || reply.place;
        END IF;
    END LOOP;
    DELETE FROM ledger.outbox AS o WHERE o.place = ANY (struck);
    RETURN relayed;
END;
$$;

-- Relay the oldest stored signals, in the order of their places, by ledger.deliver. Any number of processes may ask.
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
CREATE OR REPLACE FUNCTION ledger.relay(most integer, most_bytes bigint) RETURNS TABLE (relayed integer, is_left boolean)
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
    SELECT o.tableoid INTO outbox FROM ledger.outbox AS o
    WHERE o.refusal IS NULL AND ledger.can_be_relayed(o) LIMIT 1;
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
            FROM ledger.outbox AS p
            WHERE p.refusal IS NULL AND p.turn <> ALL (turns) AND ledger.can_be_relayed(p)
            ORDER BY p.place LIMIT most
        ) AS o
        WHERE o.bytes_before < most_bytes;
        SELECT coalesce(array_agg(j.id), '{}') INTO locked FROM (
            SELECT job.id FROM oban.oban_jobs AS job
            WHERE job.id = ANY (wanted) ORDER BY job.id FOR NO KEY UPDATE SKIP LOCKED
        ) AS j;
        SELECT array_agg(j.id) INTO wanted
        FROM oban.oban_jobs AS j WHERE j.id = ANY (wanted) AND j.id <> ALL (locked);
        EXIT WHEN wanted IS NULL;
        places := NULL;
        held := held || wanted;
        SELECT coalesce(array_agg(DISTINCT o.turn), '{}') INTO turns
        FROM ledger.outbox AS o WHERE o.refusal IS NULL AND o.job_id = ANY (held);
    END LOOP;
    IF places IS NULL THEN
        RETURN NEXT; RETURN;
    END IF;
    BEGIN
        relayed := ledger.relay_rows(places);
    EXCEPTION
    WHEN deadlock_detected OR serialization_failure OR lock_not_available THEN
        RAISE;
    WHEN OTHERS THEN
        -- Some row is at fault, and the others do not wait for it; but those of its transaction keep their order.
        FOREACH here IN ARRAY places LOOP
            SELECT o.turn, o.signal_id INTO faulty FROM ledger.outbox AS o WHERE o.place = here;
            CONTINUE WHEN faulty.turn = ANY (turns);
            BEGIN
                relayed := relayed + ledger.relay_rows(ARRAY[here]);
            EXCEPTION
            WHEN deadlock_detected OR serialization_failure OR lock_not_available THEN
                RAISE;
            WHEN OTHERS THEN
                turns := turns || faulty.turn;
                UPDATE ledger.outbox AS o SET retry_at = clock_timestamp() + interval '1 minute'
                WHERE o.turn = faulty.turn AND o.refusal IS NULL;
                RAISE WARNING 'signal_ledger: the stored signal % cannot be relayed: %', faulty.signal_id, SQLERRM;
            END;
        END LOOP;
    END;
    is_left := EXISTS (SELECT FROM ledger.outbox AS o WHERE o.refusal IS NULL AND ledger.can_be_relayed(o));
    RETURN NEXT;
END;
$$;
