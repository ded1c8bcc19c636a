-- Small functions that the others stand on.

-- The time of the ledger. Tests put another one in its place, in schemas made for testing.
CREATE OR REPLACE FUNCTION ledger.clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$ SELECT clock_timestamp() $$;

-- The newest version of events that this library can read (promise L8): signal_ledger.stored.SCHEMA_VERSION. The index
-- waits_newer has the same number.
CREATE OR REPLACE FUNCTION ledger.newest_schema_version() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 2 $$;

-- Which ledger this is, among all there are: copies of a database have the same id in their settings.
CREATE OR REPLACE FUNCTION ledger.identity() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT concat_ws('/', s.id, d.oid, c.system_identifier)
    FROM ledger.settings AS s, pg_database AS d, pg_control_system() AS c
    WHERE d.datname = current_database()
$$;

-- An execution's token: its attempted_at in microseconds since the epoch; 0 before the first.
CREATE OR REPLACE FUNCTION ledger.to_execution(attempted_at timestamp) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT coalesce((extract(epoch FROM attempted_at) * 1000000)::bigint, 0) $$;

CREATE OR REPLACE FUNCTION ledger.is_terminal(state text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT state IN ('completed', 'cancelled', 'discarded') $$;

-- Refuse what no channel, key or source can be; see signal_ledger.arguments.
CREATE OR REPLACE FUNCTION ledger.check_text(name text, value text) RETURNS void
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
CREATE OR REPLACE FUNCTION ledger.check_payload(payload bytea) RETURNS void
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
CREATE OR REPLACE FUNCTION ledger.require_read_committed() RETURNS void
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
CREATE OR REPLACE FUNCTION ledger.begin_writing() RETURNS timestamptz
LANGUAGE plpgsql
AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        PERFORM ledger.require_read_committed();
    END IF;
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN ledger.clock();
END;
$$;

-- Notify the listeners on one of Oban's channels. PostgreSQL refuses channels of more than 63 bytes, which a long prefix
-- makes; then nobody listens, and everybody looks within the second.
CREATE OR REPLACE FUNCTION ledger.notify(channel text, message json) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    full_name text := ledger.oban_prefix() || '.oban_' || channel;
BEGIN
    IF octet_length(full_name) <= 63 THEN
        PERFORM pg_notify(full_name, message::text);
    END IF;
END;
$$;

-- A part of an event's byte form: a netstring, or -, for NULL.
CREATE OR REPLACE FUNCTION ledger.netstring(part text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT coalesce(octet_length(part)::text || ':' || part || ',', '-,') $$;

CREATE OR REPLACE FUNCTION ledger.microseconds(instant timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT ((extract(epoch FROM instant - timestamptz 'epoch') * 1000000)::bigint)::text $$;

-- The checksum of an event: lower-case hex SHA-256 of its byte form (promise L7), which is a netstring of each column; see
-- signal_ledger.stored.byte_form. It becomes a part of the statement that appends the event, which costs a third of what a
-- query over an array of the columns does; so it is declared as STABLE, as convert_to is.
CREATE OR REPLACE FUNCTION ledger.checksum_of(
    job_id bigint, version integer, run integer, kind text, schema_version integer, recorded_at timestamptz,
    execution bigint, attempt integer, channel text, ordinal integer, signal_id text, delivery_version integer, key text,
    source text, deadline_at timestamptz, cause text, outcome text, payload_digest text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT encode(sha256(convert_to(
        ledger.netstring(job_id::text) || ledger.netstring(version::text) || ledger.netstring(run::text)
        || ledger.netstring(kind) || ledger.netstring(schema_version::text)
        || ledger.netstring(ledger.microseconds(recorded_at)) || ledger.netstring(execution::text)
        || ledger.netstring(attempt::text) || ledger.netstring(channel) || ledger.netstring(ordinal::text)
        || ledger.netstring(signal_id) || ledger.netstring(delivery_version::text) || ledger.netstring(key)
        || ledger.netstring(source) || ledger.netstring(ledger.microseconds(deadline_at)) || ledger.netstring(cause)
        || ledger.netstring(outcome) || ledger.netstring(payload_digest), 'UTF8')), 'hex')
$$;

-- The same of an event that tells of a step. Those are of schema version 2, whose byte form covers dep and plan.
CREATE OR REPLACE FUNCTION ledger.checksum_of_step(
    job_id bigint, version integer, run integer, kind text, schema_version integer, recorded_at timestamptz, cause text,
    dep text, plan text
) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT encode(sha256(convert_to(
        ledger.netstring(job_id::text) || ledger.netstring(version::text) || ledger.netstring(run::text)
        || ledger.netstring(kind) || ledger.netstring(schema_version::text)
        || ledger.netstring(ledger.microseconds(recorded_at)) || '-,-,-,-,-,-,-,-,-,' || ledger.netstring(cause)
        || '-,-,' || ledger.netstring(dep) || ledger.netstring(plan), 'UTF8')), 'hex')
$$;
