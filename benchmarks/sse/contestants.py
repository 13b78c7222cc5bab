"""Who is compared: ours on either backend, and nginx with nchan. How each is started, asked for a stream, and told of a change."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from redis.asyncio import Redis

from benchmarks.backend import servers
from benchmarks.backend.field import OFF, Field
from benchmarks.backend.servers import process
from benchmarks.backend.shop import PLENTY
from benchmarks.lb import balancers
from benchmarks.sse.crowd import Asks
from flashsale.authority.client import Authority
from flashsale.contract import wire
from flashsale.stack.processes import free_port
from flashsale.stream import wakeup
from flashsale.stream import wire as stream_wire

NCHAN = "nginx + nchan"
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
PUBLISH_PATH, SUBSCRIBE_PATH = "/publish", "/subscribe"
MEMORY_MIB = 256  # that nchan may take: more than a run fills
MESSAGES_MAX = 10_000  # that it keeps for whoever is behind
SALE, SKU, SHORT = "sse", "bench-sse", "bench-sse-short"  # of the last there is one, by which a gate is known


class Publisher(Protocol):
    """Changes one item, as often as it is told to."""

    @property
    def seq(self) -> int:
        """The number of the last change."""

    async def publish(self) -> int:
        """One more change: the moment, in ns of the monotonic clock, from which on it can be told."""

    async def flush(self) -> None:
        """Return when everything that was published has been taken. Raises ``RuntimeError`` if anything was not."""


class Streaming(NamedTuple):
    """A server that streams."""

    pid: int
    port: int
    asks: Asks
    publisher: Publisher


Start = Callable[[Field, int, int], AbstractAsyncContextManager[Streaming]]


class Contestant(NamedTuple):
    """A server under a name. ``start`` is told the changes a second and the viewers that it will have."""

    name: str
    start: Start


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: shop.example\r\nAccept: text/event-stream\r\n\r\n".encode()


OURS_ASKS = Asks(_request(f"{stream_wire.PATH}?sku={SKU}"), b"event: snapshot\n")
NCHAN_ASKS = Asks(_request(SUBSCRIBE_PATH), b"HTTP/1.1 200 ")


def settings(hertz: int, viewers: int) -> dict[str, str]:
    """Of a server of ours; all viewers come from one address."""
    places = str(viewers + 100)
    return {
        "FLASH_SSE_HZ": str(hertz),
        "FLASH_SSE_VIEWERS_MAX": places,
        "FLASH_SSE_ADDRESS_VIEWERS_MAX": places,
    }


class Shelf:
    """A change of ours: PostgreSQL's row, committed, and the word that wakes the hubs."""

    def __init__(self, authority: Authority, redis: Redis, seq: int) -> None:
        self._authority = authority
        self._redis = redis
        self.seq = seq

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, field: Field) -> AsyncIterator["Shelf"]:
        """Of the item that everybody watches, whose sale is made if it is not there."""
        authority = await Authority.connect(field.environment["FLASH_POSTGRES_URL"], size=1)
        redis = Redis.from_url(field.environment["FLASH_REDIS_URL"])
        try:
            stock = await authority.read_stock(SKU)
            if stock is None:
                await field.shop.open_sale(SALE, {SKU: PLENTY, SHORT: 1})
                stock = await authority.read_stock(SKU)
            assert stock is not None, "it was made"
            yield cls(authority, redis, stock.seq)
        finally:
            await redis.aclose()
            await authority.close()

    async def look(self) -> None:
        """Others changed it: count from here."""
        stock = await self._authority.read_stock(SKU)
        assert stock is not None, "it is watched"
        self.seq = stock.seq

    async def publish(self) -> int:
        """One unit more."""
        await self._authority.restock(SKU, 1)
        self.seq += 1
        committed = time.monotonic_ns()
        await self._redis.publish(wakeup.CHANNEL, wakeup.encode([SKU]))
        return committed

    async def flush(self) -> None:
        """Nothing is on its way."""


class Poster:
    """A change for nchan: a POST with the same object. They are pipelined, for nchan may be busy telling of the last one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._owed = 0
        self.seq = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator["Poster"]:
        """At nchan's port."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def publish(self) -> int:
        """As ours would say it."""
        self.seq += 1
        as_of = wire.timestamp(datetime.now(UTC))
        document = {"sku": SKU, "available": PLENTY + self.seq, "seq": self.seq, "as_of": as_of}
        body = json.dumps(document, separators=(",", ":")).encode()
        head = (
            f"POST {PUBLISH_PATH} HTTP/1.1\r\nHost: shop.example\r\nX-EventSource-Event: stock\r\n"
            f"Content-Type: {wire.JSON_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._owed += 1
        sent = time.monotonic_ns()
        self._writer.write(head.encode() + body)
        return sent

    async def flush(self) -> None:
        """All answers."""
        while self._owed:
            head = await self._reader.readuntil(b"\r\n\r\n")
            if not head.startswith((b"HTTP/1.1 201", b"HTTP/1.1 202")):
                raise RuntimeError(f"nchan did not take a message: {head!r}")
            fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
            await self._reader.readexactly(int(fields.get(b"content-length", b"0")))
            self._owed -= 1


def ours(of: servers.Contestant, name: str) -> Contestant:
    """One process on its core, with the stream it has."""

    @contextlib.asynccontextmanager
    async def start(field: Field, hertz: int, viewers: int) -> AsyncIterator[Streaming]:
        environment = {**field.environment, **settings(hertz, viewers)}
        async with Shelf.open(field) as shelf, servers.running(of, OFF, environment, {field.core}) as server:
            yield Streaming(server.pid, server.port, OURS_ASKS, shelf)

    return Contestant(name, start)


@contextlib.asynccontextmanager
async def _nchan(field: Field, hertz: int, viewers: int) -> AsyncIterator[Streaming]:  # noqa: ARG001 - it has no such limits
    port = free_port()
    given = balancers.Given(
        field.environment,
        balancers.folder_of(field.folder, "nchan"),
        port,
        0,
        balancers.Upstream(0, 0, field.folder),
    )
    start = balancers.nginx(
        given,
        f"""
    nchan_shared_memory_size {MEMORY_MIB}M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = {PUBLISH_PATH} {{
            nchan_publisher;
            nchan_channel_id bench;
            nchan_message_buffer_length {MESSAGES_MAX};
            nchan_message_timeout 10m;
        }}
        location = {SUBSCRIBE_PATH} {{
            nchan_subscriber eventsource;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
        }}
    }}""",
        top=f"load_module {MODULE};",
    )
    async with process(NCHAN, start.command, start.environment, {field.core}, port) as pid, Poster.open(port) as poster:
        yield Streaming(pid, port, NCHAN_ASKS, poster)


ASYNCIO, GEVENT = ours(servers.OURS, "ours, asyncio"), ours(servers.EDGE, "ours, gevent")


def find(field: Field) -> tuple[list[Contestant], list[str]]:
    """Ours, and nchan if it can run here; otherwise a word about it."""
    both = [ASYNCIO, GEVENT]
    if not MODULE.exists() or not balancers.has("nginx", field.environment):
        return both, [f"{NCHAN} is left out: there is no libnginx-mod-nchan."]
    return [ASYNCIO, Contestant(NCHAN, _nchan), GEVENT], []
