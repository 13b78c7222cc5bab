"""Viewers in crowds: those who stall, those who only sit there, and those who are moved from one server to another.

What a viewer costs is counted where it is spent: the resident memory of the server's processes, and what the kernel keeps for
its socket (``tx_queue`` in /proc/net/tcp: bytes written and not taken by the other side).
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from flashsale.stream import wire
from tests.balanced import balanced
from tests.contract.test_stock_stream import BACKENDS, SHOWN_BY, Shop, shop_of
from tests.descriptors import room_for
from tests.patience import PATIENCE_SECONDS
from tests.queued_shop import metric
from tests.servers import Process
from tests.stages import Stage, staged
from tests.viewers import Browser, Viewer, browsing, viewing

VIEWER_BYTES_MAX = 32 * 1024
WARM, STALLED, IDLE = 100, 500, 2000
CROWD_SECONDS = 3 * PATIENCE_SECONDS  # thousands come one by one
JOINING = 8  # at each server
MOVED, FEW = 40, 6
STREAM_FIELD = "flashsale_stream_"

module = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def idle() -> Iterator[int]:
    with room_for(IDLE) as viewers:
        yield viewers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(template: str, redis_url: str, idle: int) -> AsyncIterator[Stage]:  # noqa: ARG001 - its servers have room for them
    settings = {"FLASH_SSE_HZ": "20"}
    async with staged(template, redis_url, queued_servers=1, streams=1, settings=settings) as made:
        yield made


@contextlib.contextmanager
def seated(number: int, server: Process, *skus: str, room: int | None = None) -> Iterator[list[socket.socket]]:
    """So many viewers that have asked and read nothing. Somebody must watch the same already: who comes first waits for a reading, and
    is sent away when PostgreSQL is late. ``room``: how much waits at theirs; a quarter of an hour's beats if not given.
    """
    asked = f"GET {wire.PATH}?sku={','.join(skus)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(socket.socket()) for _ in range(number)]
        for viewer in viewers:
            if room is not None:
                viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            viewer.connect(("127.0.0.1", server.port))
            viewer.sendall(asked)
        yield viewers


def resident(server: Process) -> int:
    assert server.child is not None
    process = psutil.Process(server.child.pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))


def most_queued(server: Process, viewers: list[socket.socket]) -> int:
    """What the kernel keeps for the one of them that it keeps most for."""
    ends = {(f"{server.port:04X}", f"{viewer.getsockname()[1]:04X}") for viewer in viewers}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queued = {(row[1].partition(":")[2], row[2].partition(":")[2]): int(row[4].partition(":")[0], 16) for row in rows}
    return max(queued.get(each, 0) for each in ends)


async def until(is_true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(CROWD_SECONDS):
        while not await is_true():
            await asyncio.sleep(0.05)


async def watched_by(stage: Stage, server: Process, viewers: int) -> None:
    async def are_there() -> bool:
        return await metric(stage, server.ops_port, f"{STREAM_FIELD}viewers") == viewers

    await until(are_there)


@pytest.mark.parametrize("shown_by", BACKENDS)
@module
async def test_a_stalled_viewer_costs_less_than_32_kib_and_is_dropped_and_the_others_go_on(
    stage: Stage, shown_by: str
) -> None:
    shop = await shop_of(stage, shown_by)
    # The most that can be watched, with the longest names: one change of its sale is twenty kilobytes.
    skus = [f"{shop.driver.prefix}-{number:02}".ljust(64, "x") for number in range(wire.SKUS_MAX)]
    for sku in skus:
        await shop.driver.authority.add_item(shop.sale, sku, "x", 100, 1)

    async def count(what: str) -> float:
        return await metric(stage, shop.server.ops_port, f"{STREAM_FIELD}{what}_total")

    evicted, conflated = await count("evicted"), await count("conflated")
    async with viewing(shop.url, *skus) as reader:
        with seated(WARM, shop.server, *skus, room=2048):
            await watched_by(stage, shop.server, WARM + 1)
        await watched_by(stage, shop.server, 1)
        before = resident(shop.server)
        with seated(STALLED, shop.server, *skus, room=2048) as stalled:
            await watched_by(stage, shop.server, STALLED + 1)
            most = kept = 0
            async with asyncio.timeout(CROWD_SECONDS):
                while await count("evicted") < evicted + STALLED:
                    await shop.driver.change("s", "PAUSED")
                    most, kept = max(most, resident(shop.server)), max(kept, most_queued(shop.server, stalled))
            assert (most - before) / STALLED + kept < VIEWER_BYTES_MAX, (before, most, kept)
            assert await count("conflated") > conflated
            await watched_by(stage, shop.server, 1)
            await ends(stalled[0])
        await shop.driver.authority.restock(skus[3], 41)
        await reader.shows(skus[3], 42)
    await watched_by(stage, shop.server, 0)


async def ends(viewer: socket.socket) -> None:
    """Wait for the end of the connection, behind what was under way."""
    viewer.setblocking(False)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await asyncio.get_running_loop().sock_recv(viewer, 65_536):
                pass


@pytest.mark.parametrize("shown_by", BACKENDS)
@module
async def test_two_thousand_who_only_sit_there_cost_less_than_32_kib_each(
    stage: Stage, shown_by: str, idle: int
) -> None:
    shop = await shop_of(stage, shown_by)
    async with viewing(shop.url, shop.a):
        before = resident(shop.server)
        with seated(idle, shop.server, shop.a):
            await watched_by(stage, shop.server, idle + 1)
            frames = await metric(stage, shop.server.ops_port, f"{STREAM_FIELD}frames_total")

            async def have_beaten() -> bool:
                return await metric(stage, shop.server.ops_port, f"{STREAM_FIELD}frames_total") >= frames + 2 * idle

            await until(have_beaten)
            assert (resident(shop.server) - before) / idle < VIEWER_BYTES_MAX
    await watched_by(stage, shop.server, 0)


async def ledger_of(stage: Stage, sku: str) -> dict[int, int]:
    """What was available after each movement."""
    rows = await stage.owner.fetch(
        "SELECT seq, sum(delta) OVER (ORDER BY seq) AS available FROM flash.ledger WHERE sku = $1", sku
    )
    return {row["seq"]: row["available"] for row in rows}


def check_told(told: list[tuple[int, int]], ledger: dict[int, int]) -> None:
    """Whatever was shown was so, nothing went backwards, and the end is the end."""
    assert all(ledger[seq] == available for seq, available in told)
    assert all(before <= after for (before, _), (after, _) in pairwise(told)), told
    assert told[-1][0] == max(ledger)


@contextlib.asynccontextmanager
async def moving(shop: Shop) -> AsyncIterator[None]:
    """Stock that never stands still meanwhile, and does afterwards: a movement that was cancelled may be committed later."""
    is_over = asyncio.Event()

    async def move() -> None:
        while not is_over.is_set():
            await shop.driver.restock("a", 1)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(move())
    try:
        yield
    finally:
        is_over.set()
        await task


@module
async def test_who_comes_while_stock_moves_misses_nothing_between_snapshot_and_steps(stage: Stage) -> None:
    shop = await shop_of(stage, BACKENDS[0])
    servers = [*stage.servers, *stage.streams] * JOINING
    async with contextlib.AsyncExitStack() as stack:
        async with moving(shop):
            viewers = []
            for server in servers:
                viewers.append(await stack.enter_async_context(viewing(server.url, shop.a)))
                await asyncio.sleep(random.uniform(0, 0.1))
            for viewer in viewers:
                await viewer.until(lambda viewer: viewer.of("stock"), "a step")
        ledger = await ledger_of(stage, shop.a)
        for viewer in viewers:
            await viewer.shows(shop.a, ledger[max(ledger)])
            assert viewer.events[0].name == "snapshot"
            check_told(viewer.told(shop.a), ledger)
            for event in viewer.events:  # and what it would come back with is what it was told
                if event.name == "stock":
                    assert event.last_id == f"{shop.a}:{event.data['seq']}"


@pytest.mark.parametrize("by", ["header", "query"])
@module
async def test_who_comes_back_to_another_server_is_told_what_it_missed_and_no_more(stage: Stage, by: str) -> None:
    shop = await shop_of(stage, BACKENDS[0])
    urls = [server.url for server in (*stage.servers, *stage.streams)]
    assert len(urls) == len(SHOWN_BY)
    last_id = ""

    async def come(url: str, units: int | None) -> str:
        """The id it leaves with; without units to see it waits for a beat."""
        headers = {wire.LAST_ID_HEADER: last_id} if by == "header" else {}
        query = "" if by == "header" else f"&{wire.LAST_ID_FIELD}={last_id}"
        async with viewing(url, shop.a, headers=headers, query=query) as viewer:
            if units is None:
                await viewer.until(lambda viewer: viewer.of("beat"))
                assert not viewer.of("snapshot")
                return last_id
            await viewer.shows(shop.a, units)
            return viewer.events[-1].last_id

    units = 10
    last_id = await come(urls[0], units)
    for url in (*urls[1:], urls[0]):  # each after another one
        await come(url, None)
        units += 1
        await shop.driver.restock("a", 1)
        last_id = await come(url, units)


@module
async def test_a_server_that_stops_behind_the_balancer_loses_nobody_anything_and_the_end_of_the_sale_ends_it_all(
    stage: Stage,
) -> None:
    stopping, staying = [await shop_of(stage, backend) for backend in BACKENDS]
    shop, server = staying, stopping.server
    behind = ",".join(f"{each.role}=127.0.0.1:{each.port}" for each in stage.servers)
    async with (
        balanced(LB_SERVERS=behind) as balancer,
        browsing(MOVED, f"http://127.0.0.1:{balancer.port}", shop.a) as browsers,
    ):
        for browser in browsers:
            await hears(browser)
        async with moving(shop):
            assert await server.stop() == 0
            moved = [browser for browser in browsers if shown_first(browser).ended is not None]
            assert len(moved) > MOVED // 4, "in turn"
            for browser in moved:
                await hears(browser, max(seq for seq, _ in shown_first(browser).told(shop.a)) + 1)
        # Each was sent away at a moment of its own, and told a time of its own to come back.
        first = [shown_first(browser) for browser in moved]
        assert all(viewer.events[-1].name == "bye" for viewer in first)
        back = sorted((viewer.ended or 0.0) + viewer.retry_ms / 1000 for viewer in first)
        assert back[-1] - back[0] > 0.5, back  # of five seconds; how evenly, twenty of them do not tell
        ledger = await ledger_of(stage, shop.a)
        for browser in browsers:
            await hears(browser, max(ledger))
            check_told(browser.told, ledger)

        await shop.driver.change("s", "ENDED")
        for browser in browsers:
            await hears_the_end(browser, shop.sale)
            browser.cut()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(browser.task for browser in browsers))
        assert {browser.viewers[-1].status for browser in browsers} == {204}
        assert {viewer.status for browser in browsers for viewer in browser.viewers[:-1]} == {200}
        await watched_by(stage, shop.server, 0)
    await server.start()


@module
async def test_viewers_are_led_to_the_process_of_viewers_and_to_the_servers_while_it_is_gone(stage: Stage) -> None:
    shop = await shop_of(stage, BACKENDS[0])
    (process,) = stage.streams
    behind = ",".join(f"{each.role}=127.0.0.1:{each.port}" for each in stage.servers)
    async with (
        balanced(LB_SERVERS=f"{behind},stream=127.0.0.1:{process.port}{wire.PATH}") as balancer,
        browsing(FEW, f"http://127.0.0.1:{balancer.port}", shop.a) as browsers,
    ):
        for browser in browsers:
            await hears(browser)
        await watched_by(stage, process, FEW)
        assert await process.stop() == 0
        await shop.driver.restock("a", 1)
        last = max(await ledger_of(stage, shop.a))
        for browser in browsers:
            await hears(browser, last)
            assert len(browser.viewers) > 1
        assert {viewer.status for browser in browsers for viewer in browser.viewers} == {200}
    await process.start()


def shown_first(browser: Browser) -> Viewer:
    """The first answer that told it anything: before, PostgreSQL may have been late."""
    return next(viewer for viewer in browser.viewers if viewer.events)


async def hears(browser: Browser, seq: int = 0) -> None:
    """Wait until it has been told of this movement, or a later one, on whichever connection: who comes back knowing the latest is
    told nothing again.
    """

    async def has_heard() -> bool:
        return bool(browser.told) and browser.told[-1][0] >= seq

    await until(has_heard)


async def hears_the_end(browser: Browser, sale: str) -> None:
    """Wait until it has been told that the sale is over, or was sent away for it."""

    async def has_heard() -> bool:
        return browser.task.done() or browser.viewers[-1].states(sale)[-1:] == ["ENDED"]

    await until(has_heard)
