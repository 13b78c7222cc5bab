"""The HTTP contract: names, limits, parsing of requests and building of answers. Bytes in, values out; no I/O.

Both backends build every body with these functions, which is what makes their JSON byte-compatible.
"""

import functools
import hashlib
import itertools
import json
import random
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from flashsale.contract.verdict import ANSWERS, Verdict

PURCHASES_PATH = "/purchases"
WEBHOOK_PATH = "/webhooks/payments"
SALES_PATH = "/sales"
STOCK_PATH = "/stock"

KEY_HEADER = "Idempotency-Key"
RETRY_HEADER = "Retry-Attempt"  # "1" and up: this client has sent the key before, so no copy may answer it
BUYER_HEADER = "Buyer-Id"  # only with FLASH_AUTH=off
REPLAYED_HEADER = "Idempotency-Replayed"
RECEIPT_HEADER = "Receipt"  # of a queued attempt; GET shows it as queued until it is decided

METHODS = ("card", "wallet", "transfer")  # ways to pay; each has a gateway of its own
TRIES_MAX = 3  # to pay, while the hold lives

JSON_TYPE = "application/json"
PROBLEM_TYPE = "application/problem+json"

KNOWN_BYTES_MAX = 256  # a cart of a line or two; with the number of carts known this bounds their memory to half a MB
BODY_BYTES_MAX = 4096  # a cart of LINES_MAX lines with the longest SKUs fits
LINES_MAX = 16  # past this a cart is a warehouse order; bounds the work of one attempt
QUANTITY_MAX = 10_000  # the limit per buyer is the sale's business; this only keeps sums far from 64 bits
WAIT_SECONDS_MAX = 30  # longest `Prefer: wait=N`; more is answered after this
RETRY_AFTER_SECONDS = 1  # with every 503: the smallest honest value of a header that counts in seconds

KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII)
SKU_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)  # of a sale's id too
RETRY_PATTERN = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
BUYER_PATTERN = re.compile(r"[A-Za-z0-9._@:|-]{1,128}", re.ASCII)

_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)  # json.dumps would make one for each answer
_FREE_BITS = ((1 << 128) - 1) & ~(0xF << 76) & ~(0x3 << 62)  # of a UUID: what neither its version nor its variant says
_VERSION_8, _VERSION_7 = (0x8 << 76) | (0x2 << 62), (0x7 << 76) | (0x2 << 62)
_SHOWN_MAX = 40  # characters of a client's value that an error message repeats


class Refusal(Exception):  # noqa: N818 - an answer, not an accident; "RefusalError" would say otherwise
    """A request is answered with ``verdict``; ``detail`` says what exactly and how to put it right."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(verdict, detail)
        self.verdict = verdict
        self.detail = detail


class Line(NamedTuple):
    """So many units of one SKU."""

    sku: str
    quantity: int


class Cart(NamedTuple):
    """What a client asks for: lines sorted by SKU, so that two orders of the same wish are one wish."""

    lines: tuple[Line, ...]
    pay_now: str | None = None  # a method: the hold is paid without a second call

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that are equal for equal wishes; covers the client's body only, never a price or a limit."""
        return _fingerprint(self)


@functools.lru_cache(
    maxsize=1024
)  # nearly everybody has the same cart, and each attempt is asked for its own several times
def _fingerprint(cart: Cart) -> bytes:
    canonical = ",".join(f"{line.sku}:{line.quantity}" for line in cart.lines) + f"|{cart.pay_now or ''}"
    return hashlib.blake2b(canonical.encode(), digest_size=16, person=b"fingerprint").digest()


class BoughtLine(NamedTuple):
    """One line of a purchase; ``seq`` is the place of its hold in the SKU's ledger."""

    sku: str
    quantity: int
    unit_price_minor: int
    seq: int


class Purchase(NamedTuple):
    """A purchase as the authority has it and every answer shows it. Money in minor units of ``currency``."""

    id: uuid.UUID
    sale: str
    state: str
    version: int
    generation: int
    deadline: datetime
    lines: tuple[BoughtLine, ...]
    total_minor: int
    currency: str
    history: Sequence[Mapping[str, Any]]
    payments: Sequence[Mapping[str, Any]] = ()  # [{try, method, state}]


def purchase_id(buyer: str, key: str) -> uuid.UUID:
    """The id of the purchase that ``buyer`` makes with ``key``: a UUIDv8 of both, so that any process can compute it."""
    return uuid.UUID(int=purchase_number(buyer, key))


def purchase_number(buyer: str, key: str) -> int:
    """The same as a number, which is all that a refusal needs: most attempts never become a purchase."""
    text = f"{len(buyer)}:{buyer}:{key}".encode()  # the length keeps ("a:b", "c") and ("a", "b:c") apart
    digest = hashlib.blake2b(text, digest_size=16, person=b"purchase").digest()
    return int.from_bytes(digest, "big") & _FREE_BITS | _VERSION_8


