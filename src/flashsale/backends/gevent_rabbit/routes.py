"""HTTP in, contract call, HTTP out; nothing else. Every refusal leaves as a problem, whoever raised it."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.message import Message as Headers
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import gevent
import structlog

from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.backends.gevent_rabbit.checkout import Checkout, Outcome
from flashsale.backends.gevent_rabbit.stream import Stream
from flashsale.backends.gevent_rabbit.watch import Watch
from flashsale.contract import wire
from flashsale.contract.lifecycle import State
from flashsale.contract.verdict import ANSWERS, DETAILS, Verdict
from flashsale.identity import Identify
from flashsale.queued.receipt import Receipts
from flashsale.stream import wire as stream_wire
from flashsale.stream.hub import Standing, Viewer
from flashsale.web import FILES, PAGE, PAGE_PATH, STATIC_PATH

BODY_SECONDS = 5.0  # a client that sends 4 KiB slower than this is not shopping
BODY_CHUNK_BYTES = 4096

log = structlog.get_logger()

PAY_DETAILS = {
    Verdict.UNKNOWN_PURCHASE: "there is none with this id, or it is another buyer's",
    Verdict.KEY_REUSED: "this key already asked to pay in another way; use a new key for another try",
    Verdict.TOO_LATE: "it is being paid or the hold is over; GET the purchase to see how it stands",
}

# Answered before the body was read to its end: what is left of it must not be taken for the next request.
UNREAD = {Verdict.TOO_LARGE, Verdict.WRONG_MEDIA_TYPE}


class Request(NamedTuple):
    """A request as the routes need it; ``part`` is what the path has in place of {}."""

    method: str
    part: str
    query: str
    headers: "_Values"
    body: Any  # gevent's Input
    address: str  # of the client, or of the proxy before it


class Response(NamedTuple):
    """Status, body, and the headers the status asks for. ``serve``, if given, writes the body instead, for as long as it likes.

    It gets the connection and what writes to it.
    """

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = {}
    serve: Callable[[Any, Callable[[bytes], object]], None] | None = None


_PART = re.compile(r"[^{}/]+")  # what may stand in place of {} in a path; the other backend's router has the same rule

Handler = Callable[[Request], Response]
Environ = dict[str, Any]


class Routes:
    """The public routes of one process; a WSGI application."""

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

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        response = problems(self._answer, environ)
        if _is_unread(environ["wsgi.input"]):
            response = _cut(response, environ["wsgi.input"])
        return respond(response, environ, start_response)

    def post_purchase(self, request: Request) -> Response:
        """``POST /purchases``; with ``Prefer: wait=N`` answered with the verdict, if it comes within N seconds."""
        if self._checkout.is_full():
            self._checkout.shed(1)
            raise wire.Refusal(Verdict.TRY_LATER, DETAILS[Verdict.TRY_LATER])
        key = _key(request)
        is_retry = wire.parse_retry(request.headers.get(wire.RETRY_HEADER))
        cart = wire.parse_cart(_read_json(request))
        wait_s = wire.parse_wait(request.headers.get("Prefer"))
        buyer = self._identify(request.headers).buyer
        purchase_id = wire.purchase_id(buyer, key)
        receipt = None
        if (text := request.headers.get(wire.RECEIPT_HEADER)) is not None:
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

    def get_purchase(self, request: Request) -> Response:
        """``GET /purchases/{id}``; with ``Prefer: wait=N`` after its next change, or N seconds.

        With the receipt of a queued attempt: what became of it, QUEUED while that is open.
        """
        purchase_id = wire.parse_purchase_id(request.part)
        wait_s = wire.parse_wait(request.headers.get("Prefer"))
        buyer = self._identify(request.headers).buyer
        text = request.headers.get(wire.RECEIPT_HEADER, _receipt_of(request.query))
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

    def pay_purchase(self, request: Request) -> Response:
        """``POST /purchases/{id}/pay``."""
        purchase_id = wire.parse_purchase_id(request.part)
        key = _key(request)
        method = wire.parse_payment(_read_json(request))
        buyer = self._identify(request.headers).buyer
        refused = self._authority.start_payment(purchase_id, buyer, key, method)
        if refused is not None:
            raise wire.Refusal(refused, PAY_DETAILS[refused])
        return _purchase(self._authority.read_purchase(purchase_id, buyer), HTTPStatus.ACCEPTED)

    def cancel_purchase(self, request: Request) -> Response:
        """``POST /purchases/{id}/cancel``."""
        purchase_id = wire.parse_purchase_id(request.part)
        buyer = self._identify(request.headers).buyer
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

    def get_sales(self, _: Request) -> Response:
        """``GET /sales``."""
        return _json(wire.sales_body(self._authority.read_sales()))

    def get_sale(self, request: Request) -> Response:
        """``GET /sales/{id}``."""
        sale = request.part
        sales = self._authority.read_sales(sale) if wire.SKU_PATTERN.fullmatch(sale) else []
        return _json(wire.sale_body(sales[0])) if sales else _plain(HTTPStatus.NOT_FOUND)

    def get_stock(self, request: Request) -> Response:
        """``GET /stock/{sku}``."""
        sku = request.part
        stock = self._authority.read_stock(sku) if wire.SKU_PATTERN.fullmatch(sku) else None
        if stock is None:
            raise wire.Refusal(Verdict.UNKNOWN_SKU, DETAILS[Verdict.UNKNOWN_SKU])
        return _json(wire.stock_body(sku, stock.available, stock.seq, stock.as_of))

    def get_stock_stream(self, request: Request) -> Response:
        """``GET /stock/stream``: live stock, until the viewer leaves or the process stops."""
        last_id = request.headers.get(stream_wire.LAST_ID_HEADER)
        watch = stream_wire.parse_watch(request.query, last_id)
        viewer, standing = self._stream.register(watch, request.address)
        if viewer is None:
            return _streaming(self._stream.refused())
        if standing is Standing.LIVE and request.method != "HEAD":
            return _streaming()._replace(serve=partial(self._serve, viewer))
        self._stream.leave(viewer)
        if standing is Standing.UNKNOWN:
            raise wire.Refusal(Verdict.UNKNOWN_SKU, DETAILS[Verdict.UNKNOWN_SKU])
        if standing is Standing.OVER:
            return _streaming()._replace(status=HTTPStatus.NO_CONTENT)
        return _streaming(self._stream.refused() if standing is Standing.UNREAD else b"")

    def _serve(self, viewer: Viewer, connection: Any, write: Callable[[bytes], object]) -> None:
        try:
            self._stream.serve(viewer, connection, write)
        finally:
            self._stream.leave(viewer)

    def get_page(self, request: Request) -> Response:
        """``GET /``: the page for shoppers."""
        return _file(request, PAGE)

    def get_static(self, request: Request) -> Response:
        """``GET /static/{file}``: what the page is made of."""
        return _file(request, request.part)

    def _answer(self, environ: Environ) -> Response:
        segments = _segments(_text(environ["PATH_INFO"]))
        part = segments[1] if len(segments) > 1 else ""
        methods = self._table.get(segments)
        if methods is None and _PART.fullmatch(part):
            methods = self._table.get((segments[0], "{}", *segments[2:]))
        if methods is None:
            return _plain(HTTPStatus.NOT_FOUND)
        method = environ["REQUEST_METHOD"]
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)._replace(headers={"Allow": ",".join(allowed)})
        headers = _Values(environ["flash.headers"])
        return handler(
            Request(method, part, environ["QUERY_STRING"], headers, environ["wsgi.input"], environ["REMOTE_ADDR"])
        )


def livez(_: Request) -> Response:
    """The loop turns; says nothing of what stands behind it."""
    return Response(200, b"alive\n", "text/plain; charset=utf-8")


def problems(handler: Callable[[Environ], Response], environ: Environ) -> Response:
    """Turns every refusal and every error of the routes into a problem document; no traceback leaves the process."""
    try:
        return handler(environ)
    except wire.Refusal as refusal:
        return problem(refusal.verdict, refusal.detail)
    except AuthorityUnavailable:
        return problem(Verdict.TRY_LATER, DETAILS[Verdict.TRY_LATER])
    except Exception:
        log.exception("request.failed", method=environ["REQUEST_METHOD"], path=environ["PATH_INFO"])
        return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(verdict: Verdict, detail: str, purchase_path: str | None = None) -> Response:
    """The response for a refusal, with the headers its status asks for."""
    status = ANSWERS[verdict].status
    headers = {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(wire.RETRY_AFTER_SECONDS)
    if verdict is Verdict.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if verdict in UNREAD:
        headers["Connection"] = "close"
    return Response(status, wire.problem_body(verdict, detail, purchase_path), wire.PROBLEM_TYPE, headers)


def respond(response: Response, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Hand the response to the WSGI server; a HEAD gets all of it but the body."""
    status = f"{response.status} {HTTPStatus(response.status).phrase}"
    headers = [("Content-Type", response.content_type), *response.headers.items()]
    if response.serve is not None:
        response.serve(environ["gunicorn.sock"], start_response(status, headers))
        return []
    if response.status == HTTPStatus.NO_CONTENT:
        del headers[0]
    elif response.status != HTTPStatus.NOT_MODIFIED:  # there it would be the length of what is not sent
        headers.insert(1, ("Content-Length", str(len(response.body))))
    start_response(status, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]


