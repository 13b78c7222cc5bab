-- Privacy: a buyer's name goes, for good, and the books stay. Everything of the buyer is moved to a pseudonym made of randomness,
-- which nobody can turn back, and which no buyer can bear (# is not in wire.BUYER_PATTERN).
--
--   purchase   buyer becomes the pseudonym; key, which its client chose, becomes the id; the fingerprint becomes one that no body has.
--              The id stays: ledger, line, payment and the gateways' journals hang on it, and it is what stops a late retry. The
--              same buyer with the same key meets that id, finds another fingerprint, and hears key_reused: nothing is bought twice
--              and nothing is shown.
--   attempt    its verdict becomes key_reused as well, or a receipt would still be answered with the purchase
--   payment    the client's key goes
--   quota      moves along, so that it remains the sum of the pseudonym's purchases
--   operation  a repair's plan names the buyers whose quota it changed: the pseudonym takes the name's place there
--
-- Only when nothing can move any more: no hold, no open payment, every sale over (in one that goes on, who is forgotten could buy
-- up to the limit again), and a minute after the last change (the gate may still be settling an attempt).
CREATE FUNCTION forget_buyer(
    p_key text, p_operator text, p_reason text, p_buyer text, OUT pseudonym text, OUT purchases integer
) LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
DECLARE
    v_known text;
    v_purchases uuid[];
    v_sales text[];
    v_busy text;
    rest constant interval := '1 minute';
BEGIN
    IF p_buyer LIKE 'forgotten#%' THEN
        RAISE EXCEPTION 'this is the pseudonym of a buyer who was forgotten' USING ERRCODE = '22023';
    ELSIF p_reason ~* ('(^|[^A-Za-z0-9])' || regexp_replace(p_buyer, '([^[:alnum:]])', '\\\1', 'g') || '($|[^A-Za-z0-9])') THEN
        RAISE EXCEPTION 'the reason names the buyer, and would be kept' USING ERRCODE = '22023';
    END IF;
    SELECT subject INTO v_known FROM operation WHERE key = p_key AND action = 'buyer.forget';
    v_purchases := ARRAY(SELECT id FROM purchase WHERE buyer = p_buyer ORDER BY id);
    v_sales := ARRAY(SELECT sale_id FROM quota WHERE buyer = p_buyer UNION SELECT sale_id FROM purchase WHERE buyer = p_buyer);
    purchases := cardinality(v_purchases);
    IF cardinality(v_sales) = 0 AND v_known IS NOT NULL THEN    -- done before, under this key
        pseudonym := v_known;
        RETURN;
    ELSIF cardinality(v_sales) = 0 THEN
        RAISE EXCEPTION 'nothing is held about this buyer' USING ERRCODE = '22023';
    ELSIF v_known IS NOT NULL THEN
        RAISE EXCEPTION 'this key has forgotten somebody, and about this buyer something is held: use a new key'
            USING ERRCODE = '22023';
    END IF;
    pseudonym := 'forgotten#' || replace(gen_random_uuid()::text, '-', '');
    PERFORM record_operation(p_key, p_operator, 'buyer.forget', pseudonym, p_reason, '{}');

    PERFORM 1 FROM sale WHERE id = ANY (v_sales) ORDER BY id FOR SHARE;    -- none of them is prolonged or reopened meanwhile
    PERFORM 1 FROM attempt WHERE purchase_id = ANY (v_purchases) ORDER BY rid FOR NO KEY UPDATE;
    -- FOR UPDATE, because columns of unique indexes change
    PERFORM 1 FROM purchase WHERE id = ANY (v_purchases) ORDER BY id FOR UPDATE;
    PERFORM 1 FROM payment WHERE purchase_id = ANY (v_purchases) ORDER BY purchase_id, try FOR UPDATE;
    PERFORM 1 FROM quota WHERE buyer = p_buyer ORDER BY sale_id FOR UPDATE;
    SELECT CASE
        WHEN EXISTS (SELECT FROM sale WHERE id = ANY (v_sales) AND state <> 'ENDED' AND closes > clock_timestamp())
            THEN 'a sale in which they bought is not over'
        WHEN EXISTS (SELECT FROM purchase WHERE buyer = p_buyer AND id <> ALL (v_purchases)) THEN 'they are buying just now'
        WHEN EXISTS (SELECT FROM purchase WHERE id = ANY (v_purchases) AND buyer <> p_buyer) THEN 'they were forgotten just now'
        WHEN EXISTS (SELECT FROM purchase WHERE id = ANY (v_purchases) AND state IN ('HELD', 'AUTHORIZING', 'AUTHORIZED'))
            THEN 'a hold is open'
        WHEN EXISTS (SELECT FROM payment WHERE purchase_id = ANY (v_purchases)
                     AND state IN ('ASKED', 'AUTHORIZED', 'REFUNDING', 'DISPUTED')) THEN 'a payment is open'
        WHEN EXISTS (SELECT FROM purchase WHERE id = ANY (v_purchases)
                     AND (history -> -1 ->> 'at')::timestamptz > clock_timestamp() - rest)
          OR EXISTS (SELECT FROM attempt WHERE purchase_id = ANY (v_purchases) AND at > clock_timestamp() - rest)
            THEN 'something happened within the last minute'
        END INTO v_busy;
    IF v_busy IS NOT NULL THEN
        RAISE EXCEPTION 'not now: %', v_busy USING ERRCODE = '55006';
    END IF;

    UPDATE attempt SET verdict = 'key_reused' WHERE purchase_id = ANY (v_purchases) AND verdict IN ('held', 'replayed');
    UPDATE purchase SET buyer = pseudonym, key = id::text, fingerprint = uuid_send(gen_random_uuid())
    WHERE id = ANY (v_purchases);
    UPDATE payment SET key = 'forgotten-' || try WHERE purchase_id = ANY (v_purchases);
    UPDATE quota SET buyer = pseudonym WHERE buyer = p_buyer AND sale_id = ANY (v_sales);
    UPDATE operation o SET detail = jsonb_set(o.detail, '{quota}', (
        SELECT jsonb_agg(CASE WHEN e ->> 'buyer' = p_buyer THEN jsonb_set(e, '{buyer}', to_jsonb(pseudonym)) ELSE e END ORDER BY n)
        FROM jsonb_array_elements(o.detail -> 'quota') WITH ORDINALITY q (e, n)))
    WHERE o.detail -> 'quota' @> jsonb_build_array(jsonb_build_object('buyer', p_buyer));
END $$;
