"""The shoppers' page in a real browser, on real servers of both backends: what a buyer sees, and what they never see."""

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, Request, expect

from flashsale.identity import mint
from tests.browsers import PHONE, chromium, visit
from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
from tests.databases import given
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS
from tests.queues import empty_payments
from tests.servers import JWT_SECRET, Process
from tests.stages import Stage, staged

# One shop of each backend for all tests of this file, one after the other: they share the queues of payments.
pytestmark = pytest.mark.asyncio(loop_scope="module")
of_both = pytest.mark.parametrize("stage", ["asyncio_redis", "gevent_rabbit"], indirect=True, scope="module")
of_one = pytest.mark.parametrize("stage", ["asyncio_redis"], indirect=True, scope="module")
of_queue = pytest.mark.parametrize("stage", ["gevent_rabbit"], indirect=True, scope="module")

UNITS = 20
LIMIT = 5
LONG_NAME = "A sneaker with a name that would not end within the width of any telephone"

expect.set_options(timeout=PATIENCE_MS)

# Every other state of the badge from now on.
RECORD_KINDS = """() => {
    const badge = document.getElementById("badge"), kinds = [];
    new MutationObserver(() => kinds.push(badge.dataset.kind)).observe(badge, {attributeFilter: ["data-kind"]});
    return kinds;
}"""


@dataclass
class Shop:
    """A sale of two items, on one server of a backend, and a browser to visit it with."""

    stage: Stage
    driver: HttpDriver
    browser: Browser
    others: int = field(default=0)

    @property
    def server(self) -> Process:
        return self.stage.servers[0]

    @property
    def sku(self) -> str:
        """The first item's."""
        return self.driver.own("a")

    async def opens(self, units: int = UNITS) -> None:
        await self.driver.open("s", {"a": units}, LIMIT)
        await self.stage.authority.add_item(self.driver.own("s"), self.driver.own("b"), LONG_NAME, 1_299_00, 3)
        await self.stage.gate_opens(self.driver.own("s"))

    async def ends(self) -> None:
        """So that the next buyer sees another sale and not this one."""
        await self.driver.change("s", "ENDED")

    async def sells(self, units: int) -> None:
        """To buyers elsewhere."""
        for _ in range(units):
            self.others += 1
            wish = Wish(f"other-{self.others}", f"other-{self.others}", (("a", 1),))
            # replayed: queued although the front had said "later", for want of a confirm in time; sent again, it is decided already
            assert await self.driver.reserve(wish, is_retry=False) in {"held", "replayed"}

    async def rows(self) -> list[dict[str, Any]]:
        """Every purchase of the sale that the browser's buyers made."""
        rows = await self.stage.owner.fetch(
            "SELECT key, state FROM flash.purchase WHERE version > 0 AND sale_id = $1 AND NOT starts_with(buyer, $2)",
            self.driver.own("s"),
            self.driver.prefix,
        )
        return [dict(row) for row in rows]

    async def states(self, *expected: str) -> None:
        """Wait until the browser's purchases are these."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while sorted(row["state"] for row in await self.rows()) != sorted(expected):
                await asyncio.sleep(0.05)

    async def has_viewers(self, number: int) -> None:
        """Wait until the server counts so many streams."""
        async with asyncio.timeout(PATIENCE_SECONDS), aiohttp.ClientSession() as session:
            told = ""
            while f"flashsale_stream_viewers {number}.0" not in told:
                async with session.get(f"http://127.0.0.1:{self.server.ops_port}/metrics") as answer:
                    told = await answer.text()
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def stage_of(backend: str, template: str, redis_url: str, auth: str = "off") -> AsyncIterator[Stage]:
    """One server of a backend, and what is behind it."""
    servers = {"asyncio_redis": {"servers": 1}, "gevent_rabbit": {"servers": 0, "queued_servers": 1}}[backend]
    shared = {"FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL")}
    async with staged(template, redis_url, auth=auth, settings=shared, **servers) as made:  # type: ignore[arg-type]
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all; each visit has a storage of its own."""
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(request: pytest.FixtureRequest, template: str, redis_url: str) -> AsyncIterator[Stage]:
    """Of the backend in ``request.param``."""
    async with stage_of(request.param, template, redis_url) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def shop(stage: Stage, browser: Browser) -> AsyncIterator[Shop]:
    """Where nobody has bought yet."""
    made = shop_on(stage, browser)
    await made.opens()
    yield made
    await made.ends()


