-- reserve_batch: decides many purchase attempts in one statement, in arrival order, each on what its predecessors left.
--
-- IN   one element per attempt, in arrival order:
--        p_rid           attempt id, made by the server
--        p_purchase      purchase id = f(buyer, key)
--        p_buyer, p_key, p_fingerprint
--        p_epoch         epoch of the gate that debited this attempt's units; NULL when no gate did
--        p_queued_until  the attempt is too late after this moment; NULL when it does not wait in a queue
--      one element per line of a cart:
--        p_line_attempt  1-based position of its attempt;  p_line_sku;  p_line_quantity
-- OUT  one row per attempt, in arrival order: its verdict; for 'held' and 'replayed' the purchase as it is now; for a fresh
--      'held' also the units left of each SKU after it. Verdicts are those of contract/verdict.py, or 'fenced': this rid was
--      voided and nothing was decided.
--
-- The steps, and why their order is a law:
--   1 claim before 2: who decides an attempt or a purchase, or gives an attempt up, does so alone; whoever waited sees what came of it
--   2 fence before everything else: an attempt that was decided or given up must leave nothing behind
--   3 due holds before 4: they never wait (SKIP LOCKED), and what they return must be known before stock is locked
--   4 locks before 5: nothing is read for the decision before its lock
-- Steps 3 and 4 before the claim deadlocked 36 of 84 batches in a storm of batchers, cancellers and a sweeper; this order, none.
--
-- Every row is written once, when its last value is known: a purchase that is inserted first and completed later, and deleted
-- when it is refused, cost as much as all the rest. Only quota rows are made before their value is known, with the units that
-- are hoped for, because they are locked by being made; most hopes come true.
--
-- The planner is told to look rows up by index, always (SET below): plans are kept, and one that was made while a table was
-- empty read all of it a second later, 45 ms a batch instead of 6. Statements join rows of this batch by position instead.

-- Makes this transaction the only one that decides these attempts and these purchases. A claim is a lock on a number, not a row:
-- nothing is written, and a purchase that is refused leaves nothing to delete. Two ids with one number wait for each other in vain.
CREATE FUNCTION claim_attempts(p_rid uuid[], p_purchase uuid[]) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = flash, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(c.claim)
    FROM (SELECT DISTINCT uuid_hash_extended(u.id, 0) AS claim FROM unnest(p_rid || p_purchase) u (id) ORDER BY claim) c;
END $$;

