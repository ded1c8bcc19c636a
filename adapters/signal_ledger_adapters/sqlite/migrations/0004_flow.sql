-- Workflows: what the log tells of steps, and what is kept of them beside it; see docs/adr/0016-workflows.md.
--
-- Events of schema version 2 may have:
--   dep    the step because of whose end a step was released or cancelled, or whose end it ignored
--   plan   JSON: what the job is to its workflow (see signal_ledger/plan.py)
ALTER TABLE signal_ledger_events ADD COLUMN dep TEXT;
ALTER TABLE signal_ledger_events ADD COLUMN plan TEXT;

CREATE TRIGGER signal_ledger_events_append_step
BEFORE INSERT ON signal_ledger_events
WHEN NEW.kind = 'planned' OR NEW.kind = 'released' OR NEW.kind = 'skipped' OR NEW.kind = 'cascaded'
BEGIN
    SELECT raise(ABORT, 'signal_ledger F5: the event lacks a column that its kind must have')
    WHERE CASE NEW.kind
          WHEN 'planned'  THEN NEW.plan IS NULL
          WHEN 'released' THEN NEW.dep IS NULL
          ELSE NEW.dep IS NULL OR NEW.cause IS NULL END;
END;

-- The steps. Projected from the log, and rebuilt from it.
--
--   held       how many of its deps have not ended
--   ended_as   how it ended; NULL while its job is alive
CREATE TABLE signal_ledger_steps (
    workflow_id TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    job_id      INTEGER NOT NULL,
    plan        TEXT    NOT NULL,
    held        INTEGER NOT NULL,
    planned_at  TEXT    NOT NULL,
    ended_as    TEXT,
    ended_at    TEXT,
    PRIMARY KEY (workflow_id, name)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX signal_ledger_steps_job ON signal_ledger_steps (job_id);

-- From each dep to who depends on it. An edge ends once, as its dep did.
CREATE TABLE signal_ledger_edges (
    workflow_id TEXT NOT NULL,
    dep         TEXT NOT NULL,
    name        TEXT NOT NULL,
    ended_as    TEXT,
    PRIMARY KEY (workflow_id, dep, name)
) STRICT, WITHOUT ROWID;

-- Those that lead to a step.
CREATE INDEX signal_ledger_edges_name ON signal_ledger_edges (workflow_id, name);
