"""``flash purchase``: one purchase as everybody's books have it, and what an operator may do to it.

A refund is the whole of what was paid: a part of it would need an amount per try at every gateway, and lines that know which of
their units it was for. It is asked for here and done by the payment worker, which does not forget it.
"""

import argparse
import json
from typing import Any
from uuid import UUID

from flashsale.operate.context import Context, Deed, OperationError, add_deed_options, deed

_SHOW = """
    SELECT jsonb_build_object(
        'id', d.id, 'sale', d.sale_id, 'buyer', d.buyer, 'state', d.state, 'version', d.version, 'generation', d.generation,
        'deadline', iso(d.deadline), 'total_minor', d.total_minor, 'currency', d.currency, 'history', d.history,
        'items', (SELECT jsonb_agg(jsonb_build_object('sku', l.sku, 'quantity', l.quantity,
                                                      'unit_price_minor', l.unit_price_minor) ORDER BY l.sku)
                  FROM line l WHERE l.purchase_id = d.id),
        'payments', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                        'try', y.try, 'method', y.method, 'amount_minor', y.amount_minor, 'currency', y.currency, 'state', y.state,
                        'asked_at', iso(y.asked_at), 'asked_again', y.asks, 'set_aside_at', iso(y.set_aside_at)) ORDER BY y.try), '[]')
                     FROM payment y WHERE y.purchase_id = d.id),
        'movements', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                         'sku', g.sku, 'seq', g.seq, 'kind', g.kind, 'reason', g.reason, 'units', g.delta, 'at', iso(g.at))
                                                ORDER BY g.sku, g.seq), '[]')
                      FROM ledger g WHERE g.purchase_id = d.id),
        'operations', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                          'at', iso(o.at), 'operator', o.operator, 'action', o.action, 'reason', o.reason) ORDER BY o.id), '[]')
                       FROM operation o WHERE o.subject = d.id::text))::text AS document
    FROM purchase_document d WHERE d.id = $1"""
_REFUND = "SELECT refund_purchase($1, $2, $3, $4)"
_RETURN = "SELECT return_purchase($1, $2, $3, $4, $5)"
_DEEDS = {
    "refund": "give the money of a paid purchase back, all of it; its units stay off the shelf",
    "restock": "put the units of a refunded or charged-back purchase on sale again",
    "cancel": "give a hold up for its buyer",
}


def options(parser: argparse.ArgumentParser) -> None:
    """What may be done."""
    actions = parser.add_subparsers(metavar="action", dest="action", required=True)
    show = actions.add_parser("show", help="print everything about a purchase, as JSON")
    show.add_argument("purchase", type=_purchase)
    for action, text in _DEEDS.items():
        doing = actions.add_parser(action, help=text)
        doing.add_argument("purchase", type=_purchase)
        doing.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result on stdout"
        )
        add_deed_options(doing)


def _purchase(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not the id of a purchase") from None


async def run(parsed: argparse.Namespace, context: Context) -> None:
    """Do it. Raises ``OperationError``."""
    if parsed.action == "show":
        print(json.dumps(await read(parsed.purchase, context), indent=None if context.json else 2))
        return
    done = deed(parsed)
    await do(parsed.action, parsed.purchase, done, context)
    document = await read(parsed.purchase, context)
    if context.json:
        print(json.dumps({"state": document["state"], "payments": document["payments"], "key": done.key}))
    else:
        coming = "; the gateway is being asked" if parsed.action == "refund" and document["state"] == "PAID" else ""
        print(f"{parsed.action}: done (key {done.key}); purchase {parsed.purchase} is {document['state']}{coming}")


async def read(purchase: str, context: Context) -> dict[str, Any]:
    """Everything about it, of one moment. Raises ``OperationError``, also when there is no such purchase."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres_auditor) as connection:
        found = await connection.fetchval(_SHOW, purchase)
    if found is None:
        raise OperationError(f"there is no purchase {purchase}")
    document: dict[str, Any] = json.loads(found)
    return document


async def do(action: str, purchase: str, by: Deed, context: Context) -> None:
    """Refund, restock or cancel, once per key. Raises ``OperationError`` when its state does not allow it."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        if action == "refund":
            await connection.execute(_REFUND, by.key, by.operator, by.reason, purchase)
        else:
            await connection.execute(_RETURN, by.key, by.operator, by.reason, purchase, action)
