"""Live stock over real processes and services: one truth, both backends and a process of viewers alone. The hub's own rules are in tests/unit/stream."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import aiohttp
import psutil
import pytest
import pytest_asyncio

from flashsale.contract import wire
from flashsale.stream import wire as stream_wire
from flashsale.stream.__main__ import GIVES_WAY
from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
from tests.patience import PATIENCE_SECONDS
from tests.queued_shop import metric
from tests.servers import Process
from tests.stages import Stage, staged
from tests.viewers import Viewer, viewing

BACKENDS = ("asyncio_redis", "gevent_rabbit")
SHOWN_BY = (*BACKENDS, "stream")  # the last one sells nothing, and runs the first one's edge
NICEST = 19  # as far as the kernel counts
VIEWERS_MAX, ADDRESS_VIEWERS_MAX = 40, 30  # more than tests leave behind in the second until a place is free
SETTINGS = {
    "FLASH_SSE_HZ": "20",
    "FLASH_SSE_VIEWERS_MAX": str(VIEWERS_MAX),
    "FLASH_SSE_ADDRESS_VIEWERS_MAX": str(ADDRESS_VIEWERS_MAX),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(template: str, redis_url: str) -> AsyncIterator[Stage]:
    async with staged(template, redis_url, queued_servers=1, streams=1, settings=SETTINGS) as made:
        yield made


class Shop(NamedTuple):
    """One server that shows, and a sale of its own: ``a`` with ten units, ``b`` with five."""

    driver: HttpDriver
    server: Process
    sale: str
    a: str
    b: str

    @property
    def url(self) -> str:
        """The server's address."""
        return self.server.url

    async def buy(self, who: str, units: int = 1) -> str:
        """Buy ``a`` and wait for the verdict."""
        return await self.driver.reserve(Wish(who, who, (("a", units),)), is_retry=False)


async def shop_of(stage: Stage, shown_by: str) -> Shop:
    """A shop that is shown by the one server of this role, and sells at it if it can."""
    sellers = stage.urls_of(shown_by) or stage.urls_of(BACKENDS[0])
    driver = HttpDriver(stage.authority, stage.owner, stage.session, sellers)
    await driver.open("s", {"a": 10, "b": 5}, 5)
    await stage.gate_opens(driver.own("s"))
    (server,) = [server for server in (*stage.servers, *stage.streams) if server.role == shown_by]
    return Shop(driver, server, driver.own("s"), driver.own("a"), driver.own("b"))


@pytest_asyncio.fixture(params=SHOWN_BY, loop_scope="module")
async def shop(request: pytest.FixtureRequest, stage: Stage) -> Shop:
    return await shop_of(stage, request.param)


module = pytest.mark.asyncio(loop_scope="module")


@module
async def test_a_viewer_sees_everything_at_once_and_then_what_changes(shop: Shop) -> None:
    async with viewing(shop.url, shop.b, shop.a) as viewer:
        assert viewer.status == 200
        assert viewer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert viewer.headers["Cache-Control"] == "no-store, no-transform"
        assert "Content-Encoding" not in viewer.headers, "though it was offered"
        assert viewer.headers["X-Accel-Buffering"] == "no"
        await viewer.until(lambda viewer: viewer.events)
        assert viewer.text.startswith(f"retry: {viewer.retry_ms}\n")
        assert 1000 <= viewer.retry_ms <= 3000
        (first,) = viewer.events[:1]
        assert first.name == "snapshot"
        assert [(item["sku"], item["available"]) for item in first.data["stock"]] == [(shop.a, 10), (shop.b, 5)]
        assert first.last_id == ",".join(f"{item['sku']}:{item['seq']}" for item in first.data["stock"])
        ((sale),) = first.data["sales"]
        assert (sale["sale"], sale["state"]) == (shop.sale, "OPEN")
        assert datetime.fromisoformat(sale["opens"]) < datetime.fromisoformat(sale["closes"])

        assert await shop.buy("ana", 3) == "held"
        await viewer.shows(shop.a, 7)
        await shop.driver.lapse("ana", "ana")
        await viewer.shows(shop.a, 10)
        await shop.driver.restock("b", 4)
        await viewer.shows(shop.b, 9)
        assert viewer.seqs(shop.a) == sorted(viewer.seqs(shop.a))
        stock = await shop.driver.authority.read_stock(shop.a)
        assert stock
        assert viewer.seqs(shop.a)[-1] == stock.seq

        await shop.driver.change("s", "PAUSED")
        await viewer.until(lambda viewer: viewer.states(shop.sale)[-1] == "PAUSED", "the pause")
        await shop.driver.change("s", "OPEN")
        await viewer.until(lambda viewer: viewer.states(shop.sale)[-1] == "OPEN", "the end of the pause")
        assert "sale" in {event.name for event in viewer.events}


@module
async def test_who_only_shows_gives_way_to_who_sells(stage: Stage) -> None:
    shows, sells = (
        [psutil.Process(one.child.pid).nice() for one in of if one.child] for of in (stage.streams, stage.servers)
    )
    assert len(sells) == len(BACKENDS)
    assert shows == [min(nice + GIVES_WAY, NICEST) for nice in sells[:1]]


