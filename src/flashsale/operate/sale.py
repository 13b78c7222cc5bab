"""``flash sale``: a sale's life by hand. What changes something is recorded with who, why and a key (``operation``)."""

import argparse
from collections.abc import Mapping
from datetime import UTC
from typing import Any, NamedTuple

from flashsale.operate import fields
from flashsale.operate.context import (
    Change,
    Context,
    Deed,
    NothingError,
    OperationError,
    add_deed_options,
    changes,
    deed,
    show,
)
from flashsale.operate.fields import CURRENCY, NAME, SUFFIX, TEXT, TIME, Field, whole

LIMIT_MAX, HOLD_SECONDS_MAX = 1_000_000, 86_400  # as the database has them
PRICE_MAX, UNITS_MAX = 10**12, 10**12
SALES_MAX = 200  # the latest of a list; who has had more sales asks for one by its name

# What is held is counted by the indexes of open holds: it costs what is open now and not what was ever sold. The clock and not
# the transaction's begin, or a sale that a rehearsal has opened would still be waiting in it.
_SALES = """
    WITH open_hold AS (
        SELECT p.sale_id, sum(l.quantity) AS units FROM (
            SELECT id, sale_id FROM purchase WHERE state = 'HELD' UNION ALL
            SELECT id, sale_id FROM purchase WHERE state = 'AUTHORIZING') p JOIN line l ON l.purchase_id = p.id
        WHERE $1::text IS NULL OR p.sale_id = $1 GROUP BY p.sale_id),
    latest AS (SELECT * FROM sale WHERE $1::text IS NULL OR id = $1 ORDER BY opens DESC, id DESC LIMIT $2)
    SELECT s.id AS sale, s.merchant_id AS merchant, s.name, s.opens, s.closes, s.buyer_limit, s.hold_seconds, s.currency,
           CASE WHEN s.state = 'ENDED' OR clock_timestamp() >= s.closes THEN 'ENDED'
                WHEN s.state = 'OPEN' AND clock_timestamp() < s.opens THEN 'SCHEDULED' ELSE s.state END AS state,
           count(k.sku) AS items, coalesce(sum(k.total), 0)::bigint AS units, coalesce(sum(k.available), 0)::bigint AS available,
           coalesce((SELECT units FROM open_hold h WHERE h.sale_id = s.id), 0)::bigint AS held
    FROM latest s LEFT JOIN stock k ON k.sale_id = s.id
    GROUP BY s.id, s.merchant_id, s.name, s.opens, s.closes, s.buyer_limit, s.hold_seconds, s.currency, s.state
    ORDER BY s.opens, s.id"""
# A plan's look, which has the locks of the deed: without what is held, which is counted for as long as it takes.
_TERMS = """
    SELECT merchant_id AS merchant, name, opens, closes, buyer_limit, hold_seconds, currency,
           CASE WHEN state = 'ENDED' OR clock_timestamp() >= closes THEN 'ENDED'
                WHEN state = 'OPEN' AND clock_timestamp() < opens THEN 'SCHEDULED' ELSE state END AS state
    FROM sale WHERE id = $1"""
_ITEMS = """
    SELECT i.sku, i.name, i.price_minor, k.total AS units, k.available, k.seq
    FROM item i JOIN stock k USING (sku) WHERE i.sale_id = $1 ORDER BY i.sku"""
_SALE_OF = "SELECT sale_id FROM item WHERE sku = $1"
_CREATE = "SELECT operate_create_sale($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
_CHANGE = "SELECT operate_change_sale($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_ADD_ITEM = "SELECT operate_add_item($1, $2, $3, $4, $5, $6, $7, $8)"
_RESTOCK = "SELECT operate_restock($1, $2, $3, $4, $5)"
_CLONE = "SELECT operate_clone_sale($1, $2, $3, $4, $5, $6, $7, $8)"

_SHOWN = (
    "sale",
    "merchant",
    "state",
    "opens",
    "closes",
    "buyer_limit",
    "hold_seconds",
    "items",
    "units",
    "held",
    "available",
)
_SHOWN_ITEM = ("sku", "name", "price_minor", "units", "available", "seq")


