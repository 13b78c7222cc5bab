"""The port: who is connected, what they share, and how they leave."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import NamedTuple

from flashsale.lane.answer import Answer
from flashsale.lane.connection import Connection
from flashsale.lane.plain import reader, skimmer
from flashsale.lane.promised import Promised
from flashsale.lane.sequence import SEQUENCE_FIELD

TICK_SECONDS = 0.25
PARTIAL_TICKS = 2  # half a request is waited for so long; then whoever stands behind deals with its client
IDLE_TICKS = 300  # 75 s: a balancer keeps its idle connections for a few seconds, a browser for a minute
LAST_SECONDS = 0.1  # for requests that are on their way when the stop comes


class Route(NamedTuple):
    """What the lane takes: ``POST path`` with JSON in one piece.

    ``begin`` is given the values of the header fields ``names``, None for one that is not there, and the body. It answers, or promises
    to; neither raises. ``is_full`` is told how many are worked on: whoever comes then hears ``busy``,
    nothing that they sent is looked at, and ``shed`` is told how many they were.
    """

    path: str
    names: Sequence[str]
    body_bytes_max: int
    begin: Callable[[Sequence[str | None], bytes], Answer | Promised]
    is_full: Callable[[int], bool]
    busy: Answer
    shed: Callable[[int], None]


class Listener:
    """Connections of one port. ``behind`` makes the protocol for everything that is not the lane's."""

    def __init__(self, route: Route, behind: Callable[[], asyncio.Protocol], server_name: str) -> None:
        self.route = route
        self.behind = behind
        self.loop = asyncio.get_running_loop()
        self.line = f"POST {route.path} HTTP/1.1\r\n".encode()
        self.read = reader(self.line, (*route.names, SEQUENCE_FIELD))
        self.skim = skimmer(self.line)
        self.is_draining = False
        self.now = 0  # ticks
        self.tail = b""  # of every answer
        self.connections: set[Connection] = set()
        self.partial: set[Connection] = set()  # who wait for the rest of a request
        self.working: set[object] = set()  # what is being answered, also after its client left
        self._server_name = server_name
        self._server: asyncio.Server | None = None
        self._dirty: list[Connection] = []
        self._ticking: asyncio.TimerHandle | None = None
        self._is_idle = asyncio.Event()

    async def open(self, host: str, port: int, backlog: int) -> None:
        """Accept connections. Raises ``OSError``."""
        self._tick()
        self._server = await self.loop.create_server(
            lambda: Connection(self), host, port, backlog=backlog, reuse_address=True
        )

    async def close(self, within_s: float) -> None:
        """No new connection, a moment later no new request; what came before is answered, within ``within_s``.

        What the protocol behind has for good is its own to end.
        """
        if self._server is not None:
            self._server.close()
        await asyncio.sleep(LAST_SECONDS)
        await asyncio.sleep(0)  # a busy loop comes to this before it comes to what its sockets have got meanwhile
        self.is_draining = True
        for connection in tuple(self.connections):
            connection.end_if_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.working or self._dirty or any(connection.is_asked for connection in self.connections):
                    self._is_idle.clear()
                    await self._is_idle.wait()
        for connection in tuple(self.connections):
            connection.end_if_asked()
        if self._ticking is not None:
            self._ticking.cancel()

    def flush_soon(self, connection: Connection) -> None:
        """Let it write and go on at the end of this loop turn."""
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(connection)

    def opened(self, connection: Connection, transport: asyncio.Transport) -> None:
        """It is connected."""
        self.connections.add(connection)
        raw: socket.socket | None = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self.connections.discard(connection)
        self.partial.discard(connection)
        self._is_idle.set()

    def answered(self, slot: object) -> None:
        """One less to be worked on."""
        self.working.discard(slot)
        self._is_idle.set()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def _tick(self) -> None:
        self._ticking = self.loop.call_later(TICK_SECONDS, self._tick)  # first: one connection must not stop the clock
        self.now += 1
        self.tail = f"Date: {formatdate(usegmt=True)}\r\nServer: {self._server_name}\r\n".encode()
        for connection in tuple(self.partial):
            if self.now - connection.heard > PARTIAL_TICKS:
                connection.give_up()
        if self.now % IDLE_TICKS == 0:
            for connection in tuple(self.connections):
                if self.now - connection.heard > IDLE_TICKS:
                    connection.end_if_idle()