def shop_on(stage: Stage, browser: Browser) -> Shop:
    return Shop(stage, HttpDriver(stage.authority, stage.owner, stage.session, stage.urls), browser)


@contextlib.asynccontextmanager
async def till(shop: Shop, folder: Path, **settings: str) -> AsyncIterator[None]:
    """A gateway and a payment worker beside the shop."""
    await empty_payments()
    environment = {"FLASH_AUTH": "off", "FLASH_WEBHOOK_SECRET": "webhooks-of-the-tests"}
    journal = {"FLASH_GATEWAY_JOURNAL": str(folder / "journal.jsonl"), "FLASH_GATEWAY_DECLINES_PERCENT": "0"}
    gateway = Process("gateway_card", environment | journal | settings)
    stores = {"FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL"), "FLASH_POSTGRES_URL": shop.stage.database.app_url}
    worker = Process("payments", environment | stores | {"FLASH_GATEWAY_CARD_URL": gateway.url})
    async with contextlib.AsyncExitStack() as running:
        for process in (gateway, worker):
            await process.start()
            running.push_async_callback(process.stop)
        yield


def item_of(page: Page, sku: str) -> Locator:
    return page.locator(f'.item[data-sku="{sku}"]')


def buy_button(page: Page, sku: str) -> Locator:
    return item_of(page, sku).get_by_role("button")


def badge_of(page: Page) -> Locator:
    return page.locator("#badge")


async def is_live(page: Page, sku: str, units: int) -> None:
    """The number is this, and the page says that it holds now."""
    await expect(item_of(page, sku).locator(".number")).to_have_text(str(units))
    await expect(badge_of(page)).to_have_attribute("data-kind", "live")
    await expect(item_of(page, sku)).to_have_attribute("data-trusted", "true")


async def kept(page: Page) -> list[dict[str, Any]]:
    """The wishes in the browser's storage."""
    texts = await page.evaluate(
        "Object.entries(localStorage).filter(([name]) => name.startsWith('flash.wish.')).map(([, text]) => text)"
    )
    return [json.loads(text) for text in texts]


@of_both
async def test_the_number_falls_while_others_buy(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url) as (page, complaints):
        await is_live(page, shop.sku, UNITS)
        await shop.sells(3)
        await is_live(page, shop.sku, UNITS - 3)
        await expect(item_of(page, shop.sku).get_by_role("progressbar")).to_have_attribute("value", str(UNITS - 3))
        await shop.driver.cancel("other-1", "other-1")
        await is_live(page, shop.sku, UNITS - 2)
        assert complaints.all == []


@of_one
async def test_a_dead_server_is_told_and_its_number_is_not_shown_as_live(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url) as (page, _):
        await is_live(page, shop.sku, UNITS)
        shop.server.send(signal.SIGKILL)
        await expect(badge_of(page)).to_have_attribute("data-kind", "lost")
        await expect(badge_of(page)).to_contain_text("reconnecting")
        await expect(item_of(page, shop.sku)).to_have_attribute("data-trusted", "false")
        await expect(item_of(page, shop.sku)).to_contain_text("when last heard")
        kinds = await page.evaluate_handle(RECORD_KINDS)
        # long enough for the page to have asked for the number in other ways, and failed
        await expect(badge_of(page)).to_contain_text(re.compile(r"reconnecting, (9|\d\d) s old"))
        assert await kinds.json_value() == []
        assert shop.server.child is not None
        await shop.server.child.wait()
        await shop.server.start()
        await shop.sells(1)
        await is_live(page, shop.sku, UNITS - 1)


@of_one
async def test_a_server_that_hangs_does_not_look_alive(shop: Shop) -> None:
    # the connection stays open, so only the missing beats tell
    async with visit(shop.browser, shop.server.url) as (page, _):
        await is_live(page, shop.sku, UNITS)
        shop.server.send(signal.SIGSTOP)
        try:
            await expect(badge_of(page)).to_have_attribute("data-kind", "lost")
            await expect(item_of(page, shop.sku)).to_have_attribute("data-trusted", "false")
        finally:
            shop.server.send(signal.SIGCONT)
        await is_live(page, shop.sku, UNITS)


