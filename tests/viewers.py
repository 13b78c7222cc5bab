"""A viewer of live stock: connects as a browser does, and remembers what it was told."""

import asyncio
import contextlib
import http
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

    def told(self, sku: str) -> list[tuple[int, int]]:
        """Every (seq, available) told of one SKU, in order."""
        return [
            (item["seq"], item["available"])
            for event in self.events
            for item in (event.data["stock"] if event.name == "snapshot" else [event.data])
            if item.get("sku") == sku
        ]

    def seqs(self, sku: str) -> list[int]:
        """Every seq told of one SKU, in order."""
        return [seq for seq, _ in self.told(sku)]

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
    server: str,
    *skus: str,
    headers: dict[str, str] | None = None,
    query: str = "",
    address: str = "127.0.0.1",
    is_patient: bool = True,
) -> AsyncIterator[Viewer]:
    """Watch ``skus`` while inside. Whatever the status is, it is there when this enters.

    Who is patient comes again when sent away without a word, as whoever cannot be shown anything within two seconds is, and has been
    told something when this enters, or that there is nothing to tell.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_SECONDS)
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        url = f"{server}{wire.PATH}?sku={','.join(skus)}{query}"
        began = time.monotonic()
        while True:
            viewer = Viewer()
            async with session.get(url, headers={"Accept": wire.CONTENT_TYPE, **(headers or {})}) as answer:
                viewer.status, viewer.headers = answer.status, dict(answer.headers)
                reading = asyncio.create_task(_read(answer, viewer))
                try:
                    if is_patient and viewer.status == http.HTTPStatus.OK:
                        await viewer.until(lambda viewer: viewer.events or viewer.ended, "a first word")
                        if not viewer.events and time.monotonic() - began < PATIENCE_SECONDS:
                            continue
                    yield viewer
                    return
                finally:
                    reading.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await reading


class Browser:
    """An EventSource: it comes back when it was told to and says what it saw last; 204, or any error status, is its end.

    ``told`` is every (seq, available) it was told of its SKU, whoever told it.
    """

    def __init__(self, server: str, sku: str) -> None:
        self.viewers: list[Viewer] = []  # one per answer
        self._server = server
        self.sku = sku
        self._last_id = ""
        self._cut = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    @property
    def told(self) -> list[tuple[int, int]]:
        return [told for viewer in self.viewers for told in viewer.told(self.sku)]

    def cut(self) -> None:
        """Its network fails, for a moment."""
        self._cut.set()

    async def _run(self) -> None:
        while True:
            headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
            async with viewing(self._server, self.sku, headers=headers, is_patient=False) as viewer:
                self.viewers.append(viewer)
                if viewer.status != http.HTTPStatus.OK:
                    return
                while viewer.ended is None and not self._cut.is_set():
                    await asyncio.sleep(0.02)
            self._cut.clear()
            self._last_id = viewer.events[-1].last_id if viewer.events else self._last_id
            await asyncio.sleep(viewer.retry_ms / 1000)


@contextlib.asynccontextmanager
async def browsing(number: int, server: str, sku: str) -> AsyncIterator[list[Browser]]:
    """So many browsers, closed afterwards. One whose stream broke in a way that a browser does not survive is raised."""
    browsers = [Browser(server, sku) for _ in range(number)]
    try:
        yield browsers
    finally:
        for browser in browsers:
            browser.task.cancel()
        ended = await asyncio.gather(*(browser.task for browser in browsers), return_exceptions=True)
        broken = [error for error in ended if isinstance(error, Exception)]
    if broken:
        raise ExceptionGroup("browsers", broken)


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