class Verb(NamedTuple):
    """One thing that can be done: what it means, what it is done to (``places``), and what else it is told."""

    means: str
    places: tuple[Field, ...]
    options: tuple[Field, ...] = ()


_SALE = Field("sale", NAME)
_SKU = Field("sku", NAME)
_OPENS = Field("opens", TIME, "when it opens", required=False)
_LIMIT = Field("limit", whole(1, LIMIT_MAX), "units of the whole sale per buyer")
_HOLD = Field("hold_seconds", whole(1, HOLD_SECONDS_MAX), "how long a hold lasts")
_CLOSES = Field("closes", TIME, "when it closes")
_TITLE = Field("name", TEXT, "what shoppers read")

VERBS: Mapping[str, Verb] = {
    "create": Verb(
        "a sale without items: scheduled with an opening, else paused until it is opened",
        (_SALE,),
        (
            Field("merchant", NAME),
            _TITLE,
            _OPENS,
            _CLOSES,
            _LIMIT,
            _HOLD,
            Field("currency", CURRENCY, required=False, default="EUR"),
        ),
    ),
    "open": Verb("on sale now, whatever the schedule said; also after a pause", (_SALE,)),
    "pause": Verb(
        "no hold is decided from the moment this is acknowledged; holds that stand can be paid",
        (_SALE,),
    ),
    "end": Verb("no hold is decided any more, for good; holds that stand can be paid", (_SALE,)),
    "schedule": Verb(
        "other times; with an opening, a paused sale opens by itself",
        (_SALE,),
        (_OPENS, _CLOSES._replace(required=False)),
    ),
    "limit": Verb(
        "other terms, for holds from now on",
        (_SALE,),
        (_LIMIT._replace(required=False), _HOLD._replace(required=False)),
    ),
    "add-item": Verb(
        "one more item of a sale",
        (_SALE, _SKU),
        (
            _TITLE,
            Field("price_minor", whole(0, PRICE_MAX), "in cents or the like"),
            Field("units", whole(0, UNITS_MAX), "on sale from the start"),
        ),
    ),
    "restock": Verb("more units of an item, at any time", (_SKU, Field("units", whole(1, UNITS_MAX)))),
    "clone": Verb(
        "a new sale with the terms, items and opening stock of another",
        (_SALE, Field("clone", NAME)),
        (Field("suffix", SUFFIX, "behind each SKU, since an item belongs to one sale"), _OPENS, _CLOSES),
    ),
}


def options(parser: argparse.ArgumentParser) -> None:
    """One sub-word per thing that can be done."""
    words = parser.add_subparsers(metavar="what", required=True, dest="verb")
    looks = {"list": Verb("every sale, with its stock", ()), "show": Verb("one sale and its items", (_SALE,))}
    for name, verb in (looks | dict(VERBS)).items():
        sub = words.add_parser(name, help=verb.means, description=verb.means, allow_abbrev=False)
        for place in verb.places:
            fields.add_place(sub, place)
        for option in verb.options:
            fields.add_option(sub, option)
        sub.add_argument("--json", action="store_true", help="machine-readable result on stdout")
        if name in VERBS:
            add_deed_options(sub)


async def run(parsed: argparse.Namespace, context: Context) -> None:
    """Do it once per key, and print what is there afterwards. Raises ``OperationError``."""
    if parsed.verb == "list":
        show(context, await listed(context), _SHOWN)
        return
    asked = vars(parsed)
    key, is_new = "", False
    if parsed.verb in VERBS:
        call(parsed.verb, asked)  # what is wrong with it is said before a key is printed
        by = deed(parsed)
        key, is_new = by.key, await do(parsed.verb, asked, by, context)
    found = await read(await subject(parsed.verb, asked, context), context)
    if context.json:
        show(context, found | ({"key": key} if key else {}), ())
        return
    if key:
        print(f"done under key {key}" if is_new else f"nothing done now: done before under key {key}")
    show(context, found | {"items": len(found["items"])}, _SHOWN)
    if parsed.verb in {"show", "add-item", "restock", "clone"}:
        print()
        show(context, found["items"], _SHOWN_ITEM)


