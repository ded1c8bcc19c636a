-- Putting jobs to sleep: signal_ledger.decide for a batch of snoozes.
--
-- Runs in the transaction of the acknowledgement, as the statement after it: its rows are scheduled and theirs is the
-- fence, so that what is pending by now is seen, and what comes later finds the snooze (promise W5). The jobs are
-- given in ascending order.
--
-- Parameters, arrays of equal length: see signal_ledger.commands.Snooze; cancel_reason is what a job's errors say of a
-- cancel that came before its snooze.
-- Rows, one for each snooze, in the order of their places: reply is asleep, runnable or cancel; newer lets the job
-- run again in a minute.
CREATE OR REPLACE FUNCTION ledger.snooze(
    job_ids bigint[], executions bigint[], channels text[], ordinals integer[], wait_fors interval[], cancel_reason text
) RETURNS TABLE (reply text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    moment   timestamptz := ledger.begin_writing();
    now      timestamptz;
    here     integer;
    job      record;
    state    ledger.waits;
    wait     ledger.open_wait;
    event    ledger.events;
    woken    bigint[] := '{}';
BEGIN
    FOR here IN 1 .. cardinality(job_ids) LOOP
        SELECT j.attempt, EXISTS (SELECT FROM ledger.cancels AS c WHERE c.job_id = job_ids[here]) AS is_cancelled
        INTO STRICT job
        FROM oban.oban_jobs AS j
        WHERE j.id = job_ids[here];
        state := ledger.state_of(job_ids[here]);
        IF state.schema_version > ledger.newest_schema_version() THEN
            -- Only a newer version of the library can go on with it (L8).
            UPDATE oban.oban_jobs AS j SET scheduled_at = timezone('UTC', moment) + interval '60 seconds'
            WHERE j.id = job_ids[here];
            reply := 'newer'; RETURN NEXT; CONTINUE;
        END IF;
        IF job.is_cancelled THEN
            -- The acknowledgement has given the attempt back, which belongs to a snooze only.
            UPDATE oban.oban_jobs AS j
            SET state = 'cancelled', cancelled_at = timezone('UTC', moment), attempt = j.attempt + 1,
                errors = j.errors || jsonb_build_object(
                    'attempt', j.attempt + 1, 'at', to_jsonb(moment), 'error', cancel_reason)
            WHERE j.id = job_ids[here];
            reply := 'cancel'; RETURN NEXT; CONTINUE;
        END IF;
        IF EXISTS (SELECT FROM ledger.events AS e
                   WHERE e.job_id = job_ids[here] AND e.run = ledger.open_run(state) AND e.channel = channels[here]
                     AND e.ordinal = ordinals[here] AND e.kind IN ('consumed', 'timed_out')) THEN
            woken := woken || job_ids[here];
            reply := 'runnable'; RETURN NEXT; CONTINUE;
        END IF;
        now := greatest(moment, state.recorded_at);
        wait := ledger.wait_on(state.waits, channels[here]);
        event := NULL;
        event.recorded_at := now;
        event.run := ledger.open_run(state);
        event.kind := 'snoozed';
        event.execution := executions[here];
        event.attempt := job.attempt + 1;
        event.channel := channels[here];
        event.ordinal := ordinals[here];
        -- The deadline is decided once (W6).
        event.deadline_at := CASE WHEN wait.deadline_is_final THEN wait.deadline_at ELSE now + wait_fors[here] END;
        state := ledger.append(state, event);
        PERFORM ledger.save(state);
        IF (ledger.inbox_of(state.inboxes, channels[here])).channel IS NOT NULL OR now > event.deadline_at THEN
            woken := woken || job_ids[here];
            reply := 'runnable';
        ELSE
            -- A wait times out once its deadline lies behind: the first microsecond for that is the next one.
            UPDATE oban.oban_jobs AS j
            SET scheduled_at = timezone('UTC', coalesce(event.deadline_at + interval '1 microsecond',
                                                        now + interval '438300 hours')),
                meta = j.meta || jsonb_build_object('wait_until', CASE
                    WHEN event.deadline_at IS NULL THEN to_jsonb('infinity'::text)
                    ELSE to_jsonb(floor(extract(epoch FROM event.deadline_at) * 1000)::bigint) END)
            WHERE j.id = job_ids[here];
            reply := 'asleep';
        END IF;
        RETURN NEXT;
    END LOOP;
    IF woken <> '{}' THEN
        PERFORM ledger.wake(woken, moment);
    END IF;
END;
$$;