@module
async def test_a_sale_opens_by_the_clock_alone(shop: Shop) -> None:
    async with viewing(shop.url, shop.a) as viewer:
        await viewer.until(lambda viewer: viewer.events)
        now = await shop.driver.owner.fetchval("SELECT now()")
        await shop.driver.authority.change_sale(shop.sale, opens=now + timedelta(hours=1))
        await viewer.until(lambda viewer: viewer.states(shop.sale)[-1] == "SCHEDULED", "the doors closed again")
        now = await shop.driver.owner.fetchval("SELECT now()")
        await shop.driver.authority.change_sale(shop.sale, opens=now + timedelta(seconds=1))
        await viewer.until(lambda viewer: viewer.states(shop.sale)[-1] == "OPEN", "the bell")


@module
async def test_a_quiet_stream_beats_and_tells_how_fresh_it_is(shop: Shop) -> None:
    async with viewing(shop.url, shop.a) as viewer:

        def as_of() -> list[str]:
            return [beat["as_of"] for beat in viewer.of("beat")]

        # a busy machine may beat twice between two readings
        await viewer.until(
            lambda _: len(as_of()) >= 3 and as_of()[-1] > as_of()[0], "beats, and a reading between them"
        )
        assert as_of() == sorted(as_of())
        assert all(beat["as_of"] <= beat["now"] for beat in viewer.of("beat"))
        assert {event.name for event in viewer.events} == {"snapshot", "beat"}


@module
@pytest.mark.parametrize("by", ["header", "query"])
async def test_who_comes_back_is_told_what_it_missed_and_no_more(shop: Shop, by: str) -> None:
    async with viewing(shop.url, shop.a) as viewer:
        await viewer.until(lambda viewer: viewer.events)
        last_id = viewer.events[0].last_id

    async def again(last_id: str, units: int | None = None) -> Viewer:
        headers = {"Last-Event-ID": last_id} if by == "header" else {}
        query = "" if by == "header" else f"&lastEventId={last_id}"
        async with viewing(shop.url, shop.a, headers=headers, query=query) as viewer:
            await viewer.until(lambda viewer: viewer.of("beat") or viewer.of("snapshot"))
            if units is not None:
                await viewer.shows(shop.a, units)
            return viewer

    assert not (await again(last_id)).of("snapshot")
    assert await shop.buy("ana") == "held"
    await again(last_id, 9)
    for strange in ("nonsense", f"{shop.b}:1", f"{shop.a}:999999", "x" * 4000):
        assert (await again(strange)).of("snapshot")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@module
async def test_what_cannot_be_streamed_is_the_same_answer_from_all(stage: Stage, method: str) -> None:
    shop = await shop_of(stage, BACKENDS[0])
    await shop.driver.open("over", {"z": 1}, 1)
    await shop.driver.change("over", "ENDED")
    over, many = shop.driver.own("z"), ",".join(f"s{n}" for n in range(17))
    cases = {
        "sku=nothing": 404,
        f"sku={shop.a},nothing": 404,
        "": 400,
        "sku=": 400,
        f"sku={shop.a},{shop.a}": 400,
        f"sku={shop.a}&sku={shop.b}": 400,
        f"sku={many}": 400,
        "sku=%7Bx%7D": 400,
        "sku=%FF": 400,
        f"sku={over}": 204,
        f"sku={over},{shop.a}": 200,
    }
    names = ("Content-Type", "Content-Length", "Cache-Control", "X-Accel-Buffering", "Allow")
    for query, status in cases.items():
        if method == "GET" and status == 200:
            continue  # does not end; see above
        answers = []
        for server in (*stage.servers, *stage.streams):
            answer = await asked(stage, method, f"{server.url}{stream_wire.PATH}?{query}", status)
            body = await answer.text()
            assert answer.status == (405 if method == "POST" else status), (query, body)
            answers.append((body, {name: answer.headers.get(name) for name in names}))
            if method == "GET" and status >= 400:
                problem = await answer.json(content_type=wire.PROBLEM_TYPE)
                assert problem["verdict"] == {404: "unknown_sku", 400: "malformed"}[status]
        assert answers[0] == answers[1] == answers[2], query


