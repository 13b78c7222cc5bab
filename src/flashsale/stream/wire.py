"""What a viewer asks for and what a viewer is told, to the byte. Bytes and text in, values and bytes out; no I/O."""

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from flashsale.contract import wire
from flashsale.contract.stock import Watched
from flashsale.contract.verdict import Verdict

PATH = f"{wire.STOCK_PATH}/stream"
CONTENT_TYPE = "text/event-stream"
# No copy, no compressing on the way, which would hold events up; and no proxy's buffer.
HEADERS: Mapping[str, str] = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
LAST_ID_HEADER = "Last-Event-ID"  # sent by a browser that reconnects by itself
LAST_ID_FIELD = "lastEventId"  # for a page that was reloaded, which cannot set headers

SKUS_MAX = wire.LINES_MAX  # a page shows what one cart can hold; every frame's id names all of them
FIELDS_MAX = 16  # of the query

# A range, so that the viewers of a server that ended do not all come back in one moment.
RETRY_MS = (1_000, 3_000)
# For those who cannot be served now: seldom enough that a crowd of them costs next to nothing.
LATER_MS = (5_000, 15_000)

_KNOWN = re.compile(f"({wire.SKU_PATTERN.pattern}):([0-9]{{1,18}})")  # a seq is a bigint

BYE = b"event: bye\ndata: {}\n\n"


class Watch(NamedTuple):
    """What one viewer wants to see: SKUs, sorted, and the id of the last event it saw, empty for none."""

    skus: tuple[str, ...]
    last_id: str


def parse_watch(query: str, last_id: str | None) -> Watch:
    """The watch of ``GET /stock/stream?query``, with the header's ``last_id``. Raises ``wire.Refusal`` (MALFORMED).

    The header wins over the query's field: the browser knows what it saw last, the address what the page began with.
    """
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=FIELDS_MAX)
    except ValueError as error:
        raise wire.Refusal(Verdict.MALFORMED, f"the query has more than {FIELDS_MAX} fields") from error
    values = fields.get("sku", [])
    if len(values) != 1:
        raise wire.Refusal(Verdict.MALFORMED, f"send sku once, with 1 to {SKUS_MAX} SKUs separated by commas")
    skus = sorted(values[0].split(","))
    if len(skus) > SKUS_MAX:
        raise wire.Refusal(Verdict.MALFORMED, f"sku must name 1 to {SKUS_MAX} SKUs")
    for sku in skus:
        if not wire.SKU_PATTERN.fullmatch(sku):
            raise wire.Refusal(Verdict.MALFORMED, "each SKU must be 1 to 64 of A-Z a-z 0-9 . _ -")
    for sku, following in itertools.pairwise(skus):
        if sku == following:
            raise wire.Refusal(Verdict.MALFORMED, f"{sku} stands twice")
    return Watch(tuple(skus), fields.get(LAST_ID_FIELD, [""])[0] if last_id is None else last_id)


def event_id(seqs: Iterable[tuple[str, int]]) -> str:
    """What a viewer knows, as (SKU, seq) pairs in order: it means the same on every process and after every restart."""
    return ",".join(f"{sku}:{seq}" for sku, seq in seqs)


def seqs(known: str) -> dict[str, int]:
    """The seq of each SKU in an event's id; empty for one that no process of ours wrote."""
    pairs = [_KNOWN.fullmatch(pair) for pair in known.split(",", SKUS_MAX)]
    return {pair[1]: int(pair[2]) for pair in pairs if pair} if all(pairs) else {}


def retry(milliseconds: int) -> bytes:
    """How long the browser shall wait before it comes back."""
    return b"retry: %d\n\n" % milliseconds


def snapshot(items: Iterable[Watched], now: datetime, as_of: datetime) -> bytes:
    """Everything a viewer watches."""
    items = tuple(items)
    sales = {item.sale: item for item in items}
    document = {
        "now": wire.timestamp(now),
        "as_of": wire.timestamp(as_of),
        "stock": [_stock(item, as_of) for item in items],
        "sales": [_sale(sales[sale]) for sale in sorted(sales)],
    }
    return _event("snapshot", document, event_id((item.sku, item.seq) for item in items))


def stock(item: Watched, as_of: datetime, known: str) -> bytes:
    """One item that changed; ``known`` is the id of all that the viewer knows with this event."""
    return _event("stock", _stock(item, as_of), known)


def sale(item: Watched) -> bytes:
    """The sale of ``item``, whose state or times changed. Without an id: the clock changes sales, and makes no movement."""
    return _event("sale", _sale(item))


def beat(now: datetime, as_of: datetime) -> bytes:
    """Nothing changed; the age of what the viewer knows is now - as_of."""
    return _event("beat", {"now": wire.timestamp(now), "as_of": wire.timestamp(as_of)})


def _stock(item: Watched, as_of: datetime) -> dict[str, Any]:
    return {"sku": item.sku, "available": item.available, "seq": item.seq, "as_of": wire.timestamp(as_of)}


def _sale(item: Watched) -> dict[str, Any]:
    opens, closes = wire.timestamp(item.opens), wire.timestamp(item.closes)
    return {"sale": item.sale, "state": item.state, "opens": opens, "closes": closes}


def _event(name: str, document: dict[str, Any], known: str = "") -> bytes:
    # JSON has no raw newline, and neither a SKU nor a name of ours has one: nothing can break out of its line
    data = json.dumps(document, separators=(",", ":"))
    return (f"event: {name}\n" + (f"id: {known}\n" if known else "") + f"data: {data}\n\n").encode()
