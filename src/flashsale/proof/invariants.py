"""The invariants, and the rules by which PostgreSQL's own rows are held against them.

A *rule* is one way to break an invariant: a query of its own over one snapshot that yields a row (subject, text) per wrong thing and
nothing when all is right. All rules run as one statement over shared scans, so that a pass reads each table once and what leaves
PostgreSQL is counts and a few witnesses, however many purchases there are. When two numbers that must be equal differ, the direction
names the finding: units that exist twice are *oversold*, units that nobody can have are *leaked*.

Nothing here calls a function of the engine or reads what it derived for itself (``lifecycle``, ``purchase_document``).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from flashsale.contract.lifecycle import HOLDING, TRANSITIONS

FINDINGS = ("oversold", "lost", "duplicated", "leaked", "gate_drift", "money", "invented", "stuck", "disordered")
WITNESSES_MAX = 10  # named per rule; all are counted
SUBJECTS_MAX = 1_000  # remembered per rule from look to look


class Invariant(NamedTuple):
    """``kind``: continuous = holds at every moment; after = once all is at rest; told = needs what shoppers were told."""

    id: str
    name: str
    formula: str
    kind: str


INVARIANTS = (
    Invariant("I1", "conservation", "per SKU: available + units of purchases that hold = total", "continuous"),
    Invariant(
        "I2",
        "ledger",
        "per SKU: sum of deltas = available; rows = last seq = stock.seq; total = sum of restocks; each return has one earlier "
        "hold; one row per (purchase, SKU, kind, generation); per purchase the net is what it holds",
        "continuous",
    ),
    Invariant(
        "I3", "no oversell", "no prefix of the ledger falls below 0; no moment of certain holds above total", "both"
    ),
    Invariant("I4", "one purchase per key", "one purchase per (buyer, key), in the books and as told", "both"),
    Invariant(
        "I5",
        "told means recorded",
        "purchases told of are in the books as told; every 202 was decided; what a gate saw held exists",
        "both",
    ),
    Invariant("I6", "nothing from nowhere", "every row names a purchase that is; every purchase was asked for", "both"),
    Invariant("I7", "quota", "per (sale, buyer): units held = quota.active, and at most the limit", "continuous"),
    Invariant("I8", "holds end", "no HELD more than 2 s past its deadline", "continuous"),
    Invariant(
        "I9",
        "money",
        "PAID = one captured try = one capture in the gateways' own journals, equal amounts; no capture without an "
        "authorization; nothing left open",
        "both",
    ),
    Invariant("I10", "gate", "the gate's copy = PostgreSQL's where both stand still, and never stays behind", "both"),
    Invariant("I11", "at rest", "no event unsent, no message waiting in a working queue", "after"),
    Invariant("I12", "streams", "viewers saw what the ledger replays (judged by ./flash demo)", "told"),
    Invariant("I13", "status path", "history is a path of the life cycle and ends in the state", "continuous"),
    Invariant(
        "I14", "liveness", "no claim undecided, no payment in doubt 60 s past its deadline, no wish unanswered", "both"
    ),
    Invariant("I15", "fairness", "pairs of buyers served in another order than they came (a report)", "told"),
    Invariant(
        "I16", "epoch", "no hold is of an epoch above its sale's; each SKU repeats its sale's terms", "continuous"
    ),
)


class Rule(NamedTuple):
    """One way to break an invariant. ``settles_s``: upkeep may still put it right, so it counts once it has lasted that long."""

    name: str
    invariant: str
    finding: str
    settles_s: float = 0.0
    sql: str = ""  # rows (subject, text); empty for a rule that is judged in ``findings``
    at_rest: bool = False  # means nothing while somebody is buying
    needs: str = ""  # evidence beside PostgreSQL: told, gates, winners, journals, queues


# Shared scans. `:sale` is the sale, or NULL for all of them.
_SCANS = """
law AS (
    SELECT :arcs::text[] AS arcs),
sold AS MATERIALIZED (
    SELECT sale.* FROM sale WHERE :sale::text IS NULL OR id = :sale),
shelf AS MATERIALIZED (
    SELECT stock.* FROM stock WHERE :sale::text IS NULL OR sale_id = :sale),