@of_one
async def test_a_shop_that_goes_on_and_reads_nothing_does_not_look_alive(shop: Shop) -> None:
    # word comes each second on a connection that is well, and of the stock there is none
    async with visit(shop.browser, shop.server.url) as (page, _):
        await is_live(page, shop.sku, UNITS)
        async with shop.stage.owner.transaction():
            await shop.stage.owner.execute("LOCK TABLE flash.stock IN ACCESS EXCLUSIVE MODE")
            await expect(badge_of(page)).to_have_attribute("data-kind", "old")
            await expect(badge_of(page)).to_contain_text(re.compile(r"stale, \d+ s old"))
            await expect(item_of(page, shop.sku)).to_have_attribute("data-trusted", "false")
        await is_live(page, shop.sku, UNITS)


@of_one
async def test_seven_tabs_are_live_on_one_connection_and_outlive_the_tab_that_has_it(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url) as (page, _):
        tabs = [page]
        for _ in range(6):
            tabs.append(await page.context.new_page())
            await tabs[-1].goto(shop.server.url)
        for tab in tabs:
            await is_live(tab, shop.sku, UNITS)
        await shop.has_viewers(1)
        await shop.sells(2)
        for tab in tabs:
            await is_live(tab, shop.sku, UNITS - 2)
        await page.close()
        await shop.sells(1)
        for tab in tabs[1:]:
            await is_live(tab, shop.sku, UNITS - 3)
        await shop.has_viewers(1)


@of_one
async def test_without_the_stream_the_page_asks_instead(shop: Shop) -> None:
    async with visit(shop.browser, "about:blank") as (page, _):
        await page.route("**/stock/stream*", lambda route: route.abort())
        await page.goto(shop.server.url)
        await shop.sells(2)
        await expect(badge_of(page)).to_have_attribute("data-kind", "polled")
        await expect(item_of(page, shop.sku).locator(".number")).to_have_text(str(UNITS - 2))
        await page.unroute("**/stock/stream*")
        await is_live(page, shop.sku, UNITS - 2)


@of_both
async def test_from_the_button_to_the_paid_purchase_by_keyboard_alone(shop: Shop, tmp_path: Path) -> None:
    async with till(shop, tmp_path), visit(shop.browser, shop.server.url) as (page, complaints):
        await is_live(page, shop.sku, UNITS)
        await tab_to(page, "Buy a")
        await page.keyboard.press("Enter")
        mine = page.get_by_role("region", name="My purchases").get_by_role("listitem").first
        await expect(mine).to_contain_text("Held for you")
        await expect(mine.get_by_role("timer")).to_have_text(re.compile(r"\d+:\d\d"))
        await expect(mine.locator("[aria-current=step]")).to_have_text("Held")
        await expect(page.get_by_role("status")).to_contain_text("Held for you")
        await is_live(page, shop.sku, UNITS - 1)
        await tab_to(page, "Pay €2.50: a")
        await page.keyboard.press("Enter")
        await expect(mine).to_contain_text("Paid. It is yours.")
        await expect(mine.get_by_role("timer")).to_be_hidden()
        await expect(mine.locator("[aria-current=step]")).to_have_text("Paid")
        await expect(page.get_by_role("status")).to_contain_text("Paid. It is yours.")
        assert await page.evaluate("document.querySelector('.purchase').contains(document.activeElement)"), "lost focus"
        assert [row["state"] for row in await shop.rows()] == ["PAID"]
        assert complaints.all == []


@of_one
async def test_a_declined_payment_says_how_many_tries_are_left(shop: Shop, tmp_path: Path) -> None:
    async with (
        till(shop, tmp_path, FLASH_GATEWAY_DECLINES_PERCENT="100"),
        visit(shop.browser, shop.server.url) as (page, _),
    ):
        await buy_button(page, shop.sku).click()
        mine = page.locator(".purchase")
        for left in ("2 tries left", "1 try left"):
            await mine.get_by_role("button", name="Pay").click()
            await expect(mine).to_contain_text(left)
        await mine.get_by_role("button", name="Pay").click()
        await expect(mine).to_contain_text("declined for the last time")
        await shop.states("DECLINED")


@of_one
async def test_a_hold_can_be_given_back_and_a_lapsed_one_is_told(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url) as (page, _):
        await buy_button(page, shop.sku).click()
        mine = page.locator(".purchase")
        await mine.get_by_role("button", name="Give it back").click()
        await expect(mine).to_contain_text("Nothing was charged")
        await shop.states("CANCELLED")
        await mine.get_by_role("button", name="Remove").click()
        await expect(mine).to_have_count(0)
        await buy_button(page, shop.sku).click()
        await expect(mine).to_contain_text("Held for you")
        await shop.stage.owner.execute("UPDATE flash.purchase SET deadline = now() WHERE state = 'HELD'")
        await expect(mine).to_contain_text("The time to pay is over and the unit went back on sale")
        await is_live(page, shop.sku, UNITS)


