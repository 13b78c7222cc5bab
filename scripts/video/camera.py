"""
A page that is recorded while it lives: Chromium hands over a picture whenever it has painted one.

It paints the next one when it was told that the last was taken, so whoever takes his time gets fewer: that is the bound. Screenshots are not
taken: a steady rate of them makes a busy machine paint what nobody changed, and one beside this came back never.
"""

import asyncio
import base64
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import CDPSession, Error, Page

PICTURES_PER_S = 4.0
PICTURES_MAX = 2000
FIRST_WITHIN_S = 120.0


class CameraError(Exception):
    """A page that shows nothing."""


@dataclass
class Camera:
    """One page, from ``began`` on; its pictures go to files that begin with ``stem``."""

    page: Page
    stem: Path
    began: float
    pictures: list[tuple[float, Path]] = field(default_factory=list)
    _session: CDPSession | None = None
    _seen: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """From now on. The first picture is what is there. Raises ``CameraError`` when there is none."""
        session = await self.page.context.new_cdp_session(self.page)
        session.on("Page.screencastFrame", self._painted)
        self._session = session
        await session.send("Page.startScreencast", {"format": "png"})
        try:
            async with asyncio.timeout(FIRST_WITHIN_S):
                await self._seen.wait()
        except TimeoutError:
            raise CameraError(f"Chromium painted nothing of {self.page.url} within {FIRST_WITHIN_S:.0f} s") from None

    async def stop(self) -> None:
        """No more; the last picture is what is there in the end."""
        session, self._session = self._session, None
        for task in self._waiting:
            task.cancel()
        if session is not None:
            await session.send("Page.stopScreencast")
            await session.detach()

    def _painted(self, event: dict[str, Any]) -> None:
        if self._session is None or len(self.pictures) >= PICTURES_MAX:
            return
        path = self.stem.with_name(f"{self.stem.name}-{len(self.pictures):04d}.png")
        path.write_bytes(base64.b64decode(event["data"]))
        self.pictures.append((time.monotonic() - self.began, path))
        self._seen.set()
        task = asyncio.get_running_loop().create_task(self._taken(self._session, event["sessionId"]))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _taken(self, session: CDPSession, number: int) -> None:
        await asyncio.sleep(1 / PICTURES_PER_S)
        with contextlib.suppress(Error):  # the page may be gone by then
            await session.send("Page.screencastFrameAck", {"sessionId": number})