bought AS MATERIALIZED (
    SELECT id, sale_id, buyer, key, state, version, generation, deadline, total_minor,
           version > 0 AND state = ANY (:holding::text[]) AS is_holding
    FROM purchase WHERE :sale::text IS NULL OR sale_id = :sale),
carried AS MATERIALIZED (
    SELECT l.*, b.id AS known, b.sale_id, b.buyer, b.version, b.generation, coalesce(b.is_holding, false) AS is_holding
    FROM line l LEFT JOIN bought b ON b.id = l.purchase_id
    WHERE :sale::text IS NULL OR l.sku IN (SELECT sku FROM shelf)),
moved AS MATERIALIZED (
    SELECT sku, seq, kind, reason, delta, purchase_id, generation, epoch, sum(delta) OVER along AS level
    FROM ledger WHERE :sale::text IS NULL OR sku IN (SELECT sku FROM shelf)
    WINDOW along AS (PARTITION BY sku ORDER BY seq)),
folded AS MATERIALIZED (
    SELECT s.sku, s.total, s.available, s.seq, count(m.seq) AS rows, coalesce(min(m.seq), 1) AS first, coalesce(max(m.seq), 0) AS last,
           coalesce(sum(m.delta), 0) AS fold, coalesce(min(m.level), 0) AS lowest,
           coalesce(sum(m.delta) FILTER (WHERE m.kind = 'restock'), 0) AS restocked, count(*) FILTER (WHERE m.kind = 'sale') AS changes
    FROM shelf s LEFT JOIN moved m ON m.sku = s.sku GROUP BY s.sku, s.total, s.available, s.seq),
kept AS MATERIALIZED (
    SELECT f.sku, f.total, f.available, coalesce(c.units, 0) AS units
    FROM folded f LEFT JOIN (SELECT sku, sum(quantity) AS units FROM carried WHERE is_holding GROUP BY sku) c USING (sku)),
net AS MATERIALIZED (
    SELECT purchase_id, sku, coalesce(m.delta, 0) AS delta, coalesce(c.delta, 0) AS expected
    FROM (SELECT purchase_id, sku, sum(delta) AS delta FROM moved WHERE purchase_id IS NOT NULL GROUP BY 1, 2) m
    FULL JOIN (SELECT purchase_id, sku, CASE WHEN is_holding THEN -quantity ELSE 0 END AS delta FROM carried) c USING (purchase_id, sku)
    WHERE coalesce(m.delta, 0) <> coalesce(c.delta, 0)),
active AS MATERIALIZED (
    SELECT sale_id, buyer, coalesce(c.units, 0) AS units, coalesce(q.active, 0) AS active
    FROM (SELECT sale_id, buyer, sum(quantity) AS units FROM carried WHERE is_holding GROUP BY 1, 2) c
    FULL JOIN (SELECT sale_id, buyer, active FROM quota WHERE :sale::text IS NULL OR sale_id = :sale) q USING (sale_id, buyer)),
tried AS MATERIALIZED (
    SELECT y.purchase_id, y.try, y.state, y.amount_minor, y.currency, b.id AS known, b.state AS purchase_state,
           b.total_minor AS owed_minor, s.currency AS owed_currency
    FROM payment y LEFT JOIN bought b ON b.id = y.purchase_id LEFT JOIN sold s ON s.id = b.sale_id
    WHERE :sale::text IS NULL OR b.sale_id = :sale),
paying AS MATERIALIZED (
    SELECT b.id, b.state, count(y.try) FILTER (WHERE y.state IN ('CAPTURED', 'DISPUTED', 'DISPUTE_WON')) AS kept,
           count(y.try) FILTER (WHERE y.state = 'REFUNDING') AS going_back,
           count(y.try) FILTER (WHERE y.state IN ('ASKED', 'AUTHORIZED')) AS under_way
    FROM bought b LEFT JOIN tried y ON y.purchase_id = b.id WHERE b.version > 0 GROUP BY b.id, b.state),
path AS MATERIALIZED (
    SELECT state, version, states, versions, array_agg(id) AS ids
    FROM (SELECT id, state, version, jsonb_path_query_array(history, '$[*].state') AS states,
                 jsonb_path_query_array(history, '$[*].version') AS versions
          FROM purchase WHERE version > 0 AND (:sale::text IS NULL OR sale_id = :sale)) p
    GROUP BY state, version, states, versions)
