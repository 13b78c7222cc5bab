"""HTTP in, contract call, HTTP out; nothing else. Every refusal leaves as a problem, whoever raised it."""

import asyncio
import functools
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog
from aiohttp import web

from flashsale.authority.client import Authority, AuthorityUnavailable
from flashsale.backends.asyncio_redis.checkout import Checkout, Deciding, Outcome, Wish
from flashsale.backends.asyncio_redis.stream import Stream
from flashsale.backends.asyncio_redis.watch import Watch
from flashsale.contract import wire
from flashsale.contract.lifecycle import State
from flashsale.contract.verdict import ANSWERS, DETAILS, Verdict
from flashsale.identity import Identify
from flashsale.lane.answer import Answer
from flashsale.lane.promised import Promised
from flashsale.queued.receipt import Receipt, Receipts
from flashsale.stream import wire as stream_wire
from flashsale.stream.hub import Standing
from flashsale.web import FILES, PAGE, PAGE_PATH, STATIC_PATH

BODY_SECONDS = 5.0  # a client that sends 4 KiB slower than this is not shopping

log = structlog.get_logger()

# Answered before the body was read to its end: what is left of it must not be taken for the next request.
UNREAD = {Verdict.TOO_LARGE, Verdict.WRONG_MEDIA_TYPE}

