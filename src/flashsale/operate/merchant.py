"""``flash merchant``: what a sale brought, of one moment, read with the auditor's role.

Added up by PostgreSQL: what comes here grows with the sale's SKUs and its busy minutes, never with its purchases. A purchase was
paid if its history says so, whatever became of it later; the money of a disputed one is the merchant's until the bank takes it back.
"""

import argparse
import csv
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from flashsale.operate.context import Context, NothingError, OperationError, show

Row = dict[str, Any]

_SALE = """
    SELECT s.id AS sale, s.merchant_id AS merchant, s.name, s.state, iso(s.opens) AS opens, iso(s.closes) AS closes, s.currency,
           iso(now()) AS as_of FROM sale s WHERE s.id = $1"""
# What the purchases of the sale have in common for all that follows.
_BOUGHT = """
    WITH bought AS (
        SELECT p.id, p.state, p.total_minor, p.history @> '[{"state": "AUTHORIZING"}]' AS was_paying,
               p.history @> '[{"state": "PAID"}]' AS was_paid, p.state IN ('HELD', 'AUTHORIZING', 'AUTHORIZED') AS is_open,
               p.state IN ('PAID', 'DISPUTED') AS is_sold, p.history @> '[{"state": "REFUNDED"}]' AS was_refunded,
               p.history @> '[{"state": "CHARGED_BACK"}]' AS was_charged_back
        FROM purchase p WHERE p.sale_id = $1
    )"""
_SKUS = f"""{_BOUGHT}, sold AS (
        SELECT l.sku, sum(l.quantity) FILTER (WHERE b.is_open) AS held, sum(l.quantity) FILTER (WHERE b.is_sold) AS sold,
               sum(l.quantity) FILTER (WHERE b.was_refunded) AS refunded,
               sum(l.quantity) FILTER (WHERE b.was_charged_back) AS charged_back,
               sum(l.quantity * l.unit_price_minor) FILTER (WHERE b.was_paid) AS gross,
               sum(l.quantity * l.unit_price_minor) FILTER (WHERE b.was_refunded) AS refunds,
               sum(l.quantity * l.unit_price_minor) FILTER (WHERE b.was_charged_back) AS chargebacks,
               sum(l.quantity * l.unit_price_minor) FILTER (WHERE b.is_sold) AS net
        FROM bought b JOIN line l ON l.purchase_id = b.id GROUP BY l.sku
    )
    SELECT i.sku, i.name, i.price_minor, s.currency, k.total AS units_total, k.available AS units_available,
           coalesce(o.held, 0)::bigint AS units_held, coalesce(o.sold, 0)::bigint AS units_sold,
           coalesce(o.refunded, 0)::bigint AS units_refunded, coalesce(o.charged_back, 0)::bigint AS units_charged_back,
           coalesce(o.gross, 0)::bigint AS gross_minor, coalesce(o.refunds, 0)::bigint AS refunds_minor,
           coalesce(o.chargebacks, 0)::bigint AS chargebacks_minor, coalesce(o.net, 0)::bigint AS net_minor
    FROM item i JOIN sale s ON s.id = i.sale_id JOIN stock k ON k.sku = i.sku LEFT JOIN sold o ON o.sku = i.sku
    WHERE i.sale_id = $1 ORDER BY i.sku"""  # noqa: S608 - constants of this file
_FUNNEL = f"""{_BOUGHT}
    SELECT count(*) AS held, count(*) FILTER (WHERE was_paying) AS paying, count(*) FILTER (WHERE was_paid) AS paid,
           count(*) FILTER (WHERE was_refunded) AS refunded, count(*) FILTER (WHERE state = 'DISPUTED') AS in_dispute,
           count(*) FILTER (WHERE was_charged_back) AS charged_back, count(*) FILTER (WHERE is_open) AS still_open,
           count(*) FILTER (WHERE state = 'EXPIRED') AS expired, count(*) FILTER (WHERE state = 'CANCELLED') AS cancelled,
           count(*) FILTER (WHERE state = 'DECLINED') AS declined,
           count(*) FILTER (WHERE NOT is_open AND NOT was_paid AND NOT was_paying) AS abandoned_before_paying,
           count(*) FILTER (WHERE NOT is_open AND NOT was_paid AND was_paying) AS abandoned_while_paying,
           round(100.0 * count(*) FILTER (WHERE NOT is_open AND NOT was_paid)
                 / nullif(count(*) FILTER (WHERE NOT is_open), 0), 2)::float8 AS abandonment_percent
    FROM bought"""  # noqa: S608 - the same
# A refused attempt leaves neither purchase nor sale: those of the sale's time are every sale's of that time.
_ATTEMPTS = """
    SELECT t.verdict, count(p.id) AS of_this_sale, count(*) - count(p.id) AS without_purchase
    FROM sale s CROSS JOIN attempt t LEFT JOIN purchase p ON p.id = t.purchase_id
    WHERE s.id = $1 AND (p.sale_id = s.id OR p.id IS NULL AND t.at >= s.opens AND t.at < s.closes)
    GROUP BY t.verdict ORDER BY t.verdict"""
