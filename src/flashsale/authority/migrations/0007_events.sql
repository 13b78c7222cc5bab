-- Events: the changes that no function before tells by itself, and what an event says beyond its name.
--
-- Triggers, so that whoever adds an item, restocks it or steps in by hand tells it without knowing. None of them is on a table
-- that a purchase writes, but for `stock`, where `UPDATE OF total` passes a purchase by: it changes the count, not the total.

CREATE FUNCTION tell_event() RETURNS trigger LANGUAGE plpgsql SET search_path = flash, pg_temp AS $$
BEGIN
    INSERT INTO outbox (topic, subject, version, at)
    SELECT e.topic, e.subject, e.version, clock_timestamp()
    FROM (SELECT TG_ARGV[0] AS topic, to_jsonb(NEW) ->> TG_ARGV[1] AS subject,
                 coalesce((to_jsonb(NEW) ->> TG_ARGV[2])::bigint, 0) AS version) e;
    RETURN NULL;
END $$;

CREATE TRIGGER tell_created AFTER INSERT ON sale
    FOR EACH ROW EXECUTE FUNCTION tell_event('sale.created', 'id');
CREATE TRIGGER tell_added AFTER INSERT ON stock
    FOR EACH ROW EXECUTE FUNCTION tell_event('item.added', 'sku', 'seq');
CREATE TRIGGER tell_changed AFTER UPDATE OF total ON stock
    FOR EACH ROW EXECUTE FUNCTION tell_event('stock.changed', 'sku', 'seq');
CREATE TRIGGER tell_recorded AFTER INSERT ON operation
    FOR EACH ROW EXECUTE FUNCTION tell_event('operation.recorded', 'id');

-- What became of a try's money where no purchase tells it: an authorization is purchase.authorized, a capture purchase.paid.
-- Not payment.*: those are the worker's errands, and the relay books them as sent.
CREATE FUNCTION tell_money() RETURNS trigger LANGUAGE plpgsql SET search_path = flash, pg_temp AS $$
BEGIN
    INSERT INTO outbox (topic, subject, version, at)
    VALUES ('money.' || lower(NEW.state), NEW.purchase_id::text, NEW.try, clock_timestamp());
    RETURN NULL;
END $$;
CREATE TRIGGER tell_money AFTER UPDATE OF state ON payment
    FOR EACH ROW WHEN (NEW.state NOT IN ('AUTHORIZED', 'CAPTURED')) EXECUTE FUNCTION tell_money();

-- Rows of the outbox as they are told: the sale they belong to, and their data. No buyer is in it. Joined when a relay asks,
-- so that the decision that wrote the row pays nothing. What a purchase, a try, an item or a movement of stock was at that
-- version never changes afterwards (a purchase's state is taken from its history); a sale's terms are those of the asking.
CREATE FUNCTION describe_events(p_id bigint[])
RETURNS TABLE (id bigint, topic text, subject text, version bigint, at timestamptz, sale_id text, data jsonb)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF p_id IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT o.id, o.topic, o.subject, o.version, o.at, s.id,
           CASE f.family
           WHEN 'purchase' THEN jsonb_build_object(
               'sale', s.id, 'state', p.history -> (o.version - 1)::integer -> 'state', 'version', o.version,
               'deadline', iso(p.deadline), 'total_minor', p.total_minor, 'currency', s.currency,
               'items', (SELECT jsonb_agg(jsonb_build_object('sku', l.sku, 'quantity', l.quantity,
                                                             'unit_price_minor', l.unit_price_minor) ORDER BY l.sku)
                         FROM line l WHERE l.purchase_id = p.id))
           WHEN 'payment' THEN jsonb_build_object('sale', s.id, 'try', o.version) || coalesce(y.terms, '{}')
           WHEN 'money' THEN jsonb_build_object('sale', s.id, 'try', o.version) || coalesce(y.terms, '{}')
           WHEN 'sale' THEN jsonb_build_object(
               'sale', s.id, 'merchant', s.merchant_id, 'name', s.name, 'state', s.state, 'opens', iso(s.opens),
               'closes', iso(s.closes), 'buyer_limit', s.buyer_limit, 'hold_seconds', s.hold_seconds, 'currency', s.currency)
           WHEN 'item' THEN jsonb_build_object(
               'sale', s.id, 'sku', i.sku, 'name', i.name, 'price_minor', i.price_minor, 'currency', s.currency)
           WHEN 'stock' THEN jsonb_build_object('sale', s.id, 'sku', i.sku, 'units', m.delta, 'reason', m.reason)
           WHEN 'operation' THEN jsonb_build_object('action', w.action, 'subject', w.subject)
           END
    FROM outbox o
    CROSS JOIN LATERAL (SELECT split_part(o.topic, '.', 1) AS family) f
    LEFT JOIN purchase p ON p.id = CASE WHEN f.family IN ('purchase', 'payment', 'money') THEN o.subject::uuid END
    LEFT JOIN LATERAL (
        SELECT jsonb_build_object('method', t.method, 'amount_minor', t.amount_minor, 'currency', t.currency) AS terms
        FROM payment t WHERE f.family IN ('payment', 'money') AND t.purchase_id = p.id AND t.try = o.version
    ) y ON true
    LEFT JOIN item i ON i.sku = CASE WHEN f.family IN ('item', 'stock') THEN o.subject END
    LEFT JOIN ledger m ON f.family = 'stock' AND m.sku = i.sku AND m.seq = o.version
    LEFT JOIN operation w ON w.id = CASE WHEN f.family = 'operation' THEN o.subject::bigint END
    LEFT JOIN sale s ON s.id = CASE WHEN f.family = 'sale' THEN o.subject ELSE coalesce(p.sale_id, i.sale_id) END
    WHERE o.id = ANY (p_id);
END $$;
