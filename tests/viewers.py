"""A viewer of live stock: connects as a browser does, and remembers what it was told."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from flashsale.stream import wire
from tests.patience import PATIENCE_SECONDS


@dataclass
class Event:
    """One event as a browser dispatches it; ``last_id`` is what the browser would come back with."""

    name: str
    data: Any
    last_id: str


@dataclass
class Viewer:
    """``ended`` is the monotonic time at which the server closed, if it did."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    retry_ms: int = 0
    events: list[Event] = field(default_factory=list)
    ended: float | None = None
    text: str = ""

    def of(self, name: str) -> list[Any]:
        """The data of all events of one name."""
        return [event.data for event in self.events if event.name == name]

    def available(self, sku: str) -> int | None:
        """The number a page would show now."""
        shown = None
        for event in self.events:
            for item in event.data["stock"] if event.name == "snapshot" else [event.data]:
                if item.get("sku") == sku:
                    shown = item["available"]
        return shown

    def seqs(self, sku: str) -> list[int]:
        """Every seq told of one SKU, in order."""
        return [
            item["seq"]
            for event in self.events
            for item in (event.data["stock"] if event.name == "snapshot" else [event.data])
            if item.get("sku") == sku
        ]

    def states(self, sale: str) -> list[str]:
        """Every state told of one sale, in order."""
        return [
            item["state"]
            for event in self.events
            for item in (event.data["sales"] if event.name == "snapshot" else [event.data])
            if item.get("sale") == sale
        ]

    async def shows(self, sku: str, units: int) -> None:
        """Wait until a page would show so many units."""
        await self.until(lambda viewer: viewer.available(sku) == units, f"{sku}: {units}")

    async def until(self, what: "Callable[[Viewer], object]", why: str = "") -> None:
        """Wait for something that must come."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not what(self):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"never came: {why}; heard {self.events[-5:]}, ended {self.ended}") from None


@contextlib.asynccontextmanager
async def viewing(
    server: str, *skus: str, headers: dict[str, str] | None = None, query: str = "", address: str = "127.0.0.1"
) -> AsyncIterator[Viewer]:
    """Watch ``skus`` while inside. Whatever the status is, it is there when this enters."""
    viewer = Viewer()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_SECONDS)
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        url = f"{server}{wire.PATH}?sku={','.join(skus)}{query}"
        async with session.get(url, headers={"Accept": wire.CONTENT_TYPE, **(headers or {})}) as answer:
            viewer.status, viewer.headers = answer.status, dict(answer.headers)
            reading = asyncio.create_task(_read(answer, viewer))
            try:
                yield viewer
            finally:
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading


async def _read(answer: aiohttp.ClientResponse, viewer: Viewer) -> None:
    fields: dict[str, str] = {}
    last_id = ""
    with contextlib.suppress(aiohttp.ClientError):
        while raw := await answer.content.readline():
            viewer.text += raw.decode()
            line = raw.decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            viewer.retry_ms = int(fields.pop("retry", viewer.retry_ms))
            last_id = fields.pop("id", last_id)
            if "data" in fields:
                viewer.events.append(Event(fields["event"], json.loads(fields["data"]), last_id))
            fields = {}
    viewer.ended = time.monotonic()
