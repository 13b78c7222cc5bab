"""Thousands of viewers in one process that does as little as it can: raw sockets, one buffer, a count per frame.

``python -m benchmarks.sse.crowd PORT REQUEST GREETING`` takes commands on stdin and answers each on stdout, as JSON lines. Law 1: a reader that
is slower than what it measures measures itself, so it says for which share of the time it ran or wanted to (``busy``). Law 2: of one
viewer in ``FOLLOWED_ONE_OF`` every frame is read; of the others, frames are counted; that each knows the latest is asked of all at the end.
"""

import asyncio
import contextlib
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from flashsale.settings import REPOSITORY
from flashsale.stack.processes import dies_with_us

FOLLOWED_ONE_OF = 50
OPENED_AT_ONCE = 50
WITHIN_SECONDS = 120.0  # for what was asked for to come
BUFFER_BYTES = 1 << 16
READY_MAX = 512
AGAIN_SECONDS = 0.05  # before the next connection, where some are refused
FRAME = ord("q")  # of "seq": one in each frame that tells a change, and none in a beat
KNOWN = re.compile(rb'"seq":(\d+)')
AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT of thousands between two turns
ANSWER_BYTES_MAX = 64 << 20


class Asks(NamedTuple):
    """What a viewer asks, and a part of the first words to one whose stream has begun."""

    request: bytes
    greeting: bytes


class Heard(NamedTuple):
    """What a crowd was told between two moments."""

    frames: int  # by all
    least: int  # by one viewer
    most: int
    seen: list[tuple[int, int, int]]  # of those that are followed: viewer, moment in ns, the newest it knows
    seconds: float
    busy: float  # the share of it in which the crowd ran, or waited for a core
    over: int  # streams that ended