PAY_DETAILS = {
    Verdict.UNKNOWN_PURCHASE: "there is none with this id, or it is another buyer's",
    Verdict.KEY_REUSED: "this key already asked to pay in another way; use a new key for another try",
    Verdict.TOO_LATE: "it is being paid or the hold is over; GET the purchase to see how it stands",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """The public routes of one process."""

    def __init__(
        self,
        checkout: Checkout,
        authority: Authority,
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

    def add_to(self, app: web.Application) -> None:
        """Register every route of the contract that this backend serves."""
        app.router.add_post(wire.PURCHASES_PATH, self.post_purchase)
        app.router.add_get(f"{wire.PURCHASES_PATH}/{{id}}", self.get_purchase)
        app.router.add_post(f"{wire.PURCHASES_PATH}/{{id}}/pay", self.pay_purchase)
        app.router.add_post(f"{wire.PURCHASES_PATH}/{{id}}/cancel", self.cancel_purchase)
        app.router.add_get(wire.SALES_PATH, self.get_sales)
        app.router.add_get(f"{wire.SALES_PATH}/{{id}}", self.get_sale)
        app.router.add_get(stream_wire.PATH, self.get_stock_stream)
        app.router.add_get(f"{wire.STOCK_PATH}/{{sku}}", self.get_stock)
        app.router.add_get("/livez", livez)
        app.router.add_get(PAGE_PATH, self.get_page)
        app.router.add_get(f"{STATIC_PATH}/{{file}}", self.get_static)

    async def post_purchase(self, request: web.Request) -> web.Response:
        """``POST /purchases``."""
        _key(request)  # what is wrong with the head is said before the body is waited for
        wire.parse_retry(request.headers.get(wire.RETRY_HEADER))
        body = await _read_json(request)
        begun = self.begin_purchase([request.headers.get(name) for name in self.purchase_fields], body)
        return _response(begun if isinstance(begun, Answer) else await begun.answer())

    @property
    def purchase_fields(self) -> Sequence[str]:
        """What an attempt is read from, besides its body; every other header field says nothing to it."""
        return wire.KEY_HEADER, wire.RETRY_HEADER, wire.RECEIPT_HEADER, self._identify.field

    def begin_purchase(self, values: Sequence[str | None], body: bytes) -> Answer | Promised:
        """The answer to an attempt, or the promise of one. For both ways in: aiohttp's and the lane.

        ``values``: of ``purchase_fields``.
        """
        try:
            key_text, retry, text, who = values
            key = wire.parse_key(key_text)
            is_retry = wire.parse_retry(retry)
            cart = wire.parse_cart(body)
            buyer = self._identify.read(who).buyer
            number = wire.purchase_number(buyer, key)
            receipt = None if text is None else self._read_receipt(text, buyer, uuid.UUID(int=number), cart)
        except Exception as error:  # noqa: BLE001 - each is answered, the unforeseen with 500
            return _failed(error, wire.PURCHASES_PATH)
        if receipt is None and not is_retry and (refused := self._checkout.refuse(number, cart)) is not None:
            return _answer(refused, wire.purchase_path(number))
        promised = Promised()
        wish = Wish(number, buyer, key, cart)
        self._checkout.begin(wish, functools.partial(self._hear, promised, wish), is_retry=is_retry, receipt=receipt)
        return promised

    def _hear(self, promised: Promised, wish: Wish, said: Outcome | Deciding) -> None:
        if isinstance(said, Outcome):
            promised.tell(_answer(said, wire.purchase_path(wish.number)))
        else:
            promised.come_from(self._decided(said, wish))

    def _read_receipt(self, text: str, buyer: str, purchase: uuid.UUID, cart: wire.Cart) -> Receipt:
        receipt = self._receipts.read(text, buyer, purchase, time.time())
        if receipt.fingerprint != cart.fingerprint:
            raise wire.Refusal(Verdict.MALFORMED, f"the {wire.RECEIPT_HEADER} is of another cart")
        return receipt

    async def _decided(self, deciding: Deciding, wish: Wish) -> Answer:
        try:
            outcome, method = await deciding, wish.cart.pay_now
            if method is not None and outcome.purchase is not None:
                outcome = outcome._replace(purchase=await self._pay_now(outcome.purchase, wish.buyer, wish.key, method))
            return _answer(outcome, wire.purchase_path(wish.number))
        except Exception as error:  # noqa: BLE001 - as above
            return _failed(error, wire.PURCHASES_PATH)

    async def get_purchase(self, request: web.Request) -> web.Response:
        """``GET /purchases/{id}``; with ``Prefer: wait=N`` after its next change, or N seconds.

        With the receipt of a queued attempt: what became of it, QUEUED while that is open.
        """
        purchase_id = wire.parse_purchase_id(request.match_info["id"])
        wait_s = wire.parse_wait(request.headers.get("Prefer"))
        buyer = self._identify(request.headers).buyer
        text = request.headers.get(wire.RECEIPT_HEADER, request.query.get(wire.RECEIPT_HEADER.lower()))
        if text is not None:
            receipt = self._receipts.read(text, buyer, purchase_id, time.time())
            return _standing(await self._follow(receipt, buyer, wait_s), text, purchase_id)
        purchase = await self._authority.read_purchase(purchase_id, buyer)
        if purchase is not None and wait_s:
            await self._watch.wait_change(purchase_id, purchase.version, wait_s)
            purchase = await self._authority.read_purchase(purchase_id, buyer)
        return _purchase(purchase)

    async def pay_purchase(self, request: web.Request) -> web.Response:
        """``POST /purchases/{id}/pay``."""
        purchase_id = wire.parse_purchase_id(request.match_info["id"])
        key = _key(request)
        method = wire.parse_payment(await _read_json(request))
        buyer = self._identify(request.headers).buyer
        refused = await self._authority.start_payment(purchase_id, buyer, key, method)
        if refused is not None:
            raise wire.Refusal(refused, PAY_DETAILS[refused])
        return _purchase(await self._authority.read_purchase(purchase_id, buyer), web.HTTPAccepted.status_code)

    async def cancel_purchase(self, request: web.Request) -> web.Response:
        """``POST /purchases/{id}/cancel``."""
        purchase_id = wire.parse_purchase_id(request.match_info["id"])
        buyer = self._identify(request.headers).buyer
        refused = await self._authority.cancel(purchase_id, buyer)
        if refused is Verdict.TOO_LATE:
            raise wire.Refusal(refused, "the hold is already over; GET the purchase to see how it ended")
        return _purchase(await self._authority.read_purchase(purchase_id, buyer))

    async def _follow(self, receipt: Receipt, buyer: str, wait_s: float) -> Outcome:
        standing = await self._authority.read_standing(receipt.rid, receipt.purchase, buyer)
        if wait_s and standing.answer(receipt.fingerprint) is Verdict.QUEUED:
            await self._watch.wait_decided(receipt.rid, wait_s)
            standing = await self._authority.read_standing(receipt.rid, receipt.purchase, buyer)
        verdict = standing.answer(receipt.fingerprint)
        purchase = standing.purchase if verdict in {Verdict.HELD, Verdict.REPLAYED} else None
        return Outcome(verdict, purchase, DETAILS.get(verdict, ""))

    async def _pay_now(self, purchase: wire.Purchase, buyer: str, key: str, method: str) -> wire.Purchase:
        # Only from HELD: a replay may find the payment long under way. What cannot be asked now is shown as it is, held and
        # unpaid, which is true; sending the same key again asks again.
        if purchase.state != State.HELD or purchase.payments:
            return purchase
        try:
            await self._authority.start_payment(purchase.id, buyer, key, method)
            return await self._authority.read_purchase(purchase.id, buyer) or purchase
        except AuthorityUnavailable:
            return purchase

    async def get_sales(self, _: web.Request) -> web.Response:
        """``GET /sales``."""
        return _json(wire.sales_body(await self._authority.read_sales()))

    async def get_sale(self, request: web.Request) -> web.Response:
        """``GET /sales/{id}``."""
        sale = request.match_info["id"]
        sales = await self._authority.read_sales(sale) if wire.SKU_PATTERN.fullmatch(sale) else []
        if not sales:
            raise web.HTTPNotFound
        return _json(wire.sale_body(sales[0]))

    async def get_stock(self, request: web.Request) -> web.Response:
        """``GET /stock/{sku}``."""
        sku = request.match_info["sku"]
        stock = await self._authority.read_stock(sku) if wire.SKU_PATTERN.fullmatch(sku) else None
        if stock is None:
            raise wire.Refusal(Verdict.UNKNOWN_SKU, DETAILS[Verdict.UNKNOWN_SKU])
        return _json(wire.stock_body(sku, stock.available, stock.seq, stock.as_of))

    async def get_stock_stream(self, request: web.Request) -> web.StreamResponse:
        """``GET /stock/stream``: live stock, until the viewer leaves or the process stops."""
        return await show_stock(self._stream, request)

    async def get_page(self, request: web.Request) -> web.Response:
        """``GET /``: the page for shoppers."""
        return _file(request, PAGE)

    async def get_static(self, request: web.Request) -> web.Response:
        """``GET /static/{file}``: what the page is made of."""
        return _file(request, request.match_info["file"])


async def show_stock(stream: Stream, request: web.Request) -> web.StreamResponse:
    """What ``GET /stock/stream`` is answered with, in a server and in a process of viewers alone."""
    last_id = request.headers.get(stream_wire.LAST_ID_HEADER)
    watch = stream_wire.parse_watch(request.rel_url.raw_query_string, last_id)
    viewer, standing = await stream.register(watch, request.remote or "")
    if viewer is None:
        return _streaming(web.Response(body=stream.refused()))
    is_served = False
    try:
        if standing is Standing.UNKNOWN:
            raise wire.Refusal(Verdict.UNKNOWN_SKU, DETAILS[Verdict.UNKNOWN_SKU])
        if standing is Standing.OVER:
            return web.Response(status=web.HTTPNoContent.status_code, headers=stream_wire.HEADERS)
        if standing is Standing.UNREAD:
            return _streaming(web.Response(body=stream.refused()))
        response = _streaming(web.StreamResponse())
        if request.method != "HEAD":
            await stream.serve(viewer, request, response)
            is_served = True
        return response
    finally:
        if not is_served:
            stream.leave(viewer)


async def livez(_: web.Request) -> web.Response:
    """The loop turns; says nothing of what stands behind it."""
    return web.Response(text="alive\n")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every refusal and every error of the routes into a problem document; no traceback leaves the process."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        body = wire.plain_problem_body(error.status, error.reason)
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.Response(status=error.status, body=body, content_type=wire.PROBLEM_TYPE, headers=headers)
    except Exception as error:  # noqa: BLE001 - each is answered, the unforeseen with 500
        response = _response(_failed(error, request.path))
        if isinstance(error, wire.Refusal) and error.verdict in UNREAD:
            response.force_close()
        return response


def problem(verdict: Verdict, detail: str, purchase_path: str | None = None) -> Answer:
    """The answer for a refusal, with the header fields its status asks for."""
    return Answer(ANSWERS[verdict].status, _problem_fields(verdict), wire.problem_body(verdict, detail, purchase_path))


@functools.cache
def _problem_fields(verdict: Verdict) -> Mapping[str, str]:
    fields = {"Content-Type": wire.PROBLEM_TYPE}
    if ANSWERS[verdict].status == web.HTTPServiceUnavailable.status_code:
        fields["Retry-After"] = str(wire.RETRY_AFTER_SECONDS)
    if verdict is Verdict.UNAUTHENTICATED:
        fields["WWW-Authenticate"] = "Bearer"
    return fields


def _failed(error: Exception, path: str) -> Answer:
    if isinstance(error, wire.Refusal):
        return problem(error.verdict, error.detail)
    if isinstance(error, AuthorityUnavailable):
        return problem(Verdict.TRY_LATER, DETAILS[Verdict.TRY_LATER])
    log.error("request.failed", path=path, exc_info=error)
    return Answer(500, {"Content-Type": wire.PROBLEM_TYPE}, wire.plain_problem_body(500, "Internal Server Error"))


def _answer(outcome: Outcome, path: str) -> Answer:
    if outcome.purchase is None:
        return problem(outcome.verdict, outcome.detail, path if outcome.verdict is Verdict.SOLD_OUT else None)
    fields = {"Content-Type": wire.JSON_TYPE, "Cache-Control": "no-store", "Location": path}
    if outcome.verdict is Verdict.REPLAYED:
        fields[wire.REPLAYED_HEADER] = "true"
    return Answer(ANSWERS[outcome.verdict].status, fields, wire.purchase_body(outcome.purchase))


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=answer.fields)


def _standing(outcome: Outcome, receipt: str, purchase_id: uuid.UUID) -> web.Response:
    # asked for, not attempted: a purchase is 200 however it came about, and so is a place in the queue
    path = wire.purchase_path(purchase_id.int)
    if outcome.verdict is Verdict.QUEUED:
        response = _json(wire.queued_body(purchase_id, receipt))
        response.headers["Location"] = path
        return response
    answer = _answer(outcome, path)
    return _response(answer if outcome.purchase is None else answer._replace(status=200))


def _purchase(purchase: wire.Purchase | None, status: int = 200) -> web.Response:
    if purchase is None:
        raise wire.Refusal(Verdict.UNKNOWN_PURCHASE, PAY_DETAILS[Verdict.UNKNOWN_PURCHASE])
    return _json(wire.purchase_body(purchase), status)


def _key(request: web.Request) -> str:
    if len(request.headers.getall(wire.KEY_HEADER, [])) > 1:
        raise wire.Refusal(Verdict.MALFORMED, f"{wire.KEY_HEADER} stands twice")
    return wire.parse_key(request.headers.get(wire.KEY_HEADER))


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type=wire.JSON_TYPE, headers={"Cache-Control": "no-store"})


