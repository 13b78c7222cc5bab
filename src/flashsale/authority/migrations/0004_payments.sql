-- Payments: what a buyer asked a gateway to pay, one row per try, and what each outcome does to the purchase.
--
-- Law 1: an outcome names its try. Money for any other try, or for a purchase that has ended, is given back once.
-- Law 2: a worker asks payment_next what to do, does it at the gateway, tells the outcome, and is told the next thing; any of
-- it may happen twice, because the gateway answers a repeated key with the same state. Law 3: the answer to late money is
-- written into the payment's state under the purchase's lock, so it is given once. Law 4: lock order as everywhere, and the
-- payment between its neighbours: inbox, purchase, payment, outbox, quota, stock. Plans look rows up by index, as in 0002.
--
--   outcome       payment of that state      becomes                 the purchase
--   authorized    ASKED                      AUTHORIZED              AUTHORIZING: authorize; EXPIRED: late_money if it can be held again
--   declined      ASKED                      DECLINED                AUTHORIZING: decline, or give_up after the last try
--   captured      ASKED, AUTHORIZED          CAPTURED                AUTHORIZING, AUTHORIZED: capture; EXPIRED: as above, then capture
--                 the same, DECLINED, VOIDED REFUNDING               where none of that is possible: the money goes back
--   disputed      CAPTURED                   DISPUTED                PAID: dispute
--   dispute_won   CAPTURED, DISPUTED         DISPUTE_WON             DISPUTED: win
--   dispute_lost  CAPTURED, DISPUTED,        DISPUTE_LOST            PAID or DISPUTED, of this try: dispute, lose
--                 REFUNDING
--   voided        ASKED, AUTHORIZED          VOIDED                  AUTHORIZING: expire if due, else as declined;
--                                                                      AUTHORIZED: expire if its void was asked for, else give_up
--   refunded      all but DECLINED, VOIDED,  REFUNDED                as voided; PAID, of this try: refund
--                 DISPUTE_LOST
-- Every other cell is a message told twice or too late, and changes nothing. Webhooks come in any order: a dispute of money that
-- nobody said was taken says that, too, and a refund of disputed money, that the dispute was won.

