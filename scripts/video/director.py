"""Who has the scenes played, one after the other, and records them; and who finds out what is said of them."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from playwright.async_api import Browser, BrowserContext, Page

from scripts.video import facts, source, stage
from scripts.video.camera import Camera
from scripts.video.cut import GRID_S, Pane, Take
from scripts.video.shop import ROOT, Shop, new_name
from scripts.video.stage import GAP, INNER, PANE_HEIGHT
from scripts.video.storyboard import Meanwhile, Scene, Shows, StoryboardError, fill, holes
from scripts.video.terminal import CommandError, Terminal

SHOP_WIDTH = 404
# Shoppers few enough for a machine that films at the same time, and units few enough to be gone before the eye has moved on.
SALE_UNITS, SALE_SHOPPERS, SALE_ARRIVAL_S = 800, 1500, 60
SALE_HOLD_S = 12  # so that holds lapse and units come back while it is filmed
SALE_FILMED_S = 30.0  # the rest of the crowd is waited for unseen
LOAD_UNITS = 50_000  # nobody is to hear `sold out` for want of units
KILL_SHOPPERS, KILL_ARRIVAL_S = 800, 20
COUNTED_S = 12.0  # of one buyer's requests; by then the page has forgotten those before
BEFORE_S = 2.0  # of pages before anything happens, and after it
PAGE_MS = 120_000
OPERATOR = "olga"
VICTIM = "asyncio_redis"
TERMINAL_TITLE = "terminal"


@dataclass
class Director:
    """Plays scenes of any kind; ``facts`` grow with what they find."""

    chromium: Path
    shop: Shop
    folder: Path
    facts: dict[str, str] = field(default_factory=dict)
    _open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _browser: Browser | None = None
    _operations: Page | None = None

    async def __aenter__(self) -> Self:
        """Nothing is started before a scene needs it."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Whatever was started ends: the pages before the shop that they show."""
        try:
            await self._open.aclose()
        finally:
            # What went wrong first is what is told; a shop that is still there is stopped before the next film.
            with contextlib.suppress(*[] if kind is None else [CommandError]):
                await self.shop.close()

    async def play(self, scene: Scene) -> Take:
        """One scene, recorded."""
        match scene.shows:
            case Shows.CARD:
                return _still(stage.card([fill(line, self.facts) for line in scene.lines], scene.picture), "")
            case Shows.CODE:
                piece = source.read(ROOT, scene.file, scene.begins, scene.ends, scene.marked)
                return _still(
                    source.shown(piece), f"{piece.path}, lines {piece.first} to {piece.first + len(piece.lines) - 1}"
                )
            case Shows.FIGURE:
                parts = stage.figure(ROOT / fill(scene.file, self.facts))
                return Take(
                    0.0,
                    (Pane("", INNER, tuple((scene.seconds * n / len(parts), part) for n, part in enumerate(parts))),),
                )
            case Shows.TERMINAL:
                return await self._terminal(scene)
            case Shows.SALE:
                return await self._sale(scene)
            case Shows.WATCHED:
                return await self._watched(scene)

    async def _terminal(self, scene: Scene) -> Take:
        terminal = Terminal(scene.columns, self.shop.environment, ROOT)
        for command in scene.commands:
            began = time.monotonic()
            await terminal.run(fill(command, self.facts))
            if command == "./flash up":
                ready = time.monotonic()
                await self.shop.is_up()
                await self.shop.admit(OPERATOR)
                status = await self.shop.flash("status")
                self.facts |= facts.of_start(ready - began, status) | {"url": self.shop.url}
                terminal.began += time.monotonic() - ready  # nobody saw that
        return Take(time.monotonic() - terminal.began, (_pane_of(terminal, INNER),), tuple(terminal.marks))

    async def _sale(self, scene: Scene) -> Take:
        name = new_name(scene.backend)
        sku = await self.shop.open_sale(name, "Copper hour", SALE_UNITS, SALE_HOLD_S)
        async with self.shop.only(scene.backend):
            async with self._page(self.shop.url, SHOP_WIDTH) as shop:
                await shop.get_by_text("On sale now").first.wait_for(timeout=PAGE_MS)
                width = INNER - GAP - SHOP_WIDTH
                async with self._filmed(scene, width, SALE_FILMED_S, shop) as filmed:
                    await asyncio.sleep(BEFORE_S)
                    async with self.shop.crowd(sku, SALE_SHOPPERS, SALE_ARRIVAL_S) as crowd:
                        await asyncio.sleep(SALE_FILMED_S - BEFORE_S)
                        await filmed.stop()
                        told = await crowd
            audit = await self.shop.flash("audit", "--sale", name)
        await self.shop.end_sale(name)
        merchant = await self.shop.flash("merchant", "report", name)
        self.facts |= facts.of_sale(scene.backend, SALE_UNITS, told, audit, merchant)
        return filmed.take((), ())

    async def _watched(self, scene: Scene) -> Take:
        name = new_name(scene.name)
        sku = await self.shop.open_sale(name, "Copper hour", LOAD_UNITS, 30)
        self.facts["sku"] = sku
        if "kill.pid" in holes(scene.commands):
            self.facts["kill.pid"] = str((await self.shop.process(VICTIM))["pid"])
        terminal = Terminal(scene.columns, self.shop.environment, ROOT)
        width = INNER - GAP - scene.split
        async with contextlib.AsyncExitStack() as beside:
            crowd = None
            filmed = await beside.enter_async_context(self._filmed(scene, width, scene.seconds, None))
            terminal.began = filmed.began
            if scene.meanwhile is Meanwhile.CROWD:
                crowd = await beside.enter_async_context(self.shop.crowd(sku, KILL_SHOPPERS, KILL_ARRIVAL_S))
            if scene.meanwhile is Meanwhile.BUYER:
                await beside.enter_async_context(self.shop.one_buyer())
            await asyncio.sleep(BEFORE_S)
            for number, command in enumerate(scene.commands):
                if crowd is not None and command.startswith("./flash audit"):
                    # Nobody is asked for the books while half of the shoppers are at the till.
                    self.facts |= facts.of_crowd(scene.name, await crowd)
                if _is_by_command(scene):
                    await _look(filmed.cameras[-1].page, scene.looks[number : number + 1], 0)
                await self._watch(scene, terminal, command)
            await asyncio.sleep(BEFORE_S)
            await filmed.stop()
        await self.shop.end_sale(name)
        return filmed.take((_pane_of(terminal, scene.split),), tuple(terminal.marks))

    async def _watch(self, scene: Scene, terminal: Terminal, command: str) -> None:
        # A command, and what is found out by way of it.
        before = await self._balancer() if command.startswith("locust") else None
        began = time.monotonic()
        await terminal.run(fill(command, self.facts))
        if before is not None:
            self.facts |= facts.of_load(time.monotonic() - began, before, await self._balancer())
        if command.startswith("kill -9"):
            pid = int(self.facts["kill.pid"])
            self.facts |= facts.of_kill(pid, await self.shop.await_another(VICTIM, pid))
        if command.startswith("./flash audit"):
            self.facts |= facts.of_audit(scene.name, await self.shop.flash("audit"))
        if scene.meanwhile is Meanwhile.BUYER:
            before = await self._balancer()
            await asyncio.sleep(COUNTED_S)
            self.facts |= facts.of_choices(command.split()[3], before, await self._balancer())

    async def _balancer(self) -> dict[str, Any]:
        found: dict[str, Any] = await self.shop.flash("lb", "show")
        return found

    @contextlib.asynccontextmanager
    async def _filmed(self, scene: Scene, width: int, seconds: float, shop: Page | None) -> AsyncIterator["Filmed"]:
        # The operations page, and the shoppers' beside it, until `stop` is called.
        operations = await self._operations_page(width)
        began = time.monotonic()
        stem = self.folder / f"live-{scene.name}"
        cameras = [] if shop is None else [Camera(shop, stem.with_name(f"{stem.name}-shop"), began)]
        cameras.append(Camera(operations, stem.with_name(f"{stem.name}-operations"), began))
        filmed = Filmed(began, cameras, (SHOP_WIDTH, width)[-len(cameras) :], self._titles(shop))
        looks = scene.looks[:1] if _is_by_command(scene) else scene.looks
        async with looking(operations, looks, seconds):
            try:
                for camera in cameras:
                    await camera.start()
                yield filmed
            finally:
                await filmed.stop()

    def _titles(self, shop: Page | None) -> Sequence[str]:
        operations = f"operations page · {self.shop.admin_url}/operations"
        return (operations,) if shop is None else (f"shoppers' page · {self.shop.url}", operations)

    async def _operations_page(self, width: int) -> Page:
        if self._operations is None:
            context = await self._visitor()
            page = await context.new_page()
            await page.goto(f"{self.shop.admin_url}/operations")
            await page.locator("#name").fill(OPERATOR)
            await page.locator("#password").fill(self.shop.password)
            await page.keyboard.press("Enter")
            await page.locator('#badge[data-kind="live"]').wait_for()
            self._operations = page
        await self._operations.set_viewport_size({"width": width - 2, "height": PANE_HEIGHT})
        await self._operations.bring_to_front()
        return self._operations

    async def _visitor(self) -> BrowserContext:
        if self._browser is None:
            self._browser = await self._open.enter_async_context(stage.chromium(self.chromium))
        context = await self._browser.new_context(color_scheme="dark", locale="en-GB", reduced_motion="reduce")
        context.set_default_timeout(PAGE_MS)
        return context

    @contextlib.asynccontextmanager
    async def _page(self, url: str, width: int) -> AsyncIterator[Page]:
        context = await self._visitor()
        page = await context.new_page()
        await page.set_viewport_size({"width": width - 2, "height": PANE_HEIGHT})
        await page.goto(url)
        yield page
        await context.close()


