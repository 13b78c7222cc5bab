-- What people did by hand: who, what, to what, why, and when. Every function by which an operator steps in writes its row here
-- first, in the same statement as its effect. Append-only: no role may update or delete it, and one function alone does, to put
-- a pseudonym in the place of a buyer who is forgotten.

CREATE TABLE operation (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key      text NOT NULL UNIQUE CHECK (key ~ '^[A-Za-z0-9_-]{16,64}$'),        -- the operator's, as buyers have theirs
    operator text NOT NULL CHECK (operator ~ '^[A-Za-z0-9._@-]{1,64}$'),
    action   text NOT NULL,                                                       -- sale.pause, purchase.refund, ...
    subject  text NOT NULL,                                                       -- sale, SKU, purchase, buyer, ...
    reason   text NOT NULL CHECK (length(trim(reason)) BETWEEN 1 AND 500),
    detail   jsonb NOT NULL,                                                      -- what was asked for, as the action needs it
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX operation_subject ON operation (subject, id);

-- Records an operation that is about to happen. False: this key has done exactly this before, so there is nothing to do; a key
-- that did something else is refused (SQLSTATE 22023). Two calls with one key wait for each other here, before any other lock.
CREATE FUNCTION record_operation(
    p_key text, p_operator text, p_action text, p_subject text, p_reason text, p_detail jsonb
) RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = flash, pg_temp AS $$
DECLARE
    v_known operation;
BEGIN
    INSERT INTO operation (key, operator, action, subject, reason, detail)
    VALUES (p_key, p_operator, p_action, p_subject, p_reason, p_detail) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN true;
    END IF;
    SELECT * INTO v_known FROM operation WHERE key = p_key;
    IF (v_known.action, v_known.subject, v_known.detail) IS DISTINCT FROM (p_action, p_subject, p_detail) THEN
        RAISE EXCEPTION 'the key % was used for % of %', p_key, v_known.action, v_known.subject USING ERRCODE = '22023';
    END IF;
    RETURN false;
END $$;