"""

_ILLEGAL_PATH = """
    SELECT unnest(ids)::text, format('purchase %s is %s, version %s, after %s with versions %s', unnest(ids), state, version, states, versions)
    FROM path
    WHERE states ->> 0 IS DISTINCT FROM 'HELD' OR states ->> -1 IS DISTINCT FROM state
       OR versions <> (SELECT coalesce(jsonb_agg(n), '[]') FROM generate_series(1, version) n)
       OR EXISTS (SELECT FROM jsonb_array_elements_text(states) WITH ORDINALITY a (state, at)
                  JOIN jsonb_array_elements_text(states) WITH ORDINALITY b (state, at) ON b.at = a.at + 1
                  CROSS JOIN law WHERE a.state || '>' || b.state <> ALL (law.arcs))"""

RULES = (
    Rule("units-twice", "I1", "oversold", sql="""
        SELECT sku, format('%s: %s units held + %s available > %s in all', sku, units, available, total)
        FROM kept WHERE units + available > total"""),
    Rule("units-nowhere", "I1", "leaked", sql="""
        SELECT sku, format('%s: %s of %s units are neither available nor held', sku, total - available - units, total)
        FROM kept WHERE units + available < total"""),
    Rule("above-the-ledger", "I2", "oversold", sql="""
        SELECT sku, format('%s: %s available, but the ledger leaves %s', sku, available, fold) FROM folded WHERE available > fold"""),
    Rule("below-the-ledger", "I2", "leaked", sql="""
        SELECT sku, format('%s: %s available, but the ledger leaves %s', sku, available, fold) FROM folded WHERE available < fold"""),
    Rule("not-dense", "I2", "leaked", sql="""
        SELECT sku, format('%s: the ledger is not the dense row 1 to %s', sku, seq)
        FROM folded WHERE rows <> seq OR first <> 1 OR last <> seq"""),
    Rule("total-not-restocked", "I2", "disordered", sql="""
        SELECT sku, format('%s: %s units in all, but %s were put on sale', sku, total, restocked) FROM folded WHERE total <> restocked"""),
    Rule("moved-twice", "I2", "duplicated", sql="""
        SELECT purchase_id::text, format('%s: purchase %s has %s rows of kind %s in generation %s', sku, purchase_id, count(*), kind, generation)
        FROM moved WHERE purchase_id IS NOT NULL GROUP BY purchase_id, sku, kind, generation HAVING count(*) > 1"""),
    Rule("returned-unheld", "I2", "duplicated", sql="""
        SELECT r.purchase_id::text, format('%s: seq %s returns %s units of a hold that purchase %s lacks', r.sku, r.seq, r.delta, r.purchase_id)
        FROM moved r LEFT JOIN moved h ON h.kind = 'hold' AND h.purchase_id = r.purchase_id AND h.sku = r.sku
             AND h.generation = r.generation AND h.seq < r.seq AND h.delta = -r.delta
        WHERE r.kind = 'return' AND h.seq IS NULL"""),
    Rule("kept-ungiven", "I2", "oversold", sql="""
        SELECT purchase_id::text, format('%s: purchase %s keeps %s units, the ledger gave it %s', sku, purchase_id, -expected, -delta)
        FROM net WHERE delta > expected"""),
    Rule("given-unkept", "I2", "leaked", sql="""
        SELECT purchase_id::text, format('%s: the ledger keeps %s units for purchase %s, which keeps %s', sku, -delta, purchase_id, -expected)
        FROM net WHERE delta < expected"""),
    Rule("line-without-place", "I2", "disordered", sql="""
        SELECT c.purchase_id::text, format('%s: the line of purchase %s names seq %s, which is not its hold', c.sku, c.purchase_id, c.seq)
        FROM carried c LEFT JOIN moved m ON m.sku = c.sku AND m.seq = c.seq AND m.kind = 'hold' AND m.purchase_id = c.purchase_id
             AND m.generation = c.generation
        WHERE c.version > 0 AND m.seq IS NULL"""),
    Rule("ledger-below-zero", "I3", "oversold", sql="""
        SELECT sku, format('%s: the ledger falls to %s', sku, lowest) FROM folded WHERE lowest < 0"""),
    Rule("key-twice", "I4", "duplicated", sql="""
        SELECT min(id::text), format('%s purchases of %s with key %s', count(*), buyer, key)
        FROM bought WHERE version > 0 GROUP BY buyer, key HAVING count(*) > 1"""),
    Rule("line-of-nobody", "I6", "lost", sql="""
        SELECT purchase_id::text, format('%s: a line is purchase %s''s, and there is none', sku, purchase_id) FROM carried WHERE known IS NULL"""),
    Rule("movement-of-nobody", "I6", "lost", sql="""
        SELECT m.purchase_id::text, format('%s: seq %s moves units for purchase %s, and there is none', m.sku, m.seq, m.purchase_id)
        FROM moved m LEFT JOIN bought b ON b.id = m.purchase_id WHERE m.purchase_id IS NOT NULL AND b.id IS NULL"""),
    Rule("quota-differs", "I7", "leaked", sql="""
        SELECT sale_id || ' ' || buyer, format('%s keeps %s units of sale %s, the quota says %s', buyer, units, sale_id, active)
        FROM active WHERE units <> active"""),
    # A sale that was changed may have had a higher limit when the units were bought; only the unchanged ones prove anything.
    Rule("over-the-limit", "I7", "oversold", sql="""
        SELECT a.sale_id || ' ' || a.buyer, format('%s keeps %s units of sale %s, whose limit is %s', a.buyer, a.units, s.id, s.buyer_limit)
        FROM active a JOIN sold s ON s.id = a.sale_id WHERE a.units > s.buyer_limit
         AND NOT EXISTS (SELECT FROM folded f JOIN shelf k USING (sku) WHERE k.sale_id = s.id AND f.changes > 0)"""),
    Rule("hold-overdue", "I8", "leaked", settles_s=15, sql="""
        SELECT id::text, format('purchase %s is held %s s past its deadline', id, round(extract(epoch FROM statement_timestamp() - deadline), 1))
        FROM bought WHERE version > 0 AND state = 'HELD' AND deadline < statement_timestamp() - interval '2 seconds'"""),
    Rule("paid-not-captured", "I9", "money", sql="""
        SELECT id::text, format('purchase %s is %s and has %s captured payments', id, state, kept)
        FROM paying WHERE kept <> (state IN ('PAID', 'DISPUTED'))::int AND NOT (state = 'PAID' AND kept = 0 AND going_back > 0)"""),
    Rule("not-one-under-way", "I9", "money", sql="""
        SELECT id::text, format('purchase %s is %s and has %s payments under way', id, state, under_way)
        FROM paying WHERE state IN ('AUTHORIZING', 'AUTHORIZED') AND under_way <> 1"""),
    Rule("other-amount", "I9", "money", sql="""
        SELECT purchase_id::text, format('payment %s of purchase %s is about %s %s, not %s %s', try, purchase_id, amount_minor, currency,
                                         owed_minor, owed_currency)
        FROM tried WHERE (amount_minor, currency) IS DISTINCT FROM (owed_minor, owed_currency)"""),
    Rule("total-of-other-lines", "I9", "money", sql="""
        SELECT b.id::text, format('purchase %s costs %s, its lines %s', b.id, b.total_minor, coalesce(c.total, 0))
        FROM bought b LEFT JOIN (SELECT purchase_id, sum(quantity * unit_price_minor) AS total FROM carried GROUP BY 1) c
             ON c.purchase_id = b.id
        WHERE b.version > 0 AND b.total_minor <> coalesce(c.total, 0)"""),
    Rule("payment-open", "I9", "money", settles_s=150, sql="""
        SELECT purchase_id::text, format('payment %s of purchase %s is %s, its purchase %s', try, purchase_id, state, purchase_state)
        FROM tried WHERE state IN ('ASKED', 'AUTHORIZED', 'REFUNDING') AND purchase_state IS DISTINCT FROM 'AUTHORIZING'"""),
    Rule("event-unsent", "I11", "stuck", settles_s=30, at_rest=True, sql="""
        SELECT id::text, format('event %s about %s was not sent', topic, subject) FROM outbox o
        WHERE sent_at IS NULL AND (:sale::text IS NULL OR subject = :sale OR subject IN (SELECT sku FROM shelf)
                                   OR EXISTS (SELECT FROM bought b WHERE b.id::text = o.subject))"""),
    Rule("off-the-path", "I13", "disordered", sql=_ILLEGAL_PATH),
    Rule("claim-undecided", "I14", "leaked", sql="""
        SELECT id::text, format('purchase %s is claimed and was never decided', id) FROM purchase WHERE version = 0
        UNION ALL SELECT rid::text, format('attempt %s at purchase %s was never decided', rid, purchase_id)
        FROM attempt WHERE verdict IS NULL"""),
    Rule("payment-in-doubt", "I14", "stuck", settles_s=60, sql="""
        SELECT id::text, format('purchase %s is %s %s s past its deadline', id, state, round(extract(epoch FROM statement_timestamp() - deadline)))
        FROM bought b WHERE state IN ('AUTHORIZING', 'AUTHORIZED') AND deadline < statement_timestamp() - interval '60 seconds'
          AND NOT EXISTS (SELECT FROM payment y WHERE y.purchase_id = b.id AND y.sent_at IS NULL)"""),
    # It may fall along the ledger: an attempt that was debited by the gate before, and was under way when the next was made, is a
    # hold like any other, and the new gate is told of it.
    Rule("epoch-unmade", "I16", "disordered", sql="""
        SELECT m.sku, format('%s: seq %s is of epoch %s, its sale of %s', m.sku, m.seq, m.epoch, s.epoch)
        FROM moved m JOIN shelf s ON s.sku = m.sku WHERE m.epoch > s.epoch"""),
    Rule("copy-differs", "I16", "disordered", sql="""
        SELECT k.sku, format('%s repeats its sale wrongly', k.sku) FROM shelf k LEFT JOIN sold s ON s.id = k.sale_id
        WHERE (k.state, k.opens, k.closes, k.buyer_limit, k.hold_seconds, k.epoch)
              IS DISTINCT FROM (s.state, s.opens, s.closes, s.buyer_limit, s.hold_seconds, s.epoch)"""),
    # Judged in Python, against stores other than PostgreSQL and against what shoppers were told.
    Rule("certain-holds-above-total", "I3", "oversold", needs="told"),
    Rule("told-two-of-one-key", "I4", "duplicated", needs="told"),
    Rule("told-one-place-twice", "I4", "duplicated", needs="told"),
    Rule("told-not-so", "I5", "lost", needs="told"),
    Rule("accepted-undecided", "I5", "lost", settles_s=30, needs="told"),
    Rule("won-unknown", "I5", "lost", settles_s=15, needs="winners"),
    Rule("never-asked-for", "I6", "invented", needs="told"),
    Rule("journal-breaks-its-rules", "I9", "money", needs="journals"),
    Rule("journal-other-amount", "I9", "money", needs="journals"),
    Rule("journal-against-books", "I9", "money", settles_s=150, needs="journals"),
    Rule("gate-drift", "I10", "gate_drift", settles_s=15, needs="gates"),
    Rule("queue-not-empty", "I11", "stuck", settles_s=30, at_rest=True, needs="queues"),
    Rule("never-answered", "I14", "stuck", needs="told"),
)  # fmt: skip
RULE = {rule.name: rule for rule in RULES}

ARCS = sorted(
    f"{state}>{move.state}" for state, moves in TRANSITIONS.items() for move in moves.values() if move.state != state
)


def query(rules: Sequence[Rule]) -> str:
    """One statement that judges by ``rules``: rows (rule, number, subjects, texts). Its arguments are ``arguments``."""
    judged = [
        f"SELECT '{rule.name}' AS rule, w.* FROM ({rule.sql}) w (subject, text)"  # noqa: S608 - our own words
        for rule in rules
        if rule.sql
    ]
    union = "\nUNION ALL\n".join(judged)
    statement = f"""WITH {_SCANS}
        SELECT rule, count(*), (array_agg(subject ORDER BY subject))[1:{SUBJECTS_MAX}],
               (array_agg(text ORDER BY subject, text))[1:{WITNESSES_MAX}]
        FROM ({union}) witness GROUP BY rule"""  # noqa: S608 - our own words
    for number, name in enumerate(_PARAMETERS, 1):
        statement = re.sub(rf"(?<!:):{name}\b", f"${number}", statement)
    return statement


_PARAMETERS = ("sale", "holding", "arcs")


def arguments(sale: str | None) -> tuple[str | None, list[str], list[str]]:
    """What ``query`` is asked with."""
    return sale, sorted(HOLDING), ARCS