class Crowd:
    """A crowd in a process of its own."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    async def open(self, count: int, within_s: float = WITHIN_SECONDS) -> None:
        """So many more; all of their streams have begun when this returns. Raises ``RuntimeError`` when they have not."""
        await self._ask("open", count, within_s)

    async def begin(self) -> None:
        """Count from here."""
        await self._ask("begin")

    async def end(self) -> Heard:
        """What came since."""
        found = await self._ask("end")
        return Heard(**{**found, "seen": [tuple(one) for one in found["seen"]]})

    async def read_all(self) -> None:
        """Read what everybody is told from here on, until ``settle``."""
        await self._ask("read_all")

    async def settle(self, seq: int) -> int:
        """How many do not know ``seq``, which was published since ``read_all``, although they were given time."""
        return int(await self._ask("settle", seq))

    async def _ask(self, command: str, *arguments: float) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{command} {json.dumps(arguments)}\n".encode())
        async with asyncio.timeout(2 * WITHIN_SECONDS):
            said = await self._child.stdout.readline()
        if not said:
            raise RuntimeError(f"the crowd ended at {command}; it says why above")
        found = json.loads(said)
        if "failed" in found:
            raise RuntimeError(found["failed"])
        return found["done"]


@contextlib.asynccontextmanager
async def gathered(
    port: int, asks: Asks, environment: Mapping[str, str], cores: Collection[int], *, gives_way: int = 0
) -> AsyncIterator[Crowd]:
    """A crowd without viewers yet, all of whom will ask the same of ``port``. ``gives_way``: added to its niceness."""
    die = dies_with_us(signal.SIGKILL)

    def before_exec() -> None:
        die()
        os.sched_setaffinity(0, cores)
        os.nice(gives_way)

    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.sse.crowd", str(port), *(one.decode("latin-1") for one in asks)),
        cwd=REPOSITORY,
        env=dict(environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=ANSWER_BYTES_MAX,
        preexec_fn=before_exec,
    )
    try:
        yield Crowd(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


class Viewers:
    """The viewers themselves. Nothing here waits but ``_read``."""

    def __init__(self, port: int, request: bytes, greeting: bytes) -> None:
        self._address = ("127.0.0.1", port)
        self._request = request
        self._greeting = greeting
        self._poll = select.epoll()
        self._buffer = bytearray(BUFFER_BYTES)
        self._sockets: dict[int, socket.socket] = {}
        self._receive: dict[int, Callable[[bytearray], int]] = {}
        self._frames: dict[int, int] = {}
        self._silent: set[int] = set()  # who connected, and have not been greeted yet
        self._followed: set[int] = set()
        self._read_of: dict[int, bytes] = {}  # whose frames are read, and the end of what each was told
        self._knows: dict[int, int] = {}
        self._seen: list[tuple[int, int, int]] = []
        self._over = 0
        self._began = self._ran = 0.0

    def serve(self, commands: IO[str]) -> None:
        """Until there are no more."""
        self._poll.register(commands, select.EPOLLIN)
        does: dict[str, Callable[..., object]] = {
            "open": self.open,
            "begin": self.begin,
            "end": self.end,
            "read_all": self.read_all,
            "settle": self.settle,
        }
        while True:
            if not self._read(None, commands.fileno()):
                continue
            word, _, arguments = commands.readline().partition(" ")
            if not word:
                return
            try:
                answer = json.dumps({"done": does[word](*json.loads(arguments))})
            except RuntimeError as error:
                answer = json.dumps({"failed": str(error)})
            print(answer, flush=True)

    def close(self) -> None:
        """All of them, at once."""
        for one in self._sockets.values():
            one.close()
        self._poll.close()

    def open(self, count: int, within_s: float) -> None:
        """So many more, some at a time; who is refused comes again. Raises ``RuntimeError`` when it takes too long."""
        wanted, ends = len(self._sockets) + count, time.monotonic() + within_s
        while (missing := wanted - len(self._sockets)) or self._silent:
            if time.monotonic() > ends:
                silent = len(self._silent)
                raise RuntimeError(f"of {wanted} streams {missing + silent} have not begun, {self._over} ended")
            if self._over:
                time.sleep(AGAIN_SECONDS)
            for _ in range(min(OPENED_AT_ONCE - len(self._silent), missing)):
                self._silent.add(self._connect())
            self._over = 0
            self._read(0.1)

    def begin(self) -> None:
        """Count from here."""
        self._frames = dict.fromkeys(self._frames, 0)
        self._seen.clear()
        self._began, self._ran = time.perf_counter(), _wanted_seconds()

    def end(self) -> dict[str, Any]:
        """What came since."""
        seconds = time.perf_counter() - self._began
        counts = self._frames.values()
        return {
            "frames": sum(counts),
            "least": min(counts),
            "most": max(counts),
            "seen": self._seen,
            "seconds": seconds,
            "busy": (_wanted_seconds() - self._ran) / seconds,
            "over": self._over,
        }

    def read_all(self) -> None:
        """Everybody's frames are read from here on."""
        self._read_of = dict.fromkeys(self._sockets, b"") | self._read_of

    def settle(self, seq: int) -> int:
        """How many do not know it in the end; then only those who are followed are read."""

        def behind() -> int:
            return sum(self._knows.get(fd, 0) < seq for fd in self._sockets)

        with contextlib.suppress(TimeoutError):
            self._until(lambda: not behind())
        found = behind()
        self._read_of = {fd: rest for fd, rest in self._read_of.items() if fd in self._followed}
        return found

    def _connect(self) -> int:
        one = socket.create_connection(self._address)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        one.sendall(self._request)
        fd = one.fileno()
        if len(self._sockets) % FOLLOWED_ONE_OF == 0:
            self._followed.add(fd)
            self._read_of[fd] = b""
        self._sockets[fd], self._receive[fd], self._frames[fd] = one, one.recv_into, 0
        self._poll.register(fd, select.EPOLLIN)
        return fd

    def _until(self, is_done: Callable[[], bool]) -> None:
        ends = time.monotonic() + WITHIN_SECONDS
        while not is_done():
            if self._over or time.monotonic() > ends:
                raise TimeoutError
            self._read(0.1)

    def _read(self, within_s: float | None, commands: int = -1) -> bool:
        # Once around everybody who was told something. The hot path: a microsecond here is a tenth of a core.
        buffer, receive, frames, read_of = self._buffer, self._receive, self._frames, self._read_of
        is_asked = False
        for fd, _ in self._poll.poll(within_s, READY_MAX):
            if fd == commands:
                is_asked = True
                continue
            if (reader := receive.get(fd)) is None:
                continue  # a command that waits until this one is done
            try:
                size = reader(buffer)
            except ConnectionError:
                size = 0
            if not size:
                self._end(fd)
                continue
            frames[fd] += buffer.count(FRAME, 0, size)
            if self._silent and buffer.find(self._greeting, 0, size) >= 0:
                self._silent.discard(fd)
            if fd in read_of:
                self._follow(fd, buffer[:size])
        return is_asked

    def _follow(self, fd: int, data: bytearray) -> None:
        text = self._read_of[fd] + data
        # a number at the very end may go on
        ends = text.rfind(b"\n") + 1
        self._read_of[fd] = text[ends:]
        newest = max((int(digits) for digits in KNOWN.findall(text, 0, ends)), default=0)
        if newest > self._knows.get(fd, 0):
            self._knows[fd] = newest
            if fd in self._followed:
                self._seen.append((fd, time.monotonic_ns(), newest))

    def _end(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._sockets.pop(fd).close()
        self._followed.discard(fd)
        self._silent.discard(fd)
        del self._receive[fd], self._frames[fd]
        self._read_of.pop(fd, None)
        self._over += 1


def _wanted_seconds() -> float:
    # on a core, and waiting for one
    ran, waited, _ = Path("/proc/self/schedstat").read_text(encoding="ascii").split()
    return (int(ran) + int(waited)) / 1e9


if __name__ == "__main__":
    port, request, greeting = sys.argv[1:]
    Viewers(int(port), request.encode("latin-1"), greeting.encode("latin-1")).serve(sys.stdin)