_REVENUE = f"""{_BOUGHT}
    SELECT s.currency, coalesce(sum(b.total_minor) FILTER (WHERE b.was_paid), 0)::bigint AS gross_minor,
           coalesce(sum(b.total_minor) FILTER (WHERE b.was_refunded), 0)::bigint AS refunds_minor,
           coalesce(sum(b.total_minor) FILTER (WHERE b.was_charged_back), 0)::bigint AS chargebacks_minor,
           coalesce(sum(b.total_minor) FILTER (WHERE b.is_sold), 0)::bigint AS net_minor,
           (SELECT coalesce(sum(y.amount_minor), 0) FROM bought n JOIN payment y ON y.purchase_id = n.id
            WHERE NOT n.was_paid AND y.state IN ('REFUNDING', 'REFUNDED'))::bigint AS late_money_returned_minor
    FROM sale s LEFT JOIN bought b ON true WHERE s.id = $1 GROUP BY s.currency"""  # noqa: S608 - the same
# PAID after DISPUTED is a dispute that was won: nothing was paid once more.
_MINUTES = """
    SELECT iso(date_trunc('minute', h.at)) AS minute, count(*) FILTER (WHERE h.version = 1) AS held,
           count(*) FILTER (WHERE h.state = 'AUTHORIZING') AS paying, count(*) FILTER (WHERE h.is_payment) AS paid,
           count(*) FILTER (WHERE h.state = 'EXPIRED') AS expired, count(*) FILTER (WHERE h.state = 'CANCELLED') AS cancelled,
           count(*) FILTER (WHERE h.state = 'DECLINED') AS declined, count(*) FILTER (WHERE h.state = 'REFUNDED') AS refunded,
           count(*) FILTER (WHERE h.state = 'CHARGED_BACK') AS charged_back,
           coalesce(sum(p.total_minor) FILTER (WHERE h.is_payment), 0)::bigint AS gross_minor,
           coalesce(sum(p.total_minor) FILTER (WHERE h.state = 'REFUNDED'), 0)::bigint AS refunds_minor,
           coalesce(sum(p.total_minor) FILTER (WHERE h.state = 'CHARGED_BACK'), 0)::bigint AS chargebacks_minor
    FROM purchase p CROSS JOIN LATERAL (
        SELECT state, version, at, state = 'PAID' AND lag(state) OVER (ORDER BY version) IS DISTINCT FROM 'DISPUTED' AS is_payment
        FROM jsonb_to_recordset(p.history) e (state text, version integer, at timestamptz)) h
    WHERE p.sale_id = $1 GROUP BY date_trunc('minute', h.at) ORDER BY 1"""
_TABLES = {"skus": _SKUS, "funnel": _FUNNEL, "attempts": _ATTEMPTS, "revenue": _REVENUE, "minutes": _MINUTES}
# A spreadsheet takes a cell that begins so for a formula, and names are whatever somebody typed.
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


def options(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    actions = parser.add_subparsers(metavar="action", dest="action", required=True)
    report = actions.add_parser("report", help="sales, funnel, abandonment, revenue and minutes of one sale")
    report.add_argument("sale")
    report.add_argument("--csv", type=Path, metavar="DIR", help=f"write {', '.join(_TABLES)}.csv there instead")
    report.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result on stdout"
    )


async def run(parsed: argparse.Namespace, context: Context) -> None:
    """Print the report, or write it. Raises ``OperationError``."""
    found = await report(parsed.sale, context)
    if parsed.csv is not None:
        paths = write(found, parsed.csv)
        show(context, [{"file": str(path), "rows": rows} for path, rows in paths.items()], ("file", "rows"))
    elif context.json:
        print(json.dumps(found))
    else:
        for number, (name, rows) in enumerate(found.items()):
            print(("\n" if number else "") + name.upper())
            if rows:
                show(context, rows, list(rows[0]))


async def report(sale: str, context: Context, tables: Collection[str] | None = None) -> dict[str, list[Row]]:
    """The sale and these tables (all of them) by name, their rows as the columns say; amounts in minor units. All of one snapshot."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with (
        connected(context.postgres_auditor) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        found = {}
        for name, query in ({"sale": _SALE} | {name: _TABLES[name] for name in tables or _TABLES}).items():
            found[name] = [dict(row) for row in await connection.fetch(query, sale)]
            if not found["sale"]:
                raise NothingError(f"there is no sale {sale}")
    return found


def write(found: dict[str, list[Row]], directory: Path) -> dict[Path, int]:
    """One file of comma-separated values per table; the number of rows of each. Raises ``OperationError``."""
    written = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, rows in found.items():
            path = directory / f"{name}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                cells = csv.writer(file)
                cells.writerows([list(rows[0]), *(_cells(list(row.values())) for row in rows)] if rows else [])
            written[path] = len(rows)
    except OSError as error:
        raise OperationError(f"the files cannot be written: {error}") from error
    return written


def _cells(values: Sequence[Any]) -> list[Any]:
    return [f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_BEGINS) else value for value in values]
