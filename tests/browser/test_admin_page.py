"""The admin page in a real browser: by keyboard alone, to a screen reader, and on a telephone."""

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import pytest
import pytest_asyncio
from aiohttp import web
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Error, Page, ViewportSize, expect

from flashsale.payments import queues
from tests.admins import PASSWORDS, Admin, admin_of
from tests.browsers import DESKTOP, RULES, chromium, visit
from tests.contract import test_payments as shops
from tests.databases import drop_database, make_database, patient
from tests.patience import PATIENCE_MS
from tests.queues import broker, empty_all

pytestmark = pytest.mark.asyncio(loop_scope="module")

NARROW = ViewportSize(width=390, height=844)
UNITS = 5
CLEAN = {"clean": True, "ready": True, "passes": 12, "failed_passes": 0, "age_s": 2.0, "violations": [], "findings": {}}

expect.set_options(timeout=PATIENCE_MS)


@dataclass
class Office:
    """A shop with a sale that is open, a purchase that is paid and one that is held; its admin page, and a browser."""

    admin: Admin
    browser: Browser
    shop: shops.PayingShop
    sale: str
    paid: str
    report: dict[str, Any]

    @contextlib.asynccontextmanager
    async def page(
        self, name: str | None = "olga", viewport: ViewportSize = DESKTOP, *, is_refused: bool = False, **context: str
    ) -> AsyncIterator[Page]:
        """The page, of somebody who is signed in. Its console is empty afterwards, but for refusals of the network's."""
        async with visit(self.browser, self.admin.url, viewport, **context) as (page, complaints):
            if name is not None:
                await sign_in(page, name)
                await expect(page.get_by_role("heading", name="Sales")).to_be_visible()
            yield page
            assert is_refused or complaints.all == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all; each visit has a storage of its own."""
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def office(template: str, browser: Browser, tmp_path: Path) -> AsyncIterator[Office]:
    await empty_all()
    report = dict(CLEAN)

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(report)

    async with contextlib.AsyncExitStack() as stack:
        database = await make_database(template)
        stack.push_async_callback(drop_database, database)
        authority = await patient(database, 4)
        stack.push_async_callback(authority.close)
        owner = await asyncpg.connect(database.owner_url)
        stack.push_async_callback(owner.close)
        shop = await shops.opened(authority, owner, UNITS)
        await shop.reserve(shop.attempt("ben", "k", {"a": 2}))
        for step in ("pay", "authorized", "captured"):
            await shops.live(shop, step)
        auditor = web.Application()
        auditor.router.add_get("/report", tell)
        runner = web.AppRunner(auditor)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        admin = await stack.enter_async_context(admin_of(database, tmp_path, FLASH_AUDITOR_URL=url))
        yield Office(admin, browser, shop, shop._own("s"), str(shop.id("ana", "k")), report)


async def sign_in(page: Page, name: str) -> None:
    """By keyboard, beginning where the page has put the focus."""
    await expect(page.get_by_role("textbox", name="Name")).to_be_focused()
    await page.keyboard.type(name)
    await page.keyboard.press("Tab")
    await page.keyboard.type(PASSWORDS[name])
    await page.keyboard.press("Enter")


async def tab_to(page: Page, text: str, key: str = "Tab") -> None:
    """Press Tab until what has the focus is called so, as who has no mouse does."""
    for _ in range(60):
        await page.keyboard.press(key)
        if text == await page.evaluate(
            "(document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent).trim()"
        ):
            return
    pytest.fail(f"nothing called {text!r} is reached by Tab")


async def set_aside(number: int) -> None:
    async with broker() as channel:
        for each in range(number):
            body = json.dumps({"subject": str(uuid.uuid4())}).encode()
            message = aio_pika.Message(
                body, message_id=f"message-{each}", headers={"reason": "refused", "tries": 7}, delivery_mode=2
            )
            await channel.default_exchange.publish(message, queues.DEAD)


async def test_a_sale_is_paused_by_keyboard_and_it_stands_in_the_record(office: Office) -> None:
    async with office.page() as page:
        await expect(page.locator("main h1")).to_be_focused()
        await tab_to(page, "s")  # the sale's card
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Open")
        await expect(page.get_by_role("heading", level=1)).to_be_focused()
        await tab_to(page, "Pause")
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Pause the sale")
        await expect(dialog.get_by_role("textbox", name="Reason")).to_be_focused()
        await expect(dialog.get_by_role("row", name="State Open Paused")).to_be_visible()
        await tab_to(page, "Pause it")
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("alert")).to_have_text("Say why: the reason is kept with your name.")
        await expect(dialog.get_by_role("textbox", name="Reason")).to_be_focused()
        await page.keyboard.type("the price is wrong")
        await tab_to(page, "Pause it")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_contain_text("on record")  # for six seconds
        await expect(dialog).to_be_hidden()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Paused")
        # the button that had the focus is gone; it is given to the heading once everything is read again
        await expect(page.locator("body")).not_to_be_focused()
        await tab_to(page, "Record", "Shift+Tab")
        await page.keyboard.press("Enter")
        row = page.get_by_role("row").filter(has_text="sale.pause")
        await expect(row).to_contain_text("olga")
        await expect(row).to_contain_text("the price is wrong")
    assert await office.shop.owner.fetchval("SELECT state FROM flash.sale WHERE id = $1", office.sale) == "PAUSED"


async def test_escape_changes_nothing_and_gives_the_focus_back(office: Office) -> None:
    async with office.page() as page:
        await page.goto(f"{office.admin.url}/#/sales/{office.sale}")
        end = page.get_by_role("button", name="End", exact=True)
        await end.focus()
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_role("button", name="End it for good")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(end).to_be_focused()
    assert await office.shop.owner.fetchval("SELECT state FROM flash.sale WHERE id = $1", office.sale) == "OPEN"


async def test_a_deed_with_fields_is_planned_again_when_they_change(office: Office) -> None:
    async with office.page(is_refused=True) as page:
        await page.goto(f"{office.admin.url}/#/sales/{office.sale}")
        sku = office.shop._own("a")
        await page.get_by_role("button", name=f"Restock {sku}").click()
        dialog = page.get_by_role("dialog", name="Restock")
        field = dialog.get_by_role("textbox", name="Units")
        await expect(field).to_be_focused()
        await field.fill("many")
        await dialog.get_by_role("button", name="Show what it will change").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("units is not a whole number")
        await field.fill("7")
        await dialog.get_by_role("button", name="Show what it will change").click()
        await expect(dialog.get_by_role("row", name=f"{sku}: units {UNITS} {UNITS + 7}")).to_be_visible()
        await field.fill("8")
        await expect(dialog.get_by_role("button", name="Add the units")).to_have_count(0)
        await dialog.get_by_role("button", name="Show what it will change").click()
        await expect(dialog.get_by_role("row", name=f"{sku}: units {UNITS} {UNITS + 8}")).to_be_visible()
        await dialog.get_by_role("textbox", name="Reason").fill("found a box")
        await dialog.get_by_role("button", name="Add the units").click()
        await expect(dialog).to_be_hidden()
        await expect(page.get_by_role("table", name="Items").get_by_role("row").nth(1)).to_contain_text(str(UNITS + 8))
    assert await office.shop.owner.fetchval("SELECT total FROM flash.stock WHERE sku = $1", sku) == UNITS + 8


async def test_an_answer_that_was_lost_is_asked_for_again_and_done_once(office: Office) -> None:
    async with office.page() as page:
        sku = office.shop._own("a")
        await page.goto(f"{office.admin.url}/#/sales/{office.sale}")
        await page.get_by_role("button", name=f"Restock {sku}").click()
        dialog = page.get_by_role("dialog", name="Restock")
        await dialog.get_by_role("textbox", name="Units").fill("1")
        await dialog.get_by_role("button", name="Show what it will change").click()
        await dialog.get_by_role("textbox", name="Reason").fill("found one")

        async def lose(route: Any) -> None:
            await route.fetch()
            await route.fulfill(status=503, body="")

        await page.route("**/api/deeds/*", lose)
        await dialog.get_by_role("button", name="Add the units").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("press again, and it is done once")
        await page.unroute("**/api/deeds/*")
        await dialog.get_by_role("button", name="Add the units").click()
        await expect(dialog).to_be_hidden()
    assert await office.shop.owner.fetchval("SELECT total FROM flash.stock WHERE sku = $1", sku) == UNITS + 1


async def test_a_purchase_is_found_and_refunded(office: Office) -> None:
    async with office.page() as page:
        await page.get_by_role("link", name="Purchases").click()
        search = page.get_by_role("search", name="Purchases")
        await search.get_by_label("Buyer").fill(office.shop._own("ana"))
        await search.get_by_label("State").select_option("PAID")
        await page.keyboard.press("Tab")
        await search.get_by_role("button", name="Search").click()
        rows = page.get_by_role("table", name="Purchases").get_by_role("row")
        await expect(rows).to_have_count(2)
        await rows.nth(1).get_by_role("link").click()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Paid")
        await page.get_by_role("button", name="Refund").click()
        dialog = page.get_by_role("dialog", name="Refund the purchase")
        await expect(dialog.get_by_role("row", name="Payment 1 Captured Refunding")).to_be_visible()
        await dialog.get_by_role("textbox", name="Reason").fill("a scratch")
        await dialog.get_by_role("button", name="Give the money back").click()
        await expect(page.get_by_text("The money is on its way back")).to_be_visible()
        await expect(page.get_by_role("button", name="Refund")).to_have_count(0)
        await expect(page.get_by_role("region", name="Done by hand")).to_contain_text("a scratch")


async def test_a_plan_that_comes_late_is_nothing_to_the_deed_that_is_asked_for_now(office: Office) -> None:
    came, go_on, went = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def late(route: Any) -> None:
        came.set()
        await go_on.wait()
        with contextlib.suppress(Error):  # nobody waits for it any more
            await route.continue_()
        went.set()

    ben = str(office.shop.id("ben", "k"))
    async with office.page() as page:
        await page.goto(f"{office.admin.url}/#/purchases/{office.paid}")
        await page.route("**/api/plans/purchase.refund", late)
        await page.get_by_role("button", name="Refund").click()
        await came.wait()
        await page.keyboard.press("Escape")
        await page.goto(f"{office.admin.url}/#/purchases/{ben}")
        await page.get_by_role("button", name="Cancel the hold").click()
        dialog = page.get_by_role("dialog")
        planned = dialog.get_by_role("row", name="State Held Cancelled")
        await expect(planned).to_be_visible()
        go_on.set()
        await went.wait()
        await page.evaluate("new Promise((done) => setTimeout(done, 500))")  # without the guard it is answered by now
        await expect(planned).to_be_visible()
        await dialog.get_by_role("textbox", name="Reason").fill("he asked for it")
        await dialog.get_by_role("button", name="Give the hold up").click()
        await expect(dialog).to_be_hidden()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Cancelled")


async def test_what_was_set_aside_is_looked_at_and_replayed(office: Office) -> None:
    await set_aside(3)
    async with office.page() as page:
        await expect(page.get_by_role("link", name="Set aside 3")).to_be_visible()
        await page.get_by_role("link", name="Set aside").click()
        await page.get_by_role("link", name="message-1").click()
        await expect(page.get_by_role("region", name="Body")).to_contain_text("subject")
        await page.get_by_role("button", name="Discard message-1").click()
        dialog = page.get_by_role("dialog", name="Discard")
        await dialog.get_by_role("textbox", name="Reason").fill("not ours")
        await dialog.get_by_role("button", name="Discard for good").click()
        await expect(dialog).to_be_hidden()
        await page.get_by_role("button", name="Replay all").click()
        dialog = page.get_by_role("dialog", name="Replay")
        await expect(dialog.get_by_role("row")).to_have_count(3)
        await dialog.get_by_role("textbox", name="Reason").fill("the bank is back")
        await dialog.get_by_role("button", name="Replay").click()
        await expect(page.get_by_text("Nothing waits here.")).to_have_count(2)


async def test_a_viewer_is_offered_nothing_to_change(office: Office) -> None:
    await set_aside(1)
    async with office.page("vera") as page:
        for part in ("sales", f"sales/{office.sale}", "purchases", f"purchases/{office.paid}", "aside", "record"):
            await page.goto(f"{office.admin.url}/#/{part}")
            await expect(page.locator("main h1")).to_be_visible()
            await expect(page.locator("[data-deed]")).to_have_count(0)


async def test_wrong_books_are_said_in_words_at_the_top_of_every_part(office: Office) -> None:
    async with office.page() as page:
        await expect(page.locator("#verdict")).to_contain_text("The books are right")
        office.report.update(clean=False, violations=[{"rule": "conservation", "count": 3}])
        await expect(page.locator("#verdict")).to_have_text("The books are wrong: conservation (3)")
        await page.get_by_role("link", name="Record").click()
        await expect(page.locator("#verdict")).to_have_text("The books are wrong: conservation (3)")


async def test_who_signs_out_or_is_removed_sees_nothing_any_more(office: Office) -> None:
    async with office.page(is_refused=True) as page:  # a look that the page takes every few seconds may be on its way
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await expect(page.locator("main")).to_be_empty()
        await sign_in(page, "vera")
        await expect(page.get_by_role("heading", name="Sales")).to_be_visible()
    async with visit(office.browser, office.admin.url) as (page, _):
        await sign_in(page, "vera")
        await expect(page.get_by_role("heading", name="Sales")).to_be_visible()
        beside = office.admin.users.with_suffix(".new")  # a file that is half written is nobody's, and an error
        beside.write_text("{}", encoding="utf-8")
        beside.replace(office.admin.users)
        await expect(page.get_by_role("alert").filter(has_text="You were signed out.")).to_be_visible()
        await expect(page.locator("main")).to_be_empty()


async def test_a_wrong_password_is_said_and_can_be_typed_again(office: Office) -> None:
    async with visit(office.browser, office.admin.url) as (page, _):
        await expect(page.get_by_role("textbox", name="Name")).to_be_focused()
        await page.keyboard.type("olga")
        await page.keyboard.press("Tab")
        await page.keyboard.type("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert").first).to_have_text("this name and password do not belong together")
        await page.keyboard.type(PASSWORDS["olga"])  # what was there is selected
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Sales")).to_be_visible()


async def test_the_focus_and_what_is_being_typed_survive_the_beat_of_the_page(office: Office) -> None:
    async with office.page() as page:
        await page.goto(f"{office.admin.url}/#/sales/{office.sale}")
        pause = page.get_by_role("button", name="Pause")
        await pause.focus()
        await office.shop.reserve(office.shop.attempt("cy", "k", {"a": 1}))
        await expect(page.get_by_role("table", name="Items").get_by_role("row").nth(1)).to_contain_text(
            re.compile(r"1.*3")
        )
        await expect(pause).to_be_focused()


async def test_the_skip_link_leads_past_the_navigation(office: Office) -> None:
    async with office.page() as page:
        await page.reload()
        await expect(page.get_by_role("heading", name="Sales")).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()


@pytest.mark.parametrize(("viewport", "scheme"), [(NARROW, "light"), (DESKTOP, "dark")], ids=["narrow", "wide"])
async def test_no_part_of_the_page_breaks_a_rule_of_accessibility_or_overflows(
    office: Office, viewport: ViewportSize, scheme: str
) -> None:
    await set_aside(1)
    axe = Axe()

    async def is_sound(page: Page, part: str) -> None:
        found = await axe.run(page, options=RULES)
        assert found.violations_count == 0, f"{part}: {found.generate_report()}"
        assert await page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], part

    async with office.page(None, viewport, color_scheme=scheme, reduced_motion="reduce") as page:
        await expect(page.get_by_role("textbox", name="Name")).to_be_focused()
        await is_sound(page, "signing in")
        await sign_in(page, "olga")
        await expect(page.locator("#verdict")).to_be_visible()
        for part in (
            "sales", f"sales/{office.sale}", "purchases", f"purchases/{office.paid}", "aside",
            "aside/payments?message=message-0", "record",
        ):  # fmt: skip
            await page.goto(f"{office.admin.url}/#/{part}")
            await expect(page.locator("main h1")).to_be_visible()
            await is_sound(page, part)
        await page.goto(f"{office.admin.url}/#/sales/{office.sale}")
        for button in ("End", "Clone"):
            await page.get_by_role("button", name=button, exact=True).click()
            await expect(page.get_by_role("dialog")).to_be_visible()
            await expect(page.locator("#deed")).not_to_have_attribute("aria-busy", "true")
            if button == "Clone":
                await page.get_by_label("Name of the clone").fill("another")
                await page.get_by_label("Suffix of its SKUs").fill(".another")
                await page.get_by_label("Closes").fill("2099-01-01T00:00:00")
                await page.get_by_role("button", name="Show what it will change").click()
            await expect(page.get_by_role("table", name="What it will change")).to_be_visible()
            assert (
                await page.evaluate(
                    "(({scrollWidth, clientWidth}) => scrollWidth - clientWidth)(document.getElementById('deed'))"
                )
                <= 0
            )
            await is_sound(page, button)
            await page.keyboard.press("Escape")
