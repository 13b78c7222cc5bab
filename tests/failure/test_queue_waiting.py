"""Whoever waits for a verdict hears of it: told by the feed at once, found by the poll when nobody told."""

import asyncio
import itertools
from pathlib import Path

import pytest

from flashsale.queued import topology
from flashsale.settings import REPOSITORY
from tests.contract.drivers import HttpDriver
from tests.databases import PASSWORDS, given, url_for
from tests.patience import PATIENCE_SECONDS
from tests.proxy import proxied
from tests.queued_shop import Shopper, metric, shop_on
from tests.queues import ready_messages
from tests.servers import JWT_SECRET, Process
from tests.stages import staged

WAIT_SECONDS = 30  # as long as a server lets anybody wait
TOLD_SECONDS = WAIT_SECONDS - 1  # whoever is answered by then was told, and did not wait in vain, by any clock

# The front as it is, but with an hour between two polls.
DROWSY = """
from gevent import monkey

monkey.patch_all()

import runpy

from flashsale.backends.gevent_rabbit import watch

watch.POLL_SECONDS = 3600
runpy.run_module("flashsale.backends.gevent_rabbit", run_name="__main__")
"""


async def test_the_feed_alone_wakes(template: str, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "drowsy_front.py").write_text(DROWSY)
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 500}, 9)
        environment = {
            "FLASH_POSTGRES_URL": stage.database.app_url,
            "FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL"),
            "FLASH_REDIS_URL": redis_url,
            "FLASH_AUTH": "off",
            "FLASH_JWT_SECRET": JWT_SECRET,
            "PYTHONPATH": f"{tmp_path}:{REPOSITORY / 'src'}",
        }
        front = Process("gevent_rabbit", environment)
        front.module = "drowsy_front"
        try:
            await front.start()
            early = itertools.count()
            async with asyncio.timeout(PATIENCE_SECONDS):  # it takes attempts before it hears of them
                while '"link": "feed"' not in front.log.read_text():
                    await asyncio.sleep(0.05)
                while (await Shopper(shop, f"early-{next(early)}").buy(front.url, Prefer="wait=1")).status != 201:
                    pass
            shoppers = [Shopper(shop, f"b{n}") for n in range(5)]
            heard = await asyncio.gather(*(s.buy(front.url, Prefer=f"wait={WAIT_SECONDS}") for s in shoppers))
            told = [answer for answer in heard if answer.status == 201]
            assert told
            # a 202 before that is of a front that PostgreSQL did not answer in time
            assert all(answer in told or answer.seconds < TOLD_SECONDS for answer in heard), "who waited in vain"
        finally:
            await front.stop()


async def test_the_poll_finds_what_no_feed_told(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, queued_servers=1, workers=0) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 9}, 9)
        await stage.gate_opens(shop.own("s"))
        (edge,), (direct,) = stage.urls_of("gevent_rabbit"), stage.urls_of("asyncio_redis")
        wait = f"wait={WAIT_SECONDS}"
        for name, watcher in (("ana", edge), ("ben", direct)):
            shopper = Shopper(shop, name)
            receipt = (await shopper.buy(edge)).receipt
            waiting = asyncio.create_task(shopper.look(watcher, Receipt=receipt, Prefer=wait))
            await asyncio.sleep(0.5)  # who is not waiting by then finds the news when it asks
            assert (await shopper.buy(direct, Receipt=receipt)).status == 200  # which tells no feed
            assert (await waiting).body["state"] == "HELD"
            assert (await waiting).seconds < TOLD_SECONDS
            # and a change of the purchase, made by somebody else; who asks only after it waits for another
            for who, head_start_s in ((f"{name}-first", 0.5), (f"{name}-again", 5.0)):
                if await cancelled_before(shop, direct, watcher, who, head_start_s) < TOLD_SECONDS:
                    break
            else:
                pytest.fail("no poll found it")


async def cancelled_before(shop: HttpDriver, direct: str, watcher: str, who: str, head_start_s: float) -> float:
    """After how many seconds a look at a purchase was answered that was cancelled so long after the look was sent."""
    shopper = Shopper(shop, who)
    assert (await shopper.settled(direct)).status in {200, 201}
    waiting = asyncio.create_task(shopper.look(watcher, Prefer=f"wait={WAIT_SECONDS}"))
    await asyncio.sleep(head_start_s)
    assert await shop.cancel(who, who) == "CANCELLED"
    looked = await waiting
    assert looked.body["state"] == "CANCELLED"
    return looked.seconds


async def test_a_wait_in_vain_is_202_and_a_stop_answers_who_waits(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1, workers=0) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 9}, 9)
        ana, ben, queue = Shopper(shop, "ana"), Shopper(shop, "ben"), topology.queue_of(shop.own("a"))
        # Again whenever PostgreSQL or the broker has not answered the front in time: then it says 202 or 503 at once.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (vain := await ana.buy(stage.urls[0], hasty=True, Prefer="wait=2")).seconds < 1.9:
                assert vain.status in {202, 503}
        assert vain.status == 202
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                while await metric(stage, stage.servers[0].ops_port, "flashsale_unconfirmed"):
                    await asyncio.sleep(0.05)  # one of an earlier try would be taken for this one's
                queued = await ready_messages(queue)
                waiting = asyncio.create_task(ben.buy(stage.urls[0], hasty=True, Prefer=f"wait={WAIT_SECONDS}"))
                # a stop before the request has come would be a refused connection
                while not waiting.done() and await ready_messages(queue) <= queued:
                    await asyncio.sleep(0.05)
                if not waiting.done():
                    break
        assert await stage.servers[0].stop() == 0
        assert (await waiting).status == 202
        assert (await waiting).seconds < TOLD_SECONDS


async def test_a_postgresql_that_hangs_delays_its_readers_and_nobody_else(template: str, redis_url: str) -> None:
    async with proxied(given("FLASH_TEST_POSTGRES_URL")) as postgres:
        url = postgres.lead(given("FLASH_TEST_POSTGRES_URL"))
        way = url_for(url, database="{}", user="flash_app", password=PASSWORDS["flash_app"])
        async with staged(template, redis_url, servers=0, queued_servers=1, workers=0, postgres_url=way) as stage:
            shop = shop_on(stage)
            await shop.open("s", {"a": 9}, 9)
            ana = Shopper(shop, "ana")
            receipt = (await ana.buy(stage.urls[0])).receipt
            assert (await ana.look(stage.urls[0], Receipt=receipt)).status == 200
            postgres.freeze()
            looking = asyncio.create_task(ana.look(stage.urls[0], hasty=True, Receipt=receipt))
            quick = [await Shopper(shop, f"b{n}").buy(stage.urls[0]) for n in range(10)]
            assert {answer.status for answer in quick} == {202}, "while it hangs"
            assert (await looking).status == 503
            postgres.thaw()
            assert (await ana.look(stage.urls[0], Receipt=receipt)).status == 200