@dataclass
class Filmed:
    """What cameras see, until they are stopped."""

    began: float
    cameras: list[Camera]
    widths: Sequence[int]
    titles: Sequence[str]
    seconds: float = 0.0

    async def stop(self) -> None:
        """Once is enough."""
        if not self.seconds:
            self.seconds = time.monotonic() - self.began
            for camera in self.cameras:
                await camera.stop()

    def take(self, before: tuple[Pane, ...], marks: tuple[float, ...]) -> Take:
        """All of it, with what stands to the left of it."""
        panes = tuple(
            Pane(title, width, tuple((at, stage.live(path)) for at, path in camera.pictures))
            for camera, width, title in zip(self.cameras, self.widths, self.titles, strict=True)
        )
        return Take(self.seconds, (*before, *panes), marks)


def _is_by_command(scene: Scene) -> bool:
    return len(scene.looks) == len(scene.commands) > 1


@contextlib.asynccontextmanager
async def looking(page: Page, looks: Sequence[str], seconds: float) -> AsyncIterator[None]:
    """Look from part to part of a page meanwhile. Raises afterwards what came of a part that is not there: the film shows another."""
    task = asyncio.create_task(_look(page, looks, seconds))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _look(page: Page, looks: Sequence[str], seconds: float) -> None:
    # One part of the page after the other, each right below the page's head, which stays where it is.
    for look in looks:
        await page.evaluate(
            """(what) => {
                const head = document.getElementById("top").offsetHeight;
                scrollTo(0, scrollY + document.querySelector(what).getBoundingClientRect().top - head - 16);
            }""",
            look,
        )
        await asyncio.sleep(seconds / len(looks))


