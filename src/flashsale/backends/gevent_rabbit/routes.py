"""HTTP in, contract call, HTTP out; nothing else. Every refusal leaves as a problem, whoever raised it."""

import re
import time
import uuid
from collections.abc import Callable, Mapping
from email.message import Message as Headers
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from urllib.parse import parse_qs

import structlog

from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.backends.gevent_rabbit.checkout import Checkout, Outcome
from flashsale.backends.gevent_rabbit.stream import Stream
from flashsale.backends.gevent_rabbit.watch import Watch
from flashsale.contract import wire
from flashsale.contract.lifecycle import State
from flashsale.contract.verdict import ANSWERS, DETAILS, Verdict
from flashsale.edge.message import Peer, Request, Streaming
from flashsale.identity import Identify
from flashsale.lane.answer import Answer
from flashsale.queued.receipt import Receipts
from flashsale.stream import wire as stream_wire
from flashsale.stream.hub import Standing, Viewer
from flashsale.web import FILES, PAGE, PAGE_PATH, STATIC_PATH

log = structlog.get_logger()

PAY_DETAILS = {
    Verdict.UNKNOWN_PURCHASE: "there is none with this id, or it is another buyer's",
    Verdict.KEY_REUSED: "this key already asked to pay in another way; use a new key for another try",
    Verdict.TOO_LATE: "it is being paid or the hold is over; GET the purchase to see how it stands",
}

NO_FIELDS: Mapping[str, str] = MappingProxyType({})
STREAM_FIELDS = {"Content-Type": f"{stream_wire.CONTENT_TYPE}; charset=utf-8", **stream_wire.HEADERS}
_PART = re.compile(r"[^{}/]+")  # what may stand in place of {} in a path; the other backend's router has the same rule

Handler = Callable[[Request], Answer | Streaming]


