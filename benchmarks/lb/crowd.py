"""A crowd of kept connections to one balancer, of which a few ask at a time, each in its turn. A generator of ours: wrk's all ask at once."""

import asyncio
import contextlib
import gc
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, cast

from benchmarks.backend.flood import quantile
from benchmarks.lb.balancers import ANSWER_BYTES

OPENED_AT_ONCE = 100
WITHIN_SECONDS = 60.0  # for everything that is under way to come
OK = b"HTTP/1.1 200"


class Crowd:
    """Connections that all send ``request`` and expect equal answers."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.answer_bytes = 0  # as the first one came
        self.took: list[float] = []
        self.lost = 0
        self._idle: deque[_Client] = deque()
        self._asking = 0
        self._left = 0  # that have their turn whatever the time
        self._until = 0.0
        self._done = asyncio.Event()
        self._learnt = asyncio.Event()

    async def open(self, port: int, count: int, in_flight: int) -> None:
        """Connect so many, and have each ask once. Raises ``RuntimeError``, as ``ask`` does."""
        loop = asyncio.get_running_loop()
        for first in range(0, count, OPENED_AT_ONCE):
            among = range(min(OPENED_AT_ONCE, count - first))
            made = await asyncio.gather(
                *(loop.create_connection(lambda: _Client(self), "127.0.0.1", port) for _ in among)
            )
            self._idle.extend(client for _, client in made)
            if not self.answer_bytes:
                await self._first()
        await self._ask(len(self._idle), in_flight, 0.0)

    async def ask(self, in_flight: int, seconds: float) -> dict[str, Any]:
        """So many ask at a time, for so long. Raises ``RuntimeError`` at an answer that is not like the first, or does not come."""
        self.took.clear()
        began = time.perf_counter()
        await self._ask(in_flight, in_flight, began + seconds)
        return {
            "answers": len(self.took),
            "seconds": time.perf_counter() - began,
            "p50_ms": quantile(self.took, 0.5) * 1e3,
            "p99_ms": quantile(self.took, 0.99) * 1e3,
            "refusals": 0,
            "broken": 0,
        }

    def heard(self, client: "_Client", now: float) -> None:
        """A whole answer came: the next one's turn, while there is time."""
        self.took.append(now - client.asked)
        self._idle.append(client)
        self._asking -= 1
        if now < self._until or self._left > 0:
            self._next()
        elif not self._asking:
            self._done.set()

    def learn(self, answer_bytes: int) -> None:
        """What came first is a whole answer, and so long."""
        self.answer_bytes = answer_bytes
        self._learnt.set()

    def fail(self) -> None:
        """Somebody was not answered as all others."""
        self.lost += 1
        self._done.set()

    def close(self) -> None:
        """All of them, at once."""
        for client in self._idle:
            client.close()

    async def _first(self) -> None:
        self._idle[0].ask(self.request)
        async with asyncio.timeout(WITHIN_SECONDS):
            await self._learnt.wait()

    async def _ask(self, count: int, in_flight: int, until: float) -> None:
        self._until, self._left = until, count
        self._done.clear()
        for _ in range(min(count, in_flight)):
            self._next()
        async with asyncio.timeout(max(until - time.perf_counter(), 0.0) + WITHIN_SECONDS):
            await self._done.wait()
        if self.lost:
            raise RuntimeError(f"{self.lost} connections of a crowd ended, or heard what was not asked for")

    def _next(self) -> None:
        self._left -= 1
        self._asking += 1
        self._idle.popleft().ask(self.request)


@contextlib.asynccontextmanager
async def opened(port: int, count: int, in_flight: int, request: bytes) -> AsyncIterator[Crowd]:
    """All connected, and each answered once. Garbage is not collected meanwhile: of it there is none."""
    crowd = Crowd(request)
    gc.collect()
    gc.disable()
    try:
        await crowd.open(port, count, in_flight)
        yield crowd
    finally:
        gc.enable()
        crowd.close()


class _Client(asyncio.Protocol):
    def __init__(self, crowd: Crowd) -> None:
        self.asked = 0.0
        self.waiting = b""
        self._crowd = crowd
        self._transport: asyncio.Transport

    def ask(self, request: bytes) -> None:
        self.asked = time.perf_counter()
        self._transport.write(request)

    def close(self) -> None:
        self._crowd = Crowd(b"")  # nobody is to hear of it
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        self._crowd.fail()

    def data_received(self, data: bytes) -> None:
        heard = self.waiting + data if self.waiting else data
        wanted = self._crowd.answer_bytes
        if len(heard) == wanted and heard.startswith(OK):
            self.waiting = b""
            self._crowd.heard(self, time.perf_counter())
        elif not wanted and len(heard) == heard.find(b"\r\n\r\n") + 4 + ANSWER_BYTES:
            self.waiting = b""
            self._crowd.learn(len(heard))
        elif not wanted or len(heard) < wanted:
            self.waiting = heard
        else:
            self._crowd.fail()
