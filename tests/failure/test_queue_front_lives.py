"""A front that stops, is reloaded, or dies, under load: whoever heard 202 is decided, and whoever was asking is answered or comes again."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
import pytest

from flashsale.contract import wire
from flashsale.settings import REPOSITORY
from tests.contract.drivers import HttpDriver
from tests.patience import PATIENCE_SECONDS
from tests.queued_shop import Shopper, metric, shop_on
from tests.servers import Process
from tests.stages import Stage, staged
from tests.viewers import viewing

CROWD = 40  # shoppers at once
UNITS = 1_000_000
PAUSE_SECONDS = 0.05  # of a shopper, between two wishes and before a wish is sent again
FEW = 20  # 202 that were heard before something happens, and after it


class Place(NamedTuple):
    """One front with its worker, and a sale of more than is wanted."""

    stage: Stage
    shop: HttpDriver
    front: Process


@pytest.fixture
async def place(template: str, redis_url: str) -> AsyncIterator[Place]:
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": UNITS}, 2)
        yield Place(stage, shop, stage.servers[0])


def workers_of(front: Process) -> set[int]:
    """The pids behind its master."""
    assert front.child is not None
    return {child.pid for child in psutil.Process(front.child.pid).children()}


async def reload(front: Process) -> None:
    """Wait until another worker serves, and the old one has ended by itself."""
    front.send(signal.SIGHUP)
    await logs(front, '"server.started"', 2)
    await logs(front, '"server.stopped"', 1)


async def lose_worker(front: Process) -> None:
    """The master makes another."""
    (worker,) = workers_of(front)
    os.kill(worker, signal.SIGKILL)
    await logs(front, '"server.started"', 2)


async def lose_master(front: Process) -> None:
    """Its worker must not outlive it, or the port is taken when it comes again."""
    assert front.child is not None
    (worker,) = workers_of(front)
    front.child.kill()
    await front.child.wait()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)
    await front.start()


async def logs(front: Process, word: str, times: int) -> None:
    """Wait until it has said so, so often."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while front.log.read_text().count(word) < times:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("happens", [reload, lose_worker, lose_master])
async def test_no_202_is_lost_whatever_happens_to_a_front_under_load(place: Place, happens: object) -> None:
    receipts: dict[str, str] = {}  # of who heard 202
    asked: list[str] = []
    is_over = asyncio.Event()

    async def shop_on_and_on(name: str) -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            who = f"{name}-{number}"
            asked.append(who)
            while who not in receipts:  # the same key until it is told something
                try:
                    receipts[who] = (await Shopper(place.shop, who).buy(place.front.url)).receipt
                except (OSError, aiohttp.ClientError):
                    await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)

    async def heard(more: int) -> None:
        wanted = len(receipts) + more
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(receipts) < wanted:
                await asyncio.sleep(0.01)

    crowd = [asyncio.create_task(shop_on_and_on(f"b{number}")) for number in range(CROWD)]
    try:
        await heard(FEW)
        await happens(place.front)  # type: ignore[operator]  # pytest knows no parameter's type
        await heard(FEW)
    finally:
        is_over.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*crowd)
    for first in range(0, len(asked), CROWD):
        some = asked[first : first + CROWD]
        decided = await asyncio.gather(
            *(Shopper(place.shop, who).decided(place.front.url, receipts[who]) for who in some)
        )
        assert {(answer.status, answer.body.get("state")) for answer in decided} == {(200, "HELD")}
    assert await place.shop.available("a") == UNITS - len(asked)
    if happens is not reload:
        place.front.log.write_text("")  # it holds the master's word about a worker that was killed