def _answer(outcome: Outcome, purchase_id: Any) -> Response:
    path = f"{wire.PURCHASES_PATH}/{purchase_id}"
    if outcome.verdict is Verdict.QUEUED:
        response = _json(wire.queued_body(purchase_id, outcome.receipt), ANSWERS[outcome.verdict].status)
        return response._replace(headers={**response.headers, "Location": path})
    if outcome.purchase is None:
        return problem(outcome.verdict, outcome.detail, path if outcome.verdict is Verdict.SOLD_OUT else None)
    response = _json(wire.purchase_body(outcome.purchase), ANSWERS[outcome.verdict].status)
    headers = {**response.headers, "Location": path}
    if outcome.verdict is Verdict.REPLAYED:
        headers[wire.REPLAYED_HEADER] = "true"
    return response._replace(headers=headers)


def _standing(outcome: Outcome, purchase_id: Any) -> Response:
    # asked for, not attempted: a purchase is 200 however it came about, and so is a place in the queue
    response = _answer(outcome, purchase_id)
    return response._replace(status=200) if response.status < 300 else response


def _purchase(purchase: wire.Purchase | None, status: int = 200) -> Response:
    if purchase is None:
        raise wire.Refusal(Verdict.UNKNOWN_PURCHASE, PAY_DETAILS[Verdict.UNKNOWN_PURCHASE])
    return _json(wire.purchase_body(purchase), status)


