"""``flash buyer``: what is held about a buyer, and its end. What the shop must keep afterwards names nobody."""

import argparse
import json
import sys

from flashsale.operate.context import Context, Deed, add_deed_options, deed, show

PREFETCHED = 50  # purchases in memory at once; a buyer who cancels may have any number

_SALES = "SELECT sale_id AS sale, active AS units FROM quota WHERE buyer = $1 ORDER BY sale_id"
# What was done by hand to one of their purchases, and repairs whose plan names them (and, cut away here, others).
_OPERATIONS = """
    SELECT o.id, o.action, o.subject, o.reason, iso(o.at) AS at FROM operation o
    WHERE o.detail -> 'quota' @> jsonb_build_array(jsonb_build_object('buyer', $1::text))
       OR o.subject IN (SELECT p.id::text FROM purchase p WHERE p.buyer = $1) ORDER BY o.id"""
_PURCHASES = """
    SELECT jsonb_build_object(
        'id', d.id, 'sale', d.sale_id, 'key', p.key, 'fingerprint', encode(p.fingerprint, 'hex'), 'state', d.state,
        'version', d.version, 'generation', d.generation, 'deadline', iso(d.deadline), 'total_minor', d.total_minor,
        'currency', d.currency, 'history', d.history,
        'items', (SELECT jsonb_agg(jsonb_build_object('sku', l.sku, 'quantity', l.quantity, 'unit_price_minor', l.unit_price_minor)
                                   ORDER BY l.sku) FROM line l WHERE l.purchase_id = d.id),
        'payments', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                        'try', y.try, 'key', y.key, 'method', y.method, 'amount_minor', y.amount_minor, 'currency', y.currency,
                        'state', y.state, 'asked_at', iso(y.asked_at)) ORDER BY y.try), '[]')
                     FROM payment y WHERE y.purchase_id = d.id),
        'movements', (SELECT jsonb_agg(jsonb_build_object('sku', g.sku, 'seq', g.seq, 'kind', g.kind, 'reason', g.reason,
                                                          'units', g.delta, 'at', iso(g.at)) ORDER BY g.sku, g.seq)
                      FROM ledger g WHERE g.purchase_id = d.id),
        'attempts', coalesce(a.attempts, '[]'))::text AS document
    FROM purchase_document d JOIN purchase p ON p.id = d.id
    LEFT JOIN (SELECT t.purchase_id, jsonb_agg(jsonb_build_object('rid', t.rid, 'verdict', t.verdict, 'at', iso(t.at))
                                               ORDER BY t.at, t.rid) AS attempts
               FROM attempt t WHERE t.purchase_id IN (SELECT id FROM purchase WHERE buyer = $1) GROUP BY 1) a
        ON a.purchase_id = d.id
    WHERE d.buyer = $1 ORDER BY d.id"""
_FORGET = "SELECT pseudonym, purchases FROM forget_buyer($1, $2, $3, $4)"


def options(parser: argparse.ArgumentParser) -> None:
    """What may be done."""
    actions = parser.add_subparsers(metavar="action", dest="action", required=True)
    export = actions.add_parser("export", help="print everything held about a buyer, as JSON")
    export.add_argument("buyer")
    export.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="it is JSON anyway")
    forget = actions.add_parser("forget", help="replace a buyer by a pseudonym that nobody can undo")
    forget.add_argument("buyer")
    forget.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result on stdout"
    )
    add_deed_options(forget)


async def run(parsed: argparse.Namespace, context: Context) -> None:
    """Do it. Raises ``OperationError``."""
    if parsed.action == "export":
        await export(parsed.buyer, context)
    else:
        await forget(parsed.buyer, deed(parsed), context)


async def export(buyer: str, context: Context) -> None:
    """Print one JSON document, of one moment: an empty one for a buyer of whom nothing is held."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with (
        connected(context.postgres_auditor) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        at = await connection.fetchval("SELECT iso(clock_timestamp())")
        sales = [dict(row) for row in await connection.fetch(_SALES, buyer)]
        operations = [dict(row) for row in await connection.fetch(_OPERATIONS, buyer)]
        head = {"buyer": buyer, "at": at, "sales": sales, "operations": operations}
        sys.stdout.write(json.dumps(head)[:-1] + ', "purchases": [')
        between = ""
        async for row in connection.cursor(_PURCHASES, buyer, prefetch=PREFETCHED):
            sys.stdout.write(between + row["document"])
            between = ",\n"
        sys.stdout.write("]}\n")


async def forget(buyer: str, done: Deed, context: Context) -> None:
    """Forget, once per key, and print under which pseudonym the books go on."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        (row,) = await connection.fetch(_FORGET, done.key, done.operator, done.reason, buyer)
    show(context, dict(row) | {"key": done.key}, ("pseudonym", "purchases", "key"))
