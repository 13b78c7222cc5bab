"""A small HTTP/1.1 client: bounded keep-alive connections, one request at a time on each.

Our own, because the shoppers share two cores with the server they measure: a general client costs several times as much CPU
per request. It speaks what the contract's JSON answers need (Content-Length, keep-alive) and calls everything else garbled.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple, cast
from urllib.parse import urlsplit

CONNECT_SECONDS = 2.0  # a listener that does not accept by then is down for this try
ANSWER_BYTES_MAX = 256 * 1024  # the longest purchase is a few KiB; more is not our server

REFUSED, UNREACHED = "connection refused", "no connection"
NEVER_SENT = frozenset({REFUSED, UNREACHED})  # the server cannot have seen the request

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d{1,5})\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class Target(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


class Reply(NamedTuple):
    """An answer; ``retry_after`` in seconds, None when the header is missing."""

    status: int
    body: bytes
    retry_after: int | None


class NoAnswerError(Exception):
    """No usable answer came; ``why`` in two words. Unless it is one of NEVER_SENT the outcome of the request is unknown."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Connections:
    """At most ``limit`` connections over all targets; a request waits for a free one in order of arrival."""

    def __init__(self, targets: Sequence[Target], limit: int) -> None:
        self._targets = targets
        self._limit = limit
        self._in_use = 0
        self._permits = asyncio.Semaphore(limit)
        self._idle: list[list[_Connection]] = [[] for _ in targets]

    async def ask(self, request: bytes, within_s: float, turn: int = 0) -> Reply:
        """The reply to ``request`` of the target whose turn it is. ``within_s`` counts from the moment a connection is free.

        Raises NoAnswerError.
        """
        place = turn % len(self._targets)
        async with self._permits:
            self._in_use += 1
            try:
                connection = _take(self._idle[place]) or await self._open(place)
                try:
                    return await connection.ask(request, within_s)
                finally:
                    if connection.usable:
                        self._idle[place].append(connection)
            finally:
                self._in_use -= 1

    @property
    def busy(self) -> bool:
        """Would a request have to wait for a connection?"""
        return self._permits.locked()

    def close(self) -> None:
        for idle in self._idle:
            for connection in idle:
                connection.abort()

    async def _open(self, place: int) -> "_Connection":
        target = self._targets[place]
        longest = max(self._idle, key=len)
        if longest and self._in_use + sum(map(len, self._idle)) > self._limit:
            longest.pop(0).abort()  # another target's: this one has none to spare
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, target.host, target.port
                )
        except ConnectionRefusedError as error:
            raise NoAnswerError(REFUSED) from error
        except (OSError, TimeoutError) as error:
            raise NoAnswerError(UNREACHED) from error
        return connection


def _take(idle: "list[_Connection]") -> "_Connection | None":
    while idle:
        connection = idle.pop()
        if connection.usable:
            return connection
    return None


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._body_from = 0  # 0: the head is not complete yet
        self._ends = 0
        self._waiter: asyncio.Future[Reply] | None = None
        self.usable = True

    async def ask(self, request: bytes, within_s: float) -> Reply:
        assert self._transport is not None
        self._received, self._body_from = b"", 0
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(within_s, self._fail, "time-out")
        self._transport.write(request)
        try:
            return await self._waiter
        finally:
            timer.cancel()
            if not self._waiter.done() or self._waiter.cancelled():
                self.abort()  # whatever still comes belongs to nobody

    def abort(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its class

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.abort()  # bytes that nobody asked for: the stream is out of step
            return
        self._received = self._received + data if self._received else data
        if not self._body_from and not self._read_head():
            return
        if len(self._received) >= self._ends:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._fail("connection reset")

    def _read_head(self) -> bool:
        end = self._received.find(_HEAD_END)
        if end < 0:
            if len(self._received) > ANSWER_BYTES_MAX:
                self._fail("garbled answer")
            return False
        length = _LENGTH.search(self._received, 0, end + 2)
        if length is None or int(length[1]) > ANSWER_BYTES_MAX or not self._received.startswith(b"HTTP/1.1 "):
            self._fail("garbled answer")
            return False
        self._body_from = end + len(_HEAD_END)
        self._ends = self._body_from + int(length[1])
        return True

    def _finish(self) -> None:
        assert self._waiter is not None
        head_end = self._body_from - 2
        retry_after = _RETRY_AFTER.search(self._received, 0, head_end)
        if len(self._received) > self._ends or _CLOSE.search(self._received, 0, head_end):
            self.abort()
        try:
            status = int(self._received[9:12])
        except ValueError:
            self._fail("garbled answer")
            return
        body = self._received[self._body_from : self._ends]
        self._waiter.set_result(Reply(status, body, int(retry_after[1]) if retry_after else None))

    def _fail(self, why: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(NoAnswerError(why))
        self.abort()


def parse_targets(text: str) -> list[Target]:
    """Targets from ``http://host:port,http://host:port``. Raises ValueError naming the one that is wrong."""
    targets = []
    for url in text.split(","):
        parts = urlsplit(url.strip())
        if parts.scheme != "http" or not parts.hostname or not parts.port or parts.path not in {"", "/"}:
            raise ValueError(f"{url.strip()!r} is not http://host:port")
        targets.append(Target(parts.hostname, parts.port))
    return targets