@of_both
async def test_a_reload_keeps_the_hold_and_its_key(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url) as (page, _):
        await buy_button(page, shop.sku).click()
        await expect(page.locator(".purchase")).to_contain_text("Held for you")
        (before,) = await kept(page)
        await page.reload()
        await expect(page.locator(".purchase")).to_contain_text("Held for you")
        (after,) = await kept(page)
        assert before["key"] == after["key"]
        assert [row["key"] for row in await shop.rows()] == [before["key"]]


@of_queue
async def test_a_reload_in_the_queue_keeps_the_place_and_the_key(shop: Shop) -> None:
    (worker,) = shop.stage.workers
    worker.send(signal.SIGSTOP)
    try:
        async with visit(shop.browser, shop.server.url) as (page, _):
            await buy_button(page, shop.sku).click()
            await expect(page.locator(".purchase")).to_contain_text("You are in the queue")
            (before,) = await kept(page)
            await page.reload()
            await expect(page.locator(".purchase")).to_contain_text("You are in the queue")
            worker.send(signal.SIGCONT)
            await expect(page.locator(".purchase")).to_contain_text("Held for you")
            assert [row["key"] for row in await shop.rows()] == [before["key"]]
    finally:
        worker.send(signal.SIGCONT)


@of_one
async def test_an_answer_that_is_lost_is_asked_for_with_the_same_key(shop: Shop) -> None:
    heads: list[dict[str, str]] = []
    async with visit(shop.browser, shop.server.url) as (page, _):

        async def lose_the_first(route: Any) -> None:
            heads.append(await route.request.all_headers())
            if len(heads) > 1:
                await route.continue_()
                return
            await route.fetch()  # the shop hears it, the page hears nothing
            await route.abort()

        await page.route("**/purchases", lose_the_first)
        await buy_button(page, shop.sku).click()
        await expect(page.locator(".purchase")).to_contain_text("Held for you")
    # more than twice, when a busy server says "later"
    assert [head.get("retry-attempt") for head in heads] == [None, *["1"] * (len(heads) - 1)]
    assert len(heads) > 1
    assert len({head["idempotency-key"] for head in heads}) == 1
    assert len(await shop.rows()) == 1


@of_one
async def test_a_tab_that_dies_before_the_answer_asks_again_with_the_same_key(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url) as (dying, _):
        await expect(buy_button(dying, shop.sku)).to_have_text("Buy")
        shop.server.send(signal.SIGSTOP)
        try:
            await buy_button(dying, shop.sku).click()
            await expect(dying.locator(".purchase")).to_contain_text("Asking for a unit")
            (before,) = await kept(dying)
            await dying.close()  # nothing of it runs after this, as after a crash
        finally:
            shop.server.send(signal.SIGCONT)
        page = await dying.context.new_page()
        asked: list[Request] = []
        page.on("request", lambda request: asked.append(request) if request.url.endswith("/purchases") else None)
        await page.goto(shop.server.url)
        await expect(page.locator(".purchase")).to_contain_text("Held for you")
        assert [row["key"] for row in await shop.rows()] == [before["key"]]
        assert asked[0].headers["retry-attempt"] == "1", "it may have been taken"


@of_both
async def test_sold_out_is_explained_and_undone_by_a_returned_unit(stage: Stage, browser: Browser) -> None:
    shop = shop_on(stage, browser)
    await shop.opens(units=1)
    async with visit(browser, shop.server.url) as (page, _):
        await is_live(page, shop.sku, 1)
        # somebody is faster, and the page does not know it yet
        await page.route("**/stock/stream*", lambda route: route.abort())
        await page.route("**/stock/*", lambda route: route.abort())
        await page.reload()
        await expect(buy_button(page, shop.sku)).to_have_text("Buy")
        await shop.sells(1)
        await buy_button(page, shop.sku).click()
        await expect(page.locator(".purchase")).to_contain_text("Sold out: no unit was left for your wish")
        await page.unroute_all()
        await is_live(page, shop.sku, 0)
        await expect(buy_button(page, shop.sku)).to_have_text("Sold out")
        await expect(buy_button(page, shop.sku)).to_have_attribute("aria-disabled", "true")
        await expect(item_of(page, shop.sku)).to_contain_text("When a hold ends, its units show up here")
        await shop.driver.cancel("other-1", "other-1")
        await is_live(page, shop.sku, 1)
        await expect(buy_button(page, shop.sku)).to_have_attribute("aria-disabled", "false")
    await shop.ends()


