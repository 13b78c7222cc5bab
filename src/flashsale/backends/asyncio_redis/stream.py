"""Live stock on this backend's loop: reads PostgreSQL for the hub, listens for wake-ups, and carries frames to sockets."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Collection

import structlog
from aiohttp import web
from redis.asyncio import Redis
from redis.exceptions import RedisError

from flashsale.authority.client import Authority, AuthorityUnavailable
from flashsale.stream import hub, wakeup, wire
from flashsale.stream.metrics import StreamMetrics

FIRST_WORD_SECONDS = 2.0  # until a viewer must be answered, with or without PostgreSQL; one reading takes less or fails
CONNECT_SECONDS = 1.0
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
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
        """Tell the viewer until one side ends it. ``response`` is prepared here and nowhere else."""
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            return
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, hub.SEND_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, hub.DEAD_MS)
        sink = _Sink(transport, is_chunked=request.version >= (1, 1))
        first = self._hub.start(viewer, sink, time.monotonic())
        self._tell_soon.set()
        with contextlib.suppress(ConnectionError):
            await response.write(first)  # it leaves before this waits for anything, so before any frame of the hub
            await sink.ended.wait()

    def leave(self, viewer: hub.Viewer) -> None:
        """Give the place back."""
        self._hub.leave(viewer)

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


class _Sink:
    # Frames go to the transport directly: awaiting aiohttp's writer would take a task per viewer and frame.

    def __init__(self, transport: asyncio.WriteTransport, *, is_chunked: bool) -> None:
        self._transport = transport
        self._is_chunked = is_chunked
        self.ended = asyncio.Event()

    @property
    def is_gone(self) -> bool:
        return self._transport.is_closing()

    @property
    def is_ready(self) -> bool:
        return not self._transport.get_write_buffer_size()

    def send(self, frame: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(frame), frame) if self._is_chunked else frame)

    def close(self) -> None:
        self.ended.set()

    def abort(self) -> None:
        self._transport.abort()
        self.ended.set()


async def _heard(event: asyncio.Event, within_s: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    event.clear()
