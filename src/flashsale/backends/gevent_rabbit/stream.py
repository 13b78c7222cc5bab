"""Live stock on this backend's loop: reads PostgreSQL for the hub, listens for wake-ups, and carries frames to sockets."""

import socket
import time
from collections.abc import Callable, Collection

import gevent
import structlog
from gevent.event import Event
from redis import Redis
from redis.exceptions import RedisError

from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.edge.message import Peer
from flashsale.stream import hub, wakeup, wire
from flashsale.stream.metrics import StreamMetrics

FIRST_WORD_SECONDS = 2.0  # until a viewer must be answered, with or without PostgreSQL; one reading takes less or fails
CONNECT_SECONDS = 1.0
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 2, socket.TCP_KEEPCNT: 3}
CLOSE_SECONDS = 1.0  # for a query or a handshake under way at the end
RECONNECT_SECONDS = 0.5  # between tries to hear wake-ups; the beat carries on meanwhile

log = structlog.get_logger()


class Stream:
    """The viewers of this process. ``authority`` is its own: behind other readers the numbers would grow old."""

    def __init__(
        self,
        authority: GreenAuthority,
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
        self._read_soon = Event()
        self._tell_soon = Event()
        self._was_read = Event()  # a new one for each reading
        self._metrics = metrics
        metrics.follow(lambda: self._hub.viewers, lambda: self._hub.age(time.monotonic()))
        # they end only with the process: whoever runs them must watch them
        self.work = [gevent.spawn(work) for work in (self._read, self._tell, self._listen)]

    def register(self, watch: wire.Watch, address: str) -> tuple[hub.Viewer | None, hub.Standing]:
        """A place and what is known of the wish; no place, or UNREAD: nothing can be shown now. ``leave`` gives it back."""
        viewer = self._hub.register(watch, address)
        if viewer is None:
            return None, hub.Standing.UNREAD
        self._read_soon.set()
        deadline = time.monotonic() + FIRST_WORD_SECONDS
        while (standing := self._hub.standing(viewer)) is hub.Standing.UNREAD and (
            left_s := deadline - time.monotonic()
        ) > 0:
            self._was_read.wait(left_s)
        return viewer, standing

    def serve(self, viewer: hub.Viewer, peer: Peer, write: Callable[[bytes], object]) -> None:
        """Tell the viewer until one side ends it. The first ``write`` sends the head of the response too."""
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, hub.SEND_BYTES)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, hub.DEAD_MS)
        peer.settimeout(None)  # the hub evicts
        sink = _Sink(peer)
        sink.send(self._hub.start(viewer, sink, time.monotonic()))
        self._tell_soon.set()
        sink.carry(write)

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
        gevent.killall(self.work, timeout=CLOSE_SECONDS)

    def _read(self) -> None:
        while True:
            wait_s = self._hub.read_in(time.monotonic())
            if wait_s is None or wait_s > 0:
                _heard(self._read_soon, wait_s)
                continue
            skus = self._hub.begin_reading(time.monotonic())
            try:
                reading = self._authority.read_watched(skus)
            except AuthorityUnavailable:
                continue  # what is known grows old, and is told with its age
            self._hub.confirm(skus, reading, time.monotonic())
            self._tell_soon.set()
            self._was_read.set()
            self._was_read = Event()

    def _tell(self) -> None:
        while True:
            wait_s = self._hub.turn(time.monotonic())
            self._metrics.count(self._hub.take_counts())
            if wait_s is None or wait_s > 0:
                _heard(self._tell_soon, wait_s)
            else:
                gevent.sleep(0)  # a slice is over: purchases first

    def _listen(self) -> None:
        is_linked = True
        while True:
            try:
                with self._redis.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.subscribe(wakeup.CHANNEL)
                    if not is_linked:
                        log.info("stream.linked")
                        is_linked = True
                    while True:
                        message = pubsub.get_message(ignore_subscribe_messages=True, timeout=None)
                        if message is not None:
                            self.wake(wakeup.decode(message["data"]))
            except (RedisError, OSError) as error:
                if is_linked:
                    log.warning("stream.unlinked", reason=str(error) or type(error).__name__)
                    is_linked = False
            gevent.sleep(RECONNECT_SECONDS)


class _Sink:
    # A greenlet writes, which may wait for the client; the hub only leaves a frame with it.

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._frame = b""
        self._is_ended = False
        self._told = Event()
        self.is_gone = False

    @property
    def is_ready(self) -> bool:
        return not self._frame

    def send(self, frame: bytes) -> None:
        self._frame = frame
        self._told.set()

    def close(self) -> None:
        self._is_ended = True
        self._told.set()

    def abort(self) -> None:
        self.is_gone = True
        self.close()
        try:
            self._peer.shutdown(socket.SHUT_RDWR)  # a write that waits ends with an error
        except OSError:
            return  # it was closed already

    def carry(self, write: Callable[[bytes], object]) -> None:
        """Write what is left here, until the end."""
        while True:
            if self._frame:
                try:
                    write(self._frame)
                except OSError:
                    self.is_gone = True
                    return
                self._frame = b""
            if self._is_ended:
                return
            self._told.wait()
            self._told.clear()


def _heard(event: Event, within_s: float | None) -> None:
    event.wait(within_s)
    event.clear()
