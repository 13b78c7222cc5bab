"""A purchase attempt as a message: bounded JSON, and back.

Strict in both directions: what a worker cannot read to the letter is poison, and is set aside instead of being guessed at.
"""

import itertools
import json
import uuid
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flashsale.contract import wire

VERSION = 1
MESSAGE_BYTES_MAX = 4096  # LINES_MAX lines with the longest SKUs, buyer and key take 2 KiB
QUEUED_SECONDS_MAX = 300  # a shopper who hears a verdict later than this has left; the attempt is then too_late

_JSON = json.JSONEncoder(separators=(",", ":"))  # json.dumps would make one for each message
_FIELDS = {"v", "rid", "purchase", "buyer", "key", "fingerprint", "lines", "pay_now", "queued_until"}


class Unreadable(Exception):  # noqa: N818 - a state of a message, not a fault of whoever reads it
    """The bytes are not an attempt; the text says why."""


class Message(NamedTuple):
    """One attempt on its way. ``queued_until``: decided after this moment it is too late, by PostgreSQL's clock."""

    rid: uuid.UUID
    purchase: uuid.UUID
    buyer: str
    key: str
    cart: wire.Cart
    queued_until: datetime


def encode(message: Message) -> bytes:
    """The body of the message; at most ``MESSAGE_BYTES_MAX`` bytes for whatever the wire contract lets in."""
    document = {
        "v": VERSION,
        "rid": str(message.rid),
        "purchase": str(message.purchase),
        "buyer": message.buyer,
        "key": message.key,
        "fingerprint": message.cart.fingerprint.hex(),
        "lines": message.cart.lines,
        "pay_now": message.cart.pay_now,
        "queued_until": int(message.queued_until.timestamp() * 1000),
    }
    return _JSON.encode(document).encode()


def queued_at(message: Message) -> float:
    """Unix seconds, by PostgreSQL's clock."""
    return message.queued_until.timestamp() - QUEUED_SECONDS_MAX


def decode(body: bytes) -> Message:
    """The attempt in ``body``. Raises ``Unreadable`` for anything that ``encode`` would not have written."""
    if len(body) > MESSAGE_BYTES_MAX:
        raise Unreadable(f"{len(body)} bytes; an attempt is at most {MESSAGE_BYTES_MAX}")
    try:
        document = json.loads(body)
        _require(isinstance(document, dict) and set(document) == _FIELDS, "not the fields of an attempt")
        _require(document["v"] == VERSION, "another version")
        message = _message(document)
        fingerprint = bytes.fromhex(document["fingerprint"])
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Unreadable(f"a field is not what it should be: {error}") from error
    # a worker decides for whoever the message names, so the parts must belong together
    _require(
        wire.purchase_id(message.buyer, message.key) == message.purchase, "the purchase is not this buyer's and key's"
    )
    _require(message.cart.fingerprint == fingerprint, "the fingerprint is another cart's")
    return message


def _message(document: dict[str, Any]) -> Message:
    buyer, key, pay_now = document["buyer"], document["key"], document["pay_now"]
    _require(isinstance(buyer, str) and wire.BUYER_PATTERN.fullmatch(buyer) is not None, "not a buyer")
    _require(isinstance(key, str) and wire.KEY_PATTERN.fullmatch(key) is not None, "not a key")
    _require(pay_now is None or pay_now in wire.METHODS, "not a way to pay")
    lines = tuple(_line(sku, quantity) for sku, quantity in document["lines"])
    _require(1 <= len(lines) <= wire.LINES_MAX, "too many lines, or none")
    _require(all(a.sku < b.sku for a, b in itertools.pairwise(lines)), "lines out of order, or a SKU twice")
    _require(type(document["queued_until"]) is int, "not a time")
    return Message(
        uuid.UUID(document["rid"]),
        uuid.UUID(document["purchase"]),
        buyer,
        key,
        wire.Cart(lines, pay_now),
        datetime.fromtimestamp(document["queued_until"] / 1000, UTC),
    )


def _line(sku: object, quantity: object) -> wire.Line:
    _require(isinstance(sku, str) and wire.SKU_PATTERN.fullmatch(sku) is not None, "not a SKU")
    # bool is an int to Python and to nobody else
    _require(type(quantity) is int and 1 <= quantity <= wire.QUANTITY_MAX, "not a quantity")
    assert isinstance(sku, str)
    assert isinstance(quantity, int)
    return wire.Line(sku, quantity)


def _require(is_so: bool, otherwise: str) -> None:  # noqa: FBT001 - an assertion that survives -O
    if not is_so:
        raise Unreadable(otherwise)
