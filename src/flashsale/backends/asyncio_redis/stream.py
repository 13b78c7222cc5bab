"""Live stock on this backend's loop: reads PostgreSQL for the hub, listens for wake-ups, and carries frames to sockets."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Collection
from typing import cast

import structlog
from aiohttp import web
from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.authority.client import Authority, AuthorityUnavailable
from flashsale.lane.answer import encode_chunk
from flashsale.lane.connection import hand_over
from flashsale.stream import hub, wakeup, wire
from flashsale.stream.metrics import StreamMetrics

FIRST_WORD_SECONDS = 2.0  # until a viewer must be answered, with or without PostgreSQL; one reading takes less or fails
CONNECT_SECONDS = 1.0
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
LAST_CHUNK = b"0\r\n\r\n"
RECONNECT_SECONDS = 0.5  # between tries to hear wake-ups; the beat carries on meanwhile

log = structlog.get_logger()


class Stream:
    """The viewers of this process. ``authority`` is its own: behind other readers the numbers would grow old."""

    def __init__(
        self,
        authority: Authority,
        redis_url: str,
        limits: hub.Limits,
        woken: Callable[[Collection[str] | None], None],
        metrics: StreamMetrics,
    ) -> None:
        """``woken`` hears of every wake-up too; it may not wait."""
        self._authority = authority
        # one connection that listens; the kernel finds out when nobody is at its other end any more
        self._redis = Redis.from_url(
            redis_url,
            retry=None,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_SECONDS,
            socket_keepalive=True,
            socket_keepalive_options=KEEPALIVE,
        )
        self._woken = woken
        self._hub = hub.Hub(limits)
        self._read_soon = asyncio.Event()
        self._tell_soon = asyncio.Event()
        self._was_read = asyncio.Event()  # a new one for each reading
        self._left = asyncio.Event()
        self._metrics = metrics
        metrics.follow(lambda: self._hub.viewers, lambda: self._hub.age(time.monotonic()))
        self.task = asyncio.create_task(self._run())  # ends only with the process: whoever runs it must watch it

    async def register(self, watch: wire.Watch, address: str) -> tuple[hub.Viewer | None, hub.Standing]:
        """A place and what is known of the wish; no place, or UNREAD: nothing can be shown now. ``leave`` gives it back."""
        viewer = self._hub.register(watch, address)
        if viewer is None:
            return None, hub.Standing.UNREAD
        self._read_soon.set()
        try:
            async with asyncio.timeout(FIRST_WORD_SECONDS):
                while (standing := self._hub.standing(viewer)) is hub.Standing.UNREAD:
                    await self._was_read.wait()
        except TimeoutError:
            standing = hub.Standing.UNREAD
        except asyncio.CancelledError:
            self.leave(viewer)
            raise
        return viewer, standing

    async def serve(self, viewer: hub.Viewer, request: web.Request, response: web.StreamResponse) -> None:
        """Tell the viewer from here on; whichever side ends it, its place is given back. ``response`` is prepared here and nowhere else.

        Whoever answers may go: task, request and response would else be kept for hours, at 13 KiB a viewer.
        """
        await response.prepare(request)
        protocol = request.protocol
        if protocol.transport is None or protocol.transport.is_closing():
            self.leave(viewer)
            return
        connection: socket.socket = protocol.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, hub.SEND_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, hub.DEAD_MS)
        sink = _Sink(self, viewer, is_chunked=request.version >= (1, 1))
        first = self._hub.start(viewer, sink, time.monotonic())
        self._tell_soon.set()
        await response.write(first)  # does not wait: it is short, and the first
        sink.connection_made(hand_over(protocol.transport, sink))
        protocol.transport = None  # it would be closed with what follows
        protocol.connection_lost(None)  # for aiohttp its client has left, so it forgets all it knows of it

    async def seen_off(self, within_s: float) -> None:
        """Return when nobody watches any more, or after ``within_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._hub.viewers:
                    self._left.clear()
                    await self._left.wait()

    def leave(self, viewer: hub.Viewer) -> None:
        """Give the place back."""
        self._hub.leave(viewer)
        self._left.set()

    def refused(self) -> bytes:
        """The words to one who cannot be shown anything now."""
        return self._hub.refused()

    def wake(self, skus: Collection[str] | None) -> None:
        """These SKUs moved; None: any may have."""
        self._woken(skus)
        if self._hub.wake(skus):
            self._read_soon.set()

    def drain(self, within_s: float) -> None:
        """Take no more viewers, and see off those who are here, spread over ``within_s`` seconds."""
        self._hub.drain(time.monotonic(), within_s)
        self._tell_soon.set()

    def close(self) -> None:
        """Stop."""
        self.task.cancel()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for work in (self._read(), self._tell(), self._listen()):
                group.create_task(work)

    async def _read(self) -> None:
        while True:
            wait_s = self._hub.read_in(time.monotonic())
            if wait_s is None or wait_s > 0:
                await _heard(self._read_soon, wait_s)
                continue
            skus = self._hub.begin_reading(time.monotonic())
            try:
                reading = await self._authority.read_watched(skus)
            except AuthorityUnavailable:
                continue  # what is known grows old, and is told with its age
            self._hub.confirm(skus, reading, time.monotonic())
            self._tell_soon.set()
            self._was_read.set()
            self._was_read = asyncio.Event()

    async def _tell(self) -> None:
        while True:
            wait_s = self._hub.turn(time.monotonic())
            self._metrics.count(self._hub.take_counts())
            if wait_s is None or wait_s > 0:
                await _heard(self._tell_soon, wait_s)
            else:
                await asyncio.sleep(0)  # a slice is over: purchases first

    async def _listen(self) -> None:
        is_linked = True
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(wakeup.CHANNEL)
                    if not is_linked:
                        log.info("stream.linked")
                        is_linked = True
                    while True:
                        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
                        if message is not None:
                            self.wake(wakeup.decode(message["data"]))
            except (RedisError, OSError) as error:
                if is_linked:
                    log.warning("stream.unlinked", reason=str(error) or type(error).__name__)
                    is_linked = False
            await asyncio.sleep(RECONNECT_SECONDS)


class _Sink(asyncio.Protocol):
    # One viewer's connection, and all that is kept of it: its transport, its place at the hub, and this.

    __slots__ = ("_is_chunked", "_stream", "_transport", "_viewer")

    def __init__(self, stream: Stream, viewer: hub.Viewer, *, is_chunked: bool) -> None:
        self._stream = stream
        self._viewer = viewer
        self._is_chunked = is_chunked
        self._transport: asyncio.Transport | None = None  # until it is handed over

    @property
    def is_gone(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    @property
    def is_ready(self) -> bool:
        return self._transport is not None and not self._transport.get_write_buffer_size()

    def send(self, frame: bytes) -> None:
        assert self._transport is not None, "it was ready"
        self._transport.write(encode_chunk(frame) if self._is_chunked else frame)

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if self._is_chunked:
                self._transport.write(LAST_CHUNK)
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        self._transport = None
        self._stream.leave(self._viewer)


async def _heard(event: asyncio.Event, within_s: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    event.clear()
