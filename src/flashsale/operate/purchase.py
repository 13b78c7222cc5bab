"""``flash purchase``: one purchase as everybody's books have it, and what an operator may do to it.

A refund is the whole of what was paid: a part of it would need an amount per try at every gateway, and lines that know which of
their units it was for. It is asked for here and done by the payment worker, which does not forget it.
"""

import argparse
import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from flashsale.operate import fields
from flashsale.operate.context import (
    Change,
    Context,
    Deed,
    NothingError,
    add_deed_options,
    changes,
    deed,
    show,
)
from flashsale.operate.fields import NAME, TIME, Field, Kind, one_of, whole

STATES = (
    "HELD", "AUTHORIZING", "AUTHORIZED", "PAID", "DISPUTED", "CHARGED_BACK", "REFUNDED", "RESTOCKED", "EXPIRED", "CANCELLED",
    "DECLINED",
)  # fmt: skip
BUYER_CHARS_MAX = 128
PAGE_MAX, PAGE = 200, 50
CURSOR_CHARS_MAX = 256
FIND_SECONDS = 10.0  # a search that finds little reads much; longer than this it is to be narrowed, beside a sale

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
# The latest first, a hold's ledger row for each: its primary key has them per SKU in the order in which they were decided, so a
# page of a busy item is read off its end, and no index is kept on the hot path for it. A cart of several items stands in the list
# once, by the first of them, unless one is asked for.
_HOLDS = """
    SELECT g.at, g.sku, g.seq, p.id, p.buyer, p.sale_id AS sale, p.state, p.deadline, p.total_minor, s.currency,
           (SELECT sum(l.quantity) FROM line l WHERE l.purchase_id = p.id)::bigint AS units
    FROM {holds} JOIN purchase p ON p.id = g.purchase_id JOIN sale s ON s.id = p.sale_id
    WHERE g.kind = 'hold' AND g.generation = 1 AND ($1::uuid IS NULL OR p.id = $1) AND ($2::text IS NULL OR p.buyer = $2)
      AND ($3::text IS NULL OR p.sale_id = $3) AND ($4::text IS NULL OR p.state = $4)
      AND ($5::timestamptz IS NULL OR g.at >= $5) AND ($6::timestamptz IS NULL OR g.at < $6)
      AND g.sku = coalesce($7::text, (SELECT min(l.sku) FROM line l WHERE l.purchase_id = p.id))
      AND ($8::timestamptz IS NULL OR (g.at, g.sku, g.seq) < ($8, $9::text, $10::bigint))
    ORDER BY g.{order} LIMIT $11"""
_OF_ITEMS = f"""
    SELECT g.* FROM item i CROSS JOIN LATERAL ({_HOLDS.format(holds="(SELECT * FROM ledger WHERE sku = i.sku) g", order="seq DESC")}) g
    WHERE ($3::text IS NULL OR i.sale_id = $3) AND ($7::text IS NULL OR i.sku = $7)
    ORDER BY at DESC, sku DESC, seq DESC LIMIT $11"""  # noqa: S608 - constants of this file
_OF_ONE = _HOLDS.format(
    holds="(SELECT g.* FROM purchase b JOIN ledger g ON g.purchase_id = b.id WHERE b.id = $1 OR b.buyer = $2) g",
    order="at DESC, g.sku DESC, g.seq DESC",
)
_GLANCE = """
    SELECT p.state, (SELECT jsonb_object_agg('payment ' || y.try, y.state ORDER BY y.try) FROM payment y WHERE y.purchase_id = p.id)
                    AS payments,
           (SELECT jsonb_object_agg(k.sku || ': available', k.available ORDER BY k.sku)
            FROM line l JOIN stock k ON k.sku = l.sku WHERE l.purchase_id = p.id) AS shelf
    FROM purchase p WHERE p.id = $1"""
_REFUND = "SELECT refund_purchase($1, $2, $3, $4)"
_RETURN = "SELECT return_purchase($1, $2, $3, $4, $5)"
DEEDS = {
    "refund": "give the money of a paid purchase back, all of it; its units stay off the shelf",
    "restock": "put the units of a refunded or charged-back purchase on sale again",
    "cancel": "give a hold up for its buyer",
}


class Place(NamedTuple):
    """Where a page of the list ends, so that the next one can begin behind it."""

    at: datetime
    sku: str
    seq: int

    def written(self) -> str:
        """As a client carries it."""
        text = json.dumps([self.at.isoformat(), self.sku, self.seq])
        return base64.urlsafe_b64encode(text.encode()).decode()