def _key(request: Request) -> str:
    if len(request.headers.all(wire.KEY_HEADER)) > 1:
        raise wire.Refusal(Verdict.MALFORMED, f"{wire.KEY_HEADER} stands twice")
    return wire.parse_key(request.headers.get(wire.KEY_HEADER))


def _json(body: bytes, status: int = 200) -> Response:
    return Response(status, body, wire.JSON_TYPE, {"Cache-Control": "no-store"})


def _file(request: Request, name: str) -> Response:
    file = FILES.get(name)
    if file is None:
        return _plain(HTTPStatus.NOT_FOUND)
    headers = {key: value for key, value in file.headers.items() if key != "Content-Type"}
    is_known = file.is_known(request.headers.get("If-None-Match"))
    status, body = (HTTPStatus.NOT_MODIFIED, b"") if is_known else (HTTPStatus.OK, file.body)
    return Response(status, body, file.headers["Content-Type"], headers)


def _plain(status: HTTPStatus) -> Response:
    return Response(status, wire.plain_problem_body(status, status.phrase), wire.PROBLEM_TYPE)


def _streaming(body: bytes = b"") -> Response:
    # Closed after its end, however that comes about. 200 also for "not now", or a browser would never come back.
    content_type = f"{stream_wire.CONTENT_TYPE}; charset=utf-8"
    return Response(HTTPStatus.OK, body, content_type, {**stream_wire.HEADERS, "Connection": "close"})


def _read_json(request: Request) -> bytes:
    declared = Headers()
    declared["Content-Type"] = request.headers.get("Content-Type", "application/octet-stream")
    charset = declared.get_content_charset("utf-8")
    if declared.get_content_type() != wire.JSON_TYPE or charset != "utf-8":
        raise wire.Refusal(Verdict.WRONG_MEDIA_TYPE, f"send Content-Type: {wire.JSON_TYPE}, in UTF-8")
    if "Content-Encoding" in request.headers:
        raise wire.Refusal(Verdict.WRONG_MEDIA_TYPE, "send the body without Content-Encoding")
    body = b""
    try:
        with gevent.Timeout(BODY_SECONDS, TimeoutError):
            while chunk := request.body.read(BODY_CHUNK_BYTES):
                body += chunk
                if len(body) > wire.BODY_BYTES_MAX:
                    raise wire.Refusal(Verdict.TOO_LARGE, f"a body is at most {wire.BODY_BYTES_MAX} bytes")
    except TimeoutError as error:
        request.body.chunked_input = True  # whatever it was: its end will not come
        raise wire.Refusal(Verdict.MALFORMED, f"the body did not arrive within {BODY_SECONDS:g} seconds") from error
    except OSError as error:
        request.body.chunked_input = True
        raise wire.Refusal(Verdict.MALFORMED, "the body ended before its end") from error
    return body


def _is_unread(body: Any) -> bool:
    # The server would read what is left before the next request: fine for a cart, not for a film.
    if body.chunked_input:
        return bool(body.chunk_length)  # 0 once it was read to its end, -1 before
    left: int = (body.content_length or 0) - body.position
    return left > wire.BODY_BYTES_MAX


def _cut(response: Response, body: Any) -> Response:
    body.content_length, body.chunked_input = body.position, False
    return response._replace(headers={**response.headers, "Connection": "close"})


def _receipt_of(query: str) -> str | None:
    # a link in a mail or on a page can carry a query and no header
    return parse_qs(query).get(wire.RECEIPT_HEADER.lower(), [None])[0]


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[1:])


def _text(raw: str) -> str:
    # WSGI hands bytes over as Latin-1; what is shown back must be what was sent
    return raw.encode("latin-1").decode("utf-8", "surrogateescape")


class _Values(Mapping[str, str]):
    """The first value of each header, by its name in any case."""

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        value = self._headers.get(name)
        if value is None:
            raise KeyError(name)
        return _text(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers.keys())

    def __len__(self) -> int:
        return len(self._headers)

    def all(self, name: str) -> list[str]:
        """Every value of a header that may stand several times."""
        return list(self._headers.get_all(name, []))