CREATE FUNCTION reserve_batch(
    p_rid uuid[], p_purchase uuid[], p_buyer text[], p_key text[], p_fingerprint bytea[], p_epoch bigint[],
    p_queued_until timestamptz[], p_line_attempt integer[], p_line_sku text[], p_line_quantity integer[]
) RETURNS TABLE (
    ordinal bigint, verdict text, id uuid, buyer text, sale_id text, state text, version integer, generation integer,
    deadline timestamptz, total_minor bigint, currency text, history jsonb, payments jsonb,
    skus text[], quantities integer[], prices bigint[], seqs bigint[], remaining bigint[]
) LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
    n constant integer := cardinality(p_rid);
    ended_max constant integer := 256;       -- due holds ended per batch; the sweeper takes the rest
    -- by attempt
    v text[];                                -- the verdict, NULL until there is one
    is_recorded boolean[] := array_fill(false, ARRAY[n]);      -- below, with its verdict
    rid_first integer[];                     -- earliest attempt of this batch with the same rid
    purchase_first integer[];                -- earliest attempt of this batch with the same purchase
    winner integer[] := array_fill(NULL::integer, ARRAY[n]);   -- at the first attempt of a purchase: the one that held it
    existing bytea[];                        -- fingerprint of a purchase made before this batch
    sale_of text[] := array_fill(NULL::text, ARRAY[n]);        -- NULL: it needs neither quota nor stock
    is_unknown boolean[] := array_fill(true, ARRAY[n]);
    is_mixed boolean[] := array_fill(false, ARRAY[n]);
    wanted integer[] := array_fill(0, ARRAY[n]);               -- units, of all its lines
    quota_of integer[];                      -- position of its quota row
    line_from integer[] := array_fill(NULL::integer, ARRAY[n]);
    line_to integer[] := array_fill(NULL::integer, ARRAY[n]);
    total bigint[] := array_fill(NULL::bigint, ARRAY[n]);      -- price of a fresh hold; NULL: it is none
    hold_s integer[] := array_fill(NULL::integer, ARRAY[n]);   -- length of a fresh hold
    -- parameters that may hold NULLs or texts, as variables: those PostgreSQL keeps in a form that is quick to index
    a_buyer text[] := p_buyer; a_epoch bigint[] := p_epoch; a_fingerprint bytea[] := p_fingerprint;
    a_queued_until timestamptz[] := p_queued_until;
    -- by line, sorted by attempt and SKU
    line_attempt integer[]; line_sku text[]; line_quantity integer[]; line_stock integer[];
    line_price bigint[]; line_seq bigint[]; line_left bigint[];
    -- by SKU
    s_sku text[]; s_sale text[]; s_price bigint[]; s_currency text[];
    s_available bigint[]; s_seq bigint[]; s_open boolean[]; s_limit integer[]; s_hold_s integer[]; s_moved boolean[];
    -- by quota row
    q_sale text[]; q_buyer text[]; q_hoped bigint[];
    q_made boolean[];                        -- by this batch, with what is hoped for
    q_written bigint[]; q_active bigint[];
    ended uuid[];
    lock_sale text[]; lock_buyer text[]; lock_sku text[];
    v_due constant timestamptz := clock_timestamp();
    v_now timestamptz;
    v_history jsonb;
    i integer; k integer; s integer; price bigint; is_short boolean;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'reserve_batch needs READ COMMITTED: each step must see what was committed while it waited';
    END IF;

    -- 1. Claim.
    PERFORM claim_attempts(p_rid, p_purchase);

    -- 2. Fence. A rid seen before keeps its verdict, and a purchase made before is replayed.
    SELECT array_agg(a.verdict), array_agg(a.fingerprint), array_agg(a.rid_first), array_agg(a.purchase_first)
    INTO v, existing, rid_first, purchase_first
    FROM (SELECT CASE WHEN t.purchase_id <> u.purchase THEN 'malformed'
                      WHEN t.verdict = 'void' THEN 'fenced' ELSE t.verdict END AS verdict,
                 p.fingerprint, min(u.at) OVER (PARTITION BY u.rid) AS rid_first,
                 min(u.at) OVER (PARTITION BY u.purchase) AS purchase_first
          FROM unnest(p_rid, p_purchase) WITH ORDINALITY u (rid, purchase, at)
          LEFT JOIN attempt t ON t.rid = u.rid LEFT JOIN purchase p ON p.id = u.purchase
          ORDER BY u.at) a;

    -- 3. Holds of these SKUs and buyers that are over return their units now, not at the sweeper's next round.
    SELECT coalesce(array_agg(d.id ORDER BY d.deadline, d.id), '{}') INTO ended
    FROM (SELECT p.id, p.deadline FROM purchase p
          WHERE p.state = 'HELD' AND p.deadline <= v_due
            AND (p.buyer = ANY (p_buyer)
                 OR EXISTS (SELECT FROM line l WHERE l.purchase_id = p.id AND l.sku = ANY (p_line_sku)))
          ORDER BY p.deadline, p.id LIMIT ended_max FOR NO KEY UPDATE SKIP LOCKED) d;
    IF ended <> '{}' THEN
        ended := move_purchases(ended, 'expire', v_due);
    END IF;

    -- Which sale each attempt is about. An item never changes its sale or its price.
    SELECT array_agg(l.attempt), array_agg(l.sku), array_agg(l.quantity), array_agg(l.stock)
    INTO line_attempt, line_sku, line_quantity, line_stock
    FROM (SELECT l.attempt, l.sku, l.quantity, dense_rank() OVER (ORDER BY l.sku) AS stock
          FROM unnest(p_line_attempt, p_line_sku, p_line_quantity) l (attempt, sku, quantity)
          ORDER BY l.attempt, l.sku) l;
    SELECT array_agg(d.sku), array_agg(m.sale_id), array_agg(m.price_minor), array_agg(a.currency), array_agg(false)
    INTO s_sku, s_sale, s_price, s_currency, s_moved
    FROM (SELECT DISTINCT l.sku FROM unnest(p_line_sku) l (sku) ORDER BY l.sku) d
    LEFT JOIN (item m JOIN stock k ON k.sku = m.sku JOIN sale a ON a.id = m.sale_id) ON m.sku = d.sku;
    line_price := array_fill(NULL::bigint, ARRAY[cardinality(line_sku)]);
    line_seq := line_price;
    line_left := line_price;
    FOR k IN 1..cardinality(line_sku) LOOP
        i := line_attempt[k];
        s := line_stock[k];
        line_price[k] := s_price[s];
        wanted[i] := wanted[i] + line_quantity[k];
        IF line_from[i] IS NULL THEN
            line_from[i] := k;
            sale_of[i] := s_sale[s];
            is_unknown[i] := s_sale[s] IS NULL;
        ELSE
            is_unknown[i] := is_unknown[i] OR s_sale[s] IS NULL;
            is_mixed[i] := is_mixed[i] OR s_sale[s] <> sale_of[i];
        END IF;
        line_to[i] := k;
    END LOOP;
    FOR i IN 1..n LOOP
        IF v[i] IS NOT NULL OR existing[i] IS NOT NULL OR is_unknown[i] OR is_mixed[i] THEN
            sale_of[i] := NULL;
        END IF;
    END LOOP;

    -- 4. Quota rows, then stock rows, each sorted; those of the ended holds included. Which rows is worked out before the first
    -- lock: a row that changed while it was waited for has its whole WHERE evaluated again, and with a subquery there a busy
    -- row changed faster than that took; batches stood still for twenty seconds.
    SELECT array_agg(a.quota ORDER BY a.at) INTO quota_of
    FROM (SELECT u.at, dense_rank() OVER (ORDER BY u.sale, u.buyer) AS quota     -- where there is no sale it is not used
          FROM unnest(sale_of, p_buyer) WITH ORDINALITY u (sale, buyer, at)) a;
    SELECT array_agg(a.sale), array_agg(a.buyer), array_agg(a.hoped) INTO q_sale, q_buyer, q_hoped
    FROM (SELECT u.sale, u.buyer, sum(u.wanted) AS hoped FROM unnest(sale_of, p_buyer, wanted) u (sale, buyer, wanted)
          WHERE u.sale IS NOT NULL GROUP BY u.sale, u.buyer ORDER BY u.sale, u.buyer) a;
    WITH made AS (
        INSERT INTO quota (sale_id, buyer, active)
        SELECT u.sale, u.buyer, u.hoped FROM unnest(q_sale, q_buyer, q_hoped) u (sale, buyer, hoped)
        ON CONFLICT DO NOTHING RETURNING sale_id, buyer
    )
    SELECT array_agg((u.sale, u.buyer) IN (SELECT m.sale_id, m.buyer FROM made m) ORDER BY u.at) INTO q_made
    FROM unnest(q_sale, q_buyer) WITH ORDINALITY u (sale, buyer, at);

    SELECT array_agg(w.sale), array_agg(w.buyer) INTO lock_sale, lock_buyer
    FROM (SELECT u.sale, u.buyer FROM unnest(q_sale, q_buyer, q_made) u (sale, buyer, made) WHERE NOT u.made
          UNION SELECT p.sale_id, p.buyer FROM purchase p WHERE p.id = ANY (ended)) w;
    lock_sku := ARRAY(SELECT l.sku FROM unnest(line_attempt, line_sku) l (attempt, sku) WHERE sale_of[l.attempt] IS NOT NULL
                      UNION SELECT l.sku FROM line l WHERE l.purchase_id = ANY (ended));
    PERFORM 1 FROM unnest(lock_sale, lock_buyer) w (sale, buyer) JOIN quota q ON q.sale_id = w.sale AND q.buyer = w.buyer
    ORDER BY q.sale_id, q.buyer FOR NO KEY UPDATE OF q;
    PERFORM 1 FROM stock k WHERE k.sku = ANY (lock_sku) ORDER BY k.sku FOR NO KEY UPDATE;
    v_now := clock_timestamp();

    -- 5. Lapsed units first, then every attempt in arrival order.
    PERFORM return_units(ended, 'expired', v_now);

    SELECT array_agg(CASE WHEN a.made THEN 0 ELSE a.active END), array_agg(CASE WHEN a.made THEN a.hoped ELSE a.active END)
    INTO q_active, q_written
    FROM (SELECT u.made, u.hoped, CASE WHEN NOT u.made THEN
                     (SELECT q.active FROM quota q WHERE q.sale_id = u.sale AND q.buyer = u.buyer) END AS active
          FROM unnest(q_sale, q_buyer, q_made, q_hoped) WITH ORDINALITY u (sale, buyer, made, hoped, at)
          ORDER BY u.at) a;
    -- what is read here of a SKU without a lock belongs to attempts that need none
    SELECT array_agg(k.available ORDER BY u.at), array_agg(k.seq ORDER BY u.at),
           array_agg(k.state = 'OPEN' AND k.opens <= v_now AND v_now < k.closes ORDER BY u.at),
           array_agg(k.buyer_limit ORDER BY u.at), array_agg(k.hold_seconds ORDER BY u.at)
    INTO s_available, s_seq, s_open, s_limit, s_hold_s
    FROM unnest(s_sku) WITH ORDINALITY u (sku, at) LEFT JOIN stock k ON k.sku = u.sku;

    FOR i IN 1..n LOOP
        CONTINUE WHEN v[i] IS NOT NULL;
        IF rid_first[i] < i THEN
            v[i] := CASE WHEN p_purchase[rid_first[i]] = p_purchase[i] THEN v[rid_first[i]] ELSE 'malformed' END;
            CONTINUE;
        END IF;
        is_recorded[i] := true;
        IF existing[i] IS NOT NULL THEN
            v[i] := CASE WHEN existing[i] = a_fingerprint[i] THEN 'replayed' ELSE 'key_reused' END;
        ELSIF winner[purchase_first[i]] IS NOT NULL THEN
            v[i] := CASE WHEN a_fingerprint[winner[purchase_first[i]]] = a_fingerprint[i] THEN 'replayed' ELSE 'key_reused' END;
        ELSIF is_unknown[i] THEN
            v[i] := 'unknown_sku';
        ELSIF is_mixed[i] THEN
            v[i] := 'mixed_sales';
        ELSE
            is_short := false; price := 0;
            FOR k IN line_from[i]..line_to[i] LOOP
                s := line_stock[k];
                is_short := is_short OR s_available[s] < line_quantity[k];
                price := price + line_quantity[k] * line_price[k];
            END LOOP;
            v[i] := CASE WHEN NOT s_open[s] THEN 'sale_not_open'   -- all its lines are of one sale
                         WHEN a_queued_until[i] < v_now THEN 'too_late'
                         WHEN is_short THEN 'sold_out'
                         WHEN q_active[quota_of[i]] + wanted[i] > s_limit[s] THEN 'over_limit'
                         ELSE 'held' END;
            IF v[i] = 'held' THEN
                winner[purchase_first[i]] := i;
                total[i] := price;
                hold_s[i] := s_hold_s[s];
                q_active[quota_of[i]] := q_active[quota_of[i]] + wanted[i];
                FOR k IN line_from[i]..line_to[i] LOOP
                    s := line_stock[k];
                    s_moved[s] := true;
                    s_available[s] := s_available[s] - line_quantity[k];
                    s_seq[s] := s_seq[s] + 1;
                    line_seq[k] := s_seq[s];
                    line_left[k] := s_available[s];
                END LOOP;
            END IF;
        END IF;
    END LOOP;

    -- 6. Write what was decided.
    UPDATE quota q SET active = a.active
    FROM unnest(q_sale, q_buyer, q_active, q_written) a (sale, buyer, active, written)
    WHERE a.active <> a.written AND q.sale_id = a.sale AND q.buyer = a.buyer;

    UPDATE stock k SET available = a.available, seq = a.seq
    FROM unnest(s_sku, s_available, s_seq, s_moved) a (sku, available, seq, moved)
    WHERE a.moved AND k.sku = a.sku;

    INSERT INTO ledger (sku, seq, kind, reason, delta, purchase_id, generation, epoch, at)
    SELECT l.sku, l.seq, 'hold', 'held', -l.quantity, p_purchase[l.attempt], 1, a_epoch[l.attempt], v_now
    FROM unnest(line_attempt, line_sku, line_quantity, line_seq) l (attempt, sku, quantity, seq)
    WHERE l.seq IS NOT NULL;

    INSERT INTO line (purchase_id, sku, quantity, unit_price_minor, seq)
    SELECT p_purchase[l.attempt], l.sku, l.quantity, l.price, l.seq
    FROM unnest(line_attempt, line_sku, line_quantity, line_price, line_seq) l (attempt, sku, quantity, price, seq)
    WHERE l.seq IS NOT NULL;

    v_history := jsonb_build_array(jsonb_build_object('state', 'HELD', 'version', 1, 'at', iso(v_now)));
    INSERT INTO purchase (id, sale_id, buyer, key, fingerprint, state, version, generation, deadline, total_minor, history)
    SELECT a.id, a.sale, a.buyer, a.key, a.fingerprint, 'HELD', 1, 1, v_now + make_interval(secs => a.hold_s), a.total, v_history
    FROM unnest(p_purchase, sale_of, p_buyer, p_key, p_fingerprint, hold_s, total)
        a (id, sale, buyer, key, fingerprint, hold_s, total)
    WHERE a.total IS NOT NULL;

    INSERT INTO outbox (topic, subject, version, at)
    SELECT 'purchase.held', a.id::text, 1, v_now FROM unnest(p_purchase, total) a (id, total) WHERE a.total IS NOT NULL;

    INSERT INTO attempt (rid, purchase_id, verdict, at)
    SELECT a.rid, a.purchase, a.verdict, v_now
    FROM unnest(p_rid, p_purchase, v, is_recorded) a (rid, purchase, verdict, is_recorded) WHERE a.is_recorded;

    -- A fresh hold is told from what was just written of it; everything else is read, as it is now.
    RETURN QUERY
    SELECT r.* FROM (
        SELECT l.attempt::bigint AS ordinal, 'held', p_purchase[l.attempt], a_buyer[l.attempt], sale_of[l.attempt], 'HELD', 1, 1,
               v_now + make_interval(secs => hold_s[l.attempt]), total[l.attempt], s_currency[min(l.stock)], v_history, '[]'::jsonb,
               array_agg(l.sku), array_agg(l.quantity), array_agg(l.price), array_agg(l.seq), array_agg(l.remaining)
        FROM (SELECT * FROM unnest(line_attempt, line_stock, line_sku, line_quantity, line_price, line_seq, line_left)
                  u (attempt, stock, sku, quantity, price, seq, remaining)
              WHERE u.seq IS NOT NULL ORDER BY u.attempt, u.sku) l
        GROUP BY l.attempt
        UNION ALL
        SELECT a.at, a.verdict, d.id, d.buyer, d.sale_id, d.state, d.version, d.generation, d.deadline, d.total_minor, d.currency,
               d.history, d.payments, d.skus, d.quantities, d.prices, d.seqs, NULL
        FROM unnest(v, p_purchase, total) WITH ORDINALITY a (verdict, purchase, total, at)
        LEFT JOIN purchase_document d ON a.verdict IN ('held', 'replayed') AND d.id = a.purchase
        WHERE a.total IS NULL
    ) r ORDER BY r.ordinal;
END $$;

-- Fences attempts that nobody will finish: none of them can be decided after this, unless it already was.
-- Returns each rid's verdict; 'void' when the fence was first.
CREATE FUNCTION void_attempts(p_rid uuid[], p_purchase uuid[]) RETURNS TABLE (rid uuid, verdict text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM claim_attempts(p_rid, p_purchase);    -- a batch that decides one of them comes to its end first
    INSERT INTO attempt (rid, purchase_id, verdict)
    SELECT DISTINCT ON (a.rid) a.rid, a.purchase, 'void' FROM unnest(p_rid, p_purchase) a (rid, purchase) ORDER BY a.rid
    ON CONFLICT (rid) DO NOTHING;
    RETURN QUERY SELECT t.rid, t.verdict FROM attempt t WHERE t.rid = ANY (p_rid);
END $$;
