"""The crowd's sockets: non-blocking, one request at a time on each, in one thread.

Raw sockets and not asyncio's: its transports write at the end of a loop turn, so a request would count as sent before a byte of it had
left, and ten thousand *in flight* would be ten thousand in a buffer of ours. Here ``send`` has returned for the one before when the next
gets its time. Between two batches of sending whatever has come is read, so that no answer lies about unseen and is taken for one that is
still under way.
"""

import contextlib
import errno
import heapq
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from benchmarks.comparison.crowd import Answer, Call, Crowd

AT_ONCE = 64  # requests sent between two looks at what has come
CONNECTING_MAX = 256  # at once: a listener's queue is not what is measured here
LONGEST_SLEEP_S = 0.25
ANSWER_BYTES_MAX = 256 * 1024  # the longest purchase is a few KiB; more is not our server
CHUNK = 64 * 1024

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d{1,5})\r\n", re.IGNORECASE)
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS})

Address = tuple[str, int]


class Connection:
    """One socket; ``call`` is what it waits for an answer to."""

    __slots__ = ("call", "is_up", "received", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.call: Call | None = None
        self.is_up = False


class Sockets:
    """At most ``limit`` connections to ``targets`` in turn. ``clock`` is nanoseconds since the release."""

    def __init__(self, targets: Sequence[Address], limit: int, clock: Callable[[], int]) -> None:
        self.exhausted = 0  # times that the machine had no descriptor or port left
        self.peak = 0
        self._targets = targets
        self._limit = limit
        self._clock = clock
        self._turn = 0
        # Made first, so that its number is small enough for select(), whose time-out is finer than epoll's millisecond.
        self._poll = select.epoll()
        self._by_handle: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._connecting = 0
        self._deadlines: list[tuple[int, int, Call, Connection]] = []

    def open(self, count: int, within_s: float) -> int:
        """Make so many connections before anybody comes; how many stand in the end."""
        until = time.monotonic() + within_s
        while len(self._idle) < count and time.monotonic() < until:
            while len(self._by_handle) < count and self._connecting < CONNECTING_MAX and self._connect():
                pass
            self._look(None, 0.05)
        return len(self._idle)

    def drive(self, crowd: Crowd, until_ns: int) -> None:
        """Let the crowd come and go, until everybody has been answered or given up; past ``until_ns`` the rest is lost."""
        while crowd.open and (now := self._clock()) < until_ns:
            self._time_out(crowd, now)
            sent = 0
            while sent < AT_ONCE and crowd.due(now := self._clock()):
                connection = self._free()
                if connection is None:
                    break
                self._send(crowd, connection, now)
                sent += 1
            self._look(crowd, 0.0 if sent == AT_ONCE else self._sleep_s(crowd, now))
        for connection in list(self._by_handle.values()):
            self._drop(crowd, connection)

    def close(self) -> None:
        for connection in list(self._by_handle.values()):
            self._drop(None, connection)
        self._poll.close()

    def _sleep_s(self, crowd: Crowd, now: int) -> float:
        due = crowd.next_due
        has_place = bool(self._idle) or len(self._by_handle) < self._limit
        moments = [due] if due is not None and has_place else []
        if self._deadlines:
            moments.append(self._deadlines[0][0])
        return min(max(0.0, (min(moments) - now) / 1e9), LONGEST_SLEEP_S) if moments else LONGEST_SLEEP_S

    def _free(self) -> Connection | None:
        if self._idle:
            return self._idle.popleft()
        if self._connecting < CONNECTING_MAX:
            self._connect()  # it takes part once it stands, a moment later
        return None

    def _connect(self) -> bool:
        if len(self._by_handle) >= self._limit:
            return False
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self.exhausted += error.errno in _EXHAUSTED
            return False
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(self._targets[self._turn % len(self._targets)])
        self._turn += 1
        if code not in (0, errno.EINPROGRESS):
            self.exhausted += code in _EXHAUSTED
            sock.close()
            return False
        connection = Connection(sock)
        self._by_handle[sock.fileno()] = connection
        self.peak = max(self.peak, len(self._by_handle))
        self._connecting += 1
        self._poll.register(sock.fileno(), select.EPOLLOUT)
        return True

    def _send(self, crowd: Crowd, connection: Connection, now: int) -> None:
        call, request = crowd.begin(now)
        try:
            whole = connection.sock.send(request) == len(request)
        except OSError:
            self._drop(None, connection)
            crowd.lose(call, self._clock(), was_sent=False)  # not a byte was taken: a kept connection that had ended
            return
        connection.call = call
        if not whole:  # a few hundred bytes into an empty buffer: it is not one of ours that is idle
            self._drop(crowd, connection)
            return
        heapq.heappush(self._deadlines, (call.until, len(crowd.calls), call, connection))

    def _look(self, crowd: Crowd | None, within_s: float) -> None:
        if within_s > 0 and not select.select([self._poll], [], [], within_s)[0]:
            return
        for handle, events in self._poll.poll(0):
            connection = self._by_handle.get(handle)
            if connection is None:
                continue
            if not connection.is_up:
                self._stood(connection, events)
            else:
                self._receive(crowd, connection)

    def _stood(self, connection: Connection, events: int) -> None:
        self._connecting -= 1
        if events & (select.EPOLLERR | select.EPOLLHUP):
            self.exhausted += connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in _EXHAUSTED
            self._forget(connection)
            time.sleep(0.001)  # nobody listens: do not ask as fast as it can refuse
            return
        connection.is_up = True
        self._poll.modify(connection.sock.fileno(), select.EPOLLIN)
        self._idle.append(connection)

    def _receive(self, crowd: Crowd | None, connection: Connection) -> None:
        try:
            data = connection.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or connection.call is None or crowd is None:
            self._drop(crowd, connection)  # ended, or bytes that nobody asked for
            return
        connection.received += data
        found = parse(connection.received)
        if found is None:
            if len(connection.received) > ANSWER_BYTES_MAX:
                self._drop(crowd, connection)
            return
        answer, ends = found
        call, connection.call, connection.received = connection.call, None, b""
        crowd.answer(call, answer, self._clock())
        if ends:
            self._forget(connection)
        else:
            self._idle.append(connection)

    def _time_out(self, crowd: Crowd, now: int) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, call, connection = heapq.heappop(self._deadlines)
            if connection.call is call:
                self._drop(crowd, connection)  # whatever still comes belongs to nobody

    def _drop(self, crowd: Crowd | None, connection: Connection) -> None:
        call, connection.call = connection.call, None
        if not connection.is_up:
            self._connecting -= 1
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        self._forget(connection)
        if call is not None and crowd is not None:
            crowd.lose(call, self._clock(), was_sent=True)

    def _forget(self, connection: Connection) -> None:
        self._by_handle.pop(connection.sock.fileno(), None)
        connection.is_up = True  # counted off
        connection.sock.close()


def parse(received: bytes) -> tuple[Answer, bool] | None:
    """The answer in ``received``, once it is whole, and whether its connection ends with it."""
    end = received.find(_HEAD_END)
    if end < 0:
        return None
    head = received[: end + 2]
    length = _LENGTH.search(head)
    size = int(length[1]) if length else 0
    body = received[end + 4 : end + 4 + size]
    if len(body) < size:
        return None
    retry = _RETRY_AFTER.search(head)
    answer = Answer(int(head[9:12]), body, int(retry[1]) if retry else None)
    return answer, _CLOSE.search(head) is not None or length is None
