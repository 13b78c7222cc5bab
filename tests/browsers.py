"""Chromium for tests, where ``./flash test`` found it. A page that breaks its own security policy fails its test."""

import contextlib
import os
from collections.abc import AsyncIterator

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, ViewportSize, async_playwright

from tests.databases import told
from tests.patience import PATIENCE_MS

DESKTOP = ViewportSize(width=1280, height=900)
PHONE = ViewportSize(width=320, height=640)
# WCAG 2 A and AA, of what is shown; axe's own best practices are opinions. What passes is not described: most of a look would be that.
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}
# Without a graphics card each frame of an animation costs the processor, in every tab, and tests look at none.
QUIET = {"locale": "en-GB", "reduced_motion": "reduce"}
START_MS = 2 * PATIENCE_MS  # for a browser of its own; many tests share one, and would all fail with it

# Told through the console, because that is where a test listens.
TELL_VIOLATIONS = """addEventListener("securitypolicyviolation", (event) =>
    console.error("policy violation: " + event.violatedDirective + " " + event.blockedURI))"""


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A headless browser, for one test."""
    # root is the one user whom Chromium's sandbox does not serve
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=told("FLASH_TEST_CHROMIUM"),
            args=[*arguments, "--disable-dev-shm-usage"],
            timeout=START_MS,
        )
        try:
            yield browser
        finally:
            await browser.close()


class Complaints:
    """What the pages of a visitor said on their consoles, and what they threw."""

    def __init__(self, visitor: BrowserContext) -> None:
        self.all: list[str] = []
        visitor.on("console", self._said)
        visitor.on("weberror", lambda error: self.all.append(str(error.error)))

    @property
    def of_the_page(self) -> list[str]:
        """Without those of the network: a refusal or a dead server is an error to a browser, and not to us."""
        return [text for text in self.all if not text.startswith("Failed to load resource")]

    def _said(self, message: ConsoleMessage) -> None:
        # A server under load may say "later", which the page has to live with and its console shows.
        if message.type in {"error", "warning"} and "status of 503" not in message.text:
            self.all.append(message.text)


@contextlib.asynccontextmanager
async def visit(
    browser: Browser, url: str, viewport: ViewportSize = DESKTOP, **context: str
) -> AsyncIterator[tuple[Page, Complaints]]:
    """A buyer of their own, with a storage of their own, on the page at ``url``."""
    visitor = await browser.new_context(viewport=viewport, **{**QUIET, **context})  # type: ignore[arg-type]
    try:
        visitor.set_default_timeout(PATIENCE_MS)
        await visitor.add_init_script(TELL_VIOLATIONS)
        complaints = Complaints(visitor)
        page = await visitor.new_page()
        await page.goto(url)
        yield page, complaints
        assert complaints.of_the_page == []
    finally:
        await visitor.close()
