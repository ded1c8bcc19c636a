-- Views for people: an interface, described in docs/reference/sqlite-views.md; see docs/adr/0021-views.md.
--
-- Names, columns and meanings stay as they are; a later step may add columns at the end of a view. None shows a
-- payload. Each finds the rows of a job, or a page of its own, through indexes: what is looked up for a row is told
-- the index.
-- What is computed is cast, so that each column has a type: a filter passes text, as datasette's do, and numbers must
-- compare. The parts of a view have the same types, else a filter or an order would not reach into them. No index by
-- kind is offered: without statistics SQLite would take it for a job's rows, too, and read those of all jobs.
-- JSON is looked at before it is read: a row that was tampered with must not hide all others.

-- Who waits?
CREATE VIEW signal_ledger_view_waiting (
    job_id, worker, queue, workflow_id, step, status, channel, since, deadline_at, waited_s, overdue, run, ordinal
) AS
SELECT
    state.job_id, job.worker, job.queue, step.workflow_id, step.name, state.status, state.current, state.since,
    state.deadline_at,
    CAST(round(86400 * (julianday('now') - julianday(state.since)), 3) AS REAL),
    CAST(coalesce(state.deadline_at < strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z', 0) AS INTEGER),
    state.run, state.ordinal
FROM signal_ledger_waits AS state
LEFT JOIN oban_jobs AS job ON job.id = state.job_id
LEFT JOIN signal_ledger_steps AS step ON step.job_id = state.job_id
WHERE state.status = 'live' OR state.status = 'snoozed';

-- What happened to a job?
CREATE VIEW signal_ledger_view_timeline (
    job_id, version, recorded_at, kind, what, source, channel, run, execution, attempt, ordinal, deadline_at, outcome,
    cause, key, signal_id, payload_bytes, payload_digest, position
) AS
SELECT
    job_id, version, recorded_at, kind,
    CAST(CASE
        WHEN kind IN ('awaited', 'snoozed', 'consumed', 'timed_out') THEN
            'execution ' || execution || ', await ' || ordinal || iif(channel <> '', ' on ' || channel, '')
            || CASE kind
               WHEN 'awaited'  THEN ': waits live'
               WHEN 'snoozed'  THEN ': sleeps'
               WHEN 'consumed' THEN ': got the signal of event ' || delivery_version
               ELSE ': got no signal by ' || replace(substr(deadline_at, 1, 23), 'T', ' ') END
            || iif(kind = 'awaited' OR kind = 'snoozed',
                   coalesce(', at most until ' || replace(substr(deadline_at, 1, 23), 'T', ' '), ''), '')
        WHEN kind = 'delivered' THEN
            outcome || coalesce(' from ' || source, '') || iif(channel <> '', ' on ' || channel, '')
            || coalesce(', key ' || key, '')
        WHEN kind = 'closed' AND execution = 0 THEN cause || ' before it was ever executed'
        WHEN kind = 'closed' THEN cause || ' by execution ' || execution || ', attempt ' || attempt
        WHEN kind = 'planned' AND json_valid(plan) THEN
            'step ' || json_extract(plan, '$.name') || ' of workflow '
            || coalesce(json_extract(plan, '$.workflow_name'), json_extract(plan, '$.workflow_id'))
            || coalesce(', after ' || (SELECT group_concat(value, ', ') FROM json_each(plan, '$.deps')), '')
        WHEN kind = 'released' THEN 'may run, since ' || dep || ' has ended'
        WHEN kind = 'skipped' THEN 'ignores that ' || dep || ' was ' || cause
        WHEN kind = 'cascaded' THEN 'cancelled, since ' || dep || ' was ' || cause
    END AS TEXT),
    source, channel, run, execution, attempt, ordinal, deadline_at, outcome, cause, key, signal_id,
    CAST(length(payload) AS INTEGER), payload_digest, position
FROM signal_ledger_events;

-- Who signalled, and what became of it? By + the order is that of the log, and not that of an index by ids.
CREATE VIEW signal_ledger_view_signals (
    job_id, version, delivered_at, source, channel, outcome, fate, consumed_at, latency_s, run, ordinal, key, signal_id,
    payload_bytes, payload_digest, position
) AS
SELECT
    delivered.job_id, delivered.version, delivered.recorded_at, delivered.source, delivered.channel, delivered.outcome,
    CAST(CASE
        WHEN consumed.job_id IS NOT NULL THEN 'consumed'
        WHEN delivered.run < state.run OR state.status = 'closed' THEN 'ended'
        ELSE 'pending'
    END AS TEXT),
    consumed.recorded_at,
    CAST(round(86400 * (julianday(consumed.recorded_at) - julianday(delivered.recorded_at)), 3) AS REAL),
    delivered.run, consumed.ordinal, delivered.key, delivered.signal_id, CAST(length(delivered.payload) AS INTEGER),
    delivered.payload_digest, delivered.position
FROM signal_ledger_events AS delivered
LEFT JOIN signal_ledger_events AS consumed INDEXED BY signal_ledger_events_consumed
    ON consumed.job_id = delivered.job_id AND consumed.signal_id = delivered.signal_id AND consumed.kind = 'consumed'
LEFT JOIN signal_ledger_waits AS state ON state.job_id = delivered.job_id
WHERE +delivered.kind = 'delivered';

-- Which jobs have signals that nobody has consumed?
CREATE VIEW signal_ledger_view_inboxes (job_id, worker, queue, status, channel, pending, oldest_at, run) AS
SELECT
    state.job_id, job.worker, job.queue, state.status, CAST(json_extract(inbox.value, '$[0]') AS TEXT),
    CAST(json_extract(inbox.value, '$[1]') AS INTEGER), oldest.recorded_at, state.run
FROM signal_ledger_waits AS state
CROSS JOIN json_each(iif(json_valid(state.inboxes), state.inboxes, '[]')) AS inbox
LEFT JOIN signal_ledger_events AS oldest INDEXED BY signal_ledger_events_version
    ON oldest.job_id = state.job_id
    AND oldest.version = (
        SELECT version FROM signal_ledger_events INDEXED BY signal_ledger_events_version
        WHERE job_id = state.job_id AND version > json_extract(inbox.value, '$[2]')
          AND channel = json_extract(inbox.value, '$[0]') AND kind = 'delivered'
        ORDER BY version LIMIT 1
    )
LEFT JOIN oban_jobs AS job ON job.id = state.job_id
WHERE state.inboxes <> '[]' AND inbox.type = 'array';

-- Which waits were there, and how did each end?
--
-- First those with an outcome, then those that ended with their run, then those that are open. A wait begins with the
-- first event behind the outcome of the wait before it on its channel, and its last event has its deadline. One that
-- found its signal there has no event but its outcome.
CREATE VIEW signal_ledger_view_waits (
    job_id, worker, queue, run, channel, ordinal, outcome, began_at, deadline_at, ended_at, waited_s, source, signal_id,
    delivered_at, position
) AS
SELECT
    told.job_id, job.worker, job.queue, told.run, told.channel, told.ordinal, told.kind, began.recorded_at,
    CAST(coalesce(told.deadline_at, latest.deadline_at) AS TEXT), told.recorded_at,
    CAST(round(86400 * (julianday(told.recorded_at) - julianday(began.recorded_at)), 3) AS REAL),
    delivered.source, told.signal_id, delivered.recorded_at, told.position
FROM signal_ledger_events AS told
LEFT JOIN signal_ledger_events AS began INDEXED BY signal_ledger_events_version
    ON began.job_id = told.job_id
    AND began.version = (
        SELECT version FROM signal_ledger_events INDEXED BY signal_ledger_events_version
        WHERE job_id = told.job_id AND version < told.version
          AND version > coalesce((
              SELECT version FROM signal_ledger_events INDEXED BY signal_ledger_events_outcome
              WHERE job_id = told.job_id AND run = told.run AND channel = told.channel AND ordinal = told.ordinal - 1
                AND (kind = 'consumed' OR kind = 'timed_out')
          ), 0)
          AND run = told.run AND channel = told.channel AND ordinal = told.ordinal
          AND (kind = 'awaited' OR kind = 'snoozed')
        ORDER BY version LIMIT 1
    )
LEFT JOIN signal_ledger_events AS latest INDEXED BY signal_ledger_events_version
    ON latest.job_id = told.job_id
    AND latest.version = (
        SELECT version FROM signal_ledger_events INDEXED BY signal_ledger_events_version
        WHERE job_id = told.job_id AND version < told.version AND version >= began.version
          AND run = told.run AND channel = told.channel AND ordinal = told.ordinal
          AND (kind = 'awaited' OR kind = 'snoozed')
        ORDER BY version DESC LIMIT 1
    )
LEFT JOIN signal_ledger_events AS delivered INDEXED BY signal_ledger_events_version
    ON delivered.job_id = told.job_id AND delivered.version = told.delivery_version
LEFT JOIN oban_jobs AS job ON job.id = told.job_id
WHERE told.kind = 'consumed' OR told.kind = 'timed_out'
UNION ALL
SELECT
    closed.job_id, job.worker, job.queue, began.run, began.channel, began.ordinal, CAST('ended' AS TEXT),
    began.recorded_at, latest.deadline_at, closed.recorded_at,
    CAST(round(86400 * (julianday(closed.recorded_at) - julianday(began.recorded_at)), 3) AS REAL),
    CAST(NULL AS TEXT), CAST(NULL AS TEXT), CAST(NULL AS TEXT), closed.position
FROM signal_ledger_events AS closed
CROSS JOIN signal_ledger_events AS began INDEXED BY signal_ledger_events_version
    ON began.job_id = closed.job_id AND began.version < closed.version
    AND began.version > coalesce((
        SELECT version FROM signal_ledger_events INDEXED BY signal_ledger_events_version
        WHERE job_id = closed.job_id AND version < closed.version AND run < closed.run
        ORDER BY version DESC LIMIT 1
    ), 0)
    AND (began.kind = 'awaited' OR began.kind = 'snoozed')
LEFT JOIN signal_ledger_events AS latest INDEXED BY signal_ledger_events_version
    ON latest.job_id = closed.job_id
    AND latest.version = (
        SELECT version FROM signal_ledger_events INDEXED BY signal_ledger_events_version
        WHERE job_id = closed.job_id AND version < closed.version AND version >= began.version
          AND channel = began.channel AND ordinal = began.ordinal AND (kind = 'awaited' OR kind = 'snoozed')
        ORDER BY version DESC LIMIT 1
    )
LEFT JOIN oban_jobs AS job ON job.id = closed.job_id
WHERE closed.kind = 'closed'
  AND NOT EXISTS (
      SELECT 1 FROM signal_ledger_events INDEXED BY signal_ledger_events_outcome
      WHERE job_id = began.job_id AND run = began.run AND channel = began.channel AND ordinal = began.ordinal
        AND (kind = 'consumed' OR kind = 'timed_out')
  )
  AND NOT EXISTS (
      SELECT 1 FROM signal_ledger_events INDEXED BY signal_ledger_events_version
      WHERE job_id = began.job_id AND version < began.version
        AND version > coalesce((
            SELECT version FROM signal_ledger_events INDEXED BY signal_ledger_events_outcome
            WHERE job_id = began.job_id AND run = began.run AND channel = began.channel
              AND ordinal = began.ordinal - 1 AND (kind = 'consumed' OR kind = 'timed_out')
        ), 0)
        AND run = began.run AND channel = began.channel AND ordinal = began.ordinal
        AND (kind = 'awaited' OR kind = 'snoozed')
  )
UNION ALL
SELECT
    state.job_id, job.worker, job.queue, state.run, CAST(json_extract(wait.value, '$[0]') AS TEXT),
    CAST(json_extract(wait.value, '$[1]') AS INTEGER), CAST('open' AS TEXT),
    CAST(json_extract(wait.value, '$[2]') AS TEXT), CAST(json_extract(wait.value, '$[4]') AS TEXT), CAST(NULL AS TEXT),
    CAST(round(86400 * (julianday('now') - julianday(json_extract(wait.value, '$[2]'))), 3) AS REAL),
    CAST(NULL AS TEXT), CAST(NULL AS TEXT), CAST(NULL AS TEXT), CAST(NULL AS INTEGER)
FROM signal_ledger_waits AS state
CROSS JOIN json_each(iif(json_valid(state.waits), state.waits, '[]')) AS wait
LEFT JOIN oban_jobs AS job ON job.id = state.job_id
WHERE state.waits <> '[]' AND wait.type = 'array';

-- When did each run of a job begin, and how did it end?
CREATE VIEW signal_ledger_view_runs (
    job_id, worker, queue, run, status, cause, began_at, ended_at, duration_s, attempt, events, position
) AS
SELECT
    closed.job_id, job.worker, job.queue, closed.run, CAST('closed' AS TEXT), closed.cause, began.recorded_at,
    closed.recorded_at,
    CAST(round(86400 * (julianday(closed.recorded_at) - julianday(began.recorded_at)), 3) AS REAL),
    closed.attempt, CAST(closed.version - began.version + 1 AS INTEGER), closed.position
FROM signal_ledger_events AS closed
LEFT JOIN signal_ledger_events AS began INDEXED BY signal_ledger_events_version
    ON began.job_id = closed.job_id
    AND began.version = 1 + coalesce((
        SELECT version FROM signal_ledger_events INDEXED BY signal_ledger_events_version
        WHERE job_id = closed.job_id AND version < closed.version AND run < closed.run
        ORDER BY version DESC LIMIT 1
    ), 0)
LEFT JOIN oban_jobs AS job ON job.id = closed.job_id
WHERE closed.kind = 'closed'
UNION ALL
SELECT
    state.job_id, job.worker, job.queue, state.run, state.status, CAST(NULL AS TEXT), began.recorded_at,
    CAST(NULL AS TEXT),
    CAST(round(86400 * (julianday('now') - julianday(began.recorded_at)), 3) AS REAL),
    CAST(NULL AS INTEGER), CAST(state.version - began.version + 1 AS INTEGER), CAST(NULL AS INTEGER)
FROM signal_ledger_waits AS state
LEFT JOIN signal_ledger_events AS began INDEXED BY signal_ledger_events_version
    ON began.job_id = state.job_id
    AND began.version = 1 + coalesce((
        SELECT version FROM signal_ledger_events INDEXED BY signal_ledger_events_version
        WHERE job_id = state.job_id AND version <= state.version AND run < state.run
        ORDER BY version DESC LIMIT 1
    ), 0)
LEFT JOIN oban_jobs AS job ON job.id = state.job_id
WHERE state.status <> 'closed';

-- How are the workflows doing?
CREATE VIEW signal_ledger_view_workflows (
    workflow_id, workflow_name, state, steps, unfinished, completed, cancelled, discarded, deleted, started_at,
    ended_at, duration_s
) AS
SELECT
    workflow_id,
    CAST(max(CASE WHEN json_valid(plan) THEN json_extract(plan, '$.workflow_name') END) AS TEXT),
    CAST(CASE
        WHEN count(ended_as) < count(*) THEN 'executing'
        WHEN sum(ended_as = 'discarded') > 0 THEN 'discarded'
        WHEN sum(ended_as = 'cancelled' OR ended_as = 'deleted') > 0 THEN 'cancelled'
        ELSE 'completed'
    END AS TEXT),
    CAST(count(*) AS INTEGER), CAST(count(*) - count(ended_as) AS INTEGER),
    CAST(total(ended_as = 'completed') AS INTEGER), CAST(total(ended_as = 'cancelled') AS INTEGER),
    CAST(total(ended_as = 'discarded') AS INTEGER), CAST(total(ended_as = 'deleted') AS INTEGER),
    CAST(min(planned_at) AS TEXT), CAST(iif(count(ended_as) = count(*), max(ended_at), NULL) AS TEXT),
    CAST(round(86400 * (
        julianday(iif(count(ended_as) = count(*), max(ended_at), 'now')) - julianday(min(planned_at))
    ), 3) AS REAL)
FROM signal_ledger_steps
GROUP BY workflow_id;

-- Which steps has a workflow, and what is each held for?
CREATE VIEW signal_ledger_view_steps (
    workflow_id, workflow_name, step, job_id, worker, queue, state, deps, held_for, planned_at, ended_at, ended_as
) AS
SELECT
    step.workflow_id,
    CAST(CASE WHEN json_valid(step.plan) THEN json_extract(step.plan, '$.workflow_name') END AS TEXT),
    step.name, step.job_id, job.worker, job.queue, CAST(coalesce(job.state, step.ended_as, 'deleted') AS TEXT),
    CAST((SELECT json_group_array(dep) FROM (
        SELECT dep FROM signal_ledger_edges INDEXED BY signal_ledger_edges_name
        WHERE workflow_id = step.workflow_id AND name = step.name ORDER BY dep
    )) AS TEXT),
    CAST(CASE WHEN job.state = 'suspended' THEN (SELECT json_group_array(dep) FROM (
        SELECT dep FROM signal_ledger_edges INDEXED BY signal_ledger_edges_name
        WHERE workflow_id = step.workflow_id AND name = step.name AND ended_as IS NULL ORDER BY dep
    )) ELSE '[]' END AS TEXT),
    step.planned_at, step.ended_at, step.ended_as
FROM signal_ledger_steps AS step
LEFT JOIN oban_jobs AS job ON job.id = step.job_id;

-- Which signals that callers have stored in their own transactions are yet to be relayed, and which were refused?
CREATE VIEW signal_ledger_view_outbox (
    job_id, worker, queue, stored_at, state, refusal, source, channel, key, signal_id, payload_bytes, payload_digest,
    place
) AS
SELECT
    stored.job_id, job.worker, job.queue, stored.stored_at,
    CAST(iif(stored.refusal IS NULL, 'pending', 'refused') AS TEXT),
    stored.refusal, stored.source, stored.channel, stored.key, stored.signal_id,
    CAST(length(stored.payload) AS INTEGER), stored.payload_digest, stored.place
FROM signal_ledger_outbox AS stored
LEFT JOIN oban_jobs AS job ON job.id = stored.job_id;
