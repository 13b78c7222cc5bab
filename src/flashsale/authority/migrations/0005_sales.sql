-- What a merchant, an operator and the gate keeper do to a whole sale. Each locks the sale row, then its stock rows, sorted.
--
--   made PAUSED ──► OPEN ◄──► PAUSED       OPEN waits for its times: before `opens` it shows as SCHEDULED, after `closes` as ENDED
--                    └──► ENDED ◄──┘       and stays so

CREATE FUNCTION create_sale(
    p_sale text, p_merchant text, p_name text, p_opens timestamptz, p_closes timestamptz, p_buyer_limit integer,
    p_hold_seconds integer, p_currency text, p_state text DEFAULT 'OPEN'
) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM sale WHERE id = p_sale) THEN    -- the same error as the primary key's, in words
        RAISE EXCEPTION 'there is a sale % already', p_sale USING ERRCODE = '23505';
    ELSIF p_closes <= p_opens THEN
        RAISE EXCEPTION 'sale % would close before it opens', p_sale USING ERRCODE = '22023';
    END IF;
    INSERT INTO merchant (id, name) VALUES (p_merchant, p_merchant) ON CONFLICT DO NOTHING;
    INSERT INTO sale (id, merchant_id, name, state, opens, closes, buyer_limit, hold_seconds, currency)
    VALUES (p_sale, p_merchant, p_name, p_state, p_opens, p_closes, p_buyer_limit, p_hold_seconds, p_currency);
END $$;

-- Adds an item with its opening stock, which is the first row of its ledger.
CREATE FUNCTION add_item(p_sale text, p_sku text, p_name text, p_price_minor bigint, p_units bigint)
RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
BEGIN
    PERFORM 1 FROM sale WHERE id = p_sale FOR NO KEY UPDATE;    -- a pause at the same moment must reach the copy below
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no sale %', p_sale USING ERRCODE = '22023';
    ELSIF EXISTS (SELECT FROM item WHERE sku = p_sku) THEN
        RAISE EXCEPTION 'there is an item % already', p_sku USING ERRCODE = '23505';
    END IF;
    INSERT INTO item (sku, sale_id, name, price_minor) VALUES (p_sku, p_sale, p_name, p_price_minor);
    INSERT INTO stock (sku, sale_id, total, available, seq, state, opens, closes, buyer_limit, hold_seconds, epoch)
    SELECT p_sku, p_sale, 0, 0, 0, s.state, s.opens, s.closes, s.buyer_limit, s.hold_seconds, s.epoch
    FROM sale s WHERE s.id = p_sale;
    IF p_units > 0 THEN
        PERFORM restock(p_sku, p_units, 'opening');
    END IF;
END $$;

CREATE FUNCTION restock(p_sku text, p_units bigint, p_reason text DEFAULT 'restock') RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
DECLARE
    v_seq bigint;
BEGIN
    IF p_units <= 0 THEN
        RAISE EXCEPTION 'restock adds at least one unit, not %', p_units USING ERRCODE = '22023';
    END IF;
    PERFORM 1 FROM stock WHERE sku = p_sku FOR NO KEY UPDATE;
    UPDATE stock SET total = total + p_units, available = available + p_units, seq = seq + 1
    WHERE sku = p_sku RETURNING seq INTO v_seq;
    IF v_seq IS NULL THEN
        RAISE EXCEPTION 'there is no item %', p_sku USING ERRCODE = '22023';
    END IF;
    INSERT INTO ledger (sku, seq, kind, reason, delta, at) VALUES (p_sku, v_seq, 'restock', p_reason, p_units, clock_timestamp());
    RETURN v_seq;
END $$;

