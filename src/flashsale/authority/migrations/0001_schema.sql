-- The authority's tables. PostgreSQL alone says yes; whatever else holds a count is a copy that may only refuse.
--
--   merchant ── sale ── item ── stock (one row per SKU: the count itself, and a copy of all that a decision reads)
--                                 └── ledger (every movement, gap-free seq per SKU, append-only)
--   purchase ── line             a hold and what became of it; refused attempts leave no row here
--   quota                        units a buyer keeps of one sale
--   attempt                      one row per attempt (rid): the fence that makes every retry exact
--   payment                      one row per try to pay; inbox: outside events that were heard, once each
--   outbox                       events of every change, for relays
--
-- Only the functions of 0002 and later write here. The tables of the hot path (purchase, line, quota, ledger, attempt, payment)
-- carry no foreign keys: each would cost a lock and a lookup per row, and the auditor proves the same relations.

ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;   -- every function is granted by name, in the last file

CREATE TABLE lifecycle (            -- contract/lifecycle.py as data; a test keeps the two equal
    state text NOT NULL,
    event text NOT NULL,
    next  text NOT NULL,
    units smallint NOT NULL CHECK (units BETWEEN -1 AND 1),
    PRIMARY KEY (state, event)
);
INSERT INTO lifecycle (state, event, next, units) VALUES
    ('HELD', 'pay', 'AUTHORIZING', 0), ('HELD', 'expire', 'EXPIRED', 1), ('HELD', 'cancel', 'CANCELLED', 1),
    ('AUTHORIZING', 'authorize', 'AUTHORIZED', 0), ('AUTHORIZING', 'capture', 'PAID', 0),
    ('AUTHORIZING', 'decline', 'HELD', 0), ('AUTHORIZING', 'give_up', 'DECLINED', 1),
    ('AUTHORIZING', 'expire', 'EXPIRED', 1),
    ('AUTHORIZED', 'authorize', 'AUTHORIZED', 0), ('AUTHORIZED', 'capture', 'PAID', 0),
    ('AUTHORIZED', 'give_up', 'DECLINED', 1), ('AUTHORIZED', 'expire', 'EXPIRED', 1),
    ('PAID', 'capture', 'PAID', 0), ('PAID', 'refund', 'REFUNDED', 0),
    ('PAID', 'dispute', 'DISPUTED', 0), ('PAID', 'win', 'PAID', 0),
    ('DISPUTED', 'dispute', 'DISPUTED', 0), ('DISPUTED', 'win', 'PAID', 0), ('DISPUTED', 'lose', 'CHARGED_BACK', 0),
    ('CHARGED_BACK', 'lose', 'CHARGED_BACK', 0), ('CHARGED_BACK', 'restock', 'RESTOCKED', 1),
    ('REFUNDED', 'refund', 'REFUNDED', 0), ('REFUNDED', 'restock', 'RESTOCKED', 1),
    ('RESTOCKED', 'restock', 'RESTOCKED', 0),
    ('EXPIRED', 'expire', 'EXPIRED', 0), ('EXPIRED', 'late_money', 'AUTHORIZED', -1),
    ('CANCELLED', 'cancel', 'CANCELLED', 0),
    ('DECLINED', 'give_up', 'DECLINED', 0);

CREATE TABLE merchant (
    id   text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9._-]{1,64}$'),
    name text NOT NULL
);

CREATE TABLE sale (
    id           text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9._-]{1,64}$'),
    merchant_id  text NOT NULL REFERENCES merchant,
    name         text NOT NULL,
    state        text NOT NULL CHECK (state IN ('OPEN', 'PAUSED', 'ENDED')),   -- what the merchant wants; OPEN still waits
    opens        timestamptz NOT NULL,                                         -- for its times
    closes       timestamptz NOT NULL CHECK (closes > opens),
    buyer_limit  integer NOT NULL CHECK (buyer_limit BETWEEN 1 AND 1000000),   -- units of the whole sale per buyer
    hold_seconds integer NOT NULL CHECK (hold_seconds BETWEEN 1 AND 86400),
    currency     text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),                -- here, so that a cart has one total
    epoch        bigint NOT NULL DEFAULT 1 CHECK (epoch > 0),                  -- raised by every rebuild of the gate
    version      bigint NOT NULL DEFAULT 0                                     -- +1 with every change of the above, but the epoch's
);

CREATE TABLE item (
    sku         text PRIMARY KEY CHECK (sku ~ '^[A-Za-z0-9._-]{1,64}$'),
    sale_id     text NOT NULL REFERENCES sale,
    name        text NOT NULL,
    price_minor bigint NOT NULL CHECK (price_minor BETWEEN 0 AND 1000000000000)
);
CREATE INDEX item_sale ON item (sale_id);

-- The hot row. It repeats the sale's facts so that a decision reads nothing it has not locked.
CREATE TABLE stock (
    sku          text PRIMARY KEY REFERENCES item,
    sale_id      text NOT NULL,
    total        bigint NOT NULL CHECK (total >= 0),                           -- opening stock and all restocks
    available    bigint NOT NULL CHECK (available >= 0),                       -- the second guard against overselling
    seq          bigint NOT NULL DEFAULT 0 CHECK (seq >= 0),                   -- of the SKU's latest ledger row
    state        text NOT NULL,
    opens        timestamptz NOT NULL,
    closes       timestamptz NOT NULL,
    buyer_limit  integer NOT NULL,
    hold_seconds integer NOT NULL,
    epoch        bigint NOT NULL,
    CHECK (available <= total)                                                 -- and against returning a unit twice
) WITH (fillfactor = 10);                                                      -- room for HOT updates of a row that never rests
CREATE INDEX stock_sale ON stock (sale_id);

