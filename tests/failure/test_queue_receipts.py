"""A receipt outlives the queue: it may be given back to either backend, by its buyer, and is decided once."""

import asyncio
import base64

from flashsale.queued import topology
from tests.patience import PATIENCE_SECONDS
from tests.queued_shop import Shopper, shop_on
from tests.queues import ready_messages
from tests.servers import JWT_SECRET
from tests.stages import staged


async def test_a_queued_attempt_can_be_asked_for_by_its_buyer_alone(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, queued_servers=1, workers=0) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 1}, 2)
        ana, ben = Shopper(shop, "ana"), Shopper(shop, "ben")
        (edge,) = stage.urls_of("gevent_rabbit")
        receipt = (await ana.buy(edge)).receipt
        for server in stage.urls:
            queued = await ana.look(server, Receipt=receipt)
            assert (queued.status, queued.body["state"], queued.body["receipt"]) == (200, "QUEUED", receipt)
            ana.path += f"?receipt={receipt}"  # as a link carries it
            assert (await ana.look(server)).body == queued.body
            ana.path = ana.path.partition("?")[0]
            assert (await ana.look(server)).status == 404
            raw = bytearray(base64.urlsafe_b64decode(receipt))
            raw[20] ^= 1
            for forged in (base64.urlsafe_b64encode(bytes(raw)).decode(), receipt[:-1], "", "x" * 5000):
                assert (await ana.look(server, Receipt=forged)).body["verdict"] == "malformed"
                assert (await ana.buy(server, Receipt=forged)).body["verdict"] == "malformed"
            ben.path, theirs = ana.path, ben.path
            assert (await ben.look(server, Receipt=receipt)).body["verdict"] == "malformed"
            ben.path = theirs
            assert (await ben.buy(server, Receipt=receipt)).body["verdict"] == "malformed"


async def test_a_receipt_given_to_the_other_backend_is_decided_there_and_not_again(
    template: str, redis_url: str
) -> None:
    async with staged(template, redis_url, queued_servers=1, workers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 2}, 2)
        await stage.gate_opens(shop.own("s"))  # else the other backend says "later"
        (worker,) = stage.workers
        await worker.stop()
        (edge,), (direct,) = stage.urls_of("gevent_rabbit"), stage.urls_of("asyncio_redis")
        ana = Shopper(shop, "ana")
        receipt = (await ana.buy(edge)).receipt
        again = await ana.buy(direct, Receipt=receipt)
        assert (again.status, again.body["state"]) == (200, "HELD")
        await worker.start()
        assert (await ana.decided(edge, receipt)).body["state"] == "HELD"
        assert (await ana.settled(edge, Receipt=receipt)).status == 200
        async with asyncio.timeout(PATIENCE_SECONDS):  # a worker that is ready may not have been given it yet
            while await ready_messages(topology.queue_of(shop.own("a"))):
                await asyncio.sleep(0.05)
        assert await shop.available("a") == 1


async def test_a_receipt_outlives_the_secret_that_signed_it(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, queued_servers=1, workers=0) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 1}, 2)
        await stage.gate_opens(shop.own("s"))
        (edge,), (direct,) = stage.urls_of("gevent_rabbit"), stage.urls_of("asyncio_redis")
        ana = Shopper(shop, "ana")
        receipt = (await ana.buy(edge)).receipt
        for server in stage.servers:
            await server.restart(FLASH_JWT_SECRET="another-secret-of-the-tests-and-long-enough")
            assert (await ana.look(server.url, Receipt=receipt)).body["verdict"] == "malformed"
            await server.restart(FLASH_RECEIPT_KEYS=JWT_SECRET)
            assert (await ana.look(server.url, Receipt=receipt)).body["state"] == "QUEUED"
        again = await ana.buy(edge, Receipt=receipt)
        assert again.receipt != receipt
        assert (await ana.buy(direct, Receipt=again.receipt)).body["state"] == "HELD"
        assert (await ana.look(edge, Receipt=receipt)).body["state"] == "HELD"
