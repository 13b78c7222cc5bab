"""``flash sale``: a sale's life by hand. What changes something is recorded with who, why and a key (``operation``)."""

import argparse
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from flashsale.operate.context import Context, OperationError, add_deed_options, deed, show

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
SUFFIX = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)
CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
TEXT_CHARS_MAX = 200
LIMIT_MAX, HOLD_SECONDS_MAX = 1_000_000, 86_400  # as the database has them
PRICE_MAX, UNITS_MAX = 10**12, 10**12

_SALES = """
    SELECT s.id AS sale, s.merchant_id AS merchant, s.name, s.opens, s.closes, s.buyer_limit, s.hold_seconds, s.currency,
           CASE WHEN s.state = 'ENDED' OR now() >= s.closes THEN 'ENDED'
                WHEN s.state = 'OPEN' AND now() < s.opens THEN 'SCHEDULED' ELSE s.state END AS state,
           count(k.sku) AS items, coalesce(sum(k.total), 0)::bigint AS units, coalesce(sum(k.available), 0)::bigint AS available
    FROM sale s LEFT JOIN stock k ON k.sale_id = s.id WHERE $1::text IS NULL OR s.id = $1
    GROUP BY s.id ORDER BY s.opens, s.id"""
_ITEMS = """
    SELECT i.sku, i.name, i.price_minor, k.total AS units, k.available, k.seq
    FROM item i JOIN stock k USING (sku) WHERE i.sale_id = $1 ORDER BY i.sku"""
_CREATE = "SELECT operate_create_sale($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
_CHANGE = "SELECT operate_change_sale($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_ADD_ITEM = "SELECT operate_add_item($1, $2, $3, $4, $5, $6, $7, $8)"
_RESTOCK = "SELECT operate_restock($1, $2, $3, $4, $5)"
_CLONE = "SELECT operate_clone_sale($1, $2, $3, $4, $5, $6, $7, $8)"

_SHOWN = ("sale", "merchant", "state", "opens", "closes", "buyer_limit", "hold_seconds", "items", "units", "available")
_SHOWN_ITEM = ("sku", "name", "price_minor", "units", "available", "seq")


def options(parser: argparse.ArgumentParser) -> None:
    """One sub-word per thing that can be done."""
    words = parser.add_subparsers(metavar="what", required=True, dest="verb")

    def word(name: str, summary: str, *names: str) -> argparse.ArgumentParser:
        sub = words.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        for each in names:
            sub.add_argument(each, type=_checked("1 to 64 of A-Z a-z 0-9 . _ -", _matching(NAME)), metavar=each.upper())
        sub.add_argument("--json", action="store_true", help="machine-readable result on stdout")
        return sub

    word("list", "every sale, with its stock")
    word("show", "one sale and its items", "sale")
    create = word("create", "a sale without items: scheduled with --opens, else paused until `open`", "sale")
    create.add_argument("--merchant", required=True, type=_checked("1 to 64 of A-Z a-z 0-9 . _ -", _matching(NAME)))
    create.add_argument("--name", required=True, type=_text, help="what shoppers read")
    _add_time(create, "--opens", required=False)
    _add_time(create, "--closes", required=True)
    _add_terms(create, required=True)
    create.add_argument("--currency", default="EUR", type=_checked("three letters A-Z", _matching(CURRENCY)))
    word("open", "on sale now, whatever the schedule said; also after a pause", "sale")
    word("pause", "no hold is decided from the moment this is acknowledged; holds that stand can be paid", "sale")
    word("end", "as `pause`, and for good", "sale")
    schedule = word("schedule", "other times; with --opens a paused sale opens by itself", "sale")
    _add_time(schedule, "--opens", required=False)
    _add_time(schedule, "--closes", required=False)
    _add_terms(word("limit", "other terms, for holds from now on", "sale"), required=False)
    item = word("add-item", "one more item of a sale", "sale", "sku")
    item.add_argument("--name", required=True, type=_text, help="what shoppers read")
    item.add_argument(
        "--price-minor", required=True, type=_whole(0, PRICE_MAX), help="in cents or the like", metavar="N"
    )
    item.add_argument("--units", required=True, type=_whole(0, UNITS_MAX), help="on sale from the start", metavar="N")
    restock = word("restock", "more units of an item, at any time", "sku")
    restock.add_argument("units", type=_whole(1, UNITS_MAX), metavar="UNITS")
    clone = word("clone", "a new sale with the terms, items and opening stock of another", "sale", "clone")
    clone.add_argument(
        "--suffix", required=True, type=_checked("1 to 32 of A-Z a-z 0-9 . _ -", _matching(SUFFIX)),
        help="behind each SKU, since an item belongs to one sale",
    )  # fmt: skip
    _add_time(clone, "--opens", required=False)
    _add_time(clone, "--closes", required=True)
    for name, sub in words.choices.items():
        if name not in {"list", "show"}:
            add_deed_options(sub)


