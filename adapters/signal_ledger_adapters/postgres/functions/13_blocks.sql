-- Blocks: what 256 events of the log hold, so that readers find events by their time, and deliveries where they are rare.

-- Write the next blocks, as far as the log is settled: so many at most. Returns how many; 0 also while somebody else does
-- so.
--
-- With the rights of its owner: the roles of an older version need no new ones.
CREATE OR REPLACE FUNCTION ledger.write_blocks(most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_sort = off
AS $$
DECLARE
    settled bigint;
    before  record;
    newest  bigint;
    told    record;
BEGIN
    settled := ledger.horizon();
    SELECT e.position INTO newest FROM ledger.events AS e WHERE e.turn < settled ORDER BY e.turn DESC, e.position DESC LIMIT 1;
    SELECT b.turn, b.position, b.peak, b.crest INTO before
    FROM ledger.blocks AS b ORDER BY b.turn DESC, b.position DESC LIMIT 1;
    -- Positions are hardly ever left out, so there are not enough events yet.
    IF newest IS NULL OR newest - coalesce(before.position, 0) < 256
       OR NOT pg_try_advisory_xact_lock(hashtext('signal_ledger.blocks'), hashtext(<'ledger'>)) THEN
        RETURN 0;
    END IF;
    FOR done IN 0 .. most - 1 LOOP
        -- In each turn of the loop anew: somebody else may have written them before the lock was had.
        SELECT b.turn, b.position, b.peak, b.crest INTO before
        FROM ledger.blocks AS b ORDER BY b.turn DESC, b.position DESC LIMIT 1;
        SELECT count(*) AS size, max(e.turn) AS turn, (array_agg(e.position))[256] AS position,
               min(e.recorded_at) AS low, max(e.recorded_at) AS high,
               count(*) FILTER (WHERE e.kind = 'delivered') AS delivered,
               count(*) FILTER (WHERE e.kind = 'delivered' AND e.channel = '') AS unnamed
        INTO told
        FROM (
            SELECT * FROM ledger.events AS one
            WHERE (one.turn, one.position) > (coalesce(before.turn, 0), coalesce(before.position, 0)) AND one.turn < settled
            ORDER BY one.turn, one.position LIMIT 256
        ) AS e;
        IF told.size < 256 THEN
            RETURN done;
        END IF;
        INSERT INTO ledger.blocks (turn, position, low, high, delivered, unnamed, peak, crest)
        VALUES (told.turn, told.position, told.low, told.high, told.delivered, told.unnamed,
                greatest(before.peak, told.high), greatest(before.crest, told.low));
    END LOOP;
    RETURN most;
END;
$$;

-- Where in the log events of some times can be: behind a place, and up to another one. No event is left out, whatever the
-- clock has done: it begins before the first block with an event of that time or a later one, and ends with the last block
-- that has one of an earlier time. What no block tells of yet is looked at.
--
-- Parameters: the earliest time, and the one that they are before; NULL for any.
-- Returns the places; the last one is NULL for the end of the log.
CREATE OR REPLACE FUNCTION ledger.places(
    since timestamptz, until timestamptz,
    OUT behind_turn bigint, OUT behind_position bigint, OUT last_turn bigint, OUT last_position bigint
)
LANGUAGE plpgsql STABLE SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_sort = off
AS $$
DECLARE
    told  record;
    first record;
    dip   record;
BEGIN
    SELECT b.turn, b.position INTO told FROM ledger.blocks AS b ORDER BY b.turn DESC, b.position DESC LIMIT 1;
    told.turn := coalesce(told.turn, 0);
    told.position := coalesce(told.position, 0);
    behind_turn := 0;
    behind_position := 0;
    IF since IS NOT NULL THEN
        SELECT b.turn, b.position INTO first
        FROM ledger.blocks AS b WHERE b.peak >= since ORDER BY b.peak, b.turn, b.position LIMIT 1;
        IF NOT FOUND THEN
            behind_turn := told.turn;
            behind_position := told.position;
        ELSE
            SELECT b.turn, b.position INTO behind_turn, behind_position
            FROM ledger.blocks AS b WHERE (b.turn, b.position) < (first.turn, first.position)
            ORDER BY b.turn DESC, b.position DESC LIMIT 1;
            behind_turn := coalesce(behind_turn, 0);
            behind_position := coalesce(behind_position, 0);
        END IF;
    END IF;
    IF until IS NULL OR EXISTS (
        SELECT FROM ledger.events AS e
        WHERE (e.turn, e.position) > (told.turn, told.position) AND e.turn < (SELECT ledger.horizon())
          AND e.recorded_at < until
    ) THEN
        RETURN;
    END IF;
    SELECT b.turn, b.position INTO last_turn, last_position
    FROM ledger.blocks AS b WHERE b.crest < until ORDER BY b.crest DESC, b.turn DESC, b.position DESC LIMIT 1;
    SELECT b.turn, b.position INTO dip
    FROM ledger.blocks AS b WHERE b.low < b.crest AND b.low < until ORDER BY b.turn DESC, b.position DESC LIMIT 1;
    IF dip.turn IS NOT NULL AND (last_turn IS NULL OR (dip.turn, dip.position) > (last_turn, last_position)) THEN
        last_turn := dip.turn;
        last_position := dip.position;
    END IF;
    last_turn := coalesce(last_turn, 0);
    last_position := coalesce(last_position, 0);
END;
$$;

-- The first deliveries behind a place, in the log's order, past the blocks that have none.
--
-- Parameters: whether only those on the default channel; the place, and the last one, NULL for the end of the log; the
-- times that they are recorded at, or before, NULL for any; how many at most.
CREATE OR REPLACE FUNCTION ledger.deliveries(
    unnamed boolean, behind_turn bigint, behind_position bigint, last_turn bigint, last_position bigint,
    since timestamptz, until timestamptz, most integer
) RETURNS SETOF ledger.events
LANGUAGE plpgsql STABLE ROWS 500 SET enable_seqscan = off SET enable_bitmapscan = off
    SET enable_sort = off
AS $$
DECLARE
    settled bigint := ledger.horizon();
    block   record;
    start   record;
    wanted  integer := most;
    found   integer;
BEGIN
    last_turn := coalesce(last_turn, settled);
    last_position := coalesce(last_position, 0);
    WHILE wanted > 0 AND (behind_turn, behind_position) < (last_turn, last_position) LOOP
        IF unnamed THEN
            SELECT b.turn, b.position INTO block FROM ledger.blocks AS b
            WHERE b.unnamed > 0 AND (b.turn, b.position) > (behind_turn, behind_position)
            ORDER BY b.turn, b.position LIMIT 1;
        ELSE
            SELECT b.turn, b.position INTO block FROM ledger.blocks AS b
            WHERE b.delivered > 0 AND (b.turn, b.position) > (behind_turn, behind_position)
            ORDER BY b.turn, b.position LIMIT 1;
        END IF;
        IF block.turn IS NULL THEN
            -- Behind the last block, whatever that has.
            SELECT b.turn, b.position INTO start FROM ledger.blocks AS b ORDER BY b.turn DESC, b.position DESC LIMIT 1;
            block.turn := last_turn;
            block.position := last_position;
        ELSE
            SELECT b.turn, b.position INTO start FROM ledger.blocks AS b
            WHERE (b.turn, b.position) < (block.turn, block.position) ORDER BY b.turn DESC, b.position DESC LIMIT 1;
        END IF;
        IF start.turn IS NOT NULL AND (start.turn, start.position) > (behind_turn, behind_position) THEN
            behind_turn := start.turn;
            behind_position := start.position;
        END IF;
        IF (block.turn, block.position) > (last_turn, last_position) THEN
            block.turn := last_turn;
            block.position := last_position;
        END IF;
        RETURN QUERY
        SELECT e.* FROM ledger.events AS e
        WHERE (e.turn, e.position) > (behind_turn, behind_position)
          AND (e.turn, e.position) <= (block.turn, block.position) AND e.turn < settled
          AND e.kind = 'delivered' AND (e.channel = '' OR NOT unnamed)
          AND (since IS NULL OR e.recorded_at >= since) AND (until IS NULL OR e.recorded_at < until)
        ORDER BY e.turn, e.position LIMIT wanted;
        GET DIAGNOSTICS found = ROW_COUNT;
        wanted := wanted - found;
        behind_turn := block.turn;
        behind_position := block.position;
    END LOOP;
END;
$$;

-- Write the next blocks, as `write_blocks`, once nobody else does so.
CREATE OR REPLACE FUNCTION ledger.rewrite_blocks(most integer) RETURNS integer
LANGUAGE plpgsql
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('signal_ledger.blocks'), hashtext(<'ledger'>));
    RETURN ledger.write_blocks(most);
END;
$$;

-- Forget all blocks, to write them anew. Until that is done readers look at more events.
CREATE OR REPLACE FUNCTION ledger.forget_blocks() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    -- Whoever writes blocks has read the last one, which the next must follow: it is waited for, and then seen.
    PERFORM pg_advisory_xact_lock(hashtext('signal_ledger.blocks'), hashtext(<'ledger'>));
    DELETE FROM ledger.blocks;
END;
$$;
