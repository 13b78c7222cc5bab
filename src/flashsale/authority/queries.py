"""The statements that both of the authority's clients send, with PostgreSQL's own placeholders, and what their rows say. No driver.

Columns come in types that both drivers read alike; what is a list of rows is jsonb.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from flashsale.authority.standing import Standing
from flashsale.contract import wire
from flashsale.contract.stock import Copies, Copy, Held, Reading, Watched


class Row(Protocol):
    """As both drivers have it, in the order of the statement's columns."""

    def __getitem__(self, column: str, /) -> Any: ...
    def values(self) -> Iterable[Any]: ...


Rows = Sequence[Row]


class LiveSale(NamedTuple):
    """A sale whose gate and whose copies are kept."""

    sale: str
    epoch: int
    skus: tuple[str, ...]


class Stock(NamedTuple):
    """One SKU's count after the movement ``seq``; ``as_of`` is the authority's time."""

    available: int
    seq: int
    as_of: datetime


PURCHASE = "SELECT * FROM purchase_document WHERE id = $1 AND buyer = $2"

# OFFSET 0 keeps each a search by key for every one asked about: joined at will, tables without statistics were read whole.
STANDINGS = """
    SELECT a.verdict AS attempt_verdict, p.fingerprint, d.*
    FROM unnest($1::uuid[], $2::uuid[], $3::text[]) WITH ORDINALITY q (rid, purchase, buyer, at)
    LEFT JOIN LATERAL (SELECT verdict FROM attempt WHERE rid = q.rid AND purchase_id = q.purchase OFFSET 0) a ON true
    LEFT JOIN LATERAL (SELECT id, fingerprint FROM purchase WHERE id = q.purchase AND buyer = q.buyer OFFSET 0) p ON true
    LEFT JOIN LATERAL (SELECT * FROM purchase_document WHERE id = p.id OFFSET 0) d ON true
    ORDER BY q.at"""

SALES = """
    SELECT s.id, s.merchant_id, s.name, s.opens, s.closes, s.buyer_limit, s.hold_seconds, s.currency,
           CASE WHEN s.state = 'ENDED' OR now() >= s.closes THEN 'ENDED'
                WHEN s.state = 'OPEN' AND now() < s.opens THEN 'SCHEDULED' ELSE s.state END AS state,
           (SELECT coalesce(jsonb_agg(jsonb_build_array(i.sku, i.name, i.price_minor, k.total, k.available, k.seq)
                                      ORDER BY i.sku), '[]')
            FROM item i JOIN stock k USING (sku) WHERE i.sale_id = s.id) AS items
    FROM sale s WHERE $1::text IS NULL OR s.id = $1 ORDER BY s.opens, s.id"""

STOCK = "SELECT available, seq, clock_timestamp() AS at FROM stock WHERE sku = $1"

# The time when the statement began: a clock read within it could be later than its snapshot, and promise too much.
WATCHED = """
    SELECT now() AS as_of, k.sku, k.available, k.seq, k.sale_id,
           CASE WHEN k.state = 'ENDED' OR now() >= k.closes THEN 'ENDED'
                WHEN k.state = 'OPEN' AND now() < k.opens THEN 'SCHEDULED' ELSE k.state END AS state,
           k.opens, k.closes
    FROM unnest($1::text[]) w (sku) LEFT JOIN stock k ON k.sku = w.sku"""

# Two arrays of one scan instead of rows: both drivers read them.
COPIES = """
    SELECT now() AS as_of, (SELECT min(deadline) FROM purchase WHERE state = 'HELD') AS next_deadline,
           k.sku, k.available, k.seq, k.state, k.opens, k.closes, rows.seqs, rows.purchases
    FROM unnest($1::text[], $2::bigint[]) c (sku, seq) JOIN stock k ON k.sku = c.sku
    CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(r.seq ORDER BY r.seq), '{}') AS seqs,
               coalesce(array_agg(r.purchase ORDER BY r.seq), '{}') AS purchases
        FROM (SELECT l.seq, CASE l.kind WHEN 'hold' THEN l.purchase_id END AS purchase FROM ledger l
              WHERE l.sku = k.sku AND l.seq > c.seq ORDER BY l.seq LIMIT $3) r) rows"""

# All but those that ended an hour ago: late returns are shown, then gates and copies are dropped.
LIVE_SALES = """
    SELECT s.id, s.epoch, array_agg(k.sku ORDER BY k.sku) AS skus
    FROM sale s JOIN stock k ON k.sale_id = s.id
    WHERE (s.state <> 'ENDED' AND s.closes > now() - interval '1 hour')
       OR EXISTS (SELECT FROM ledger l WHERE l.sku = k.sku AND l.seq = k.seq AND l.at > now() - interval '1 hour')
    GROUP BY s.id ORDER BY s.id"""

CANCEL = "SELECT cancel_purchase($1, $2) AS refused"

START_PAYMENT = "SELECT start_payment($1, $2, $3, $4) AS refused"


def purchase(row: Row) -> wire.Purchase:
    """A row of purchase_document."""
    lines = zip(row["skus"], row["quantities"], row["prices"], row["seqs"], strict=True)
    return wire.Purchase(
        row["id"],
        row["sale_id"],
        row["state"],
        row["version"],
        row["generation"],
        row["deadline"],
        tuple(wire.BoughtLine(*line) for line in lines),
        row["total_minor"],
        row["currency"],
        row["history"],
        row["payments"],
    )


def standings(rows: Rows) -> list[Standing]:
    """What STANDINGS found, in the order asked."""
    return [
        Standing(row["attempt_verdict"], row["fingerprint"], purchase(row) if row["id"] is not None else None)
        for row in rows
    ]


def sales(rows: Rows) -> list[wire.Sale]:
    """What SALES found."""
    return [
        wire.Sale(
            row["id"],
            row["merchant_id"],
            row["name"],
            row["state"],
            row["opens"],
            row["closes"],
            row["buyer_limit"],
            row["hold_seconds"],
            row["currency"],
            tuple(wire.SaleItem(*values) for values in row["items"]),
        )
        for row in rows
    ]


def stock(rows: Rows) -> Stock | None:
    """What STOCK found."""
    return Stock(rows[0]["available"], rows[0]["seq"], rows[0]["at"]) if rows else None


def reading(rows: Rows) -> Reading:
    """What WATCHED found; it has a row for each SKU that was asked for, also where there is no such item."""
    items = [Watched(*list(row.values())[1:]) for row in rows if row["sku"] is not None]
    return Reading(rows[0]["as_of"], {item.sku: item for item in items})


def copies(rows: Rows) -> Copies | None:
    """What COPIES found; None: no such items."""
    items = {
        row["sku"]: Copy(
            row["available"],
            row["seq"],
            row["state"],
            row["opens"],
            row["closes"],
            [
                Held(seq, None if purchase is None else purchase.int)
                for seq, purchase in zip(row["seqs"], row["purchases"], strict=True)
            ],
        )
        for row in rows
    }
    return Copies(rows[0]["as_of"], rows[0]["next_deadline"], items) if rows else None


def live_sales(rows: Rows) -> list[LiveSale]:
    """What LIVE_SALES found."""
    return [LiveSale(row["id"], row["epoch"], tuple(row["skus"])) for row in rows]
