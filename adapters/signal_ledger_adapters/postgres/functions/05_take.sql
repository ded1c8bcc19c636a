-- Taking the outcomes of waits: signal_ledger.decide for a batch of executions.
--
-- Parameters, arrays of equal length: see signal_ledger.commands.Take.
-- Rows, one for each take, in the order of their places:
--   reply        signal, timeout, waiting, snooze; stale, cancel, order, newer; held, see patience of ledger.deliver
--   signal_id, payload   of the signal
--   deadline_at  of the timeout
--   remaining    of the live window: how long until the wait's deadline, if it has one
--   expected     the ordinal that is next, if the take is out of order
--   recorded_at  when the wait ended, if that is now; NULL for one that had ended before
--   delivered_at   when the signal was delivered, as well
--   traceparent  the trace of who signalled, as well; if with_traces asks for it, and it is kept
CREATE OR REPLACE FUNCTION ledger.take(
    job_ids bigint[], executions bigint[], channels text[], ordinals integer[], wait_fors interval[],
    in_places boolean[], windows boolean[], patience integer DEFAULT NULL, with_traces boolean DEFAULT false
) RETURNS TABLE (
    reply text, signal_id text, payload bytea, deadline_at timestamptz, remaining interval, expected integer,
    recorded_at timestamptz, delivered_at timestamptz, traceparent text
)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    moment   timestamptz;
    locks    record;
    now      timestamptz;
    here     integer;
    job      record;
    state    ledger.waits;
    wait     ledger.open_wait;
    inbox    ledger.inbox;
    event    ledger.events;
    found_event ledger.events;
    ended    integer;
BEGIN
    locks := ledger.lock(job_ids, patience);
    moment := ledger.begin_writing();
    with_traces := with_traces AND ledger.may_trace('SELECT') AND ledger.may_trace('DELETE');
    FOR here IN 1 .. cardinality(job_ids) LOOP
        signal_id := NULL; payload := NULL; deadline_at := NULL; remaining := NULL; expected := NULL;
        recorded_at := NULL; delivered_at := NULL; traceparent := NULL;
        IF job_ids[here] = ANY (locks.held) THEN
            reply := 'held'; RETURN NEXT; CONTINUE;
        END IF;
        -- The fence: only the newest execution may ask (W13).
        SELECT j.attempt, EXISTS (SELECT FROM ledger.cancels AS c WHERE c.job_id = job_ids[here]) AS is_cancelled
        INTO job
        FROM oban.oban_jobs AS j
        WHERE j.id = job_ids[here] AND j.state = 'executing' AND ledger.to_execution(j.attempted_at) = executions[here];
        IF NOT FOUND THEN
            reply := 'stale'; RETURN NEXT; CONTINUE;
        END IF;
        state := ledger.state_of(job_ids[here]);
        IF state.schema_version > ledger.newest_schema_version() THEN
            reply := 'newer'; RETURN NEXT; CONTINUE;
        END IF;
        IF job.is_cancelled THEN
            reply := 'cancel'; RETURN NEXT; CONTINUE;
        END IF;
        wait := ledger.wait_on(state.waits, channels[here]);
        -- An open wait of that ordinal has not ended, and is the next one.
        IF wait.ordinal IS DISTINCT FROM ordinals[here] THEN
            -- A wait that has ended is replayed (W9).
            SELECT e.* INTO found_event FROM ledger.events AS e
            WHERE e.job_id = job_ids[here] AND e.run = ledger.open_run(state) AND e.channel = channels[here]
              AND e.ordinal = ordinals[here] AND e.kind IN ('consumed', 'timed_out');
            IF FOUND THEN
                IF found_event.kind = 'timed_out' THEN
                    reply := 'timeout'; deadline_at := found_event.deadline_at;
                ELSE
                    reply := 'signal'; signal_id := found_event.signal_id;
                    SELECT e.payload INTO payload FROM ledger.events AS e
                    WHERE e.job_id = job_ids[here] AND e.version = found_event.delivery_version;
                END IF;
                RETURN NEXT; CONTINUE;
            END IF;
            SELECT count(*) INTO ended FROM ledger.events AS e
            WHERE e.job_id = job_ids[here] AND e.run = ledger.open_run(state) AND e.channel = channels[here]
              AND e.kind IN ('consumed', 'timed_out');
            IF ordinals[here] <> ended + 1 THEN
                reply := 'order'; expected := ended + 1; RETURN NEXT; CONTINUE;
            END IF;
        END IF;
        now := greatest(moment, state.recorded_at);
        inbox := ledger.inbox_of(state.inboxes, channels[here]);
        event := NULL;
        event.recorded_at := now;
        event.run := ledger.open_run(state);
        event.execution := executions[here];
        event.attempt := job.attempt;
        event.channel := channels[here];
        event.ordinal := ordinals[here];
        -- Only the oldest pending signal is judged: in time, it is consumed, however late the job wakes (W7).
        IF inbox.channel IS NOT NULL THEN
            SELECT e.* INTO STRICT found_event FROM ledger.events AS e
            WHERE e.job_id = job_ids[here] AND e.version > inbox.after AND e.kind = 'delivered'
              AND e.channel = channels[here]
            ORDER BY e.version LIMIT 1;
            IF wait.deadline_at IS NULL OR found_event.recorded_at <= wait.deadline_at THEN
                event.kind := 'consumed';
                event.signal_id := found_event.signal_id;
                event.delivery_version := found_event.version;
                PERFORM ledger.save(ledger.append(state, event));
                reply := 'signal'; signal_id := found_event.signal_id; payload := found_event.payload;
                recorded_at := now; delivered_at := found_event.recorded_at;
                IF with_traces THEN
                    traceparent := ledger.take_trace(job_ids[here], found_event.signal_id);
                END IF;
                RETURN NEXT; CONTINUE;
            END IF;
        END IF;
        IF now > wait.deadline_at THEN
            event.kind := 'timed_out';
            event.deadline_at := wait.deadline_at;
            PERFORM ledger.save(ledger.append(state, event));
            reply := 'timeout'; deadline_at := wait.deadline_at; recorded_at := now;
            RETURN NEXT; CONTINUE;
        END IF;
        IF NOT windows[here] OR wait.was_snoozed THEN
            reply := 'snooze'; RETURN NEXT; CONTINUE;
        END IF;
        event.kind := 'awaited';
        event.deadline_at := wait.deadline_at;
        IF event.deadline_at IS NULL AND in_places[here] AND wait_fors[here] IS NOT NULL THEN
            event.deadline_at := now + wait_fors[here];
        END IF;
        reply := 'waiting';
        remaining := event.deadline_at - now;
        IF NOT (state.status = 'live' AND state.current = channels[here] AND state.execution = executions[here]
                AND wait.channel IS NOT NULL AND wait.deadline_at IS NOT DISTINCT FROM event.deadline_at) THEN
            PERFORM ledger.save(ledger.append(state, event));
        END IF;
        RETURN NEXT;
    END LOOP;
END;
$$;
