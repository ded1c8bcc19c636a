-- Read what a batch of operations needs of its jobs, in one statement.
--
-- Parameters: a JSON array of job ids.
-- Rows: one for each id: job_id; the job's state, execution, attempt, cancel_requested (NULL if there is no job); the
-- columns of the projection (NULL if there is none); has_events: whether a job without a projection has a stream;
-- ended_as: how the job's run ended, if its stream lacks that (NULL if not).

SELECT wanted.value AS job_id,
       job.state, job.execution, job.attempt, job.cancel_requested,
       wait.run, wait.version, wait.recorded_at, wait.status, wait.current, wait.execution, wait.waits, wait.inboxes,
       wait.schema_version,
       wait.job_id IS NULL
           AND EXISTS (SELECT 1 FROM signal_ledger_events WHERE job_id = wanted.value) AS has_events,
       repair.cause AS ended_as
FROM json_each(?) AS wanted
LEFT JOIN oban_jobs AS job ON job.id = wanted.value
LEFT JOIN signal_ledger_waits AS wait ON wait.job_id = wanted.value
LEFT JOIN signal_ledger_repairs AS repair ON repair.job_id = wanted.value
