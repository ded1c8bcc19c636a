-- Say where in the log events of some times can be: behind a position, and up to another one.
--
-- No event is left out, whatever the clock has done: `behind` ends before the first block with an event of that time or a
-- later one, `last` with the last block that has one of an earlier time. What no block tells of yet is looked at.
--
-- Parameters: since TEXT, the earliest time, NULL for any; until TEXT, which they are before, NULL for any.
-- Rows: one: behind INTEGER; last INTEGER, NULL for the end of the log; told INTEGER, up to where there are blocks.

WITH asked (since, until) AS MATERIALIZED (VALUES (?, ?)), told (position) AS MATERIALIZED (
    SELECT 256 * (coalesce(max(block), -1) + 1) FROM signal_ledger_blocks
)
SELECT CASE
           WHEN asked.since IS NULL THEN 0
           ELSE coalesce(
               (SELECT 256 * block FROM signal_ledger_blocks WHERE peak >= asked.since ORDER BY peak, block LIMIT 1),
               told.position)
       END AS behind,
       CASE
           WHEN asked.until IS NULL THEN NULL
           WHEN EXISTS (SELECT 1 FROM signal_ledger_events NOT INDEXED
                        WHERE position > told.position AND recorded_at < asked.until) THEN NULL
           ELSE 256 * (1 + max(
               coalesce((SELECT block FROM signal_ledger_blocks
                         WHERE crest < asked.until ORDER BY crest DESC, block DESC LIMIT 1), -1),
               coalesce((SELECT block FROM signal_ledger_blocks INDEXED BY signal_ledger_blocks_dip
                         WHERE low < crest AND low < asked.until ORDER BY block DESC LIMIT 1), -1)))
       END AS last,
       told.position AS told
FROM told, asked
