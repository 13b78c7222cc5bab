"""A shop that is played to the page, by who wants to decide what it hears and when: no server, no clock of the shop's own."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from flashsale.web import FILES, PAGE
from tests.browsers import QUIET, TELL_VIOLATIONS, Complaints
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS

URL = "http://page.test/"
SECURE_URL = "http://localhost/"  # where a browser has locks, so that tabs share
SALE = {
    "id": "s",
    "name": "Sale",
    "state": "OPEN",
    "opens": "1970-01-01T00:00:10.000Z",
    "closes": "1970-01-01T00:01:40.000Z",
    "items": [{"sku": "a", "total": 10, "available": 10, "seq": 1}, {"sku": "b", "total": 5, "available": 5, "seq": 1}],
}
PURCHASE = {"id": "p", "state": "HELD", "version": 1, "deadline": "1970-01-01T00:01:00.000Z", "payments": []}
# How long the page waits for an answer before it asks again. A test may need longer to give one, and then hears of it twice.
WAITS = b"const ANSWER_MS = 5000;", b"const ANSWER_MS = 3_600_000;"
assert WAITS[0] in FILES["wire.js"].body

# A stream that says `word` of its SKU each 100 ms and never ends by itself; `streams` are all that were opened.
STREAM = """window.streams = [];
window.isSilent = false;
window.isFrozen = false;  // it goes on, and what it says is as of a moment that stands still
window.word = {available: 9, seq: 2};
window.EventSource = class extends EventTarget {
    static CLOSED = 2; static OPEN = 1;
    readyState = 1;
    constructor() {
        super();
        streams.push(this);
        const now = () => new Date(performance.timeOrigin + performance.now()).toISOString();
        let asOf = now();
        const say = () => {
            if (!isFrozen) asOf = now();
            if (!isSilent) this.say("snapshot", {now: now(), as_of: asOf, stock: [{sku: "a", ...word}], sales: []});
        };
        this.beats = setInterval(say, 100);
    }
    say(name, data) { this.dispatchEvent(new MessageEvent(name, {data: JSON.stringify(data)})); }
    close() { this.readyState = 2; clearInterval(this.beats); }
};"""


@dataclass
class Asked:
    """A request about purchases that a tab sent."""

    route: Route
    page: Page
    method: str
    path: str
    buyer: str
    mark: str | None

    async def answer(self, status: int, **body: Any) -> None:
        await self.route.fulfill(status=status, content_type="application/json", body=json.dumps(body))


@dataclass
class PlayedShop:
    """A browser on the whole page. What it asks about purchases waits in ``asked`` until the test answers."""

    context: BrowserContext
    url: str
    sale: dict[str, Any] = field(default_factory=dict)  # what is different about it
    asked: asyncio.Queue[Asked] = field(default_factory=asyncio.Queue)
    all: list[Asked] = field(default_factory=list)

    async def tab(self) -> Page:
        page = await self.context.new_page()
        await page.goto(self.url)
        await expect(page.locator(".buy")).to_be_visible()
        return page

    async def next(self) -> Asked:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.asked.get()

    async def serve(self, route: Route) -> None:
        request = route.request
        path = request.url.removeprefix(self.url.rstrip("/"))
        if file := FILES.get(PAGE if path == "/" else path.rpartition("/")[2]):
            # where it is not secure, the browser ignores this one and complains
            headers = {name: value for name, value in file.headers.items() if name != "Cross-Origin-Opener-Policy"}
            await route.fulfill(status=200, body=file.body.replace(*WAITS), headers=headers)
        elif path == "/sales":
            sale = SALE | {"opens": "2000-01-01T00:00:00Z", "closes": "2999-01-01T00:00:00Z", "buyer_limit": 5}
            sale |= {"currency": "EUR", "hold_seconds": 300}
            items = [{"sku": "a", "name": "A", "total": 10, "available": 10, "seq": 1, "unit_price_minor": 250}]
            await route.fulfill(status=200, json={"sales": [sale | {"items": items} | self.sale]})
        elif path.startswith("/purchases"):
            head = request.headers
            buyer = _subject(head["authorization"]) if "authorization" in head else "guest"
            asked = Asked(route, request.frame.page, request.method, path, buyer, head.get("retry-attempt"))
            self.all.append(asked)
            self.asked.put_nowait(asked)
        else:
            await route.fulfill(status=404)


@contextlib.asynccontextmanager
async def played(browser: Browser, url: str, **context: Any) -> AsyncIterator[PlayedShop]:
    """Where nobody has bought yet, and nothing but the network may complain."""
    visitor = await browser.new_context(**{**QUIET, **context})
    visitor.set_default_timeout(PATIENCE_MS)
    await visitor.add_init_script(STREAM)
    await visitor.add_init_script(TELL_VIOLATIONS)
    complaints = Complaints(visitor)
    shop = PlayedShop(visitor, url)
    await visitor.route("**/*", shop.serve)
    try:
        yield shop
        assert complaints.of_the_page == [], complaints.all
    finally:
        await visitor.unroute_all(behavior="ignoreErrors")
        await visitor.close()


def token(buyer: str) -> str:
    """Not signed: the page looks at the name in it alone."""
    claims = base64.urlsafe_b64encode(json.dumps({"sub": buyer}).encode()).decode().rstrip("=")
    return f"head.{claims}.sign"


def _subject(authorization: str) -> str:
    claims = authorization.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"])


def hold(name: str) -> dict[str, Any]:
    """A purchase of one unit, as the shop tells it."""
    return PURCHASE | {"id": name, "deadline": "2999-01-01T00:00:00Z", "total_minor": 250, "currency": "EUR"}
