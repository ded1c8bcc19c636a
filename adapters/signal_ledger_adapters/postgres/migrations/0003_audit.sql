-- What the questions of auditors are answered by; see docs/adr/0017-audit-queries.md.
--
-- Every page of events comes in the log's order from an index that begins with what is asked for. Two values are had by
-- most events and would cost every signal an index entry: the kind delivered, and on it the default channel. Those are
-- found by the blocks below.
--
-- On tables that hold something, ledger.migrate makes these indexes before this is run, and nobody waits for that.

CREATE INDEX IF NOT EXISTS events_kind ON ledger.events (kind COLLATE "C", turn, position) WHERE kind <> 'delivered';

CREATE INDEX IF NOT EXISTS events_channel ON ledger.events (channel, kind COLLATE "C", turn, position)
    WHERE channel IS NOT NULL AND (channel <> '' OR kind <> 'delivered');

CREATE INDEX IF NOT EXISTS events_source ON ledger.events (source, turn, position) WHERE source IS NOT NULL;

-- Who waits on a channel, the longest-waiting first; and whose deadline ends first. A wake-up changes none of their
-- columns, so the row keeps its place in them (HOT).
CREATE INDEX IF NOT EXISTS waits_channel ON ledger.waits (current, since, job_id) WHERE since IS NOT NULL;

CREATE INDEX IF NOT EXISTS waits_deadline ON ledger.waits (deadline_at) WHERE since IS NOT NULL AND deadline_at IS NOT NULL;

-- What 256 events of the log hold, in its order: those behind the row before, up to this one's place. The sweeper writes
-- them once they are settled, so they never change, and who appends events pays nothing. Projected from the log, and
-- rebuilt from it.
--
--   low, high   the earliest and the latest recorded_at
--   delivered   how many of the events are deliveries
--   unnamed     how many of those are on the default channel
--   peak        the latest recorded_at up to here: the first block with a later one is found by it
--   crest       the highest low up to here. Clocks step back at times: then low is lower than it
CREATE TABLE ledger.blocks (
    turn      bigint      NOT NULL,
    position  bigint      NOT NULL,
    low       timestamptz NOT NULL,
    high      timestamptz NOT NULL,
    delivered integer     NOT NULL,
    unnamed   integer     NOT NULL,
    peak      timestamptz NOT NULL,
    crest     timestamptz NOT NULL,

    PRIMARY KEY (turn, position)
);

CREATE INDEX blocks_peak ON ledger.blocks (peak, turn, position);
CREATE INDEX blocks_crest ON ledger.blocks (crest, turn, position);
CREATE INDEX blocks_dip ON ledger.blocks (turn, position) WHERE low < crest;
CREATE INDEX blocks_delivered ON ledger.blocks (turn, position) WHERE delivered > 0;
CREATE INDEX blocks_unnamed ON ledger.blocks (turn, position) WHERE unnamed > 0;

-- They tell when there were events, and nothing of what is in them.
GRANT SELECT ON ledger.blocks TO public;
