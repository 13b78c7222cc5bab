"""A TCP proxy between a process and a service, for the faults that only a network has: refuse, freeze, swallow replies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from tests.databases import Address
from tests.listeners import shut
from tests.servers import free_port

CHUNK_BYTES = 65_536

Down = Literal["refused", "frozen"]  # the two ways in which a service can be gone


class Proxy:
    """Forwards bytes both ways until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.swallows_replies = False
        self.port = free_port()

    async def open(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def refuse(self) -> None:
        """As if the service were stopped: no connection is accepted, and those that stand break."""
        assert self._server is not None
        await shut(self._server)
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def freeze(self) -> None:
        """As if the service hung: connections stand, and nothing comes through in either direction."""
        self._flows.clear()

    def thaw(self) -> None:
        """Let everything that was held up through."""
        self._flows.set()

    @contextlib.asynccontextmanager
    async def down(self, how: Down) -> AsyncIterator[None]:
        """Refused or frozen while inside, and well again afterwards."""
        if how == "refused":
            await self.refuse()
        else:
            self.freeze()
        try:
            yield
        finally:
            if how == "refused":
                await self.open()
            else:
                self.thaw()

    def lead(self, url: str) -> str:
        """``url`` through this proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return Address(urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}")))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
            with contextlib.closing(there_writer):
                await _first_to_end(
                    self._pump(reader, there_writer, replies=False),
                    self._pump(there_reader, writer, replies=True),
                )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flows.wait()
                if not (replies and self.swallows_replies):
                    writer.write(data)
                    await writer.drain()


async def _first_to_end(*directions: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.create_task(direction) for direction in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy to the service at ``url``."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    proxy = Proxy(parts.hostname, parts.port)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.refuse()
