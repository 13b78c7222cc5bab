"""``python -m benchmarks.lb.origin PORT BYTES``: an upstream of ours. Streams events that are published at a steady rate; says the same to anything else.

A stream is asked for by ``GET /stream``; ``?rate=2`` has two events a second sent on each. Events are published in turns: at every tick
some of the streams get theirs, as a hub with many viewers hands them out, and not all at once.
"""

import asyncio
import re
import sys
import time
from typing import cast

import uvloop

TICK_SECONDS = 0.01
STREAM_PATH = "/stream"
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_DATA = b'data: {"sku":"bench-one","available":123,"seq":4567,"as_of":"2026-01-01T00:00:00.000Z"}\n\n'
_length = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE).search
_rate = re.compile(rb"GET /stream\?rate=([0-9.]+) ").match


class Origin:
    """Its streams, and what all others are told."""

    def __init__(self, answer_bytes: int) -> None:
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            answer_bytes,
            b"x" * answer_bytes,
        )
        self.rate = 1.0
        self.streams: dict[Connection, int] = {}  # and how many events each has got

    async def publish(self) -> None:
        """For ever."""
        began, due, turn = time.perf_counter(), 0.0, 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.perf_counter()
            due += (now - began) * self.rate * len(self.streams)
            began = now
            streams = list(self.streams)
            for _ in range(min(int(due), len(streams))):
                turn = (turn + 1) % len(streams)
                streams[turn].publish()
            due -= int(due)


class Connection(asyncio.Protocol):
    """One, from a balancer."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._transport: asyncio.Transport
        self._waiting = b""

    def publish(self) -> None:
        """The next event: its number, and when it is sent."""
        number = self._origin.streams[self] = self._origin.streams[self] + 1
        event = b"id: %d:%d\n%b" % (number, time.perf_counter_ns(), _DATA)
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        self._origin.streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._waiting += data
        out = []
        while (end := self._waiting.find(b"\r\n\r\n") + 4) > 3:
            head = self._waiting[:end]
            found = _length(head)
            whole = end + (int(found[1]) if found else 0)
            if len(self._waiting) < whole:
                break
            self._waiting = self._waiting[whole:]
            if rate := _rate(head):
                self._origin.rate = float(rate[1])
                self._origin.streams[self] = 0
                out.append(_HEAD)
            else:
                out.append(self._origin.answer)
        self._transport.write(b"".join(out))


async def main(port: int, answer_bytes: int) -> None:
    origin = Origin(answer_bytes)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(origin), "127.0.0.1", port, backlog=4096)
    await origin.publish()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