def _pane_of(terminal: Terminal, width: int) -> Pane:
    rows = stage.rows_of(terminal.columns, width)
    screens = terminal.screens(rows, GRID_S)
    return Pane(
        TERMINAL_TITLE, width, tuple((at, stage.terminal(text, terminal.columns, width)) for at, text in screens)
    )


def _still(body: str, title: str) -> Take:
    return Take(0.0, (Pane(title, INNER, ((0.0, body),)),))


def reported(scenes: Sequence[Scene], reports: Path = ROOT / "reports") -> dict[str, str] | None:
    """
    What the report says, or None if none was built or nothing is wanted of it. Raises ``StoryboardError`` for one that cannot be read, or does not say or show what
    the scenes want of it: that is found out before anything is recorded.
    """
    wanted = holes(text for scene in scenes for text in (*scene.templates, scene.file))
    wanted = {name for name in wanted if name.startswith(("report.", "figure."))}
    if not wanted:
        return None
    from benchmarks.report import words  # noqa: PLC0415 - it brings numpy and scipy, which take longer than a short film

    try:
        document = json.loads((reports / "results.json").read_text(encoding="utf-8"))
        found = facts.of_report(words.words(document), document["figures"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoryboardError(f"{reports / 'results.json'} cannot be read: {error!r}. Fix: ./flash report") from error
    missing = sorted(wanted - found.keys())
    if missing:
        raise StoryboardError(
            f"the report lacks {', '.join(missing)}. Fix: ./flash bench standard, then ./flash report"
        )
    for scene in scenes:
        if scene.shows is Shows.FIGURE:
            stage.figure(ROOT / fill(scene.file, found))
    return found
