"""
A page that is recorded while it lives: Chromium hands over a picture whenever it has painted one.

It paints the next one when it was told that the last was taken, so whoever takes his time gets fewer: that is the bound. A steady rate of
screenshots was tried and makes a busy machine paint what nobody changed.
"""

import asyncio
import base64
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import CDPSession, Page

PICTURES_PER_S = 4.0
PICTURES_MAX = 2000


@dataclass
class Camera:
    """One page, from ``began`` on; its pictures go to files that begin with ``stem``."""

    page: Page
    stem: Path
    began: float
    pictures: list[tuple[float, Path]] = field(default_factory=list)
    _session: CDPSession | None = None
    _waiting: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """From now on. The first picture is what is there."""
        await self.take()
        session = await self.page.context.new_cdp_session(self.page)
        session.on("Page.screencastFrame", self._painted)
        await session.send("Page.startScreencast", {"format": "png"})
        self._session = session

    async def stop(self) -> None:
        """No more; the last picture is what is there in the end."""
        if self._session is not None:
            await self._session.send("Page.stopScreencast")
            await self._session.detach()
            self._session = None
        for task in self._waiting:
            task.cancel()
        await self.take()

    async def take(self) -> None:
        """One picture, whether anything changed or not."""
        self._keep(await self.page.screenshot())

    def _painted(self, event: dict[str, Any]) -> None:
        if self._session is None or len(self.pictures) >= PICTURES_MAX:
            return
        self._keep(base64.b64decode(event["data"]))
        task = asyncio.get_running_loop().create_task(self._taken(self._session, event["sessionId"]))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _taken(self, session: CDPSession, number: int) -> None:
        await asyncio.sleep(1 / PICTURES_PER_S)
        if self._session is session:
            await session.send("Page.screencastFrameAck", {"sessionId": number})

    def _keep(self, data: bytes) -> None:
        path = self.stem.with_name(f"{self.stem.name}-{len(self.pictures):04d}.png")
        path.write_bytes(data)
        self.pictures.append((time.monotonic() - self.began, path))