@of_one
async def test_the_limit_and_a_pause_are_explained(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url) as (page, _):
        for count in range(1, LIMIT + 1):
            await buy_button(page, shop.sku).click()
            await expect(page.locator('.purchase[data-state="HELD"]')).to_have_count(count)
        await buy_button(page, shop.sku).click()
        await expect(page.locator('.purchase[data-phase="refused"]')).to_contain_text("limit of units per buyer")
        await shop.driver.change("s", "PAUSED")
        await expect(item_of(page, shop.sku)).to_contain_text("The sale is paused")
        await expect(buy_button(page, shop.sku)).to_have_attribute("aria-disabled", "true")
        await shop.driver.change("s", "OPEN")
        await expect(buy_button(page, shop.sku)).to_have_text("Buy")


async def test_where_tokens_are_wanted_one_is_asked_for_and_the_wish_goes_on(
    template: str, redis_url: str, browser: Browser
) -> None:
    async with stage_of("asyncio_redis", template, redis_url, auth="jwt") as stage:
        shop = shop_on(stage, browser)
        await shop.opens()
        await buys_with_a_token(shop)


async def buys_with_a_token(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url) as (page, _):
        await buy_button(page, shop.sku).click()
        await expect(page.get_by_label("Access token")).to_be_focused()
        await expect(page.locator(".purchase")).to_contain_text("Waiting for you to sign in")
        await page.keyboard.type("not a token")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("not an access token")
        await page.get_by_label("Access token").fill(mint(JWT_SECRET, "ana", "buyer", 600))
        await page.keyboard.press("Enter")
        await expect(page.locator(".purchase")).to_contain_text("Held for you")
        await expect(page.get_by_label("Access token")).to_be_hidden()
        assert await shop.stage.owner.fetchval("SELECT buyer FROM flash.purchase") == "ana"
        assert not [text for text in await page.evaluate("Object.values(localStorage)") if "eyJ" in text]
        await page.reload()
        await expect(page.locator(".purchase")).to_contain_text("Held for you")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.locator(".purchase")).to_have_count(0)


@of_one
async def test_a_keyboard_is_enough_and_everything_has_a_name(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url) as (page, complaints):
        await is_live(page, shop.sku, UNITS)
        await tab_to(page, "Buy a")
        await page.keyboard.press("Enter")
        await expect(page.locator(".purchase")).to_contain_text("Held for you")
        await expect(page.get_by_role("status")).to_contain_text("Held for you")
        await tab_to(page, "Give it back: a")
        await page.keyboard.press("Enter")
        await expect(page.locator(".purchase")).to_contain_text("Nothing was charged")
        assert await page.evaluate("document.querySelector('.purchase').contains(document.activeElement)"), "lost focus"
        for role in ("banner", "main", "contentinfo"):
            await expect(page.get_by_role(role)).to_have_count(1)
        await expect(page.get_by_role("region", name="s", exact=True)).to_be_visible()
        await expect(page.get_by_role("progressbar", name="a: units left", exact=True)).to_be_visible()
        nameless = await page.evaluate(
            """[...document.querySelectorAll("button, input, progress, [role=timer]")].filter((element) =>
                element.checkVisibility() && element.role !== "timer"
                && !(element.ariaLabel || element.textContent.trim() || element.labels?.length)).length"""
        )
        assert nameless == 0
        assert complaints.all == []


async def tab_to(page: Page, name: str) -> None:
    """Press Tab until the focus is on the button with this name, and see that it shows."""
    for _ in range(30):
        await page.keyboard.press("Tab")
        label, outline = await page.evaluate(
            "[document.activeElement.ariaLabel, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if label == name:
            assert outline != "none"
            return
    pytest.fail(f"no Tab leads to {name}")


@of_one
async def test_a_narrow_phone_needs_no_sideways_scrolling(shop: Shop) -> None:
    async with visit(shop.browser, shop.server.url, PHONE) as (page, _):
        await buy_button(page, shop.driver.own("b")).click()
        await expect(page.locator(".purchase")).to_contain_text("Held for you")
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        small = await page.evaluate(
            """[...document.querySelectorAll("button")].filter((element) =>
                element.checkVisibility() && element.getBoundingClientRect().height < 44).map((e) => e.textContent)"""
        )
        assert small == [], "too small for a thumb"