class Routes:
    """The public routes of one process."""

    def __init__(
        self,
        checkout: Checkout,
        authority: GreenAuthority,
        watch: Watch,
        receipts: Receipts,
        identify: Identify,
        *,
        stream: Stream,
    ) -> None:
        self._checkout = checkout
        self._authority = authority
        self._watch = watch
        self._stream = stream
        self._receipts = receipts
        self._identify = identify
        # (segments of the path, {} for any one) → method → handler
        self._table: dict[tuple[str, ...], dict[str, Handler]] = {
            _segments(wire.PURCHASES_PATH): {"POST": self.post_purchase},
            _segments(f"{wire.PURCHASES_PATH}/{{}}"): {"GET": self.get_purchase},
            _segments(f"{wire.PURCHASES_PATH}/{{}}/pay"): {"POST": self.pay_purchase},
            _segments(f"{wire.PURCHASES_PATH}/{{}}/cancel"): {"POST": self.cancel_purchase},
            _segments(wire.SALES_PATH): {"GET": self.get_sales},
            _segments(f"{wire.SALES_PATH}/{{}}"): {"GET": self.get_sale},
            _segments(stream_wire.PATH): {"GET": self.get_stock_stream},
            _segments(f"{wire.STOCK_PATH}/{{}}"): {"GET": self.get_stock},
            _segments("/livez"): {"GET": livez},
            _segments(PAGE_PATH): {"GET": self.get_page},
            _segments(f"{STATIC_PATH}/{{}}"): {"GET": self.get_static},
        }

    def __call__(self, request: Request) -> Answer | Streaming:
        """Answer one request."""
        return problems(self._answer, request)

    def post_purchase(self, request: Request) -> Answer:
        """``POST /purchases``; with ``Prefer: wait=N`` answered with the verdict, if it comes within N seconds."""
        if self._checkout.is_full():
            self._checkout.shed(1)
            raise wire.Refusal(Verdict.TRY_LATER, DETAILS[Verdict.TRY_LATER])
        key = _key(request)
        is_retry = wire.parse_retry(request.fields.get(wire.RETRY_HEADER))
        cart = wire.parse_cart(_body(request))
        wait_s = wire.parse_wait(request.fields.get("Prefer"))
        buyer = self._identify(request.fields).buyer
        purchase_id = wire.purchase_id(buyer, key)
        receipt = None
        if (text := request.fields.get(wire.RECEIPT_HEADER)) is not None:
            receipt = self._receipts.read(text, buyer, purchase_id, time.time())
            if receipt.fingerprint != cart.fingerprint:
                raise wire.Refusal(Verdict.MALFORMED, f"the {wire.RECEIPT_HEADER} is of another cart")
        if receipt is None and not is_retry and (refused := self._checkout.refuse(purchase_id, cart)) is not None:
            return _answer(refused, purchase_id)
        outcome = self._checkout.purchase(
            purchase_id, buyer, key, cart, is_retry=is_retry, receipt=receipt, wait_s=wait_s
        )
        if cart.pay_now is not None and outcome.purchase is not None:
            outcome = outcome._replace(purchase=self._pay_now(outcome.purchase, buyer, key, cart.pay_now))
        return _answer(outcome, purchase_id)

    def get_purchase(self, request: Request) -> Answer:
        """``GET /purchases/{id}``; with ``Prefer: wait=N`` after its next change, or N seconds.

        With the receipt of a queued attempt: what became of it, QUEUED while that is open.
        """
        purchase_id = wire.parse_purchase_id(request.part)
        wait_s = wire.parse_wait(request.fields.get("Prefer"))
        buyer = self._identify(request.fields).buyer
        text = request.fields.get(wire.RECEIPT_HEADER, _receipt_of(request.query))
        if text is not None:
            receipt = self._receipts.read(text, buyer, purchase_id, time.time())
            return _standing(self._checkout.follow(receipt, text, buyer, wait_s), purchase_id)
        with self._watch.waiting(purchase_id) as waiter:
            purchase = self._authority.read_purchase(purchase_id, buyer)
            known = purchase.version if purchase is not None else 0
            deadline = time.monotonic() + wait_s
            # woken by what was told before it had read, it has nothing new to say and sleeps on
            while purchase is not None and purchase.version == known:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not waiter.sleep(known, left_s):
                    break
                purchase = self._authority.read_purchase(purchase_id, buyer)
        return _purchase(purchase)

    def pay_purchase(self, request: Request) -> Answer:
        """``POST /purchases/{id}/pay``."""
        purchase_id = wire.parse_purchase_id(request.part)
        key = _key(request)
        method = wire.parse_payment(_body(request))
        buyer = self._identify(request.fields).buyer
        refused = self._authority.start_payment(purchase_id, buyer, key, method)
        if refused is not None:
            raise wire.Refusal(refused, PAY_DETAILS[refused])
        return _purchase(self._authority.read_purchase(purchase_id, buyer), HTTPStatus.ACCEPTED)

    def cancel_purchase(self, request: Request) -> Answer:
        """``POST /purchases/{id}/cancel``."""
        purchase_id = wire.parse_purchase_id(request.part)
        buyer = self._identify(request.fields).buyer
        refused = self._authority.cancel(purchase_id, buyer)
        if refused is Verdict.TOO_LATE:
            raise wire.Refusal(refused, "the hold is already over; GET the purchase to see how it ended")
        return _purchase(self._authority.read_purchase(purchase_id, buyer))

    def _pay_now(self, purchase: wire.Purchase, buyer: str, key: str, method: str) -> wire.Purchase:
        # The worker asks; this is for a replay that finds a hold whose maker died before it could. What cannot be asked now is
        # shown as it is, held and unpaid, which is true; sending the same key again asks again.
        if purchase.state != State.HELD or purchase.payments:
            return purchase
        try:
            self._authority.start_payment(purchase.id, buyer, key, method)
            return self._authority.read_purchase(purchase.id, buyer) or purchase
        except AuthorityUnavailable:
            return purchase

    def get_sales(self, _: Request) -> Answer:
        """``GET /sales``."""
        return _json(wire.sales_body(self._authority.read_sales()))

    def get_sale(self, request: Request) -> Answer:
        """``GET /sales/{id}``."""
        sale = request.part
        sales = self._authority.read_sales(sale) if wire.SKU_PATTERN.fullmatch(sale) else []
        return _json(wire.sale_body(sales[0])) if sales else _plain(HTTPStatus.NOT_FOUND)

    def get_stock(self, request: Request) -> Answer:
        """``GET /stock/{sku}``."""
        sku = request.part
        stock = self._authority.read_stock(sku) if wire.SKU_PATTERN.fullmatch(sku) else None
        if stock is None:
            raise wire.Refusal(Verdict.UNKNOWN_SKU, DETAILS[Verdict.UNKNOWN_SKU])
        return _json(wire.stock_body(sku, stock.available, stock.seq, stock.as_of))

    def get_stock_stream(self, request: Request) -> Answer | Streaming:
        """``GET /stock/stream``: live stock, until the viewer leaves or the process stops."""
        last_id = request.fields.get(stream_wire.LAST_ID_HEADER)
        watch = stream_wire.parse_watch(request.query, last_id)
        viewer, standing = self._stream.register(watch, request.address)
        if viewer is None:
            return Answer(HTTPStatus.OK, STREAM_FIELDS, self._stream.refused())
        if standing is Standing.LIVE and request.method != "HEAD":
            return Streaming(STREAM_FIELDS, partial(self._serve, viewer))
        self._stream.leave(viewer)
        if standing is Standing.UNKNOWN:
            raise wire.Refusal(Verdict.UNKNOWN_SKU, DETAILS[Verdict.UNKNOWN_SKU])
        if standing is Standing.OVER:
            return Answer(HTTPStatus.NO_CONTENT, stream_wire.HEADERS, b"")
        if standing is Standing.UNREAD:
            return Answer(HTTPStatus.OK, STREAM_FIELDS, self._stream.refused())
        return Streaming(STREAM_FIELDS, None)

    def _serve(self, viewer: Viewer, peer: Peer, write: Callable[[bytes], object]) -> None:
        try:
            self._stream.serve(viewer, peer, write)
        finally:
            self._stream.leave(viewer)

    def get_page(self, request: Request) -> Answer:
        """``GET /``: the page for shoppers."""
        return _file(request, PAGE)

    def get_static(self, request: Request) -> Answer:
        """``GET /static/{file}``: what the page is made of."""
        return _file(request, request.part)

    def _answer(self, request: Request) -> Answer | Streaming:
        segments = _segments(request.path)
        methods = self._table.get(segments)
        if methods is None and len(segments) > 1 and _PART.fullmatch(segments[1]):
            methods = self._table.get((segments[0], "{}", *segments[2:]))
        if methods is None:
            return _plain(HTTPStatus.NOT_FOUND)
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ",".join(allowed)})
        return handler(request)


