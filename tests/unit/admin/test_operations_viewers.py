"""The stream to whoever looks: bounded, never behind, and over when it is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from aiohttp import web

from flashsale.admin.operations import stream as streaming
from flashsale.admin.operations.collector import Frame
from flashsale.admin.operations.stream import Stream
from tests.patience import PATIENCE_SECONDS


class Frames:
    """In the place of a collector: a frame whenever somebody asks for one, of so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.made = 0
        self.watching = 0
        self.is_over = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """See ``Collector``."""
        self.watching += 1
        try:
            yield
        finally:
            self.watching -= 1

    async def after(self, number: int) -> Frame | None:
        """See ``Collector``."""
        await asyncio.sleep(0.001)
        self.made += 1
        return None if self.is_over else Frame(number + 1, b"x" * self.size)


class Desk:
    """A server with nothing but the stream."""

    def __init__(self, size: int = 100) -> None:
        self.frames = Frames(size)
        self.stream = Stream(self.frames, {"X-Dressed": "1"})  # type: ignore[arg-type] # what of it a stream uses
        self.is_signed_in = True
        self.url = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Somebody who can look."""
        app = web.Application()
        app.router.add_get("/", self._look)
        runner = web.AppRunner(app, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_SECONDS):
            yield session
        self.frames.is_over = True
        await runner.cleanup()

    async def _look(self, request: web.Request) -> web.StreamResponse:
        return await self.stream.serve(request, lambda: self.is_signed_in)

    async def left(self) -> None:
        """Nobody looks any more."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.frames.watching or self.stream.viewers:
                await asyncio.sleep(0.01)


async def until(answer: aiohttp.ClientResponse, wanted: bytes) -> bytes:
    """The lines up to this one."""
    lines = b""
    while line := await answer.content.readline():
        lines += line
        if line.startswith(wanted):
            break
    return lines


async def test_whoever_is_one_too_many_is_told_when_to_come_back_and_is_no_viewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "VIEWERS_MAX", 1)
    desk = Desk()
    async with desk.open() as session:
        async with session.get(desk.url) as first:
            await until(first, b"event: figures")
            async with session.get(desk.url) as second:
                assert second.status == 200  # any other ends a browser's EventSource for good
                text = await second.text()
            assert desk.frames.watching == 1
        low, high = streaming.RETRY_LATE_MS
        assert low <= int(text.split()[1]) <= high
        assert text.endswith('event: bye\ndata: {"word": "full"}\n\n')
        await desk.left()
        async with session.get(desk.url) as third:
            assert b"event: figures" in await until(third, b"event: figures")


async def test_a_stream_is_dressed_and_ends_with_its_session() -> None:
    desk = Desk()
    async with desk.open() as session, session.get(desk.url) as answer:
        assert answer.headers["X-Dressed"] == "1"
        assert answer.content_type == "text/event-stream"
        await until(answer, b"event: figures")
        desk.is_signed_in = False
        assert (await answer.text()).endswith('event: bye\ndata: {"word": "signed_out"}\n\n')
        await desk.left()


async def test_a_stop_is_said() -> None:
    desk = Desk()
    async with desk.open() as session, session.get(desk.url) as answer:
        await until(answer, b"event: figures")
        desk.frames.is_over = True
        assert (await answer.text()).endswith('event: bye\ndata: {"word": "stopping"}\n\n')


async def test_a_slow_reader_is_given_the_latest_and_none_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STALL_SECONDS", PATIENCE_SECONDS)
    desk = Desk(size=60_000)
    async with desk.open() as session, session.get(desk.url) as answer:
        await until(answer, b"id: 1")
        while desk.frames.made < 1000:  # 60 MB, of which it reads nothing
            await asyncio.sleep(0.01)
        seen = 0
        ids = []
        while seen < 1000:
            seen = int((await until(answer, b"id: ")).rpartition(b"id: ")[2])
            ids.append(seen)
        assert len(ids) < 200  # what the buffers of both sides held
        assert ids == sorted(ids)


@pytest.mark.parametrize("size", [60_000, 4_000_000], ids=["between frames", "within one"])
async def test_a_reader_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(streaming, "STALL_SECONDS", 0.2)
    desk = Desk(size=size)
    async with desk.open() as session, session.get(desk.url):
        await desk.left()
