"""The stage: one page in Chromium on which every picture of the film is set, so that all of it has one look."""

import asyncio
import contextlib
import html
import os
import re
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from playwright.async_api import Browser, Error, Page, async_playwright

from scripts.video.cut import Picture
from scripts.video.film import HEIGHT, WIDTH

HERE = Path(__file__).resolve().parent
STAGE = HERE / "stage.html"
INNER = 1240  # pixels that panes share
GAP = 14
PANE_HEIGHT = 548  # inside its border
CHAR_WIDTH = 0.602  # of DejaVu Sans Mono, by its size
LINE_HEIGHT = 1.4
TERMINAL_MARGINS = (34, 28)
FONT_MAX = 18.0
LARGE_CHARS_MAX = 420  # of a card; more does not fit in the larger letters
START_MS = 120_000
PNG = b"\x89PNG\r\n\x1a\n"
FIGURE_HEIGHT = 572
FIGURE_WIDTH = 1000  # at which letters of eight points are as large as the terminal's
FIGURE_WIDTH_MIN = 820  # narrower, they are too small
FIGURE_OVERLAP = 120  # of two parts, so that nothing is cut in both


class StageError(Exception):
    """Why nothing can be shown."""


@contextlib.asynccontextmanager
async def chromium(executable: Path) -> AsyncIterator[Browser]:
    """A browser without a window. Raises ``StageError`` if it does not start."""
    # root is the one user whom Chromium's sandbox does not serve
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(
                executable_path=executable,
                args=[*arguments, "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb"],
                timeout=START_MS,
            )
        except Error as error:
            raise StageError(
                f"{executable} does not start: {error.message.splitlines()[0]}. Fix: apt-get install chromium (as root), or set "
                "FLASH_TEST_CHROMIUM to one"
            ) from error
        try:
            yield browser
        finally:
            await browser.close()


async def draw(browser: Browser, pictures: Sequence[tuple[str, Picture]], folder: Path) -> list[tuple[Path, float]]:
    """Each picture as a file, with the seconds it stands; ``pictures`` come with their place in the film. Equal neighbours are one."""
    page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(START_MS)
    await page.goto(STAGE.as_uri())
    shots: list[tuple[Path, float]] = []
    last: object = None
    for place, picture in pictures:
        looks = (place, picture.heading, picture.caption, picture.faster, picture.panes)
        if looks == last:
            path, seconds = shots[-1]
            shots[-1] = (path, seconds + picture.seconds)
            continue
        last = looks
        await _show(page, place, picture)
        path = folder / f"picture-{len(shots):05d}.png"
        await asyncio.to_thread(path.write_bytes, await page.screenshot())
        shots.append((path, picture.seconds))
    await page.close()
    return shots


async def _show(page: Page, place: str, picture: Picture) -> None:
    await page.evaluate(
        "(picture) => show(picture)",
        {
            "heading": marked_up(picture.heading),
            "faster": html.escape(picture.faster),
            "place": html.escape(place),
            "caption": marked_up(picture.caption),
            "panes": [list(pane) for pane in picture.panes],
        },
    )


def marked_up(text: str) -> str:
    """Text with `code` in it, as HTML."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def font_of(columns: int, width: int) -> float:
    """The size at which so many columns fill a terminal of this width."""
    return min(FONT_MAX, (width - TERMINAL_MARGINS[0]) / columns / CHAR_WIDTH)


def rows_of(columns: int, width: int) -> int:
    """How many lines it then has."""
    return int((PANE_HEIGHT - TERMINAL_MARGINS[1]) / (font_of(columns, width) * LINE_HEIGHT))


def terminal(screen: str, columns: int, width: int) -> str:
    """A terminal's screen."""
    return f'<pre class="terminal" style="font-size:{font_of(columns, width):.2f}px">{screen}</pre>'


def live(picture: Path) -> str:
    """A picture of a page that was recorded."""
    return f'<img class="live" src="{picture.resolve().as_uri()}">'


def card(lines: Sequence[str], picture: str) -> str:
    """Lines of text, the first of them large; or a drawing of this folder."""
    if picture:
        return f'<div class="drawing">{(HERE / picture).read_text(encoding="utf-8")}</div>'
    kind = "card short" if sum(map(len, lines)) > LARGE_CHARS_MAX else "card"
    return f'<div class="{kind}">{"".join(f"<p>{marked_up(line)}</p>" for line in lines)}</div>'


def figure(path: Path) -> list[str]:
    """A figure of a report: whole if it can be read so, else its parts from top to bottom. Raises ``StageError``."""
    try:
        with path.open("rb") as file:
            head = file.read(24)  # of a PNG: its name, then the first piece, which begins with width and height
        if head[:8] != PNG:
            raise StageError(f"{path} is no PNG. Fix: ./flash report")
        wide, high = struct.unpack(">II", head[16:24])
    except OSError as error:
        raise StageError(f"{path} cannot be read: {error}. Fix: ./flash report") from error
    width = min(INNER, FIGURE_HEIGHT * wide // high)
    if width < FIGURE_WIDTH_MIN:
        width = FIGURE_WIDTH
    hidden = max(0, width * high // wide - FIGURE_HEIGHT)
    parts = 1 + -(-hidden // (FIGURE_HEIGHT - FIGURE_OVERLAP))
    image = f'<img src="{path.resolve().as_uri()}" style="width:{width}px;margin-top:-{{offset}}px">'
    return [
        f'<div class="figure"><div>{image.format(offset=hidden * part // max(1, parts - 1))}</div></div>'
        for part in range(parts)
    ]
