"""The operations page in a real browser, told frames by the test: what it shows, how old it says that is, and what it keeps. And once
with the admin's own process and a balancer: what is done to its servers.
"""

import asyncio
import contextlib
import copy
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, ViewportSize, expect

from flashsale.admin.guard import HEADERS
from flashsale.admin.pages import FILES
from tests.admins import Admin, admin_of
from tests.balanced import Balancer, Upstream, balanced
from tests.browser.test_admin_page import NARROW, sign_in, tab_to
from tests.browsers import DESKTOP, RULES, chromium, visit
from tests.databases import drop_database, make_database
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS
from tests.proxy import Down, Proxy, proxied
from tests.servers import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

expect.set_options(timeout=PATIENCE_MS)

EXAMPLE = json.loads((Path(__file__).parents[1] / "unit" / "admin" / "operations_frame.json").read_text("utf-8"))
BEAT_SECONDS = 0.25
SECONDS_KEPT = 300
LATE_SECONDS = 3  # that a value stands for when the next is late
BURST = SECONDS_KEPT + 20
GROWTH_BYTES_MAX = (
    8 * 2**20
)  # a second burst leaves a tenth of it; kept for ever, its names alone would be ten times as much
ACTIONS = {
    f"balancer.{verb}": {"means": f"to {verb}", "fields": [{"name": "server", "form": "text", "required": True}]}
    for verb in ("drain", "undrain", "weight")
} | {"balancer.algorithm": {"means": "to switch", "fields": [{"name": "algorithm", "form": "text", "required": True}]}}

Frame = dict[str, Any]


def nothing(_: Frame) -> None:
    """As the example says."""