def livez(_: Request) -> Answer:
    """The loop turns; says nothing of what stands behind it."""
    return Answer(200, {"Content-Type": "text/plain; charset=utf-8"}, b"alive\n")


def problems(handler: Handler, request: Request) -> Answer | Streaming:
    """Turns every refusal and every error of the routes into a problem document; no traceback leaves the process."""
    try:
        return handler(request)
    except wire.Refusal as refusal:
        return problem(refusal.verdict, refusal.detail)
    except AuthorityUnavailable:
        return problem(Verdict.TRY_LATER, DETAILS[Verdict.TRY_LATER])
    except Exception:
        log.exception("request.failed", method=request.method, path=request.path)
        return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(verdict: Verdict, detail: str, purchase_path: str | None = None) -> Answer:
    """The answer for a refusal, with the header fields its status asks for."""
    status = ANSWERS[verdict].status
    fields = {"Content-Type": wire.PROBLEM_TYPE}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields["Retry-After"] = str(wire.RETRY_AFTER_SECONDS)
    if verdict is Verdict.UNAUTHENTICATED:
        fields["WWW-Authenticate"] = "Bearer"
    return Answer(status, fields, wire.problem_body(verdict, detail, purchase_path))


def refuse(status: int, detail: str) -> Answer:
    """The answer to what was no request, and why."""
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return problem(Verdict.TOO_LARGE, f"a body is at most {wire.BODY_BYTES_MAX} bytes")
    if status == HTTPStatus.BAD_REQUEST:
        return problem(Verdict.MALFORMED, detail)
    return _plain(HTTPStatus(status))


