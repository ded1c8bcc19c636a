-- The log defends itself (promise L1).

CREATE OR REPLACE FUNCTION ledger.refuse_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'signal_ledger L1: the log is append-only, % is refused', TG_OP;
END;
$$;

CREATE OR REPLACE TRIGGER no_update BEFORE UPDATE ON ledger.events
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE OR REPLACE TRIGGER no_delete BEFORE DELETE ON ledger.events
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE OR REPLACE TRIGGER no_truncate BEFORE TRUNCATE ON ledger.events
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- Versions have no gaps; an event's turn comes after its stream's last one (promise L4); and every kind has its columns. A
-- unique index does not compare NULLs, so the columns of those of the log must not be NULL (promise W8).
CREATE OR REPLACE FUNCTION ledger.append_in_turn() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    last_version integer;
    last_turn    bigint;
BEGIN
    -- That a stream has one first event, the primary key sees to.
    IF NEW.version <> 1 THEN
        SELECT e.version, e.turn INTO last_version, last_turn FROM ledger.events AS e
        WHERE e.job_id = NEW.job_id ORDER BY e.version DESC LIMIT 1;
        IF NEW.version <> coalesce(last_version, 0) + 1 THEN
            RAISE EXCEPTION 'signal_ledger L1: versions have no gaps, the next version of the stream is expected';
        END IF;
    END IF;
    IF (NEW.run > 0 AND NEW.schema_version > 0 AND length(NEW.checksum) = 64 AND CASE NEW.kind
        WHEN 'delivered' THEN (NEW.channel, NEW.signal_id, NEW.outcome) IS NOT NULL AND length(NEW.payload_digest) = 64
        WHEN 'consumed'  THEN (NEW.execution, NEW.channel, NEW.signal_id, NEW.delivery_version) IS NOT NULL
                              AND NEW.ordinal > 0
        WHEN 'timed_out' THEN (NEW.execution, NEW.channel, NEW.deadline_at) IS NOT NULL AND NEW.ordinal > 0
        WHEN 'awaited'   THEN (NEW.execution, NEW.channel) IS NOT NULL AND NEW.ordinal > 0
        WHEN 'snoozed'   THEN (NEW.execution, NEW.channel) IS NOT NULL AND NEW.ordinal > 0
        WHEN 'closed'    THEN NEW.cause IS NOT NULL
        WHEN 'planned'   THEN NEW.plan IS NOT NULL
        WHEN 'released'  THEN NEW.dep IS NOT NULL
        WHEN 'skipped'   THEN (NEW.dep, NEW.cause) IS NOT NULL
        WHEN 'cascaded'  THEN (NEW.dep, NEW.cause) IS NOT NULL
        ELSE true END) IS NOT TRUE
    THEN
        RAISE EXCEPTION 'signal_ledger W8: an event of kind % lacks a column that its kind must have', NEW.kind
            USING ERRCODE = 'check_violation';
    END IF;
    NEW.turn := greatest(pg_current_xact_id()::text::bigint, last_turn);
    RETURN NEW;
END;
$$;

CREATE OR REPLACE TRIGGER append_in_turn BEFORE INSERT ON ledger.events
    FOR EACH ROW EXECUTE FUNCTION ledger.append_in_turn();
