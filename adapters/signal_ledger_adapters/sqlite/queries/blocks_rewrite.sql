-- Write what blocks hold, as the log has it; those before them are there.
--
-- Parameters: first INTEGER, behind INTEGER.
-- Rows: none.

WITH asked (first, behind) AS MATERIALIZED (VALUES (?, ?))
INSERT INTO signal_ledger_blocks (block, low, high, delivered, unnamed, peak, crest)
SELECT told.block, told.low, told.high, told.delivered, told.unnamed,
       max(max(told.high) OVER (ORDER BY told.block), coalesce(before.peak, '')),
       max(max(told.low) OVER (ORDER BY told.block), coalesce(before.crest, ''))
FROM (
    SELECT (position - 1) / 256 AS block, min(recorded_at) AS low, max(recorded_at) AS high,
           sum(kind = 'delivered') AS delivered, sum(kind = 'delivered' AND channel = '') AS unnamed
    FROM signal_ledger_events NOT INDEXED
    WHERE position > 256 * (SELECT first FROM asked)
      AND position <= min(256 * (SELECT behind FROM asked), (SELECT max(position) FROM signal_ledger_events) / 256 * 256)
    GROUP BY (position - 1) / 256
) AS told
LEFT JOIN (SELECT peak, crest FROM signal_ledger_blocks WHERE block < (SELECT first FROM asked) ORDER BY block DESC LIMIT 1) AS before
