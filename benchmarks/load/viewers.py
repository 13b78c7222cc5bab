"""People who only watch: each follows the live stock of one SKU over Server-Sent Events, and writes down what it was shown.

Law 1: what one connection is told of a SKU never goes backwards. Law 2: whatever anybody is told of one movement is the same, and
PostgreSQL's ledger says so too; whoever runs the crowd compares ``heard`` with it. Law 3: a viewer that loses its stream comes
back by itself with the last id it saw, as a browser does.
"""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import aiohttp

from benchmarks.load.connections import Target
from benchmarks.load.tally import latencies_ms
from flashsale.contract.wire import STOCK_PATH

VIEWERS_MAX = 1000  # they share a process with the shoppers
SILENCE_SECONDS_MAX = 5.0  # a live stream says something every second; past this it counts as lost
CONNECT_SECONDS = 3.0
PAUSE_SECONDS = (
    0.1,
    0.5,
)  # before the next connection, drawn evenly: shorter than a browser's, so that a short sale sees it
FRAME_BYTES_MAX = 64 * 1024  # a snapshot of one SKU is a few hundred bytes; more is not our server
AGES_MAX = 200_000  # ages kept for the percentiles; past it they are only counted


class Event(NamedTuple):
    """One frame of an event stream; ``id`` is None where the frame has none."""

    name: str
    data: str
    id: str | None


class Frames:
    """Bytes of an event stream in, events out (WHATWG HTML §9.2.6, for LF line ends)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that ``data`` completes. Raises ValueError for a frame beyond FRAME_BYTES_MAX."""
        *frames, self._rest = (self._rest + data).split(b"\n\n")
        if len(self._rest) > FRAME_BYTES_MAX:
            raise ValueError(f"a frame is longer than {FRAME_BYTES_MAX} bytes")
        for frame in frames:
            fields = [line.partition(": ") for line in frame.decode().split("\n") if not line.startswith(":")]
            found = {name: value for name, _, value in fields}
            if "data" in found:
                yield Event(found.get("event", "message"), found["data"], found.get("id"))


class Viewers:
    """``count`` viewers of one SKU, spread over the targets in turn."""

    def __init__(self, targets: Sequence[Target], sku: str, count: int) -> None:
        self._targets = targets
        self._sku = sku
        self._count = count
        self._seen: Counter[str] = Counter()
        self._ages_s: list[float] = []
        self._heard: dict[int, int] = {}  # seq -> units available after it
        self._contradictions = 0
        self._backwards = 0
        self._ids = [""] * count  # the last id each heard
        self._last = [-1] * count  # the newest movement each viewer was shown

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """They watch as long as the body runs."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS_MAX)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            tasks = [asyncio.create_task(self._watch(session, number)) for number in range(self._count)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ended:
            if isinstance(end, Exception):
                raise end

    def result(self) -> dict[str, Any]:
        """What they saw, for machines. ``age_ms``: from PostgreSQL's word to the viewer's eye."""
        newest = max(self._last, default=-1)
        return {
            "viewers": self._count,
            "seen": dict(sorted(self._seen.items())),
            "backwards": self._backwards,
            "contradictions": self._contradictions,
            "behind": sum(last < newest for last in self._last),
            "age_ms": latencies_ms(self._ages_s),
            "heard": self._heard,
        }

    async def _watch(self, session: aiohttp.ClientSession, number: int) -> None:
        dice = random.Random(number)
        turn = number
        while True:
            host, port = self._targets[turn % len(self._targets)]
            turn += 1
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}{STOCK_PATH}/stream?sku={self._sku}"
            headers = {"Accept": "text/event-stream"}
            if self._ids[number]:
                headers["Last-Event-ID"] = self._ids[number]
            try:
                async with session.get(url, headers=headers) as response:
                    self._seen[f"status {response.status}"] += 1
                    if response.status == 200:
                        await self._read(response, number)
                        self._seen["ended"] += 1
            except TimeoutError:
                self._seen["silent"] += 1
            except (aiohttp.ClientError, OSError):
                self._seen["lost"] += 1
            await asyncio.sleep(dice.uniform(*PAUSE_SECONDS))

    async def _read(self, response: aiohttp.ClientResponse, number: int) -> None:
        frames, shown = Frames(), -1
        async for data in response.content.iter_any():
            for event in frames.feed(data):
                self._seen[event.name] += 1
                self._ids[number] = event.id or self._ids[number]
                if event.name in {"snapshot", "stock"}:
                    document = json.loads(event.data)
                    for stock in document["stock"] if event.name == "snapshot" else [document]:
                        shown = self._show(number, stock, shown)

    def _show(self, number: int, stock: dict[str, Any], shown: int) -> int:
        seq: int = stock["seq"]
        available: int = stock["available"]
        self._backwards += seq < shown
        self._contradictions += self._heard.setdefault(seq, available) != available
        self._last[number] = max(self._last[number], seq)
        if len(self._ages_s) < AGES_MAX:
            self._ages_s.append(max(0.0, time.time() - datetime.fromisoformat(stock["as_of"]).timestamp()))
        return max(shown, seq)
