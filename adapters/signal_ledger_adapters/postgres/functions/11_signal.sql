-- The door for other languages: a signal to a job, from whatever speaks SQL.
--
-- It runs in the caller's transaction and holds the lock on the job until that ends: then nobody can signal, take from or
-- acknowledge the job, and its queue may stand still. In a transaction that stays open for longer, or that signals several
-- jobs, which must be locked in ascending order, use ledger.store, which locks nothing.
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
CREATE OR REPLACE FUNCTION ledger.signal(
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
    PERFORM ledger.check_payload(payload), ledger.check_text('channel', channel), ledger.check_text('key', key),
            ledger.check_text('source', source);
    digest := encode(sha256(payload), 'hex');
    IF key IS NOT NULL THEN
        -- The library's own digests are of the sorted encoding: the same bytes are the same payload, whatever it says.
        PERFORM FROM oban.oban_jobs AS j WHERE j.id = signal.job_id FOR NO KEY UPDATE;
        SELECT e.payload_digest INTO found_digest FROM ledger.events AS e
        WHERE e.job_id = signal.job_id AND e.kind = 'delivered' AND (e.key = signal.key OR e.signal_id = signal.key)
          AND e.payload = signal.payload;
        digest := coalesce(found_digest, digest);
    END IF;
    SELECT d.outcome, d.signal_id, d.version, d.reason
    INTO STRICT signal.outcome, signal.signal_id, signal.version, signal.reason
    FROM ledger.deliver(
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