def _place(text: str) -> Place:
    try:
        at, sku, seq = json.loads(base64.urlsafe_b64decode(text[:CURSOR_CHARS_MAX].encode("ascii")))
        place = Place(datetime.fromisoformat(at), fields.NAME.parse(sku), seq)
    except (TypeError, RecursionError, UnicodeError) as error:
        raise ValueError from error
    if place.at.tzinfo is None or type(seq) is not int or not 0 <= seq < 2**63:
        raise ValueError
    return place


def _buyer(text: str) -> str:
    if not 1 <= len(text) <= BUYER_CHARS_MAX or not text.isprintable():
        raise ValueError
    return text


def _id(text: str) -> str:
    return str(UUID(text))


ID = Kind("the id of a purchase", _id)
SUBJECT = Field("purchase", ID)
SEARCH = (
    Field("id", ID, "one purchase", required=False),
    Field("buyer", Kind(f"1 to {BUYER_CHARS_MAX} printable characters", _buyer), "whose", required=False),
    Field("sale", NAME, "of which sale", required=False),
    Field("sku", NAME, "of which item", required=False),
    Field("state", one_of(*STATES), "as it is now", required=False),
    Field("since", TIME, "held at or after", required=False),
    Field("until", TIME, "held before", required=False),
    Field("last", whole(1, PAGE_MAX), f"so many, the latest (default {PAGE})", required=False, default=PAGE),
    Field("behind", Kind("what a page before said", _place), "the page behind that one", required=False),
)
_FOUND = ("at", "id", "buyer", "sale", "sku", "units", "state", "total_minor", "currency")


def options(parser: argparse.ArgumentParser) -> None:
    """What may be done."""
    actions = parser.add_subparsers(metavar="action", dest="action", required=True)
    fields.add_place(actions.add_parser("show", help="print everything about a purchase, as JSON"), SUBJECT)
    find = actions.add_parser("find", help="the latest purchases that all of this is true of")
    for field in SEARCH:
        fields.add_option(find, field)
    find.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result on stdout"
    )
    for action, text in DEEDS.items():
        doing = actions.add_parser(action, help=text)
        fields.add_place(doing, SUBJECT)
        doing.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result on stdout"
        )
        add_deed_options(doing)


async def run(parsed: argparse.Namespace, context: Context) -> None:
    """Do it. Raises ``OperationError``."""
    if parsed.action == "show":
        print(json.dumps(await read(parsed.purchase, context), indent=None if context.json else 2))
        return
    if parsed.action == "find":
        found = await find(vars(parsed), context)
        show(context, found if context.json else found["purchases"], _FOUND)
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
        raise NothingError(f"there is no purchase {purchase}")
    document: dict[str, Any] = json.loads(found)
    return document


async def find(asked: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """A page of the purchases that ``asked`` (of ``SEARCH``) describes, the latest hold first; ``behind``, if more may follow."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    behind = asked["behind"] or (None, None, None)
    wanted = (asked[name] for name in ("id", "buyer", "sale", "state", "since", "until", "sku"))
    query = _OF_ITEMS if asked["id"] is None and asked["buyer"] is None else _OF_ONE
    async with connected(context.postgres_auditor, call_seconds=FIND_SECONDS) as connection:
        rows = [dict(row) for row in await connection.fetch(query, *wanted, *behind, asked["last"] + 1)]
    shown = rows[: asked["last"]]
    last = shown[-1] if len(rows) > len(shown) else None
    found: dict[str, Any] = {
        "purchases": [{name: value for name, value in row.items() if name != "seq"} for row in shown],
        "behind": None if last is None else Place(last["at"], last["sku"], last["seq"]).written(),
    }
    return found


async def do(action: str, purchase: str, by: Deed, context: Context) -> None:
    """Refund, restock or cancel, once per key. Raises ``OperationError`` when its state does not allow it."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        await _do(connection, action, purchase, by)


async def plan(action: str, purchase: str, by: Deed, context: Context) -> list[Change]:
    """What it would change: done, looked at and taken back. Raises ``OperationError`` as ``do`` would."""
    from flashsale.operate.database import connected, rehearsed  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        before = await _glance(connection, purchase)
        async with rehearsed(connection):
            await _do(connection, action, purchase, by)
            after = await _glance(connection, purchase)
    return changes(before, after)


async def _do(connection: Any, action: str, purchase: str, by: Deed) -> None:
    if action == "refund":
        await connection.execute(_REFUND, *by.words, purchase)
    else:
        await connection.execute(_RETURN, *by.words, purchase, action)


async def _glance(connection: Any, purchase: str) -> dict[str, Any]:
    row = await connection.fetchrow(_GLANCE, purchase)
    if row is None:
        raise NothingError(f"there is no purchase {purchase}")
    seen: dict[str, Any] = {"state": row["state"]}
    for more in (row["payments"], row["shelf"]):
        seen |= json.loads(more or "{}")
    return seen
