"""A front that is half dead: without its poll, without PostgreSQL's connections, or with a client that never finishes."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from flashsale.authority.green import CALL_SECONDS
from flashsale.settings import REPOSITORY
from tests.databases import PASSWORDS, given, url_for
from tests.patience import PATIENCE_SECONDS
from tests.proxy import proxied
from tests.queued_shop import Shopper, shop_on
from tests.servers import JWT_SECRET, Process
from tests.stages import staged

# The front as it is, but for one greenlet that fails once, soon after the start of the first worker.
BROKEN = """
from gevent import monkey

monkey.patch_all()

import pathlib
import runpy

import gevent

from flashsale.backends.gevent_rabbit import feed, watch
from flashsale.queued import link

once = pathlib.Path({once!r})
real = {where}


def broken(self):
    if once.exists():
        return real(self)
    once.touch()
    gevent.sleep(1)
    raise RuntimeError("on purpose")


{where} = broken
runpy.run_module("flashsale.backends.gevent_rabbit", run_name="__main__")
"""


@pytest.mark.parametrize("where", ["watch.Watch._poll", "link.Link._keep", "feed.Feed._run"])
async def test_a_front_that_lost_its_poll_its_link_or_its_feed_ends_and_is_replaced(
    template: str, redis_url: str, tmp_path: Path, where: str
) -> None:
    (tmp_path / "broken_front.py").write_text(BROKEN.format(once=str(tmp_path / "once"), where=where))
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        environment = {
            "FLASH_POSTGRES_URL": stage.database.app_url,
            "FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL"),
            "FLASH_REDIS_URL": given("FLASH_TEST_REDIS_URL"),
            "FLASH_AUTH": "off",
            "FLASH_JWT_SECRET": JWT_SECRET,
            "PYTHONPATH": f"{tmp_path}:{REPOSITORY / 'src'}",
        }
        front = Process("gevent_rabbit", environment)
        front.module = "broken_front"
        shop = shop_on(stage)
        await shop.open("s", {"a": 5}, 2)
        try:
            await front.start()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (log := front.log.read_text()).count('"server.started"') < 2:
                    await asyncio.sleep(0.1)
                # 200: the worker that ended had taken it, and had not said so
                while await _try(Shopper(shop, "ana"), front.url) not in {200, 201}:
                    await asyncio.sleep(0.1)
            assert '"server.failed"' in log
        finally:
            front.log.write_text("")  # it holds the failure that was wanted
            await front.stop()


async def _try(shopper: Shopper, server: str) -> int:
    try:
        return (await shopper.buy(server, Prefer="wait=5")).status
    except (OSError, aiohttp.ClientError):  # between two workers
        return 0


async def test_a_decided_attempt_is_never_called_queued_again(template: str, redis_url: str) -> None:
    async with proxied(given("FLASH_TEST_POSTGRES_URL")) as postgres:
        url = postgres.lead(given("FLASH_TEST_POSTGRES_URL"))
        way = url_for(url, database="{}", user="flash_app", password=PASSWORDS["flash_app"])
        async with staged(template, redis_url, servers=0, queued_servers=1, postgres_url=way) as stage:
            shop = shop_on(stage)
            await shop.open("s", {"a": 5}, 2)
            ana = Shopper(shop, "ana")
            receipt = (await ana.buy(stage.urls[0])).receipt
            assert (await ana.decided(stage.urls[0], receipt)).body["state"] == "HELD"
            await postgres.refuse()
            for headers in ({}, {"Prefer": "wait=1"}):
                looked = await ana.look(stage.urls[0], hasty=True, Receipt=receipt, **headers)
                assert (looked.status, looked.body["verdict"]) == (503, "try_later")
            await postgres.open()


async def test_connections_that_postgresql_ended_are_replaced_unseen(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1, workers=0) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 5}, 2)
        for _ in range(3):
            looks = [Shopper(shop, f"b{n}").look(stage.urls[0], hasty=True) for n in range(20)]
            # 503 is for who was kept waiting, as a slow machine does to anybody
            assert not [a for a in await asyncio.gather(*looks) if a.status != 404 and a.seconds < CALL_SECONDS]
            await stage.owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'flash_app' "
                "AND datname = current_database()"
            )


async def test_a_waiter_sleeps_on_until_something_changed(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 50}, 2)
        shoppers = [Shopper(shop, f"b{n}") for n in range(30)]
        heard = await asyncio.gather(*(shopper.settled(stage.urls[0]) for shopper in shoppers))
        assert {answer.status for answer in heard} <= {200, 201}
        looks = await asyncio.gather(*(shopper.look(stage.urls[0], Prefer="wait=2") for shopper in shoppers))
        assert min(look.seconds for look in looks) >= 1.9
        assert {look.body["state"] for look in looks} == {"HELD"}


async def _speak(server: Process, said: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(said)
    async with asyncio.timeout(PATIENCE_SECONDS):
        heard = await reader.read()
    writer.close()
    return heard


HEAD = b"POST /purchases HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
AMBIGUOUS = {
    "two lengths": (400, b"Content-Length: 2\r\nContent-Length: 40\r\n"),
    "length and chunks": (400, b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"),
    "another coding": (501, b"Transfer-Encoding: gzip, chunked\r\n"),
    "two codings": (400, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
    "a sign": (400, b"Content-Length: +2\r\n"),
    "an underscore": (400, b"Content-Length: 0_2\r\n"),
    "a list": (400, b"Content-Length: 2, 2\r\n"),
    "a space before the colon": (400, b"X : y\r\nContent-Length: 2\r\n"),
    "no colon": (400, b"X\r\nContent-Length: 2\r\n"),
    "not a number": (400, b"Content-Length: two\r\n"),
    "too long a body": (413, b"Content-Length: 5000\r\n"),
    "too many": (431, b"".join(b"X-%d: y\r\n" % n for n in range(150))),
    "too large": (431, b"X-Large: " + b"y" * 40_000 + b"\r\n"),
    "too large in all": (431, b"".join(b"X-%d: %b\r\n" % (n, b"y" * 1000) for n in range(40))),
}


async def test_a_request_that_may_end_in_two_places_or_never_ends_is_refused_and_cut(
    template: str, redis_url: str
) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1, workers=0) as stage:
        (front,) = stage.servers
        for name, (status, lines) in AMBIGUOUS.items():
            heard = await _speak(front, HEAD + lines + b"\r\n{}GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert heard.startswith(b"HTTP/1.1 %d " % status), (name, heard)
            assert b"\r\nContent-Type: application/problem+json\r\n" in heard, (name, heard)
            assert heard.count(b"\r\n\r\n") == 1, (name, heard)
        late = await _speak(front, HEAD)  # and nothing after it
        assert late.startswith(b"HTTP/1.1 408 ")