@dataclass
class Office:
    """An admin's process that is played: tells a frame each beat. The page reaches it through ``proxy``."""

    browser: Browser
    proxy: Proxy
    role: str = "operator"
    change: Callable[[Frame], None] = nothing
    bye: str = ""  # what a new stream ends with at once
    burst: int = 0  # frames of as many seconds, told at once by each new stream
    told: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))  # second → rates of the first backend
    number: int = 1000

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}/operations"

    def frame(self, at: float) -> bytes:
        """The next one, of a rate that no other has."""
        made = copy.deepcopy(EXAMPLE)
        made["at"] = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.number += 1
        made["backends"][0]["rate_per_s"] = self.number
        self.told[int(at)].add(self.number)
        self.change(made)
        return b"event: figures\ndata: %b\n\n" % json.dumps(made).encode()

    async def get_stream(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/operations/stream``."""
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"retry: 500\n\n")
        if self.bye:
            await response.write(b"event: bye\ndata: %b\n\n" % json.dumps({"word": self.bye}).encode())
            return response
        with contextlib.suppress(ConnectionError):  # nobody reads it any more
            now = datetime.now(UTC).timestamp()
            for second in range(self.burst, 0, -1):
                await response.write(self.frame(now - second))
            while True:
                await response.write(self.frame(datetime.now(UTC).timestamp()))
                await asyncio.sleep(BEAT_SECONDS)
        return response

    async def get_file(self, request: web.Request) -> web.Response:
        """``GET /operations`` and ``/static/{file}``."""
        file = FILES[request.match_info.get("file", "operations.html")]
        return web.Response(body=file.body, headers={**file.headers, **HEADERS})

    async def get_session(self, _: web.Request) -> web.Response:
        """``GET /api/session``: somebody is signed in."""
        return web.json_response({"name": "olga", "role": self.role, "csrf": "", "idle_s": 1})

    async def get_actions(self, _: web.Request) -> web.Response:
        """``GET /api/actions``."""
        return web.json_response(ACTIONS)

    @contextlib.asynccontextmanager
    async def page(self, viewport: ViewportSize = DESKTOP, **context: str) -> AsyncIterator[Page]:
        """The page, once its figures are live. Its console is empty afterwards, but for what the network says."""
        async with visit(self.browser, self.url, viewport, timezone_id="UTC", **context) as (page, _):
            await expect(badge(page)).to_have_attribute("data-kind", "live")
            yield page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def started() -> AsyncIterator[Office]:
    """One browser and one server for all tests of this file."""
    async with contextlib.AsyncExitStack() as stack:
        port = free_port()
        proxy = await stack.enter_async_context(proxied(f"http://127.0.0.1:{port}"))
        office = Office(await stack.enter_async_context(chromium()), proxy)
        app = web.Application()
        for path, handler in (
            ("/operations", office.get_file),
            ("/static/{file}", office.get_file),
            ("/api/session", office.get_session),
            ("/api/actions", office.get_actions),
            ("/api/operations/stream", office.get_stream),
        ):
            app.router.add_get(path, handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield office


@pytest.fixture
def office(started: Office) -> Office:
    """As it was at the start."""
    started.role, started.change, started.bye, started.burst = "operator", nothing, "", 0
    return started


def badge(page: Page) -> Locator:
    return page.locator("#badge")


def answers(page: Page) -> Locator:
    """How many a second the first backend gives."""
    return page.get_by_role("table", name="Both backends").get_by_role("row", name="Answers").get_by_role("cell").first


async def rate(page: Page) -> int:
    """The same as a number."""
    return int((await answers(page).inner_text()).removesuffix("/s").replace(",", ""))


async def has_moved(shown: Locator) -> None:
    await expect(shown).not_to_have_text(await shown.inner_text())


async def test_the_numbers_move_and_the_focus_stays(office: Office) -> None:
    def one_more(frame: Frame) -> None:
        frame["balancer"]["servers"].insert(0, frame["balancer"]["servers"][0] | {"name": "another", "in_flight": 7})

    async with office.page() as page:
        await has_moved(answers(page))
        drain = page.get_by_role("button", name="Drain asyncio_redis-1")
        await drain.focus()
        office.change = one_more
        await expect(page.get_by_role("row", name="another")).to_contain_text("7")
        await has_moved(answers(page))
        await expect(drain).to_be_focused()
        await expect(page.get_by_role("link", name="Sales")).to_have_attribute("href", "/#/sales")


async def test_a_table_has_what_the_lines_are_drawn_of(office: Office) -> None:
    async with office.page() as page:
        figure = page.locator("#rates")
        await figure.get_by_text("Table").focus()
        await page.keyboard.press("Enter")
        table = figure.get_by_role("table")
        await expect(table.get_by_role("columnheader")).to_have_text(
            ["Time", "asyncio_redis", "asyncio_redis refused", "gevent_rabbit", "gevent_rabbit refused"]
        )
        await expect(table.get_by_role("rowheader").nth(2)).to_be_visible()
        rows = await table.evaluate(
            "(table) => [...table.tBodies[0].rows].map(({ cells }) => [...cells].map((cell) => cell.textContent))"
        )
        told = {
            datetime.fromtimestamp(second + late, UTC).strftime("%H:%M:%S"): set().union(
                *(office.told.get(second + late - ago, set()) for ago in range(LATE_SECONDS + 1))
            )
            for second in office.told
            for late in range(LATE_SECONDS + 1)
        }
        for time, rate, *_ in rows:
            # a second in which nothing came has what was so before
            assert int(rate.removesuffix("/s").replace(",", "")) in told[time]
        assert rows[0][2:] == ["3,710/s", "2,500/s", "1,962/s"]
        # the lines are there, in the colour of their backend
        drawn = """(canvas) => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return data.some((_, at) => at % 4 === 0 && data[at] === 184 && data[at + 1] === 58 && data[at + 2] === 11);
        }"""
        assert await figure.locator("canvas").evaluate(drawn)
        await expect(page.get_by_role("table", name="CPU and memory")).to_contain_text("asyncio_redis-0")


async def test_figures_that_do_not_come_are_not_called_live(office: Office) -> None:
    async with office.page() as page:
        how: Down
        for how, kind in (("frozen", "stale"), ("refused", "reconnecting")):
            async with office.proxy.down(how):
                await expect(badge(page)).to_have_attribute("data-kind", kind)
                await expect(page.locator("#main")).to_have_attribute("data-trusted", "false")
            await expect(badge(page)).to_have_attribute("data-kind", "live")
            await expect(page.locator("#main")).to_have_attribute("data-trusted", "true")
            await has_moved(answers(page))


async def test_a_farewell_is_told_and_the_page_comes_back(office: Office) -> None:
    async with office.page() as page:
        for word, words in (("full", "Full: as many look as may"), ("stopping", "The admin's process was stopped")):
            office.bye = word
            await office.proxy.refuse()
            await office.proxy.open()
            await expect(badge(page)).to_contain_text(words)
        office.bye = ""
        await expect(badge(page)).to_have_text("Live")


async def test_the_page_is_paused_and_goes_on_by_keyboard(office: Office) -> None:
    async with office.page() as page:
        await tab_to(page, "Pause")
        await page.keyboard.press("Enter")
        await expect(badge(page)).to_contain_text("Paused at")
        shown, told = await answers(page).inner_text(), office.number
        while office.number < told + 8:
            await asyncio.sleep(BEAT_SECONDS)
        assert await answers(page).inner_text() == shown
        await page.keyboard.press("Enter")
        await expect(badge(page)).to_have_text("Live")
        await has_moved(answers(page))


async def test_what_is_away_says_why_and_shows_no_number_of_before(office: Office) -> None:
    def away(frame: Frame) -> None:
        for part in set(frame) - {"at", "window_s", "events", "bench"}:
            frame[part] = {"away": f"no {part} today"}
        frame["bench"] = None

    async with office.page() as page:
        await has_moved(answers(page))
        office.change = away
        await expect(page.get_by_role("heading", level=2).first).to_have_text(
            "The books are not audited: no audit today"
        )
        for part in ("backends", "balancer", "queues", "dead_letters", "gate", "commit_lag", "processes"):
            await expect(page.get_by_text(f"no {part} today").first).to_be_visible()
        await expect(answers(page)).to_have_text("\N{EN DASH}")
        await expect(page.locator("main").get_by_text("/s")).to_have_count(0)
        await expect(page.get_by_role("button", name="Drain")).to_have_count(0)
        office.change = nothing
        await has_moved(answers(page))


async def test_a_turn_for_the_worse_is_shown_in_words_and_said(office: Office) -> None:
    def worse(frame: Frame) -> None:
        frame["audit"] |= {"clean": False, "oversold": 2, "word": "not clean: 2 oversold"}
        frame["balancer"]["servers"][0] |= {"state": "down", "word": "down: refused"}
        frame["gate"] |= {"drift_units": None, "lag_rows": None, "pending": None, "round_age_s": 40.0, "up": 0}

    async with office.page() as page:
        await has_moved(answers(page))
        await expect(page.get_by_role("status")).to_be_empty()
        office.change = worse
        await expect(page.get_by_role("status")).to_contain_text("The books are wrong: 2 oversold.")
        await expect(page.get_by_role("status")).to_contain_text("asyncio_redis-0: down: refused.")
        await expect(page.locator("#books-figures > div").first).to_have_text("Oversold2more units than there were")
        await expect(page.get_by_role("row", name="asyncio_redis-0 asyncio_redis Down")).to_be_visible()
        drift = page.locator("#tiles > div").filter(has_text="Gate drift")
        await expect(drift).to_have_text("Gate drift\N{EN DASH}no round for 40 s, 0 of 2 servers have it")


async def test_a_viewer_is_offered_nothing_to_change(office: Office) -> None:
    offered = "[data-deed]:visible"
    async with office.page() as page:
        await expect(page.locator(offered)).to_have_count(2 * len(EXAMPLE["balancer"]["servers"]) + 1)
    office.role = "viewer"
    async with office.page() as page:
        await expect(page.get_by_role("row", name="asyncio_redis-0 asyncio_redis Up")).to_be_visible()
        await has_moved(answers(page))
        await expect(page.locator(offered)).to_have_count(0)


async def test_what_is_kept_is_bounded_however_long_the_page_is_open(office: Office) -> None:
    def another_crowd(frame: Frame) -> None:
        frame["processes"] = [
            {**EXAMPLE["processes"][0], "role": f"role-{office.number}-{number}"} for number in range(10)
        ]

    async def held(page: Page) -> int:
        # a new stream, since the old one is cut off, and with it another burst
        await office.proxy.refuse()
        await office.proxy.open()
        told = office.number
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await rate(page) < told + BURST:
                await asyncio.sleep(BEAT_SECONDS)
        session = await page.context.new_cdp_session(page)
        await session.send("HeapProfiler.collectGarbage")
        usage = await session.send("Runtime.getHeapUsage")
        await session.detach()
        return int(usage["usedSize"] + usage["backingStorageSize"])

    async with office.page() as page:
        await page.locator("#rates").get_by_text("Table").click()
        office.burst = BURST
        before = await held(page)
        office.change = another_crowd
        assert await held(page) - before < GROWTH_BYTES_MAX
        assert await page.locator("#rates tbody tr").count() <= SECONDS_KEPT


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (NARROW, "dark")], ids=["wide", "narrow"])
async def test_nothing_breaks_a_rule_of_accessibility_or_overflows(
    office: Office, viewport: ViewportSize, scheme: str
) -> None:
    async with office.page(viewport, color_scheme=scheme, reduced_motion="reduce") as page:
        await has_moved(answers(page))
        for twin in await page.get_by_text("Table").all():
            await twin.click()
        await page.get_by_role("button", name="Pause").click()
        found = await Axe().run(page, options=RULES)
        assert found.violations_count == 0, found.generate_report()
        assert await page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


@dataclass
class Desk:
    """The admin's own process, with a balancer that it may change."""

    browser: Browser
    balancer: Balancer
    admin: Admin

    @contextlib.asynccontextmanager
    async def page(self) -> AsyncIterator[Page]:
        """Of an operator, once its figures are live."""
        async with visit(self.browser, f"{self.admin.url}/operations") as (page, _):
            await sign_in(page, "olga")
            await expect(badge(page)).to_have_attribute("data-kind", "live")
            yield page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(started: Office, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """On a database of its own."""
    async with contextlib.AsyncExitStack() as stack:
        database = await make_database(template)
        stack.push_async_callback(drop_database, database)
        balancer = await stack.enter_async_context(balanced(Upstream("asyncio_redis-0"), Upstream("gevent_rabbit-0")))
        folder = tmp_path_factory.mktemp("operations")
        admin = await stack.enter_async_context(admin_of(database, folder, FLASH_BALANCER_SOCKET=str(balancer.socket)))
        yield Desk(started.browser, balancer, admin)


async def test_servers_are_drained_and_weighed_and_chosen_otherwise_by_keyboard(desk: Desk) -> None:
    async with desk.page() as page:
        row = page.get_by_role("row", name="asyncio_redis-0 asyncio_redis")
        dialog = page.get_by_role("dialog")

        async def do(title: str, change: str, button: str) -> None:
            """What the open dialog asks for, from its reason on."""
            await expect(dialog.get_by_role("heading", name=title)).to_be_visible()
            await expect(dialog.get_by_role("row", name=change)).to_be_visible()
            await dialog.get_by_role("textbox", name="Reason").focus()
            await page.keyboard.type("a new disk")
            await tab_to(page, button)
            await page.keyboard.press("Enter")
            await expect(dialog).to_be_hidden()

        await tab_to(page, "Drain asyncio_redis-0")
        await page.keyboard.press("Enter")
        await do("Drain the server", "asyncio_redis-0: new requests yes no", "Drain it")
        await expect(row).to_contain_text("Drained")
        assert (await desk.balancer.states())["asyncio_redis-0"] == "draining"
        await expect(page.get_by_role("button", name="Undrain asyncio_redis-0")).to_be_focused()
        await page.keyboard.press("Enter")
        await do("Undrain the server", "asyncio_redis-0: new requests no yes", "Give it its share again")
        await expect(row).to_contain_text("Up")

        await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name="Weight of asyncio_redis-0")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("textbox", name="Weight")).to_have_value("1")
        await dialog.get_by_role("textbox", name="Weight").fill("3")
        await page.keyboard.press("Enter")
        await do("Change the weight", "asyncio_redis-0: weight 1 3", "Change the weight")
        await expect(row.get_by_role("cell").nth(2)).to_have_text("3")

        await tab_to(page, "Switch the algorithm", "Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(dialog.get_by_role("combobox", name="Algorithm")).to_be_focused()
        await page.keyboard.type("power")
        await tab_to(page, "Show what it will change")
        await page.keyboard.press("Enter")
        await do("Switch the algorithm", "Algorithm round_robin power_of_two", "Switch it")
        await expect(page.locator("#algorithm")).to_have_text("power_of_two")
        stats = await desk.balancer.stats()
        assert (stats["algorithm"], stats["servers"][0]["weight"]) == ("power_of_two", 3)
        await expect(page.get_by_role("list", name="Timeline")).to_contain_text("a new disk")


async def test_both_pages_lead_to_each_other_and_who_signs_out_sees_nothing_any_more(desk: Desk) -> None:
    async with desk.page() as page:
        await page.get_by_role("link", name="Purchases").click()
        await expect(page.get_by_role("heading", name="Purchases")).to_be_visible()
        await page.get_by_role("link", name="Operations").click()
        await expect(badge(page)).to_have_attribute("data-kind", "live")
        main, row = page.locator("#main"), page.locator("#servers-table tbody tr").first
        await expect(row.get_by_role("button", name="Drain asyncio_redis-0")).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await expect(main).to_be_hidden()
        # nothing of it is left for whoever comes next: not hidden, gone
        figures = "tbody tr:not(#backends-body tr), #backends-body td, #events li, #sales li, .keys li, canvas"
        await expect(main.locator(figures)).to_have_count(0)
        await expect(page.locator("#tiles dd").nth(1)).to_contain_text("\N{EN DASH}")
        await sign_in(page, "vera")
        await expect(main).to_be_visible()
        await expect(page.locator("#me")).to_contain_text("vera")
        await expect(badge(page)).to_have_attribute("data-kind", "live")
        await expect(row).to_contain_text("asyncio_redis-0")
        await expect(page.locator("#main [data-deed]:visible")).to_have_count(0)
