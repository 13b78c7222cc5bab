"""A purchase attempt as a message: bounded JSON, and back.

Strict in both directions: what a worker cannot read to the letter is poison, and is set aside instead of being guessed at. An
attempt is the bytes that ``encode`` writes and no others, so one expression reads them, in a third of the time that a JSON
parser and a look at each field took.
"""

import itertools
import re
import uuid
from datetime import UTC, datetime
from typing import NamedTuple

from flashsale.contract import wire

VERSION = 1
QUEUED_SECONDS_MAX = 300  # a shopper who hears a verdict later than this has left; the attempt is then too_late

_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_LINE = rf'\["({wire.SKU_PATTERN.pattern})",([1-9][0-9]{{0,8}})\]'
_LINES = re.compile(_LINE, re.ASCII)
_ATTEMPT = re.compile(
    rf'\{{"v":{VERSION},"rid":"({_UUID})","purchase":"({_UUID})","buyer":"({wire.BUYER_PATTERN.pattern})",'
    rf'"key":"({wire.KEY_PATTERN.pattern})","fingerprint":"([0-9a-f]{{32}})",'
    rf'"lines":\[({_LINE.replace("(", "(?:")}(?:,{_LINE.replace("(", "(?:")}){{0,{wire.LINES_MAX - 1}}})\],'
    rf'"pay_now":(?:null|"({"|".join(wire.METHODS)})"),"queued_until":(0|[1-9][0-9]{{0,13}})\}}',
    re.ASCII,
)


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
    """The body of the message; LINES_MAX lines with the longest SKUs, buyer and key take 2 KiB."""
    cart = message.cart
    lines = ",".join([f'["{sku}",{quantity}]' for sku, quantity in cart.lines])
    pay_now = "null" if cart.pay_now is None else f'"{cart.pay_now}"'
    # the contract lets no character in that JSON would have to escape
    return (
        f'{{"v":{VERSION},"rid":"{message.rid}","purchase":"{message.purchase}","buyer":"{message.buyer}",'
        f'"key":"{message.key}","fingerprint":"{cart.fingerprint.hex()}","lines":[{lines}],'
        f'"pay_now":{pay_now},"queued_until":{int(message.queued_until.timestamp() * 1000)}}}'
    ).encode()


def queued_at(message: Message) -> float:
    """Unix seconds, by PostgreSQL's clock."""
    return message.queued_until.timestamp() - QUEUED_SECONDS_MAX


def decode(body: bytes) -> Message:
    """The attempt in ``body``. Raises ``Unreadable`` for anything that ``encode`` would not have written."""
    found = _ATTEMPT.fullmatch(body.decode("latin-1"))
    if found is None:
        raise Unreadable(f"not an attempt of version {VERSION}")
    rid, purchase, buyer, key, fingerprint, written, pay_now, until_ms = found.groups()
    lines = tuple([wire.Line(sku, int(quantity)) for sku, quantity in _LINES.findall(written)])
    _require(all(line.quantity <= wire.QUANTITY_MAX for line in lines), "not a quantity")
    _require(all(a.sku < b.sku for a, b in itertools.pairwise(lines)), "lines out of order, or a SKU twice")
    cart, purchase_id = wire.Cart(lines, pay_now), wire.purchase_id(buyer, key)
    # a worker decides for whoever the message names, so the parts must belong together
    _require(str(purchase_id) == purchase, "the purchase is not this buyer's and key's")
    _require(cart.fingerprint.hex() == fingerprint, "the fingerprint is another cart's")
    try:
        queued_until = datetime.fromtimestamp(int(until_ms) / 1000, UTC)
    except (ValueError, OverflowError) as error:
        raise Unreadable(f"not a time: {error}") from error
    return Message(uuid.UUID(rid), purchase_id, buyer, key, cart, queued_until)


def _require(is_so: bool, otherwise: str) -> None:  # noqa: FBT001 - an assertion that survives -O
    if not is_so:
        raise Unreadable(otherwise)
