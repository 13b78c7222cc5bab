"""Viewers against a stream of our own making: what they see, and what they do when it breaks."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from aiohttp import web

from benchmarks.load import viewers
from benchmarks.load.connections import Target
from benchmarks.load.viewers import FRAME_BYTES_MAX, Event, Frames, Viewers
from tests.patience import PATIENCE_SECONDS

STREAM = (
    b"retry: 1500\n\n"
    b': a comment\nevent: snapshot\nid: hat:3\ndata: {"stock":[]}\n\n'
    b'event: stock\nid: hat:4\ndata: {"sku":"hat"}\n\n'
    b"event: beat\ndata: {}\n\n"
)
EVENTS = [
    Event("snapshot", '{"stock":[]}', "hat:3"),
    Event("stock", '{"sku":"hat"}', "hat:4"),
    Event("beat", "{}", None),
]


@pytest.mark.parametrize("step", [1, 2, 7, len(STREAM)])
def test_events_are_the_same_however_the_bytes_arrive(step: int) -> None:
    frames = Frames()
    found = [event for at in range(0, len(STREAM), step) for event in frames.feed(STREAM[at : at + step])]
    assert found == EVENTS


def test_a_frame_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        list(Frames().feed(b"data: " + b"x" * FRAME_BYTES_MAX))


def stock(seq: int, available: int) -> bytes:
    row = {"sku": "hat", "available": available, "seq": seq, "as_of": datetime.now(UTC).isoformat()}
    return f"event: stock\nid: hat:{seq}\ndata: {json.dumps(row)}\n\n".encode()


@contextlib.asynccontextmanager
async def shown(*connections: bytes) -> AsyncIterator[tuple[Target, list[str | None]]]:
    """A server whose n-th stream says the n-th of ``connections`` and ends; the last one stays open in silence."""
    asked: list[str | None] = []

    async def stream(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Last-Event-ID"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(connections[min(len(asked), len(connections)) - 1])
        if len(asked) >= len(connections):
            await asyncio.sleep(3600)
        return response

    app = web.Application()
    app.router.add_get("/stock/stream", stream)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield Target(*runner.addresses[0][:2]), asked
    await runner.cleanup()


async def seen(watchers: Viewers, what: str, times: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while watchers.result()["seen"].get(what, 0) < times:
            await asyncio.sleep(0.01)


async def test_a_viewer_comes_back_with_the_last_id_it_saw() -> None:
    async with shown(stock(1, 9) + stock(2, 8), stock(5, 4)) as (target, asked):
        watchers = Viewers([target], "hat", 1)
        async with watchers.watching():
            await seen(watchers, "stock", 3)
        result = watchers.result()
    assert asked == [None, "hat:2"]
    assert result["heard"] == {1: 9, 2: 8, 5: 4}
    assert (result["backwards"], result["contradictions"], result["behind"]) == (0, 0, 0)
    assert result["seen"] == {"ended": 1, "status 200": 2, "stock": 3}
    assert set(result["age_ms"]) == {"p50", "p95", "p99", "max"}


async def test_what_goes_backwards_and_what_contradicts_is_counted() -> None:
    async with shown(stock(2, 8) + stock(1, 9), stock(2, 7)) as (target, _):
        watchers = Viewers([target], "hat", 1)
        async with watchers.watching():
            await seen(watchers, "stock", 3)
    assert (watchers.result()["backwards"], watchers.result()["contradictions"]) == (1, 1)


async def test_who_was_not_shown_the_newest_number_is_behind() -> None:
    async with shown(stock(2, 8)) as (one, _), shown(stock(1, 9)) as (other, _):
        watchers = Viewers([one, other], "hat", 2)
        async with watchers.watching():
            await seen(watchers, "stock", 2)
    assert watchers.result()["behind"] == 1


async def test_silence_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "SILENCE_SECONDS_MAX", 1.0)  # longer than the first word takes
    async with shown(stock(1, 9)) as (target, asked):
        watchers = Viewers([target], "hat", 1)
        async with watchers.watching():
            await seen(watchers, "silent", 2)
    assert asked[1] == "hat:1"
