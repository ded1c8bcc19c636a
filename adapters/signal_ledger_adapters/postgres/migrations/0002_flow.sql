-- Workflows: what the log tells of steps, and what is kept of them beside it; see docs/adr/0016-workflows.md.

-- Events of schema version 2 may have:
--   dep    the step because of whose end a step was released or cancelled, or whose end it ignored
--   plan   JSON: what the job is to its workflow (see signal_ledger.plan.Plan.text)
ALTER TABLE ledger.events ADD COLUMN dep text COLLATE "C", ADD COLUMN plan text;

-- The streams that only a newer version of the library can go on with (promise L8); see ledger.newest_schema_version.
DROP INDEX ledger.waits_newer;
CREATE INDEX waits_newer ON ledger.waits (job_id) WHERE schema_version > 2;

-- The steps. Projected from the log, and rebuilt from it.
--
--   job_id      NULL as long as there is nothing but steps that depend on it
--   ignore      of the plan: how deps may end besides being completed
--   held        how many of its deps have not ended
--   planned_at  when it was enqueued
--   ended_as    how it ended; NULL while its job is alive
CREATE TABLE ledger.steps (
    workflow_id text    NOT NULL COLLATE "C",
    name        text    NOT NULL COLLATE "C",
    job_id      bigint,
    plan        text,
    ignore      text[]  NOT NULL DEFAULT '{}',
    held        integer NOT NULL DEFAULT 0,
    planned_at  timestamptz,
    ended_as    text,
    ended_at    timestamptz,

    -- A workflow in its order, and no name twice (promise F4).
    PRIMARY KEY (workflow_id, name)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX steps_job ON ledger.steps (job_id);

-- From each dep to who depends on it. An edge ends once, as its dep did. No index has the column that changes (HOT), and
-- none begins with the workflow: nobody, and no planner, can look for an edge by reading all that the workflow has.
CREATE TABLE ledger.edges (
    workflow_id text NOT NULL COLLATE "C",
    dep         text NOT NULL COLLATE "C",
    name        text NOT NULL COLLATE "C",
    ended_as    text,

    PRIMARY KEY (dep, workflow_id, name)
) WITH (fillfactor = 70);

-- Those that lead to a step.
CREATE INDEX edges_name ON ledger.edges (name, workflow_id);

-- Steps whose jobs have ended in a transaction that is not committed yet: at its commit their dependants are told, of all
-- of them at once, and the rows leave. Nobody else ever sees them.
CREATE TABLE ledger.ends (
    place       bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    job_id      bigint NOT NULL,
    workflow_id text   NOT NULL COLLATE "C",
    name        text   NOT NULL COLLATE "C",
    cause       text   NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