async def listed(context: Context) -> list[dict[str, Any]]:
    """The latest sales with their stock, in the order in which they open."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        return [dict(row) for row in await connection.fetch(_SALES, None, SALES_MAX)]


async def read(sale: str | None, context: Context) -> dict[str, Any]:
    """One sale, its items as rows. Raises ``NothingError``."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        return await _read(connection, sale)


async def subject(verb: str, asked: Mapping[str, Any], context: Context) -> str | None:
    """The sale that a verb leaves changed."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        return await _subject(connection, verb, asked)


async def do(verb: str, asked: Mapping[str, Any], by: Deed, context: Context) -> bool:
    """Do it; False if this key has done exactly this before. Raises ``OperationError``."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    statement, *values = call(verb, asked)
    async with connected(context.postgres) as connection:
        is_new: bool = await connection.fetchval(statement, *by.words, *values)
    return is_new


async def plan(verb: str, asked: Mapping[str, Any], by: Deed, context: Context) -> list[Change]:
    """What it would change: done, looked at and taken back. Raises ``OperationError`` as ``do`` would."""
    from flashsale.operate.database import connected, rehearsed  # noqa: PLC0415 - needs third-party packages

    statement, *values = call(verb, asked)
    async with connected(context.postgres) as connection:
        before = await _glance(connection, await _subject(connection, verb, asked))
        async with rehearsed(connection):
            await connection.fetchval(statement, *by.words, *values)
            after = await _glance(connection, await _subject(connection, verb, asked))
    return changes(before, after)


def call(verb: str, asked: Mapping[str, Any]) -> tuple[Any, ...]:
    """The statement and what follows key, operator and reason. Raises ``OperationError`` when nothing is asked for."""
    match verb:
        case "create":
            state = "PAUSED" if asked["opens"] is None else "OPEN"
            times = (asked["opens"], asked["closes"])
            terms = (asked["limit"], asked["hold_seconds"], asked["currency"])
            return (_CREATE, asked["sale"], asked["merchant"], asked["name"], state, *times, *terms)
        case "add-item":
            return (_ADD_ITEM, asked["sale"], asked["sku"], asked["name"], asked["price_minor"], asked["units"])
        case "restock":
            return (_RESTOCK, asked["sku"], asked["units"])
        case "clone":
            return (_CLONE, asked["sale"], asked["clone"], asked["suffix"], asked["opens"], asked["closes"])
        case verb:
            told = [asked.get(name) for name in ("opens", "closes", "limit", "hold_seconds")]
            if verb in {"schedule", "limit"} and told == [None] * len(told):
                raise OperationError(f"sale {verb} needs to be told what to change")
            return (_CHANGE, f"sale.{verb}", asked["sale"], *told)


async def _subject(connection: Any, verb: str, asked: Mapping[str, Any]) -> str | None:
    if verb == "restock":
        sale: str | None = await connection.fetchval(_SALE_OF, asked["sku"])
        return sale
    return str(asked["clone"] if verb == "clone" else asked["sale"])


async def _read(connection: Any, sale: str | None) -> dict[str, Any]:
    rows = [] if sale is None else await connection.fetch(_SALES, sale, 1)
    if not rows:
        raise NothingError(f"there is no sale {sale}")
    return dict(rows[0]) | {"items": [dict(row) for row in await connection.fetch(_ITEMS, sale)]}


async def _glance(connection: Any, sale: str | None) -> dict[str, Any]:
    # The sale as a person compares it; nothing for one that is not there (yet).
    found = await connection.fetchrow(_TERMS, sale)
    if found is None:
        return {}
    seen = {name: found[name] for name in ("merchant", "name", "state", "buyer_limit", "hold_seconds", "currency")}
    seen |= {name: found[name].astimezone(UTC).isoformat(timespec="seconds") for name in ("opens", "closes")}
    for item in await connection.fetch(_ITEMS, sale):
        seen |= {f"{item['sku']}: {name}": item[name] for name in ("name", "price_minor", "units", "available")}
    return seen
