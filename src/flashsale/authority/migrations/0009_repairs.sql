-- What an operator does when the books do not add up: a plan, made by the auditor from one snapshot, is carried out if everything is
-- still as it says. Units move by ledger rows alone; nothing is deleted, and no payment is touched.
--
-- A correction is a ledger row of no purchase. Its delta closes the gap between the rows and what is truly there, and may be 0
-- where the rows were right and the count was not.
ALTER TABLE ledger DROP CONSTRAINT ledger_kind_check, DROP CONSTRAINT ledger_check;
ALTER TABLE ledger
    ADD CONSTRAINT ledger_kind_check CHECK (kind IN ('hold', 'return', 'restock', 'sale', 'correction')),
    ADD CONSTRAINT ledger_check CHECK (CASE kind WHEN 'hold' THEN delta < 0 WHEN 'return' THEN delta > 0 WHEN 'sale' THEN delta = 0
                                                 WHEN 'correction' THEN true ELSE delta <> 0 END);

-- Carries out a plan, once per key: false when this key did it before. The plan (proof/repair.py):
--   returns  [{purchase, sku, generation, units}]      holds whose purchase keeps nothing and that were never returned
--   stock    [{sku, seq, available, total, to_available, to_total, delta}]   to_total: all restocks; to_available: less what is held
--   quota    [{sale, buyer, active, to_active}]        to_active: what the buyer's purchases hold
--   sales    [{sale, epoch}]                           whose gates are wrong: the epoch is raised, and the gate built anew
-- Each is worked out again under the locks, in their order everywhere: a plan that says anything else is refused as stale.
CREATE FUNCTION repair_books(p_key text, p_operator text, p_reason text, p_plan jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
DECLARE
    free constant text[] := '{EXPIRED,CANCELLED,DECLINED,RESTOCKED}';    -- states that keep no units
    v_now timestamptz;
    lock_sale constant text[] := ARRAY(SELECT jsonb_array_elements(p_plan -> 'sales') ->> 'sale');
    lock_purchase constant uuid[] := ARRAY(SELECT (jsonb_array_elements(p_plan -> 'returns') ->> 'purchase')::uuid);
    lock_sku text[];
BEGIN
    IF NOT record_operation(p_key, p_operator, 'audit.repair', 'books', p_reason, p_plan) THEN
        RETURN false;
    END IF;
    PERFORM 1 FROM sale WHERE id = ANY (lock_sale) ORDER BY id FOR NO KEY UPDATE;
    lock_sku := ARRAY(SELECT jsonb_array_elements(p_plan -> 'stock') ->> 'sku')    -- after it: no item is added any more
                || ARRAY(SELECT s.sku FROM stock s WHERE s.sale_id = ANY (lock_sale));
    PERFORM 1 FROM purchase WHERE id = ANY (lock_purchase) ORDER BY id FOR NO KEY UPDATE;
    INSERT INTO quota (sale_id, buyer, active) SELECT q.sale, q.buyer, 0
    FROM jsonb_to_recordset(p_plan -> 'quota') q (sale text, buyer text) ORDER BY 1, 2 ON CONFLICT DO NOTHING;
    PERFORM 1 FROM jsonb_to_recordset(p_plan -> 'quota') w (sale text, buyer text)
    JOIN quota q ON q.sale_id = w.sale AND q.buyer = w.buyer ORDER BY q.sale_id, q.buyer FOR NO KEY UPDATE OF q;
    PERFORM 1 FROM stock WHERE sku = ANY (lock_sku) ORDER BY sku FOR NO KEY UPDATE;
    v_now := clock_timestamp();

    IF EXISTS (SELECT FROM jsonb_to_recordset(p_plan -> 'stock') w (sku text, seq bigint, available bigint, total bigint)
               LEFT JOIN stock s USING (sku) WHERE (s.seq, s.available, s.total) IS DISTINCT FROM (w.seq, w.available, w.total))
       OR EXISTS (SELECT FROM jsonb_to_recordset(p_plan -> 'quota') w (sale text, buyer text, active bigint, to_active bigint)
                  LEFT JOIN quota q ON q.sale_id = w.sale AND q.buyer = w.buyer
                  WHERE q.active IS DISTINCT FROM w.active OR w.to_active <> (
                      SELECT coalesce(sum(l.quantity), 0) FROM purchase p JOIN line l ON l.purchase_id = p.id
                      WHERE p.sale_id = w.sale AND p.buyer = w.buyer AND p.state <> ALL (free)))
       OR EXISTS (SELECT FROM jsonb_to_recordset(p_plan -> 'sales') w (sale text, epoch bigint)
                  LEFT JOIN sale s ON s.id = w.sale WHERE s.epoch IS DISTINCT FROM w.epoch)
       OR EXISTS (SELECT FROM jsonb_to_recordset(p_plan -> 'returns') w (purchase uuid, sku text, generation integer, units bigint)
                  LEFT JOIN purchase p ON p.id = w.purchase
                  LEFT JOIN ledger h ON h.purchase_id = w.purchase AND h.sku = w.sku AND h.generation = w.generation AND h.kind = 'hold'
                  WHERE h.delta IS DISTINCT FROM -w.units OR p.state <> ALL (free) AND p.generation = w.generation
                     OR w.sku <> ALL (SELECT jsonb_array_elements(p_plan -> 'stock') ->> 'sku')) THEN
        RAISE EXCEPTION 'the plan is stale' USING ERRCODE = '22023';
    END IF;

    -- A second return of the same hold fails on the ledger's unique constraint.
    INSERT INTO ledger (sku, seq, kind, reason, delta, purchase_id, generation, at)
    SELECT w.sku, s.seq + row_number() OVER (PARTITION BY w.sku ORDER BY w.purchase, w.generation), 'return', 'repaired', w.units,
           w.purchase, w.generation, v_now
    FROM jsonb_to_recordset(p_plan -> 'returns') w (purchase uuid, sku text, generation integer, units bigint) JOIN stock s USING (sku);
    IF EXISTS (SELECT FROM jsonb_to_recordset(p_plan -> 'stock') w (sku text, to_available bigint, to_total bigint, delta bigint)
               CROSS JOIN LATERAL (SELECT coalesce(sum(m.delta), 0) AS fold,
                                          coalesce(sum(m.delta) FILTER (WHERE m.kind = 'restock'), 0) AS restocked
                                   FROM ledger m WHERE m.sku = w.sku) m
               CROSS JOIN LATERAL (SELECT coalesce(sum(l.quantity), 0) AS held FROM line l JOIN purchase p ON p.id = l.purchase_id
                                   WHERE l.sku = w.sku AND p.state <> ALL (free)) h
               WHERE (w.to_total, w.to_available, w.delta)
                     IS DISTINCT FROM (m.restocked, m.restocked - h.held, m.restocked - h.held - m.fold)) THEN
        RAISE EXCEPTION 'the plan is stale' USING ERRCODE = '22023';
    END IF;
    UPDATE stock s SET available = w.to_available, total = w.to_total,
        seq = s.seq + 1 + (SELECT count(*) FROM jsonb_to_recordset(p_plan -> 'returns') r (sku text) WHERE r.sku = s.sku)
    FROM jsonb_to_recordset(p_plan -> 'stock') w (sku text, to_available bigint, to_total bigint) WHERE s.sku = w.sku;
    INSERT INTO ledger (sku, seq, kind, reason, delta, at)
    SELECT s.sku, s.seq, 'correction', 'repaired', w.delta, v_now
    FROM jsonb_to_recordset(p_plan -> 'stock') w (sku text, delta bigint) JOIN stock s USING (sku);

    UPDATE quota q SET active = w.to_active
    FROM jsonb_to_recordset(p_plan -> 'quota') w (sale text, buyer text, to_active integer)
    WHERE q.sale_id = w.sale AND q.buyer = w.buyer;

    UPDATE sale SET epoch = epoch + 1 WHERE id = ANY (lock_sale);
    UPDATE stock k SET state = s.state, opens = s.opens, closes = s.closes, buyer_limit = s.buyer_limit,
        hold_seconds = s.hold_seconds, epoch = s.epoch
    FROM sale s WHERE s.id = ANY (lock_sale) AND k.sale_id = s.id;
    RETURN true;
END $$;