-- What a try still needs from the gateway: authorize | capture | void | refund | look (ask how it stands) | nothing.
CREATE FUNCTION payment_next(p_payment text, p_is_voiding boolean, p_purchase text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_payment = 'ASKED' AND p_purchase = 'AUTHORIZING' AND NOT p_is_voiding THEN 'authorize'
                WHEN p_payment = 'AUTHORIZED' AND p_purchase = 'AUTHORIZED' THEN 'capture'
                WHEN p_payment IN ('ASKED', 'AUTHORIZED') THEN 'void'
                WHEN p_payment = 'REFUNDING' THEN 'refund'
                WHEN p_payment = 'DISPUTED' THEN 'look'
                ELSE 'nothing' END
$$;

-- The buyer wants to pay. NULL: asked, now or before with this key; otherwise why not.
CREATE FUNCTION start_payment(p_purchase uuid, p_buyer text, p_key text, p_method text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_purchase purchase;
    v_known payment;
    v_now timestamptz;
BEGIN
    SELECT * INTO v_purchase FROM purchase
    WHERE id = p_purchase AND buyer = p_buyer FOR NO KEY UPDATE;
    IF v_purchase.id IS NULL THEN
        RETURN 'unknown_purchase';
    END IF;
    SELECT * INTO v_known FROM payment WHERE purchase_id = p_purchase AND key = p_key;
    IF v_known.try IS NOT NULL THEN
        RETURN CASE WHEN v_known.method = p_method THEN NULL ELSE 'key_reused' END;
    END IF;
    v_now := clock_timestamp();
    IF v_purchase.state <> 'HELD' OR v_purchase.deadline <= v_now THEN
        RETURN 'too_late';
    END IF;
    PERFORM move_purchases(ARRAY[p_purchase], 'pay', v_now);
    INSERT INTO payment (purchase_id, try, key, method, amount_minor, currency, state, asked_at)
    SELECT p_purchase, 1 + (SELECT count(*) FROM payment WHERE purchase_id = p_purchase), p_key, p_method,
           v_purchase.total_minor, s.currency, 'ASKED', v_now
    FROM sale s WHERE s.id = v_purchase.sale_id;
    INSERT INTO outbox (topic, subject, version, at)
    SELECT 'payment.asked', p_purchase::text, max(try), v_now FROM payment WHERE purchase_id = p_purchase;
    RETURN NULL;
END $$;

-- A new hold generation for an expired purchase, which the caller has locked; false when units, limit or sale do not allow it.
CREATE FUNCTION hold_again(p_purchase uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_wanted integer;
    v_now timestamptz;
    -- which rows, before the first lock: see step 4 of reserve_batch
    lock_sku constant text[] := ARRAY(SELECT sku FROM line WHERE purchase_id = p_purchase);
BEGIN
    PERFORM 1 FROM quota q JOIN purchase p ON p.sale_id = q.sale_id AND p.buyer = q.buyer
    WHERE p.id = p_purchase FOR NO KEY UPDATE OF q;
    PERFORM 1 FROM stock s WHERE s.sku = ANY (lock_sku) ORDER BY s.sku FOR NO KEY UPDATE;
    v_now := clock_timestamp();    -- after the locks, as in every decision about stock
    SELECT sum(quantity) INTO v_wanted FROM line WHERE purchase_id = p_purchase;
    IF EXISTS (SELECT FROM line l JOIN stock s ON s.sku = l.sku
               JOIN purchase p ON p.id = l.purchase_id JOIN quota q ON q.sale_id = p.sale_id AND q.buyer = p.buyer
               WHERE l.purchase_id = p_purchase
                 AND (s.state <> 'OPEN' OR v_now < s.opens OR v_now >= s.closes OR s.available < l.quantity
                      OR q.active + v_wanted > s.buyer_limit)) THEN
        RETURN false;
    END IF;
    UPDATE purchase SET generation = generation + 1 WHERE id = p_purchase;
    UPDATE quota q SET active = q.active + v_wanted FROM purchase p
    WHERE p.id = p_purchase AND q.sale_id = p.sale_id AND q.buyer = p.buyer;
    UPDATE stock s SET available = s.available - l.quantity, seq = s.seq + 1
    FROM line l WHERE l.purchase_id = p_purchase AND s.sku = l.sku;
    INSERT INTO ledger (sku, seq, kind, reason, delta, purchase_id, generation, at)
    SELECT l.sku, s.seq, 'hold', 'late_money', -l.quantity, p.id, p.generation, v_now
    FROM line l JOIN stock s ON s.sku = l.sku JOIN purchase p ON p.id = l.purchase_id WHERE p.id = p_purchase;
    UPDATE line l SET seq = s.seq FROM stock s WHERE l.purchase_id = p_purchase AND s.sku = l.sku;
    PERFORM move_purchases(ARRAY[p_purchase], 'late_money', v_now);
    RETURN true;
END $$;

-- Ends the hold of a purchase whose try brought no money, or gives the buyer the next try.
CREATE FUNCTION lose_payment(
    p_purchase uuid, p_try integer, p_was_declined boolean, p_was_voiding boolean, p_now timestamptz
) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_purchase purchase;
    tries_max constant integer := 3;
BEGIN
    SELECT * INTO v_purchase FROM purchase WHERE id = p_purchase;
    IF v_purchase.state = 'AUTHORIZED' AND p_was_voiding THEN    -- an authorization crossed the void: it is the deadline all the same
        PERFORM return_units(move_purchases(ARRAY[p_purchase], 'expire', p_now), 'expired', p_now);
    ELSIF v_purchase.state = 'AUTHORIZED' THEN
        PERFORM return_units(move_purchases(ARRAY[p_purchase], 'give_up', p_now), 'declined', p_now);
    ELSIF v_purchase.state <> 'AUTHORIZING' THEN
        RETURN;
    ELSIF NOT p_was_declined AND v_purchase.deadline <= p_now THEN
        PERFORM return_units(move_purchases(ARRAY[p_purchase], 'expire', p_now), 'expired', p_now);
    ELSIF p_try < tries_max THEN
        PERFORM move_purchases(ARRAY[p_purchase], 'decline', p_now);
    ELSE
        PERFORM return_units(move_purchases(ARRAY[p_purchase], 'give_up', p_now), 'declined', p_now);
    END IF;
END $$;

-- An outcome of one try, as the gateway told it: authorized | declined | captured | voided | refunded | disputed | dispute_won |
-- dispute_lost.
-- Returns what must be done next (see payment_next); or why nothing was believed: unknown | mismatch.
CREATE FUNCTION settle_payment(p_purchase uuid, p_try integer, p_outcome text, p_amount_minor bigint, p_currency text)
RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_state text;
    v_pay payment;
    -- The gateway may hold or take money for this try, and nobody has decided about it. An open try is its purchase's latest:
    -- another starts from HELD only, and nothing goes back there while a try is open.
    v_is_open boolean;
    -- A try that paid is its purchase's latest: the next one would have started from HELD.
    v_is_latest boolean;
    v_next text;
    v_now timestamptz;
BEGIN
    SELECT state INTO v_state FROM purchase WHERE id = p_purchase FOR NO KEY UPDATE;
    -- its row, too, before any quota or stock: who waits for a relay that marks it must not keep a hot row meanwhile
    SELECT * INTO v_pay FROM payment WHERE purchase_id = p_purchase AND try = p_try FOR NO KEY UPDATE;
    IF v_state IS NULL OR v_pay.try IS NULL THEN
        RETURN 'unknown';
    END IF;
    IF v_pay.amount_minor <> p_amount_minor OR v_pay.currency <> p_currency THEN
        RETURN 'mismatch';
    END IF;
    IF p_outcome IN ('disputed', 'dispute_won', 'dispute_lost') AND v_pay.state IN ('ASKED', 'AUTHORIZED', 'DECLINED', 'VOIDED') THEN
        PERFORM settle_payment(p_purchase, p_try, 'captured', p_amount_minor, p_currency);
        RETURN settle_payment(p_purchase, p_try, p_outcome, p_amount_minor, p_currency);
    ELSIF p_outcome = 'refunded' AND v_pay.state = 'DISPUTED' THEN
        PERFORM settle_payment(p_purchase, p_try, 'dispute_won', p_amount_minor, p_currency);
        RETURN settle_payment(p_purchase, p_try, p_outcome, p_amount_minor, p_currency);
    END IF;
    v_now := clock_timestamp();
    v_is_open := v_pay.state IN ('ASKED', 'AUTHORIZED');
    v_is_latest := NOT EXISTS (SELECT FROM payment WHERE purchase_id = p_purchase AND try > p_try);
    v_next := v_pay.state;

    CASE p_outcome
    WHEN 'authorized' THEN
        IF v_pay.state IN ('DECLINED', 'VOIDED') THEN    -- an old message, or a gateway that changed its mind: voiding suits both
            RETURN 'void';
        ELSIF v_pay.state = 'ASKED' THEN
            v_next := 'AUTHORIZED';
            IF v_state = 'AUTHORIZING' THEN
                PERFORM move_purchases(ARRAY[p_purchase], 'authorize', v_now);
            ELSIF v_state = 'EXPIRED' THEN
                PERFORM hold_again(p_purchase);
            END IF;
        END IF;
    WHEN 'declined' THEN
        IF v_pay.state = 'ASKED' THEN
            v_next := 'DECLINED';
            PERFORM lose_payment(p_purchase, p_try, true, v_pay.void_at IS NOT NULL, v_now);
        END IF;
    WHEN 'captured' THEN
        IF v_is_open AND (v_state IN ('AUTHORIZING', 'AUTHORIZED')
                          OR v_pay.state = 'ASKED' AND v_state = 'EXPIRED' AND hold_again(p_purchase)) THEN
            v_next := 'CAPTURED';
            PERFORM move_purchases(ARRAY[p_purchase], 'capture', v_now);
        ELSIF v_is_open OR v_pay.state IN ('DECLINED', 'VOIDED') THEN
            v_next := 'REFUNDING';
        END IF;
    WHEN 'voided' THEN
        IF v_is_open THEN
            v_next := 'VOIDED';
            PERFORM lose_payment(p_purchase, p_try, false, v_pay.void_at IS NOT NULL, v_now);
        END IF;
    WHEN 'refunded' THEN
        IF v_pay.state NOT IN ('DECLINED', 'VOIDED', 'DISPUTE_LOST') THEN
            v_next := 'REFUNDED';
            IF v_state = 'PAID' AND v_is_latest THEN    -- and not an older try's money, which goes back beside it
                PERFORM move_purchases(ARRAY[p_purchase], 'refund', v_now);
            ELSIF v_is_open THEN
                PERFORM lose_payment(p_purchase, p_try, false, v_pay.void_at IS NOT NULL, v_now);
            END IF;
        END IF;
    WHEN 'disputed' THEN    -- what is being given back anyway still is: the bank's decision comes first, or the refund does
        IF v_pay.state = 'CAPTURED' THEN
            v_next := 'DISPUTED';
            PERFORM move_purchases(ARRAY[p_purchase], 'dispute', v_now);
        END IF;
    WHEN 'dispute_won' THEN
        IF v_pay.state IN ('CAPTURED', 'DISPUTED') THEN
            v_next := 'DISPUTE_WON';
            PERFORM move_purchases(ARRAY[p_purchase], 'win', v_now);
        END IF;
    WHEN 'dispute_lost' THEN
        IF v_pay.state IN ('CAPTURED', 'DISPUTED', 'REFUNDING') THEN
            v_next := 'DISPUTE_LOST';
            IF v_is_latest THEN    -- else the purchase is paid for by another try, or by none
                PERFORM move_purchases(ARRAY[p_purchase], 'dispute', v_now);
                PERFORM move_purchases(ARRAY[p_purchase], 'lose', v_now);
            END IF;
        END IF;
    END CASE;
    IF v_next <> v_pay.state THEN
        UPDATE payment SET state = v_next, asks = 0, set_aside_at = NULL WHERE purchase_id = p_purchase AND try = p_try;
    END IF;
    RETURN (SELECT payment_next(v_next, v_pay.void_at IS NOT NULL, p.state) FROM purchase p WHERE p.id = p_purchase);
END $$;

-- The outcomes that most tries come to, many at once, one per purchase: an authorization or a capture of a try that its purchase
-- waits for. They move no unit, so no quota and no stock is locked, and what somebody else has locked is left out. NULL, in its
-- place: not settled here, to be told settle_payment.
CREATE FUNCTION settle_payments(
    p_purchase uuid[], p_try integer[], p_outcome text[], p_amount_minor bigint[], p_currency text[]
) RETURNS text[] LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_now timestamptz;
    locked uuid[];
    authorized uuid[];
    captured uuid[];
    steps text[];
BEGIN
    SELECT array_agg(d.id) INTO locked
    FROM (SELECT id FROM purchase WHERE id = ANY (p_purchase) AND state IN ('AUTHORIZING', 'AUTHORIZED')
          FOR NO KEY UPDATE SKIP LOCKED) d;    -- in any order: it waits for none of them
    PERFORM 1 FROM payment WHERE purchase_id = ANY (locked) ORDER BY purchase_id, try FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    WITH settled AS (    -- of two about one try one is taken, whichever
        UPDATE payment y SET state = upper(t.outcome), asks = 0, set_aside_at = NULL
        FROM unnest(p_purchase, p_try, p_outcome, p_amount_minor, p_currency)
            WITH ORDINALITY t (purchase_id, try, outcome, amount_minor, currency, place)
        JOIN purchase p ON p.id = t.purchase_id
        WHERE p.id = ANY (locked) AND y.purchase_id = p.id AND y.try = t.try
          AND y.amount_minor = t.amount_minor AND y.currency = t.currency
          AND (t.outcome = 'authorized' AND y.state = 'ASKED' AND p.state = 'AUTHORIZING'
               OR t.outcome = 'captured' AND y.state IN ('ASKED', 'AUTHORIZED'))
        RETURNING t.place, t.purchase_id, t.outcome, CASE t.outcome WHEN 'authorized' THEN 'capture' ELSE 'nothing' END AS step
    )
    SELECT array_agg(s.purchase_id) FILTER (WHERE s.outcome = 'authorized'),
           array_agg(s.purchase_id) FILTER (WHERE s.outcome = 'captured'),
           array_agg(s.step ORDER BY g.place)
    INTO authorized, captured, steps
    FROM generate_series(1, cardinality(p_purchase)) g (place) LEFT JOIN settled s USING (place);
    IF authorized IS NOT NULL THEN
        PERFORM move_purchases(authorized, 'authorize', v_now);
    END IF;
    IF captured IS NOT NULL THEN
        PERFORM move_purchases(captured, 'capture', v_now);
    END IF;
    RETURN steps;
END $$;

-- The same, for an outcome that somebody told us (a webhook): each event counts once, and what must be done next goes to the
-- worker through the outbox, so that a process which dies after hearing loses nothing.
-- Returns nothing; or why it had no effect: heard | unknown | mismatch.
CREATE FUNCTION hear_payment(
    p_event text, p_purchase uuid, p_try integer, p_outcome text, p_amount_minor bigint, p_currency text
) RETURNS text LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
DECLARE
    v_next text;
BEGIN
    INSERT INTO inbox (consumer, event) VALUES ('payments', p_event) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'heard';
    END IF;
    v_next := settle_payment(p_purchase, p_try, p_outcome, p_amount_minor, p_currency);
    IF v_next IN ('unknown', 'mismatch') THEN    -- not believed, so not heard: the same event may yet be told rightly
        DELETE FROM inbox WHERE consumer = 'payments' AND event = p_event;
        RETURN v_next;
    END IF;
    IF v_next <> 'nothing' THEN
        INSERT INTO outbox (topic, subject, version, at)
        VALUES ('payment.told', p_purchase::text, p_try, clock_timestamp());
    END IF;
    RETURN 'nothing';
END $$;

-- Purchases whose payment is on its way but whose deadline has passed: the gateway is asked to void the try before the hold
-- ends. A try whose message never reached the broker waits: that is our fault and must not cost the buyer the hold. Nor may it
-- when the broker is back: a try whose message reached it late has p_grace from then on, because the worker comes back when it
-- can and would find the request to void beside the wish to pay. (A relay takes tenths of a second; what took two seconds has
-- waited.) The same for one that the broker had when it or the workers went away: p_up is how long by now messages have come
-- through to a worker without a pause, and only a try that was sent since then has had its chance at once; the others have
-- p_grace from the return on. When the request to void has been with the broker for p_grace without an answer, the hold ends
-- without the gateway; money that comes later is late money.
CREATE FUNCTION expire_payments(p_max integer, p_grace interval, p_up interval, OUT voiding integer, OUT ended integer)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    late uuid[];
    over uuid[];
BEGIN
    voiding := 0;
    ended := 0;
    SELECT array_agg(d.id) INTO late
    FROM (SELECT p.id FROM purchase p
          WHERE p.state = 'AUTHORIZING' AND p.deadline <= v_now
            AND EXISTS (SELECT FROM payment y WHERE y.purchase_id = p.id AND y.state IN ('ASKED', 'AUTHORIZED')
                        AND (y.sent_at < v_now - p_grace AND p_up > p_grace
                             OR y.void_at IS NULL AND y.sent_at < y.asked_at + interval '2 seconds'
                                AND y.sent_at >= v_now - p_up))
          ORDER BY p.deadline, p.id LIMIT p_max FOR NO KEY UPDATE SKIP LOCKED) d;
    IF late IS NULL THEN
        RETURN;
    END IF;
    PERFORM 1 FROM payment WHERE purchase_id = ANY (late) ORDER BY purchase_id, try FOR NO KEY UPDATE;
    SELECT array_agg(p.id ORDER BY p.deadline, p.id) INTO over
    FROM purchase p WHERE p.id = ANY (late)
      AND EXISTS (SELECT FROM payment y WHERE y.purchase_id = p.id AND y.state IN ('ASKED', 'AUTHORIZED')
                  AND y.void_at IS NOT NULL AND y.sent_at < v_now - p_grace AND p_up > p_grace);
    WITH asked AS (
        UPDATE payment SET void_at = v_now, sent_at = NULL
        WHERE purchase_id = ANY (late) AND state IN ('ASKED', 'AUTHORIZED') AND void_at IS NULL RETURNING purchase_id, try
    ), told AS (
        INSERT INTO outbox (topic, subject, version, at)
        SELECT 'payment.void', purchase_id::text, try, v_now FROM asked RETURNING 1
    )
    SELECT count(*) INTO voiding FROM told;
    IF over IS NOT NULL THEN
        ended := cardinality(over);
        PERFORM return_units(move_purchases(over, 'expire', v_now), 'expired', v_now);
    END IF;
END $$;

-- Tries that are still open p_after after their latest message was sent: its worker gave up, or somebody lost it. They are
-- asked about again, for as long as they are open, after twice as long each time and 64 times as long at most; no authorization
-- and no refund is ever forgotten, and none that a gateway refuses for ever keeps everybody busy.
CREATE FUNCTION resume_payments(p_max integer, p_after interval) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    purchases uuid[];
    tries integer[];
BEGIN
    SELECT array_agg(d.purchase_id), array_agg(d.try) INTO purchases, tries
    FROM (SELECT purchase_id, try FROM payment
          WHERE state IN ('ASKED', 'AUTHORIZED', 'REFUNDING', 'DISPUTED') AND sent_at < v_now - p_after
            AND sent_at < v_now - p_after * (1 << least(asks, 6))
          ORDER BY sent_at LIMIT p_max FOR NO KEY UPDATE SKIP LOCKED) d;
    IF purchases IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE payment y SET sent_at = NULL, asks = least(asks + 1, 1000)
    FROM unnest(purchases, tries) d (purchase_id, try) WHERE y.purchase_id = d.purchase_id AND y.try = d.try;
    INSERT INTO outbox (topic, subject, version, at)
    SELECT 'payment.resumed', d.purchase_id::text, d.try, v_now FROM unnest(purchases, tries) d (purchase_id, try);
    RETURN cardinality(purchases);
END $$;

-- The worker put a message about a try aside, in payments.dead; another one is not needed while the try is in this state.
CREATE FUNCTION set_payment_aside(p_purchase uuid, p_try integer) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    UPDATE payment SET set_aside_at = clock_timestamp() WHERE purchase_id = p_purchase AND try = p_try AND set_aside_at IS NULL;
END $$;

-- An operator does something where no function of this folder reaches: to messages that were set aside, to the balancer. It is told
-- before it is done, and doing it again is harmless, so a key that is known is no reason to stop.
CREATE FUNCTION record_elsewhere(
    p_key text, p_operator text, p_action text, p_subject text, p_reason text, p_detail jsonb
) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
BEGIN
    IF p_action NOT IN ('dlq.requeue', 'dlq.drop', 'balancer.drain', 'balancer.undrain', 'balancer.weight', 'balancer.algorithm') THEN
        RAISE EXCEPTION '% is recorded where it is done', p_action USING ERRCODE = '22023';
    END IF;
    PERFORM record_operation(p_key, p_operator, p_action, p_subject, p_reason, p_detail);
END $$;

-- An operator gives the money of a paid purchase back: its try becomes REFUNDING, and the worker asks the gateway until it is
-- REFUNDED. The units stay off the shelf until return_purchase. Refuses (SQLSTATE 22023) what is not paid, or on its way back.
CREATE FUNCTION refund_purchase(p_key text, p_operator text, p_reason text, p_purchase uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_state text;
    v_pay payment;
    v_now timestamptz;
BEGIN
    IF NOT record_operation(p_key, p_operator, 'purchase.refund', p_purchase::text, p_reason, '{}') THEN
        RETURN;
    END IF;
    SELECT state INTO v_state FROM purchase WHERE id = p_purchase FOR NO KEY UPDATE;
    SELECT * INTO v_pay FROM payment WHERE purchase_id = p_purchase ORDER BY try DESC LIMIT 1 FOR NO KEY UPDATE;
    IF v_state IS DISTINCT FROM 'PAID' OR v_pay.state = 'REFUNDING' THEN
        RAISE EXCEPTION 'a refund is for a purchase that is PAID; % is %', p_purchase,
            CASE WHEN v_state = 'PAID' THEN 'being refunded already' ELSE coalesce(v_state, 'unknown') END
            USING ERRCODE = '22023';
    END IF;
    v_now := clock_timestamp();
    UPDATE payment SET state = 'REFUNDING', sent_at = NULL, asks = 0, set_aside_at = NULL
    WHERE purchase_id = p_purchase AND try = v_pay.try;
    INSERT INTO outbox (topic, subject, version, at) VALUES ('payment.refund', p_purchase::text, v_pay.try, v_now);
END $$;

-- An operator puts the units of a refunded or charged-back purchase on sale again, or gives a hold up for its buyer.
-- Refuses (SQLSTATE 22023) what the lifecycle does not allow, and says so too when it was done before under another key.
CREATE FUNCTION return_purchase(p_key text, p_operator text, p_reason text, p_purchase uuid, p_event text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    v_state text;
    v_now timestamptz;
    moved uuid[];
BEGIN
    IF p_event NOT IN ('restock', 'cancel') THEN
        RAISE EXCEPTION '% is not an operator''s to do', p_event USING ERRCODE = '22023';
    END IF;
    IF NOT record_operation(p_key, p_operator, 'purchase.' || p_event, p_purchase::text, p_reason, '{}') THEN
        RETURN;
    END IF;
    SELECT state INTO v_state FROM purchase WHERE id = p_purchase FOR NO KEY UPDATE;
    v_now := clock_timestamp();
    moved := move_purchases(ARRAY[p_purchase], p_event, v_now);
    IF cardinality(moved) = 0 THEN
        RAISE EXCEPTION 'cannot % purchase %, which is %', p_event, p_purchase, coalesce(v_state, 'unknown')
            USING ERRCODE = '22023';
    END IF;
    PERFORM return_units(moved, CASE p_event WHEN 'restock' THEN 'restocked' ELSE 'cancelled' END, v_now);
END $$;

-- Outbox relays take rows for a while in one statement, publish outside any transaction, and mark what the broker confirmed.
CREATE FUNCTION lease_outbox(p_max integer, p_for interval)
RETURNS TABLE (id bigint, topic text, subject text, version bigint, at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
    leased bigint[];
BEGIN
    -- picked before the update: as its subquery the limit could be run again for another join order
    SELECT array_agg(d.id) INTO leased
    FROM (SELECT id FROM outbox WHERE sent_at IS NULL AND (leased_until IS NULL OR leased_until < v_now)
          ORDER BY id LIMIT p_max FOR NO KEY UPDATE SKIP LOCKED) d;
    RETURN QUERY
    UPDATE outbox o SET leased_until = v_now + p_for WHERE o.id = ANY (leased)
    RETURNING o.id, o.topic, o.subject, o.version, o.at;
END $$;

-- What the broker confirmed, what never came to an answer (free for the next relay at once), and what it refused: that waits as
-- long again as it has waited, between one second and ten, so that a full queue's events are not forever first in line.
CREATE FUNCTION mark_sent(p_sent bigint[], p_unsent bigint[], p_refused bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM 1 FROM payment y WHERE (y.purchase_id, y.try) IN (
        SELECT o.subject::uuid, o.version FROM outbox o WHERE o.id = ANY (p_sent) AND o.topic LIKE 'payment.%')
    ORDER BY y.purchase_id, y.try FOR NO KEY UPDATE;
    PERFORM 1 FROM outbox o WHERE o.id = ANY (p_sent || p_unsent || p_refused) ORDER BY o.id FOR NO KEY UPDATE;
    -- a request to void that still waits is not sent because an older message was
    UPDATE payment y SET sent_at = v_now FROM outbox o
    WHERE o.id = ANY (p_sent) AND o.topic LIKE 'payment.%' AND y.purchase_id = o.subject::uuid AND y.try = o.version
      AND y.sent_at IS NULL AND o.at >= coalesce(y.void_at, y.asked_at);
    UPDATE outbox SET sent_at = v_now WHERE id = ANY (p_sent) AND sent_at IS NULL;
    UPDATE outbox SET leased_until = NULL WHERE id = ANY (p_unsent) AND sent_at IS NULL;
    UPDATE outbox SET leased_until = v_now + least(greatest(v_now - at, interval '1 second'), interval '10 seconds')
    WHERE id = ANY (p_refused) AND sent_at IS NULL;
END $$;

-- Drops what nobody will ask for any more: events sent p_after ago, and outside events that are too old to be told again.
CREATE FUNCTION forget_events(p_max integer, p_after interval) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = flash, pg_temp AS $$
DECLARE
    v_before timestamptz := clock_timestamp() - p_after;
    sent bigint[];
    consumers text[];
    events text[];
BEGIN
    -- picked first, as in lease_outbox
    SELECT array_agg(d.id) INTO sent
    FROM (SELECT o.id FROM outbox o WHERE o.sent_at < v_before
          ORDER BY o.id LIMIT p_max FOR UPDATE SKIP LOCKED) d;
    SELECT array_agg(d.consumer), array_agg(d.event) INTO consumers, events
    FROM (SELECT i.consumer, i.event FROM inbox i WHERE i.at < v_before LIMIT p_max FOR UPDATE SKIP LOCKED) d;
    DELETE FROM outbox o WHERE o.id = ANY (sent);
    DELETE FROM inbox i USING unnest(consumers, events) d (consumer, event)
    WHERE i.consumer = d.consumer AND i.event = d.event;
    RETURN coalesce(cardinality(sent), 0) + coalesce(cardinality(events), 0);
END $$;