-- Changes a sale; NULL leaves a thing as it is. Once this returns, no later seq of its SKUs is decided on the old terms:
-- after a pause or an end, none is a hold. An ended sale stays ended.
CREATE FUNCTION change_sale(
    p_sale text, p_state text DEFAULT NULL, p_opens timestamptz DEFAULT NULL, p_closes timestamptz DEFAULT NULL,
    p_buyer_limit integer DEFAULT NULL, p_hold_seconds integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
DECLARE
    v_sale sale;
    v_now timestamptz;
BEGIN
    SELECT * INTO v_sale FROM sale WHERE id = p_sale FOR NO KEY UPDATE;
    IF v_sale.id IS NULL THEN
        RAISE EXCEPTION 'there is no sale %', p_sale USING ERRCODE = '22023';
    END IF;
    IF v_sale.state = 'ENDED' AND p_state IS DISTINCT FROM 'ENDED' THEN
        RAISE EXCEPTION 'sale % has ended', p_sale USING ERRCODE = '22023';
    ELSIF coalesce(p_closes, v_sale.closes) <= coalesce(p_opens, v_sale.opens) THEN
        RAISE EXCEPTION 'sale % would close before it opens', p_sale USING ERRCODE = '22023';
    END IF;
    UPDATE sale SET state = coalesce(p_state, state), opens = coalesce(p_opens, opens), closes = coalesce(p_closes, closes),
        buyer_limit = coalesce(p_buyer_limit, buyer_limit), hold_seconds = coalesce(p_hold_seconds, hold_seconds),
        version = version + 1
    WHERE id = p_sale RETURNING * INTO v_sale;

    PERFORM 1 FROM stock WHERE sale_id = p_sale ORDER BY sku FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    UPDATE stock SET state = v_sale.state, opens = v_sale.opens, closes = v_sale.closes, buyer_limit = v_sale.buyer_limit,
        hold_seconds = v_sale.hold_seconds, seq = seq + 1
    WHERE sku IN (SELECT k.sku FROM stock k WHERE k.sale_id = p_sale);
    INSERT INTO ledger (sku, seq, kind, reason, delta, at)
    SELECT sku, seq, 'sale', CASE WHEN p_state IS NULL THEN 'changed' ELSE lower(p_state) END, 0, v_now
    FROM stock WHERE sale_id = p_sale;
    INSERT INTO outbox (topic, subject, version, at)
    VALUES ('sale.' || CASE WHEN p_state IS NULL THEN 'changed' ELSE lower(p_state) END, p_sale, v_sale.version, v_now);
END $$;

-- Starts a new life of the sale's gate: an epoch above PostgreSQL's and above the gate's, and everything the gate holds, of
-- one moment. Holding the stock rows makes it one moment: no hold of these SKUs can commit meanwhile.
CREATE FUNCTION raise_epoch(p_sale text, p_gate_epoch bigint) RETURNS TABLE (
    epoch bigint, skus text[], available bigint[], seqs bigint[], states text[], opens timestamptz[], closes timestamptz[],
    limits integer[], won uuid[]
) LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_epoch bigint;
BEGIN
    PERFORM 1 FROM sale WHERE id = p_sale FOR NO KEY UPDATE;
    PERFORM 1 FROM stock WHERE sale_id = p_sale ORDER BY sku FOR NO KEY UPDATE;
    UPDATE sale SET epoch = greatest(epoch, p_gate_epoch) + 1 WHERE id = p_sale RETURNING epoch INTO v_epoch;
    UPDATE stock SET epoch = v_epoch WHERE sku IN (SELECT k.sku FROM stock k WHERE k.sale_id = p_sale);
    RETURN QUERY
    SELECT v_epoch, array_agg(k.sku ORDER BY k.sku), array_agg(k.available ORDER BY k.sku), array_agg(k.seq ORDER BY k.sku),
           array_agg(k.state ORDER BY k.sku), array_agg(k.opens ORDER BY k.sku), array_agg(k.closes ORDER BY k.sku),
           array_agg(k.buyer_limit ORDER BY k.sku),
           ARRAY(SELECT p.id FROM purchase p WHERE p.sale_id = p_sale)
    FROM stock k WHERE k.sale_id = p_sale;
END $$;

-- The same by hand: each records who, why and what first, and false says that this key has done exactly this before.
CREATE FUNCTION operate_create_sale(
    p_key text, p_operator text, p_reason text, p_sale text, p_merchant text, p_name text, p_state text, p_opens timestamptz,
    p_closes timestamptz, p_buyer_limit integer, p_hold_seconds integer, p_currency text
) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
BEGIN
    IF NOT record_operation(p_key, p_operator, 'sale.create', p_sale, p_reason, jsonb_build_object(
            'merchant', p_merchant, 'name', p_name, 'state', p_state, 'opens', p_opens, 'closes', p_closes,
            'limit', p_buyer_limit, 'hold_seconds', p_hold_seconds, 'currency', p_currency)) THEN
        RETURN false;
    END IF;
    PERFORM create_sale(p_sale, p_merchant, p_name, coalesce(p_opens, clock_timestamp()), p_closes, p_buyer_limit,
                        p_hold_seconds, p_currency, p_state);
    RETURN true;
END $$;

-- p_action: sale.open (now, whatever its schedule said), sale.pause, sale.end, sale.schedule (a paused sale that is given an
-- opening opens by itself), sale.limit. What is NULL stays as it is.
CREATE FUNCTION operate_change_sale(
    p_key text, p_operator text, p_reason text, p_action text, p_sale text, p_opens timestamptz, p_closes timestamptz,
    p_buyer_limit integer, p_hold_seconds integer
) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
DECLARE
    v_sale sale;
    v_state text := CASE p_action WHEN 'sale.open' THEN 'OPEN' WHEN 'sale.pause' THEN 'PAUSED' WHEN 'sale.end' THEN 'ENDED' END;
    v_opens timestamptz := p_opens;
BEGIN
    IF p_action NOT IN ('sale.open', 'sale.pause', 'sale.end', 'sale.schedule', 'sale.limit') THEN
        RAISE EXCEPTION 'there is no action %', p_action USING ERRCODE = '22023';
    ELSIF NOT record_operation(p_key, p_operator, p_action, p_sale, p_reason, jsonb_strip_nulls(jsonb_build_object(
            'opens', p_opens, 'closes', p_closes, 'limit', p_buyer_limit, 'hold_seconds', p_hold_seconds))) THEN
        RETURN false;
    END IF;
    SELECT * INTO v_sale FROM sale WHERE id = p_sale FOR NO KEY UPDATE;
    IF p_action = 'sale.open' AND v_sale.closes <= clock_timestamp() THEN
        RAISE EXCEPTION 'sale % closed at %; give it another time first', p_sale, iso(v_sale.closes) USING ERRCODE = '22023';
    ELSIF p_action = 'sale.open' THEN
        v_opens := least(v_sale.opens, clock_timestamp());
    ELSIF p_action = 'sale.schedule' AND p_opens IS NOT NULL THEN
        v_state := 'OPEN';
    END IF;
    PERFORM change_sale(p_sale, v_state, v_opens, p_closes, p_buyer_limit, p_hold_seconds);
    RETURN true;
END $$;

CREATE FUNCTION operate_add_item(
    p_key text, p_operator text, p_reason text, p_sale text, p_sku text, p_name text, p_price_minor bigint, p_units bigint
) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
BEGIN
    IF NOT record_operation(p_key, p_operator, 'sale.add-item', p_sku, p_reason, jsonb_build_object(
            'sale', p_sale, 'name', p_name, 'price_minor', p_price_minor, 'units', p_units)) THEN
        RETURN false;
    END IF;
    PERFORM add_item(p_sale, p_sku, p_name, p_price_minor, p_units);
    RETURN true;
END $$;

CREATE FUNCTION operate_restock(p_key text, p_operator text, p_reason text, p_sku text, p_units bigint)
RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
BEGIN
    IF NOT record_operation(p_key, p_operator, 'sale.restock', p_sku, p_reason, jsonb_build_object('units', p_units)) THEN
        RETURN false;
    END IF;
    PERFORM restock(p_sku, p_units);
    RETURN true;
END $$;

-- A new sale of the same merchant, terms and items, with the stock that the old one opened with. An item belongs to one sale, so
-- the new ones are called like the old ones with p_suffix behind. Without an opening the clone waits, paused.
CREATE FUNCTION operate_clone_sale(
    p_key text, p_operator text, p_reason text, p_sale text, p_clone text, p_suffix text, p_opens timestamptz, p_closes timestamptz
) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
DECLARE
    v_sale sale;
BEGIN
    IF NOT record_operation(p_key, p_operator, 'sale.clone', p_clone, p_reason, jsonb_build_object(
            'sale', p_sale, 'suffix', p_suffix, 'opens', p_opens, 'closes', p_closes)) THEN
        RETURN false;
    END IF;
    SELECT * INTO v_sale FROM sale WHERE id = p_sale;
    IF v_sale.id IS NULL THEN
        RAISE EXCEPTION 'there is no sale %', p_sale USING ERRCODE = '22023';
    END IF;
    PERFORM create_sale(p_clone, v_sale.merchant_id, v_sale.name, coalesce(p_opens, clock_timestamp()), p_closes, v_sale.buyer_limit,
                        v_sale.hold_seconds, v_sale.currency, CASE WHEN p_opens IS NULL THEN 'PAUSED' ELSE 'OPEN' END);
    PERFORM add_item(p_clone, i.sku || p_suffix, i.name, i.price_minor, i.units)
    FROM (SELECT m.sku, m.name, m.price_minor,
                 coalesce((SELECT delta FROM ledger l WHERE l.sku = m.sku AND l.seq = 1 AND l.reason = 'opening'), 0) AS units
          FROM item m WHERE m.sale_id = p_sale ORDER BY m.sku) i;
    RETURN true;
END $$;
