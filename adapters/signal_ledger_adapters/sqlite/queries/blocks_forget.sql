-- Delete blocks, to write them anew.
--
-- Parameters: first INTEGER, behind INTEGER; NULL for all that follow.
-- Rows: none.

DELETE FROM signal_ledger_blocks
WHERE block >= ? AND block < coalesce(?, 9223372036854775807)
