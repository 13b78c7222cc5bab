"""A generator of our own: requests leave when they are due, whatever became of those before.

Law 1: an open loop. What the server does not read waits in its connection and is charged to its latency, which counts from the
moment a request was *due*. Law 2: nothing is made while it runs: requests are bytes beforehand, and records are lists of numbers.
Pipelined on a few connections, as a balancer's are: a connection per shopper would measure the kernel, and this process first.
"""

import asyncio
import contextlib
import gc
import math
import re
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from itertools import cycle
from typing import NamedTuple, cast

CHUNK = 16  # requests of one write; of one each, system calls would be all that it does
TICK_SECONDS = 0.001  # the loop's clock knows no less
STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
_CARRIED = len(b"HTTP/1.1 200") - 1  # of a status line that two readings share


class Record(NamedTuple):
    """What became of every request, by its number. Seconds of one clock; 0 in ``done`` and ``statuses``: nothing yet."""

    sent: list[float]
    done: list[float]
    statuses: list[int]

    def counts(self) -> Counter[int]:
        """Answers by status, and 0 for none."""
        return Counter(self.statuses)


class BrokenError(RuntimeError):
    """A connection ended, or nothing came for too long."""


class Flood:
    """Some connections to one server, one run after the other."""

    def __init__(self, connections: "Sequence[_Connection]") -> None:
        self._connections = connections
        self._record = Record([], [], [])

    async def open_loop(
        self, requests: Sequence[bytes], due: Sequence[float], within_s: float, chunk: int = CHUNK
    ) -> tuple[Record, float]:
        """Send each request when it is due, in seconds from now, and wait for all answers; the record and when now was.

        At most ``chunk`` go to one connection before the next has its turn. Raises ``BrokenError``, also when nothing is heard
        for ``within_s``.
        """
        record = self._begin()
        turn = cycle(self._connections)
        sent, start = 0, time.perf_counter()
        while sent < len(due):
            now = time.perf_counter() - start
            until = bisect_right(due, now, sent)
            while sent < until:
                upto = min(sent + chunk, until)
                next(turn).send(requests[sent:upto])
                sent = upto
            if sent < len(due):
                await asyncio.sleep(max(due[sent] - (time.perf_counter() - start), TICK_SECONDS))
        await self._until_answered(within_s)
        return record, start

    async def closed_loop(
        self, request: Callable[[int], bytes], depth: int, ends: asyncio.Event, within_s: float
    ) -> tuple[Record, float]:
        """Keep ``depth`` requests unanswered on every connection until ``ends``; otherwise as above."""
        record = self._begin()
        start = time.perf_counter()

        def send(connection: _Connection, count: int) -> None:
            first = len(record.sent)
            connection.send([request(number) for number in range(first, first + count)])

        def again(connection: _Connection, count: int) -> None:
            if not ends.is_set():
                send(connection, count)

        for connection in self._connections:
            connection.answered = again
            send(connection, depth)
        await ends.wait()
        await self._until_answered(within_s)
        return record, start

    def _begin(self) -> Record:
        self._record = Record([], [], [])
        for connection in self._connections:
            connection.begin(self._record)
        return self._record

    async def _until_answered(self, within_s: float) -> None:
        waiting, heard = -1, time.perf_counter()
        while left := sum(connection.unanswered for connection in self._connections):
            if any(connection.is_lost for connection in self._connections):
                raise BrokenError(f"a connection ended with {left} requests unanswered")
            if left != waiting:
                waiting, heard = left, time.perf_counter()
            elif time.perf_counter() - heard > within_s:
                raise BrokenError(f"nothing was heard for {within_s:.0f} s with {left} requests unanswered")
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def opened(port: int, connections: int) -> AsyncIterator[Flood]:
    """Connections to a server on this machine. Garbage is not collected meanwhile: of it there is none."""
    loop = asyncio.get_running_loop()
    made: list[_Connection] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(connections):
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", port)
            made.append(connection)
        yield Flood(made)
    finally:
        gc.enable()
        for connection in made:
            connection.close()


def quantile(values: Sequence[float], q: float) -> float:
    """The least value that so many are not above; 0 of nothing. Pure."""
    return sorted(values)[max(math.ceil(q * len(values)) - 1, 0)] if values else 0.0


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.answered: Callable[[_Connection, int], None] | None = None
        self.is_lost = False
        self._transport: asyncio.Transport | None = None
        self._record = Record([], [], [])
        self._waiting: Iterator[int] = iter(())
        self._numbers: list[int] = []
        self._told = 0
        self._carried = b""

    @property
    def unanswered(self) -> int:
        return len(self._numbers) - self._told

    def begin(self, record: Record) -> None:
        self._record, self._numbers, self._told, self._carried, self.answered = record, [], 0, b"", None

    def send(self, requests: Sequence[bytes]) -> None:
        assert self._transport is not None
        first, count, now = len(self._record.sent), len(requests), time.perf_counter()
        self._numbers.extend(range(first, first + count))
        self._record.sent.extend([now] * count)
        self._record.done.extend([0.0] * count)
        self._record.statuses.extend([0] * count)
        self._transport.write(b"".join(requests))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self.is_lost = True

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        heard = self._carried + data
        found = STATUS.findall(heard)
        self._carried = heard[-_CARRIED:]
        done, statuses, told = self._record.done, self._record.statuses, self._told
        for number, status in zip(self._numbers[told : told + len(found)], found, strict=True):
            done[number] = now
            statuses[number] = int(status)
        self._told += len(found)
        if self.answered is not None and found:
            self.answered(self, len(found))
