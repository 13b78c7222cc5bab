"""The shoppers' page in each of its states, in a shop that is played to it: what axe and a narrow screen say of it, and that half
an hour of watching costs no memory.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Error, Page, ViewportSize, expect

from tests.browsers import RULES, chromium
from tests.patience import PATIENCE_MS
from tests.played import SECURE_URL, PlayedShop, hold, played

pytestmark = pytest.mark.asyncio(loop_scope="module")

expect.set_options(timeout=PATIENCE_MS)

WIDE = ViewportSize(width=1440, height=900)
NARROW = ViewportSize(width=390, height=844)
EVENTS = 20_000  # a thousand seconds at 20 a second
FRAMES = 100  # painted meanwhile
# What the engine itself keeps more or less of, from one look to the next. Keeping each event's number alone takes more.
NOISE_BYTES = 150_000

# As fast as the page takes them: news of the stock, 20 to a second of the shop's time, which runs ahead of the clock.
FEED = """async ([events, frames]) => {
    window.told ??= {ms: performance.timeOrigin + performance.now(), seq: 100};
    const iso = () => new Date(told.ms).toISOString(), frame = () => new Promise(requestAnimationFrame);
    for (let number = 1; number <= events; number++) {
        told.ms += 50;
        told.seq++;
        streams.at(-1).say("stock", {sku: "a", available: told.seq % 10, seq: told.seq, as_of: iso()});
        if (number % 20 === 0) streams.at(-1).say("beat", {now: iso(), as_of: iso()});
        if (number % (events / frames) === 0) await frame();
    }
    await frame();
    await frame();
    return document.querySelector(".number").textContent;
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@contextlib.asynccontextmanager
async def answering(shop: PlayedShop) -> AsyncIterator[Callable[..., None]]:
    """Says the same to whatever is asked, until it is told to say something else."""
    said: dict[str, Any] = {}

    def says(status: int, **body: Any) -> None:
        said.update(status=status, body=body)

    async def answer() -> None:
        while True:
            asked = await shop.asked.get()
            with contextlib.suppress(Error):  # nobody waits for it any more
                await asked.answer(said["status"], **said["body"])

    task = asyncio.create_task(answer())
    yield says
    task.cancel()


async def is_sound(page: Page, state: str, viewport: ViewportSize) -> None:
    """No rule of accessibility is broken, and nothing sticks out."""
    found = await Axe().run(page, options=RULES)
    assert found.violations_count == 0, f"{state}: {found.generate_report()}"
    assert await page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], state


@pytest.mark.parametrize(("viewport", "scheme"), [(NARROW, "light"), (WIDE, "dark")], ids=["narrow", "wide"])
async def test_no_state_of_the_page_breaks_a_rule_of_accessibility_or_overflows(
    browser: Browser, viewport: ViewportSize, scheme: str
) -> None:
    context: Any = {"viewport": viewport, "color_scheme": scheme, "reduced_motion": "reduce"}
    async with played(browser, SECURE_URL, **context) as shop, answering(shop) as says:
        page = await shop.tab()
        badge, buy, mine = page.locator("#badge"), page.locator(".buy"), page.locator(".purchase").first
        await expect(badge).to_have_attribute("data-kind", "live")
        assert await page.evaluate("document.getAnimations().length") == 0, "somebody asked for less motion"
        await is_sound(page, "live", viewport)
        says(202, id="p", state="QUEUED", receipt="r")
        await buy.click()
        await expect(mine).to_contain_text("You are in the queue")
        await is_sound(page, "queued", viewport)
        says(200, **hold("p"))
        await expect(mine).to_contain_text("Held for you")
        await expect(page.locator(".item")).to_contain_text("Pay now")
        await is_sound(page, "held", viewport)
        says(200, **hold("p") | {"version": 2, "state": "PAID"})
        await expect(mine).to_contain_text("Paid. It is yours.")
        await is_sound(page, "paid", viewport)
        says(409, verdict="sold_out")
        await buy.click()
        await expect(mine).to_contain_text("Sold out: no unit was left for your wish")
        await is_sound(page, "refused", viewport)
        await page.evaluate("word = {available: 0, seq: 3}")
        await expect(buy).to_have_text("Sold out")
        await is_sound(page, "sold out", viewport)
        await page.evaluate("word = {available: 1, seq: 4}")
        await expect(buy).to_have_text("Buy")
        says(401, verdict="unauthenticated")
        await buy.click()
        await expect(page.get_by_label("Access token")).to_be_focused()
        await is_sound(page, "signing in", viewport)
        await page.evaluate("isFrozen = true")
        await expect(badge).to_have_attribute("data-kind", "old")
        await is_sound(page, "stale", viewport)
        await page.evaluate("isSilent = true")
        await expect(badge).to_have_attribute("data-kind", "lost")
        await is_sound(page, "reconnecting", viewport)
        for state, sale in {
            "SCHEDULED": {"opens": "2998-12-01T00:00:00Z"},
            "PAUSED": {"state": "PAUSED"},
            "ENDED": {"state": "ENDED"},
        }.items():
            shop.sale = sale
            await page.reload()
            await expect(page.locator(".sale")).to_have_attribute("data-state", state)
            await is_sound(page, state, viewport)


async def test_half_an_hour_of_watching_costs_no_memory(browser: Browser) -> None:
    async with played(browser, SECURE_URL) as shop:
        page = await shop.tab()
        await expect(page.locator("#badge")).to_have_attribute("data-kind", "live")
        devtools = await page.context.new_cdp_session(page)
        await devtools.send("Performance.enable")

        async def kept() -> dict[str, float]:
            await devtools.send("HeapProfiler.collectGarbage")
            told = await devtools.send("Performance.getMetrics")
            return {metric["name"]: metric["value"] for metric in told["metrics"]}

        shown = await page.evaluate(FEED, [EVENTS, FRAMES])  # what is made once is made now
        before = await kept()
        for _ in range(2):
            assert await page.evaluate(FEED, [EVENTS, FRAMES]) == shown
        after = await kept()
        assert after["JSHeapUsedSize"] - before["JSHeapUsedSize"] < NOISE_BYTES
        assert after["Nodes"] - before["Nodes"] < FRAMES
