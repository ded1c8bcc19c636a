-- The jobs of the embedded engine: Oban's columns, and three of its own at the end.
--
-- Ids never repeat, not even after a deletion: a new job must not inherit an old stream. What engines could not read is
-- refused here, whoever writes it: instants are ISO 8601 in UTC, as 2026-11-23T12:30:00.000000Z. SQLite itself writes
-- milliseconds, by strftime('%Y-%m-%dT%H:%M:%fZ', 'now'); these are taken, too. The fraction is looked at on its own,
-- because SQLite rounds to milliseconds: it takes 59.9996 for the second after.

CREATE TABLE oban_jobs (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    state            TEXT    NOT NULL CHECK (state = 'available' OR state = 'scheduled' OR state = 'executing'
                                     OR state = 'retryable' OR state = 'completed' OR state = 'cancelled'
                                     OR state = 'discarded' OR state = 'suspended'),
    queue            TEXT    NOT NULL CHECK (length(queue) > 0),
    worker           TEXT    NOT NULL CHECK (length(worker) > 0),
    attempt          INTEGER NOT NULL DEFAULT 0 CHECK (attempt BETWEEN 0 AND max_attempts),
    max_attempts     INTEGER NOT NULL DEFAULT 20 CHECK (max_attempts > 0),
    priority         INTEGER NOT NULL DEFAULT 0 CHECK (priority >= 0),
    args             TEXT    NOT NULL DEFAULT '{}' CHECK (json_type(args) = 'object'),
    meta             TEXT    NOT NULL DEFAULT '{}' CHECK (json_type(meta) = 'object'),
    tags             TEXT    NOT NULL DEFAULT '[]' CHECK (json_type(tags) = 'array'),
    errors           TEXT    NOT NULL DEFAULT '[]' CHECK (json_type(errors) = 'array'),
    attempted_by     TEXT    NOT NULL DEFAULT '[]' CHECK (json_type(attempted_by) = 'array'),
    inserted_at      TEXT    NOT NULL
        CHECK (strftime('%Y-%m-%dT%H:%M:%S', substr(inserted_at, 1, 19), '+0 days') IS substr(inserted_at, 1, 19)
               AND (substr(inserted_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' OR substr(inserted_at, 20) GLOB '.[0-9][0-9][0-9]Z')),
    scheduled_at     TEXT    NOT NULL
        CHECK (strftime('%Y-%m-%dT%H:%M:%S', substr(scheduled_at, 1, 19), '+0 days') IS substr(scheduled_at, 1, 19)
               AND (substr(scheduled_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' OR substr(scheduled_at, 20) GLOB '.[0-9][0-9][0-9]Z')),
    attempted_at     TEXT
        CHECK (strftime('%Y-%m-%dT%H:%M:%S', substr(attempted_at, 1, 19), '+0 days') IS substr(attempted_at, 1, 19)
               AND (substr(attempted_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' OR substr(attempted_at, 20) GLOB '.[0-9][0-9][0-9]Z')),
    cancelled_at     TEXT
        CHECK (strftime('%Y-%m-%dT%H:%M:%S', substr(cancelled_at, 1, 19), '+0 days') IS substr(cancelled_at, 1, 19)
               AND (substr(cancelled_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' OR substr(cancelled_at, 20) GLOB '.[0-9][0-9][0-9]Z')),
    completed_at     TEXT
        CHECK (strftime('%Y-%m-%dT%H:%M:%S', substr(completed_at, 1, 19), '+0 days') IS substr(completed_at, 1, 19)
               AND (substr(completed_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' OR substr(completed_at, 20) GLOB '.[0-9][0-9][0-9]Z')),
    discarded_at     TEXT
        CHECK (strftime('%Y-%m-%dT%H:%M:%S', substr(discarded_at, 1, 19), '+0 days') IS substr(discarded_at, 1, 19)
               AND (substr(discarded_at, 20) GLOB '.[0-9][0-9][0-9][0-9][0-9][0-9]Z' OR substr(discarded_at, 20) GLOB '.[0-9][0-9][0-9]Z')),
    execution        INTEGER NOT NULL DEFAULT 0,
    node             INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested BETWEEN 0 AND 1)
) STRICT;

CREATE INDEX oban_jobs_available
    ON oban_jobs (queue, priority, scheduled_at, id)
    WHERE state = 'available';

CREATE INDEX oban_jobs_scheduled
    ON oban_jobs (queue, scheduled_at, id)
    WHERE state = 'scheduled' OR state = 'retryable';

CREATE INDEX oban_jobs_executing
    ON oban_jobs (node)
    WHERE state = 'executing';

CREATE INDEX oban_jobs_completed
    ON oban_jobs (completed_at)
    WHERE state = 'completed';

CREATE INDEX oban_jobs_cancelled
    ON oban_jobs (cancelled_at)
    WHERE state = 'cancelled';

CREATE INDEX oban_jobs_discarded
    ON oban_jobs (discarded_at)
    WHERE state = 'discarded';

-- The engines that have run on this file. A row holds a lock on the byte of its id in the file beside this one as
-- long as its process lives; ids never repeat.
CREATE TABLE signal_ledger_nodes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL,
    started_at TEXT NOT NULL
) STRICT;

-- A run that ends by another program's hand is noted for repair (promises W10, L3). The engine itself appends the
-- closed event first, so that these find nothing to do.
CREATE TRIGGER signal_ledger_job_ended
AFTER UPDATE OF state ON oban_jobs
WHEN (NEW.state = 'completed' OR NEW.state = 'cancelled' OR NEW.state = 'discarded')
 AND NOT (OLD.state = 'completed' OR OLD.state = 'cancelled' OR OLD.state = 'discarded')
 AND EXISTS (SELECT 1 FROM signal_ledger_waits WHERE job_id = NEW.id AND status <> 'closed')
BEGIN
    INSERT INTO signal_ledger_repairs (job_id, cause) VALUES (NEW.id, NEW.state)
    ON CONFLICT (job_id) DO NOTHING;
END;

CREATE TRIGGER signal_ledger_job_deleted
AFTER DELETE ON oban_jobs
WHEN NOT (OLD.state = 'completed' OR OLD.state = 'cancelled' OR OLD.state = 'discarded')
 AND EXISTS (SELECT 1 FROM signal_ledger_waits WHERE job_id = OLD.id AND status <> 'closed')
BEGIN
    INSERT INTO signal_ledger_repairs (job_id, cause) VALUES (OLD.id, 'deleted')
    ON CONFLICT (job_id) DO NOTHING;
END;