def _streaming(response: web.StreamResponse) -> web.StreamResponse:
    # Closed after its end, however that comes about. 200 also for "not now", or a browser would never come back.
    response.headers.update(stream_wire.HEADERS)
    response.content_type, response.charset = stream_wire.CONTENT_TYPE, "utf-8"
    response.force_close()
    return response


def _file(request: web.Request, name: str) -> web.Response:
    file = FILES.get(name)
    if file is None:
        raise web.HTTPNotFound
    if file.is_known(request.headers.get("If-None-Match")):
        return web.Response(status=web.HTTPNotModified.status_code, headers=file.headers)
    return web.Response(body=file.body, headers=file.headers)


async def _read_json(request: web.Request) -> bytes:
    if request.content_type != wire.JSON_TYPE or (request.charset or "utf-8").lower() != "utf-8":
        raise wire.Refusal(Verdict.WRONG_MEDIA_TYPE, f"send Content-Type: {wire.JSON_TYPE}, in UTF-8")
    if "Content-Encoding" in request.headers:
        raise wire.Refusal(Verdict.WRONG_MEDIA_TYPE, "send the body without Content-Encoding")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise wire.Refusal(Verdict.TOO_LARGE, f"a body is at most {wire.BODY_BYTES_MAX} bytes") from error
    except TimeoutError as error:
        raise wire.Refusal(Verdict.MALFORMED, f"the body did not arrive within {BODY_SECONDS:g} seconds") from error
