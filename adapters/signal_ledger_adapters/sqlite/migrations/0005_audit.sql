-- What the questions of auditors are answered by; see docs/adr/0017-audit-queries.md.
--
-- Every page of events comes in the log's order from an index that begins with what is asked for. Two values are had by
-- most events and would cost every signal an index entry: the kind delivered, and on it the default channel. Those are
-- found by the blocks below.

CREATE INDEX signal_ledger_events_kind
    ON signal_ledger_events (kind)
    WHERE kind <> 'delivered';

CREATE INDEX signal_ledger_events_channel
    ON signal_ledger_events (channel, kind)
    WHERE channel IS NOT NULL AND (channel <> '' OR kind <> 'delivered');

CREATE INDEX signal_ledger_events_source
    ON signal_ledger_events (source)
    WHERE source IS NOT NULL;

-- Who waits on a channel, the longest-waiting first; and whose deadline ends first.

CREATE INDEX signal_ledger_waits_channel
    ON signal_ledger_waits (current, since, job_id)
    WHERE status = 'live' OR status = 'snoozed';

CREATE INDEX signal_ledger_waits_deadline
    ON signal_ledger_waits (deadline_at)
    WHERE (status = 'live' OR status = 'snoozed') AND deadline_at IS NOT NULL;

-- What 256 positions of the log hold: block 0 tells of positions 1 to 256, and so on. A row is written with the last
-- event of its block and never changes. Projected from the log, and rebuilt from it.
--
--   low, high   the earliest and the latest recorded_at
--   delivered   how many of the events are deliveries
--   unnamed     how many of those are on the default channel
--   peak        the latest recorded_at up to here: the first block with a later one is found by it
--   crest       the highest low up to here. Clocks step back at times: then low is lower than it
CREATE TABLE signal_ledger_blocks (
    block     INTEGER PRIMARY KEY,
    low       TEXT    NOT NULL,
    high      TEXT    NOT NULL,
    delivered INTEGER NOT NULL,
    unnamed   INTEGER NOT NULL,
    peak      TEXT    NOT NULL,
    crest     TEXT    NOT NULL
) STRICT;

CREATE INDEX signal_ledger_blocks_peak ON signal_ledger_blocks (peak);
CREATE INDEX signal_ledger_blocks_crest ON signal_ledger_blocks (crest);
CREATE INDEX signal_ledger_blocks_dip ON signal_ledger_blocks (block) WHERE low < crest;
CREATE INDEX signal_ledger_blocks_delivered ON signal_ledger_blocks (block) WHERE delivered > 0;
CREATE INDEX signal_ledger_blocks_unnamed ON signal_ledger_blocks (block) WHERE unnamed > 0;

INSERT INTO signal_ledger_blocks (block, low, high, delivered, unnamed, peak, crest)
SELECT block, low, high, delivered, unnamed, max(high) OVER (ORDER BY block), max(low) OVER (ORDER BY block)
FROM (
    SELECT (position - 1) / 256 AS block, min(recorded_at) AS low, max(recorded_at) AS high,
           sum(kind = 'delivered') AS delivered, sum(kind = 'delivered' AND channel = '') AS unnamed
    FROM signal_ledger_events
    WHERE position <= (SELECT max(position) FROM signal_ledger_events) / 256 * 256
    GROUP BY (position - 1) / 256
);

-- With the blocks before it, if they were not written.
CREATE TRIGGER signal_ledger_events_block
AFTER INSERT ON signal_ledger_events
WHEN NEW.position % 256 = 0
BEGIN
    INSERT INTO signal_ledger_blocks (block, low, high, delivered, unnamed, peak, crest)
    SELECT told.block, told.low, told.high, told.delivered, told.unnamed,
           max(max(told.high) OVER (ORDER BY told.block), coalesce(before.peak, '')),
           max(max(told.low) OVER (ORDER BY told.block), coalesce(before.crest, ''))
    FROM (
        SELECT (position - 1) / 256 AS block, min(recorded_at) AS low, max(recorded_at) AS high,
               sum(kind = 'delivered') AS delivered, sum(kind = 'delivered' AND channel = '') AS unnamed
        FROM signal_ledger_events
        WHERE position > 256 * coalesce((SELECT max(block) + 1 FROM signal_ledger_blocks), 0)
          AND position <= NEW.position
        GROUP BY (position - 1) / 256
    ) AS told
    LEFT JOIN (SELECT peak, crest FROM signal_ledger_blocks ORDER BY block DESC LIMIT 1) AS before;
END;