def _answer(outcome: Outcome, purchase_id: uuid.UUID) -> Answer:
    path = f"{wire.PURCHASES_PATH}/{purchase_id}"
    fields = {"Content-Type": wire.JSON_TYPE, "Cache-Control": "no-store", "Location": path}
    if outcome.verdict is Verdict.QUEUED:
        return Answer(ANSWERS[outcome.verdict].status, fields, wire.queued_body(purchase_id, outcome.receipt))
    if outcome.purchase is None:
        return problem(outcome.verdict, outcome.detail, path if outcome.verdict is Verdict.SOLD_OUT else None)
    if outcome.verdict is Verdict.REPLAYED:
        fields[wire.REPLAYED_HEADER] = "true"
    return Answer(ANSWERS[outcome.verdict].status, fields, wire.purchase_body(outcome.purchase))


def _standing(outcome: Outcome, purchase_id: uuid.UUID) -> Answer:
    # asked for, not attempted: a purchase is 200 however it came about, and so is a place in the queue
    answer = _answer(outcome, purchase_id)
    return answer._replace(status=200) if answer.status < 300 else answer


def _purchase(purchase: wire.Purchase | None, status: int = 200) -> Answer:
    if purchase is None:
        raise wire.Refusal(Verdict.UNKNOWN_PURCHASE, PAY_DETAILS[Verdict.UNKNOWN_PURCHASE])
    return _json(wire.purchase_body(purchase), status)


def _key(request: Request) -> str:
    if request.fields.is_repeated(wire.KEY_HEADER):
        raise wire.Refusal(Verdict.MALFORMED, f"{wire.KEY_HEADER} stands twice")
    return wire.parse_key(request.fields.get(wire.KEY_HEADER))


def _json(body: bytes, status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": wire.JSON_TYPE, "Cache-Control": "no-store"}, body)


def _file(request: Request, name: str) -> Answer:
    file = FILES.get(name)
    if file is None:
        return _plain(HTTPStatus.NOT_FOUND)
    if file.is_known(request.fields.get("If-None-Match")):
        return Answer(HTTPStatus.NOT_MODIFIED, file.headers, b"")
    return Answer(HTTPStatus.OK, file.headers, file.body)


def _plain(status: HTTPStatus, fields: Mapping[str, str] = NO_FIELDS) -> Answer:
    return Answer(status, {"Content-Type": wire.PROBLEM_TYPE, **fields}, wire.plain_problem_body(status, status.phrase))


def _body(request: Request) -> bytes:
    kind = request.fields.get("Content-Type", "application/octet-stream")
    if kind != wire.JSON_TYPE:
        declared = Headers()
        declared["Content-Type"] = kind
        if declared.get_content_type() != wire.JSON_TYPE or declared.get_content_charset("utf-8") != "utf-8":
            raise wire.Refusal(Verdict.WRONG_MEDIA_TYPE, f"send Content-Type: {wire.JSON_TYPE}, in UTF-8")
    if "Content-Encoding" in request.fields:
        raise wire.Refusal(Verdict.WRONG_MEDIA_TYPE, "send the body without Content-Encoding")
    return request.body


def _receipt_of(query: str) -> str | None:
    # a link in a mail or on a page can carry a query and no header
    return parse_qs(query).get(wire.RECEIPT_HEADER.lower(), [None])[0]


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[1:])