async def test_a_stop_answers_who_asks_sees_off_who_watches_and_leaves_who_says_nothing(place: Place) -> None:
    ana = Shopper(place.shop, "ana")
    assert (await ana.settled(place.front.url)).status in {200, 201}
    async with contextlib.AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(viewing(place.front.url, place.shop.own("a"))) for _ in range(5)]
        for viewer in viewers:
            await viewer.until(lambda viewer: viewer.events)
        idle = await stack.enter_async_context(aiohttp.ClientSession())
        async with idle.get(place.front.url + "/livez") as answer:
            assert answer.status == 200
        waiting = [
            asyncio.create_task(ana.look(place.front.url, Prefer=f"wait={wire.WAIT_SECONDS_MAX}")) for _ in range(5)
        ]
        half = socket.create_connection(("127.0.0.1", place.front.port))
        stack.callback(half.close)
        half.sendall(b"POST /purchases HTTP/1.1\r\nHost: x\r\n")  # and no more: it is owed nothing
        await asyncio.sleep(
            0.5
        )  # long enough for most of them to be waiting; who comes later is answered at once, which is as well
        assert await metric(place.stage, place.front.ops_port, "flashsale_stream_viewers") == len(viewers)
        place.front.send(signal.SIGTERM)
        for viewer in viewers:
            await viewer.until(lambda viewer: viewer.ended)
            assert viewer.events[-1].name == "bye"
        assert {(await look).status for look in waiting} == {200}
        await logs(place.front, '"server.stopped"', 1)  # by its worker, before the master's patience ended
        assert await place.front.stop() == 0


# gunicorn with our worker, and requests that are not answered until a file is there.
STUBBORN = """
from gevent import monkey

monkey.patch_all()

import os
from pathlib import Path

import gevent
from gunicorn.app.base import BaseApplication

from flashsale.edge import worker
from flashsale.edge.message import Site
from flashsale.lane.answer import Answer

GRACE_SECONDS = 600
LET = Path(__file__).with_name("let")
worker.SPARE_SECONDS = int(os.environ["SPARE_SECONDS"])


class Service:
    def __init__(self):
        self.sites = Site(self.wait, self.refuse, 64), Site(self.ready, self.refuse, 64)

    def wait(self, request):
        print("asked", flush=True)
        while not LET.exists():
            gevent.sleep(0.05)
        return self.refuse(200, "let")

    def ready(self, request):
        return self.refuse(200, "ready")

    def refuse(self, status, detail):
        return Answer(status, {}, detail.encode())

    def stop_waiting(self):
        print("stopping", flush=True)

    def close(self):
        print("closed", flush=True)


class Stubborn(BaseApplication):
    def load_config(self):
        bind = [f"127.0.0.1:{os.environ[name]}" for name in ("FLASH_PORT", "FLASH_OPS_PORT")]
        options = {"bind": bind, "worker_class": worker.Worker, "graceful_timeout": GRACE_SECONDS}
        for name, value in {**options, "control_socket_disable": True}.items():
            self.cfg.set(name, value)

    def load(self):
        return Service()


Stubborn().run()
"""


@pytest.mark.parametrize("is_let", [True, False])
async def test_a_worker_answers_what_it_was_asked_or_ends_it_before_its_master_would(
    tmp_path: Path, *, is_let: bool
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    spare_s = "0" if is_let else "599"  # of a grace time of 600
    front = Process("gevent_rabbit", {"PYTHONPATH": f"{tmp_path}:{REPOSITORY / 'src'}", "SPARE_SECONDS": spare_s})
    front.module = "stubborn"
    try:
        await front.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await logs(front, "asked", 1)
        front.send(signal.SIGTERM)
        await logs(front, "stopping", 1)
        if is_let:
            async with aiohttp.ClientSession() as session:
                assert await front.is_ready(session)  # the host may look as long as there is something to see
            (tmp_path / "let").touch()
        async with asyncio.timeout(PATIENCE_SECONDS):
            heard = await reader.read()
        writer.close()
        assert heard.endswith(b"\r\nConnection: close\r\n\r\nlet") if is_let else not heard
        await logs(front, "closed", 1)
    finally:
        assert await front.stop() == 0