async def asked(stage: Stage, method: str, url: str, status: int) -> aiohttp.ClientResponse:
    """The answer, read to its end; asked again while it is the 200 of a server that PostgreSQL has not answered in time."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            async with stage.session.request(method, url) as answer:
                await answer.read()
            if answer.status != 200 or status == 200:
                return answer


BREAKS = {"CR": b"\r", "LF": b"\n", "CRLF": b"\r\n", "NUL": b"\0"}
PLANTED = b"event: planted"
FIELDS = ("sku", "lastEventId", "another field", "path", "Last-Event-ID", "Accept", "X-Forwarded-For", "Host")


@pytest.mark.parametrize("line_break", BREAKS)
@module
async def test_a_line_break_in_any_field_plants_no_event(shop: Shop, line_break: str) -> None:
    # Written out where a URL takes it, as it is in a header; behind it what would be an event of its own.
    raw = BREAKS[line_break].join((b"strange:1", PLANTED, b"data: {}", b"", b""))
    quoted = quote_from_bytes(raw)
    targets = {
        "sku": f"{stream_wire.PATH}?sku={shop.a}{quoted}",
        "lastEventId": f"{stream_wire.PATH}?sku={shop.a}&lastEventId={quoted}",
        "another field": f"{stream_wire.PATH}?sku={shop.a}&{quoted}={quoted}",
        "path": f"{stream_wire.PATH}{quoted}?sku={shop.a}",
    }
    async with viewing(shop.url, shop.a) as viewer:  # who comes while it watches is answered at once
        for name in FIELDS:
            target = targets.get(name, f"{stream_wire.PATH}?sku={shop.a}")
            own = b"" if name in targets else b"%b: %b\r\n" % (name.encode(), raw)
            host = b"" if name == "Host" else b"Host: x\r\n"
            status, heard = await hear(shop, b"GET %b HTTP/1.1\r\n%b%b\r\n" % (target.encode(), host, own))
            assert status == 200 or 400 <= status < 500, (name, heard)
            assert (status == 200) == (b"event: snapshot" in heard), (name, heard)
            assert PLANTED not in re.split(rb"\r\n|\r|\n", heard), (name, heard)
        beats = len(viewer.of("beat"))
        await viewer.until(lambda viewer: len(viewer.of("beat")) > beats, "it goes on")


async def hear(shop: Shop, request: bytes) -> tuple[int, bytes]:
    """Ask in these bytes; the status, and what was heard: of a stream up to its first snapshot."""
    reader, writer = await asyncio.open_connection("127.0.0.1", shop.server.port)
    writer.write(request)
    async with asyncio.timeout(PATIENCE_SECONDS):
        heard = await reader.readuntil(b"\r\n\r\n")
        status = int(heard.split(maxsplit=2)[1])
        if status == 200:
            heard += await reader.readuntil(b"event: snapshot\n") + await reader.readuntil(b"\n\n")
        elif length := re.search(rb"content-length: ([0-9]+)", heard.lower()):
            heard += await reader.readexactly(int(length[1]))
    writer.transport.abort()
    return status, heard


@module
async def test_when_its_sale_ends_a_viewer_hears_it_and_the_next_is_sent_away(shop: Shop) -> None:
    async with viewing(shop.url, shop.a) as viewer:
        await viewer.until(lambda viewer: viewer.events)
        await shop.driver.change("s", "ENDED")
        await viewer.until(lambda viewer: viewer.states(shop.sale)[-1] == "ENDED", "the end")
    async with viewing(shop.url, shop.a) as late:
        assert (late.status, late.text) == (204, "")


@pytest.mark.parametrize("shop", BACKENDS, indirect=True)
@module
async def test_places_are_bounded_and_who_gets_none_comes_back_later(stage: Stage, shop: Shop) -> None:
    await free(stage, shop)
    async with contextlib.AsyncExitStack() as stack:

        async def come(address: str, *, is_welcome: bool = True) -> Viewer:
            watches = viewing(shop.url, shop.a, address=address, is_patient=is_welcome)
            viewer = await stack.enter_async_context(watches)
            await viewer.until(lambda viewer: viewer.events or viewer.ended)
            assert viewer.status == 200
            return viewer

        let_in = [await come("127.0.0.1") for _ in range(ADDRESS_VIEWERS_MAX)]
        turned_away = [await come("127.0.0.1", is_welcome=False)]
        let_in += [await come("127.0.0.2") for _ in range(VIEWERS_MAX - ADDRESS_VIEWERS_MAX)]
        turned_away += [await come("127.0.0.3", is_welcome=False)]
        for viewer in turned_away:
            await viewer.until(lambda viewer: viewer.ended)
            assert not viewer.events
            assert viewer.retry_ms >= 5000
            assert viewer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert all(viewer.of("snapshot") and not viewer.ended for viewer in let_in)
        assert await metric(stage, shop.server.ops_port, "flashsale_stream_viewers") == VIEWERS_MAX
    await free(stage, shop)


async def free(stage: Stage, shop: Shop) -> None:
    """Wait until nobody watches: whoever left gives its place back."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await metric(stage, shop.server.ops_port, "flashsale_stream_viewers"):
            await asyncio.sleep(0.05)


@module
async def test_an_old_client_gets_the_same_events_without_chunks(shop: Shop) -> None:
    async with viewing(shop.url, shop.a), asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.server.port)
        writer.write(f"GET {stream_wire.PATH}?sku={shop.a} HTTP/1.0\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"chunked" not in head
        assert (await reader.readline()).startswith(b"retry: ")
        assert await reader.readline() == b"\n"
        assert await reader.readline() == b"event: snapshot\n"
        await reader.readuntil(b"\n\n")
        assert await reader.readline() == b"event: beat\n"
        writer.close()
