-- Compare what blocks hold with the log.
--
-- Parameters: none.
-- Rows: block INTEGER; is_wrong INTEGER, whether it says otherwise, or events before it are told of by no block.

SELECT stored.block,
       (stored.low, stored.high, stored.delivered, stored.unnamed) IS NOT (
           SELECT min(recorded_at), max(recorded_at), sum(kind = 'delivered'), sum(kind = 'delivered' AND channel = '')
           FROM signal_ledger_events NOT INDEXED
           WHERE position > 256 * stored.block AND position <= 256 * (stored.block + 1))
       OR (stored.peak, stored.crest) IS NOT (stored.highest, stored.highest_low)
       OR EXISTS (SELECT 1 FROM signal_ledger_events NOT INDEXED
                  WHERE position > 256 * (stored.before + 1) AND position <= 256 * stored.block) AS is_wrong
FROM (
    SELECT *, max(high) OVER sofar AS highest, max(low) OVER sofar AS highest_low,
           lag(block, 1, -1) OVER sofar AS before
    FROM signal_ledger_blocks
    WINDOW sofar AS (ORDER BY block)
) AS stored
ORDER BY stored.block