def purchase_path(number: int) -> str:
    """Where to ask about the purchase with this number."""
    digits = f"{number:032x}"
    return f"{PURCHASES_PATH}/{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def attempt_id() -> uuid.UUID:
    """A new rid: a UUIDv7, the millisecond and then random bits. Rids of one moment lie side by side in an index."""
    return uuid.UUID(int=attempt_number())


def attempt_number() -> int:
    """The same as a number."""
    # drawn without a system call; it need be no secret, and a forked process draws others
    return (time.time_ns() // 1_000_000 << 80) | random.getrandbits(80) & _FREE_BITS | _VERSION_7


def parse_key(value: str | None) -> str:
    """The idempotency key of a request. Raises ``Refusal`` when it is missing or malformed."""
    if value is None:
        raise Refusal(Verdict.MALFORMED, f"the {KEY_HEADER} header is missing; send 16 to 64 of A-Z a-z 0-9 _ -")
    if not KEY_PATTERN.fullmatch(value):
        raise Refusal(Verdict.MALFORMED, f"{KEY_HEADER} must be 16 to 64 of A-Z a-z 0-9 _ -, not {_shown(value)}")
    return value


def parse_purchase_id(value: str) -> uuid.UUID:
    """The id in ``/purchases/{id}``. Raises ``Refusal``: what is not an id names no purchase."""
    try:
        parsed = uuid.UUID(value)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != value:
        raise Refusal(Verdict.UNKNOWN_PURCHASE, f"{_shown(value)} is not the id of a purchase")
    return parsed


def parse_retry(value: str | None) -> bool:
    """Does the client say that it has sent this key before? Raises ``Refusal`` when it says so in another form."""
    if value is None:
        return False
    if not RETRY_PATTERN.fullmatch(value):
        raise Refusal(Verdict.MALFORMED, f"{RETRY_HEADER} must be a number from 1 up, not {_shown(value)}")
    return True


def parse_cart(body: bytes) -> Cart:
    """The body of ``POST /purchases``. Raises ``Refusal`` naming the first thing that is wrong with it."""
    return _known_cart(body) if len(body) <= KNOWN_BYTES_MAX else _parse_cart(body)


# In a flash sale nearly everybody sends the same few bytes. A body read before is a cart known: it is looked up whole, so what
# differs in one byte is read anew, and what is refused is read every time.
@functools.lru_cache(maxsize=1024)
def _known_cart(body: bytes) -> Cart:
    return _parse_cart(body)


def _parse_cart(body: bytes) -> Cart:
    document = _parse_object(body, "the body", ("items",), optional=("pay_now",))
    items = document["items"]
    if not isinstance(items, list) or not 1 <= len(items) <= LINES_MAX:
        raise Refusal(Verdict.MALFORMED, f"items must be a list of 1 to {LINES_MAX} lines")
    lines = sorted(_parse_line(f"items[{index}]", item) for index, item in enumerate(items))
    for line, following in itertools.pairwise(lines):
        if line.sku == following.sku:
            raise Refusal(Verdict.DUPLICATE_SKU, f"{line.sku} stands on two lines; add their quantities on one")
    return Cart(tuple(lines), _parse_method("pay_now", document["pay_now"]) if "pay_now" in document else None)


def parse_payment(body: bytes) -> str:
    """The method in the body of ``POST /purchases/{id}/pay``. Raises ``Refusal`` naming what is wrong with it."""
    return _parse_method("method", _parse_object(body, "the body", ("method",))["method"])


def purchase_body(purchase: Purchase) -> bytes:
    """The JSON of a purchase."""
    return _dump(
        {
            "id": str(purchase.id),
            "sale": purchase.sale,
            "state": purchase.state,
            "version": purchase.version,
            "generation": purchase.generation,
            "deadline": timestamp(purchase.deadline),
            "lines": [line._asdict() for line in purchase.lines],
            "total_minor": purchase.total_minor,
            "currency": purchase.currency,
            "payments": purchase.payments,
            "history": purchase.history,
        },
    )


def queued_body(purchase: uuid.UUID, receipt: str) -> bytes:
    """The JSON of an attempt that waits for its decision: where to ask, and the receipt that proves it was taken."""
    # letters, digits and dashes, which JSON leaves as they are
    return b'{"id":"%b","state":"QUEUED","receipt":"%b"}' % (str(purchase).encode(), receipt.encode())


def problem_body(verdict: Verdict, detail: str, purchase_path: str | None = None) -> bytes:
    """A refusal as an RFC 9457 problem. ``purchase_path`` adds where to ask whether this key made a purchase after all."""
    problem = _problem(verdict, detail)
    # what all who hear the same share is written once; the path is letters, digits and dashes, which JSON leaves as they are
    return problem if purchase_path is None else b'%b,"purchase":"%b"}' % (problem[:-1], purchase_path.encode())


@functools.lru_cache(maxsize=64)
def _problem(verdict: Verdict, detail: str) -> bytes:
    answer = ANSWERS[verdict]
    return _dump(
        {
            "type": f"/problems/{verdict.value}",
            "title": answer.title,
            "status": answer.status,
            "verdict": verdict.value,
            "detail": detail,
        }
    )


def plain_problem_body(status: int, title: str) -> bytes:
    """A problem that concerns no purchase: a path or a method that does not exist."""
    return _dump({"type": "about:blank", "title": title, "status": status})


class SaleItem(NamedTuple):
    """One item of a sale, as ``GET /sales`` shows it; ``total`` are the units ever put on sale."""

    sku: str
    name: str
    unit_price_minor: int
    total: int
    available: int
    seq: int


class Sale(NamedTuple):
    """A sale as ``GET /sales`` shows it; ``state`` is SCHEDULED, OPEN, PAUSED or ENDED at the moment of reading."""

    id: str
    merchant: str
    name: str
    state: str
    opens: datetime
    closes: datetime
    buyer_limit: int
    hold_seconds: int
    currency: str
    items: tuple[SaleItem, ...]


def sale_body(sale: Sale) -> bytes:
    """The JSON of one sale."""
    return _dump(_sale(sale))


def sales_body(sales: Sequence[Sale]) -> bytes:
    """The JSON of a list of sales."""
    return _dump({"sales": [_sale(sale) for sale in sales]})


def stock_body(sku: str, available: int, seq: int, as_of: datetime) -> bytes:
    """The JSON of one SKU's stock after the movement ``seq``."""
    return _dump({"sku": sku, "available": available, "seq": seq, "as_of": timestamp(as_of)})


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, like the database's ``iso()``."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_wait(prefer: str | None) -> float:
    """Seconds a client is ready to wait, from its ``Prefer`` header (RFC 7240); unknown preferences are ignored."""
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition(";")[0].strip().partition("=")
        if name.strip().lower() == "wait" and value.strip().strip('"').isascii() and value.strip().strip('"').isdigit():
            return float(min(int(value.strip().strip('"')[:9]), WAIT_SECONDS_MAX))
    return 0.0


def _sale(sale: Sale) -> dict[str, Any]:
    document = sale._asdict()
    document["opens"] = timestamp(sale.opens)
    document["closes"] = timestamp(sale.closes)
    document["items"] = [item._asdict() for item in sale.items]
    return document


def _dump(document: Any) -> bytes:
    return _JSON.encode(document).encode()


def _shown(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."


def _parse_object(body: bytes, where: str, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    try:
        document = json.loads(
            body.decode("utf-8"),
            parse_int=_parse_int,
            parse_float=_refuse_float,
            parse_constant=_refuse_float,
            object_pairs_hook=_refuse_repeats,
        )
    except UnicodeDecodeError as error:
        raise Refusal(Verdict.MALFORMED, f"the body is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise Refusal(Verdict.MALFORMED, f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise Refusal(Verdict.MALFORMED, "the body is nested too deeply") from error
    return _require_fields(document, where, names, optional)


def _parse_method(where: str, value: object) -> str:
    if not isinstance(value, str) or value not in METHODS:
        raise Refusal(Verdict.MALFORMED, f"{where} must be one of {', '.join(METHODS)}, not {_shown(value)}")
    return value


def _parse_line(where: str, item: object) -> Line:
    fields = _require_fields(item, where, ("sku", "quantity"))
    sku, quantity = fields["sku"], fields["quantity"]
    if not isinstance(sku, str) or not SKU_PATTERN.fullmatch(sku):
        raise Refusal(Verdict.MALFORMED, f"{where}.sku must be 1 to 64 of A-Z a-z 0-9 . _ -, not {_shown(sku)}")
    # bool is an int to Python and to nobody else
    if not isinstance(quantity, int) or isinstance(quantity, bool) or not 1 <= quantity <= QUANTITY_MAX:
        raise Refusal(
            Verdict.MALFORMED,
            f"{where}.quantity must be an integer from 1 to {QUANTITY_MAX}, not {_shown(quantity)}",
        )
    return Line(sku, quantity)


def _require_fields(
    value: object, where: str, names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(Verdict.MALFORMED, f"{where} must be an object with {' and '.join(names)}")
    for name in names:
        if name not in value:
            raise Refusal(Verdict.MALFORMED, f"{where} lacks {name}")
    for name in value:
        if name not in names + optional:
            raise Refusal(Verdict.MALFORMED, f"{where} has an unknown field {_shown(name)}")
    return value


def _parse_int(text: str) -> int:
    if len(text) > 18:
        raise Refusal(Verdict.MALFORMED, f"the number {_shown(text)} is out of range")
    return int(text)


def _refuse_float(text: str) -> float:
    raise Refusal(Verdict.MALFORMED, f"numbers are integers written as digits, not {_shown(text)}")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise Refusal(Verdict.MALFORMED, "a field stands twice in one object")
    return document
