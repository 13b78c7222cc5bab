"""Clients of a server that is not what it should be: nothing that was not asked for is counted as an answer."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest

from benchmarks.backend import load
from benchmarks.lb import crowd, loop
from benchmarks.lb.balancers import ANSWER_BYTES

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def answer(status: bytes = b"200 OK", length: int = ANSWER_BYTES) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, length, b"x" * length)


class Server(asyncio.Protocol):
    """The n-th request of all hears ``say(n)``, in pieces; nothing ends the connection."""

    def __init__(self, say: Callable[[int], bytes], heard: list[int], transports: list[asyncio.Transport]) -> None:
        self._say, self._heard, self._transports = say, heard, transports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transports.append(self._transport)

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            self._heard.append(1)
            if told := self._say(len(self._heard)):
                self._transport.write(told[:50])
                asyncio.get_running_loop().call_later(0.001, self._transport.write, told[50:])
            else:
                self._transport.abort()


@contextlib.asynccontextmanager
async def serving(say: Callable[[int], bytes]) -> AsyncIterator[int]:
    """The port of one that is gone afterwards."""
    heard: list[int] = []
    transports: list[asyncio.Transport] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(say, heard, transports), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for transport in transports:
            transport.abort()
        await server.wait_closed()


async def test_each_of_a_crowd_has_its_turn() -> None:
    async with serving(lambda _: answer()) as port, crowd.opened(port, 20, 3, REQUEST) as many:
        assert len(many.took) >= 20  # each asked once
        found = await many.ask(3, 0.2)
        assert found["answers"] >= 3
        assert found["p50_ms"] <= found["p99_ms"]
        again = await many.ask(3, 0.0)
        assert again["answers"] == 3  # of its own


@pytest.mark.parametrize(
    "other",
    [answer(b"503 No"), answer(length=ANSWER_BYTES + 1), b"", answer() * 2],
    ids=["refusal", "longer", "end", "two answers"],
)
async def test_a_crowd_that_hears_something_else_ends_the_run(other: bytes) -> None:
    async with serving(lambda number: answer() if number <= 30 else other) as port:
        with pytest.raises(RuntimeError, match="of a crowd"):
            async with crowd.opened(port, 10, 2, REQUEST) as many:
                await many.ask(2, 60.0)


async def test_a_loop_that_is_refused_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "has_wrk", lambda: False)
    file = tmp_path / "request"
    file.write_bytes(REQUEST)
    async with serving(lambda number: answer(b"503 No") if number > 1 else answer()) as port:
        with pytest.raises(RuntimeError, match="somebody: unexpected answers"):
            await loop.through("somebody", port, file, 1, {load.SERVER: os.getpid()})