async def run(parsed: argparse.Namespace, context: Context) -> None:
    """Do it once per key, and print what is there afterwards. Raises ``OperationError``."""
    from flashsale.operate.database import connected  # noqa: PLC0415 - needs third-party packages

    async with connected(context.postgres) as connection:
        key, is_new = ("", False) if parsed.verb in {"list", "show"} else await _change(connection, parsed)
        sale = getattr(parsed, "clone", None) or getattr(parsed, "sale", None)
        if parsed.verb == "restock":
            sale = await connection.fetchval("SELECT sale_id FROM item WHERE sku = $1", parsed.sku)
        sales = [dict(row) for row in await connection.fetch(_SALES, sale)]
        items = [dict(row) for row in await connection.fetch(_ITEMS, sale)]
    if parsed.verb == "list":
        show(context, sales, _SHOWN)
        return
    if not sales:
        raise OperationError(f"there is no sale {sale}")
    if context.json:
        show(context, sales[0] | {"items": items} | ({"key": key} if key else {}), ())
        return
    if key:
        print(f"done under key {key}" if is_new else f"nothing done now: done before under key {key}")
    show(context, sales, _SHOWN)
    if parsed.verb in {"show", "add-item", "restock", "clone"}:
        print()
        show(context, items, _SHOWN_ITEM)


async def _change(connection: Any, parsed: argparse.Namespace) -> tuple[str, bool]:
    # the key, and whether it is done now and was not before
    statement, *values = _call(parsed)
    done = deed(parsed)
    return done.key, await connection.fetchval(statement, done.key, done.operator, done.reason, *values)


def _call(parsed: argparse.Namespace) -> tuple[Any, ...]:
    # the statement and what follows key, operator and reason
    match parsed.verb:
        case "create":
            state = "PAUSED" if parsed.opens is None else "OPEN"
            times = (parsed.opens, parsed.closes)
            terms = (parsed.limit, parsed.hold_seconds, parsed.currency)
            return (_CREATE, parsed.sale, parsed.merchant, parsed.name, state, *times, *terms)
        case "add-item":
            return (_ADD_ITEM, parsed.sale, parsed.sku, parsed.name, parsed.price_minor, parsed.units)
        case "restock":
            return (_RESTOCK, parsed.sku, parsed.units)
        case "clone":
            return (_CLONE, parsed.sale, parsed.clone, parsed.suffix, parsed.opens, parsed.closes)
        case verb:
            asked = [getattr(parsed, name, None) for name in ("opens", "closes", "limit", "hold_seconds")]
            if verb in {"schedule", "limit"} and asked == [None] * len(asked):
                raise OperationError(f"sale {verb} needs to be told what to change")
            return (_CHANGE, f"sale.{verb}", parsed.sale, *asked)


def _add_time(parser: argparse.ArgumentParser, name: str, *, required: bool) -> None:
    parser.add_argument(
        name, required=required, type=_checked("a time with its zone, as 2026-11-27T18:00:00Z", _time), metavar="TIME"
    )


def _add_terms(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--limit", required=required, type=_whole(1, LIMIT_MAX), metavar="N", help="units of the whole sale per buyer"
    )
    parser.add_argument(
        "--hold-seconds", required=required, type=_whole(1, HOLD_SECONDS_MAX), metavar="N", help="how long a hold lasts"
    )


def _checked(allowed: str, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}") from None

    return parsed


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError
        return text

    return parse


def _whole(low: int, high: int) -> Callable[[str], Any]:
    def parse(text: str) -> int:
        # a longer text is no such number, and takes long to become one
        if len(text) > len(str(high)) or not low <= (number := int(text)) <= high:
            raise ValueError
        return number

    return _checked(f"a whole number from {low} to {high}", parse)


def _text(text: str) -> str:
    if not 1 <= len(text.strip()) <= TEXT_CHARS_MAX or not text.isprintable():
        raise argparse.ArgumentTypeError(f"is not 1 to {TEXT_CHARS_MAX} printable characters")
    return text


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError
    return at
