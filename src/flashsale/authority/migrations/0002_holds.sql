-- What every writer shares: how a purchase moves, how units return, and how a purchase looks to a reader.
--
-- Lock order in every writer of this folder: attempt, purchase, quota, stock, each by a sorted SELECT ... FOR NO KEY UPDATE
-- before anything of its kind is written. FOR UPDATE would also fight the key-share locks of item and stock references.
-- What goes before attempt is the claim, see claim_attempts. The planner looks rows up by index, as reserve_batch tells it, and
-- why: SET enable_... below.

CREATE FUNCTION iso(p_at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- One row per purchase, as every answer shows it: reserve_batch, GET and long-poll read this view and nothing else.
CREATE VIEW purchase_document AS
SELECT p.id, p.buyer, p.sale_id, p.state, p.version, p.generation, p.deadline, p.total_minor, s.currency, p.history,
       l.skus, l.quantities, l.prices, l.seqs,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('try', y.try, 'method', y.method, 'state', y.state) ORDER BY y.try), '[]')
        FROM payment y WHERE y.purchase_id = p.id) AS payments
FROM purchase p
JOIN sale s ON s.id = p.sale_id
CROSS JOIN LATERAL (
    SELECT array_agg(sku ORDER BY sku) AS skus, array_agg(quantity ORDER BY sku) AS quantities,
           array_agg(unit_price_minor ORDER BY sku) AS prices, array_agg(seq ORDER BY sku) AS seqs
    FROM line WHERE purchase_id = p.id
) l;

-- Moves purchases, which the caller has locked, by the lifecycle table; returns those that changed state, in the given order.
CREATE FUNCTION move_purchases(p_purchase uuid[], p_event text, p_now timestamptz) RETURNS uuid[]
LANGUAGE plpgsql VOLATILE SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    moved uuid[];
BEGIN
    WITH changed AS (
        UPDATE purchase p
        SET state = c.next, version = p.version + 1,
            history = p.history || jsonb_build_object('state', c.next, 'version', p.version + 1, 'at', iso(p_now))
        FROM lifecycle c
        WHERE p.id = ANY (p_purchase) AND c.state = p.state AND c.event = p_event AND c.next <> p.state
        RETURNING p.id, p.state, p.version
    ), told AS (
        INSERT INTO outbox (topic, subject, version, at)
        SELECT 'purchase.' || lower(state), id::text, version, p_now FROM changed
    )
    SELECT array_agg(g.id ORDER BY g.at) INTO moved
    FROM unnest(p_purchase) WITH ORDINALITY g (id, at) JOIN changed USING (id);
    RETURN coalesce(moved, '{}');
END $$;

-- Puts the units of purchases, which the caller has locked and moved out of their holding state, back on sale.
-- A second call for the same hold generation fails on the ledger's unique constraint.
CREATE FUNCTION return_units(p_purchase uuid[], p_reason text, p_now timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    lock_sale text[]; lock_buyer text[]; lock_sku text[];
BEGIN
    IF cardinality(p_purchase) = 0 THEN
        RETURN;
    END IF;
    -- which rows, before the first lock: see step 4 of reserve_batch
    SELECT array_agg(w.sale_id), array_agg(w.buyer) INTO lock_sale, lock_buyer
    FROM (SELECT DISTINCT p.sale_id, p.buyer FROM purchase p WHERE p.id = ANY (p_purchase)) w;
    lock_sku := ARRAY(SELECT DISTINCT l.sku FROM line l WHERE l.purchase_id = ANY (p_purchase));
    PERFORM 1 FROM unnest(lock_sale, lock_buyer) w (sale, buyer) JOIN quota q ON q.sale_id = w.sale AND q.buyer = w.buyer
    ORDER BY q.sale_id, q.buyer FOR NO KEY UPDATE OF q;
    PERFORM 1 FROM stock s WHERE s.sku = ANY (lock_sku) ORDER BY s.sku FOR NO KEY UPDATE;

    INSERT INTO ledger (sku, seq, kind, reason, delta, purchase_id, generation, at)
    SELECT l.sku, s.seq + row_number() OVER (PARTITION BY l.sku ORDER BY g.at), 'return', p_reason, l.quantity,
           p.id, p.generation, p_now
    FROM unnest(p_purchase) WITH ORDINALITY g (id, at)
    JOIN purchase p ON p.id = g.id JOIN line l ON l.purchase_id = p.id JOIN stock s ON s.sku = l.sku;

    UPDATE stock s SET available = s.available + b.units, seq = s.seq + b.rows
    FROM (SELECT l.sku, sum(l.quantity) AS units, count(*) AS rows
          FROM line l WHERE l.purchase_id = ANY (p_purchase) GROUP BY l.sku) b
    WHERE s.sku = b.sku;

    UPDATE quota q SET active = q.active - b.units
    FROM (SELECT p.sale_id, p.buyer, sum(l.quantity) AS units
          FROM purchase p JOIN line l ON l.purchase_id = p.id WHERE p.id = ANY (p_purchase) GROUP BY 1, 2) b
    WHERE q.sale_id = b.sale_id AND q.buyer = b.buyer;
END $$;

-- The buyer gives a hold up. NULL: done, now or before; otherwise why not.
CREATE FUNCTION cancel_purchase(p_purchase uuid, p_buyer text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
DECLARE
    v_state text;
    v_move lifecycle;
    v_now timestamptz;
BEGIN
    SELECT state INTO v_state FROM purchase WHERE id = p_purchase AND buyer = p_buyer FOR NO KEY UPDATE;
    IF v_state IS NULL THEN
        RETURN 'unknown_purchase';
    END IF;
    SELECT * INTO v_move FROM lifecycle WHERE state = v_state AND event = 'cancel';
    IF v_move.next IS NULL THEN
        RETURN 'too_late';
    END IF;
    v_now := clock_timestamp();
    PERFORM return_units(move_purchases(ARRAY[p_purchase], 'cancel', v_now), 'cancelled', v_now);
    RETURN NULL;
END $$;

-- Ends up to p_max holds whose deadline has passed, oldest first. Any number of sweepers may call it at once: each skips
-- what another has locked, and the state in the move admits one of them.
CREATE FUNCTION expire_due(p_max integer, OUT ended integer, OUT next_deadline timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_due timestamptz := clock_timestamp();
    due uuid[];
BEGIN
    SELECT array_agg(d.id ORDER BY d.deadline, d.id) INTO due
    FROM (SELECT id, deadline FROM purchase WHERE state = 'HELD' AND deadline <= v_due
          ORDER BY deadline, id LIMIT p_max FOR NO KEY UPDATE SKIP LOCKED) d;
    ended := coalesce(cardinality(due), 0);
    IF ended > 0 THEN
        PERFORM return_units(move_purchases(due, 'expire', clock_timestamp()), 'expired', clock_timestamp());
    END IF;
    SELECT min(deadline) INTO next_deadline FROM purchase WHERE state = 'HELD';
END $$;
