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

-- Versions have no gaps; and an event's turn comes after its stream's last one (promise L4).
CREATE OR REPLACE FUNCTION ledger.in_turn() RETURNS trigger
LANGUAGE plpgsql
AS $$
DECLARE
    last record;
BEGIN
    SELECT e.version, e.turn INTO last FROM ledger.events AS e
    WHERE e.job_id = NEW.job_id ORDER BY e.version DESC LIMIT 1;
    IF NEW.version <> coalesce(last.version, 0) + 1 THEN
        RAISE EXCEPTION 'signal_ledger L1: versions have no gaps, the next version of the stream is expected';
    END IF;
    NEW.turn := greatest(pg_current_xact_id()::text::bigint, last.turn);
    RETURN NEW;
END;
$$;

CREATE OR REPLACE TRIGGER in_turn BEFORE INSERT ON ledger.events
    FOR EACH ROW EXECUTE FUNCTION ledger.in_turn();
