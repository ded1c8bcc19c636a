-- What readers ask.

-- Where the log is settled: every event with a lower turn has been committed, or never will be (promise L4).
CREATE OR REPLACE FUNCTION ledger.horizon() RETURNS bigint
LANGUAGE sql STABLE
AS $$ SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint $$;

-- Whether no event can still be recorded at or before an instant (promise L5). Events are stamped by transactions that have
-- an id by then: who began later stamps later. A transaction has a lock on its id, which everybody can see, also one that
-- is prepared; a snapshot does not list the newest ones. When another user's began is not shown to everybody, and on a
-- standby there are no such locks: then the answer is no.
CREATE OR REPLACE FUNCTION ledger.is_settled(instant timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    -- First the instant has to be over, then one looks who is left from before.
    IF instant >= ledger.clock() OR pg_is_in_recovery() THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM pg_locks AS running
        WHERE running.locktype = 'transactionid' AND running.mode = 'ExclusiveLock' AND running.granted
          AND NOT EXISTS (
              SELECT FROM pg_stat_activity AS activity
              WHERE activity.pid = running.pid AND activity.xact_start > instant));
END;
$$;