CREATE TABLE purchase (
    id           uuid PRIMARY KEY,                                             -- f(buyer, key): every process can compute it
    sale_id      text NOT NULL,
    buyer        text NOT NULL,
    key          text NOT NULL,                                                -- idempotency key
    fingerprint  bytea NOT NULL,                                               -- of the client's body
    state        text NOT NULL CHECK (state IN ('HELD', 'AUTHORIZING', 'AUTHORIZED', 'PAID', 'DISPUTED', 'CHARGED_BACK',
                                                'REFUNDED', 'RESTOCKED', 'EXPIRED', 'CANCELLED', 'DECLINED')),
    version      integer NOT NULL CHECK (version > 0),                         -- +1 with every change
    generation   integer NOT NULL,                                             -- +1 with every new hold of this purchase
    deadline     timestamptz NOT NULL,
    total_minor  bigint NOT NULL CHECK (total_minor >= 0),
    history      jsonb NOT NULL,                                               -- [{state, version, at}], as the wire shows it
    UNIQUE (buyer, key)
) WITH (fillfactor = 60);
CREATE INDEX purchase_due ON purchase (deadline, id) WHERE state = 'HELD';
CREATE INDEX purchase_paying ON purchase (deadline, id) WHERE state = 'AUTHORIZING';
CREATE INDEX purchase_sale ON purchase (sale_id);

CREATE TABLE line (
    purchase_id      uuid NOT NULL,
    sku              text NOT NULL,
    quantity         integer NOT NULL CHECK (quantity > 0),
    unit_price_minor bigint NOT NULL CHECK (unit_price_minor >= 0),            -- fixed at the hold
    seq              bigint NOT NULL,                                          -- of the ledger row of the latest hold
    PRIMARY KEY (purchase_id, sku)
);

CREATE TABLE quota (
    sale_id text NOT NULL,
    buyer   text NOT NULL,
    active  integer NOT NULL CHECK (active >= 0),                              -- units in purchases that hold units
    PRIMARY KEY (sale_id, buyer)
) WITH (fillfactor = 60);

CREATE TABLE ledger (
    sku         text NOT NULL,
    seq         bigint NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('hold', 'return', 'restock', 'sale')),
    reason      text NOT NULL,                                                 -- held, expired, cancelled, restock, open, paused, ...
    delta       bigint NOT NULL,
    purchase_id uuid,
    generation  integer,
    epoch       bigint,                                                        -- of the gate that already debited this hold; else NULL
    at          timestamptz NOT NULL,
    PRIMARY KEY (sku, seq),
    UNIQUE (purchase_id, sku, kind, generation),                               -- a second return is impossible, whoever tries
    CHECK (CASE kind WHEN 'hold' THEN delta < 0 WHEN 'return' THEN delta > 0 WHEN 'sale' THEN delta = 0 ELSE delta <> 0 END),
    CHECK ((kind IN ('hold', 'return')) = (purchase_id IS NOT NULL AND generation IS NOT NULL))
);

CREATE TABLE attempt (
    rid         uuid PRIMARY KEY,
    purchase_id uuid NOT NULL,
    verdict     text NOT NULL,                                                 -- 'void': given up, may never be decided
    at          timestamptz NOT NULL DEFAULT clock_timestamp()                 -- of the decision
);

CREATE TABLE payment (
    purchase_id  uuid NOT NULL,
    try          smallint NOT NULL CHECK (try BETWEEN 1 AND 3),
    key          text NOT NULL,                                                -- the client's, of this payment wish
    method       text NOT NULL CHECK (method IN ('card', 'wallet', 'transfer')),
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    currency     text NOT NULL,
    state        text NOT NULL CHECK (state IN ('ASKED', 'AUTHORIZED', 'CAPTURED', 'REFUNDING', 'DISPUTED',    -- 0004 tells what
                                                'DECLINED', 'VOIDED', 'REFUNDED', 'DISPUTE_WON', 'DISPUTE_LOST')), -- each asks for
    asked_at     timestamptz NOT NULL,
    sent_at      timestamptz,                                                  -- when the broker confirmed the latest message
                                                                               -- about this try; NULL: it waits, our fault
    void_at      timestamptz,                                                  -- when its void was asked for
    asks         smallint NOT NULL DEFAULT 0,                                  -- how often it was asked about again in its state
    set_aside_at timestamptz,                                                  -- when, in its state, a message about it went to
                                                                               -- payments.dead: one for a person is enough
    PRIMARY KEY (purchase_id, try),
    UNIQUE (purchase_id, key)
);
CREATE INDEX payment_open ON payment (sent_at) WHERE state IN ('ASKED', 'AUTHORIZED', 'REFUNDING', 'DISPUTED');

-- Events that were told to us from outside, once each; see payments/webhook.py.
CREATE TABLE inbox (
    consumer text NOT NULL,
    event    text NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, event)
);

CREATE TABLE outbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      text NOT NULL,                                                  -- purchase.held, purchase.expired, sale.paused, ...
    subject    text NOT NULL,                                                  -- purchase id or sale id
    version    bigint NOT NULL,                                                -- of the subject; consumers order and dedupe by it
    at         timestamptz NOT NULL,
    leased_until timestamptz,                                                   -- a relay has it in hand until then
    sent_at    timestamptz                                                     -- the broker confirmed it
);
CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_at IS NULL;
