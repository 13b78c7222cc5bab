"""What the broker has not confirmed is never a 202: lost, late, nacked, returned, refused."""

import asyncio

import aio_pika
import pytest

from flashsale.queued import topology
from tests.databases import given
from tests.patience import PATIENCE_SECONDS
from tests.proxy import proxied
from tests.queued_shop import Shopper, metric, shop_on
from tests.queues import broker, ready_messages
from tests.stages import staged


async def test_a_lost_confirm_is_503_and_the_same_key_finds_what_it_made(template: str, redis_url: str) -> None:
    async with (
        proxied(given("FLASH_TEST_RABBITMQ_URL")) as broker_way,
        staged(
            template,
            redis_url,
            servers=0,
            queued_servers=1,
            rabbitmq_url=broker_way.lead(given("FLASH_TEST_RABBITMQ_URL")),
        ) as stage,
    ):
        shop = shop_on(stage)
        await shop.open("s", {"a": 5}, 2)
        ana = Shopper(shop, "ana")
        broker_way.swallows_replies = True
        late = await ana.buy(stage.urls[0], hasty=True)
        assert (late.status, late.body["verdict"]) == (503, "try_later")
        broker_way.swallows_replies = False
        await broker_way.refuse()
        await broker_way.open()
        assert (await ana.settled(stage.urls[0])).status in {200, 201}
        assert await stage.owner.fetchval("SELECT count(*) FROM flash.ledger WHERE kind = 'hold'") == 1


async def test_a_message_that_no_queue_takes_is_503(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1, workers=0) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 5}, 2)
        async with broker() as channel:
            await channel.queue_delete(topology.queue_of(shop.own("a")))
        returned = 'flashsale_confirms_total{outcome="returned"}'
        async with asyncio.timeout(PATIENCE_SECONDS):  # what comes back too late is 503 as well, and counted as late
            while not await metric(stage, stage.servers[0].ops_port, returned):
                refused = await Shopper(shop, "ana").buy(stage.urls[0], hasty=True)
                assert (refused.status, refused.body["verdict"]) == (503, "try_later")


@pytest.mark.slow
async def test_a_full_shard_is_503_and_the_others_serve(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1, workers=0) as stage:
        shop = shop_on(stage)
        await shop.open("s", {f"sku{n}": 1 for n in range(32)}, 9)
        full = topology.queue_of(shop.own("sku0"))
        other = next(f"sku{n}" for n in range(32) if topology.queue_of(shop.own(f"sku{n}")) != full)
        async with broker(confirms=False) as channel:
            filler = aio_pika.Message(b"filler", delivery_mode=topology.PERSISTENT)
            for _ in range(topology.SHARD_MESSAGES_MAX):
                await channel.default_exchange.publish(filler, full)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await ready_messages(full) < topology.SHARD_MESSAGES_MAX:
                await asyncio.sleep(0.2)
        # the broker's bound may be overshot by a few, and no more
        heard = [(await Shopper(shop, f"b{n}", "sku0").buy(stage.urls[0], hasty=True)).status for n in range(20)]
        late = await metric(stage, stage.servers[0].ops_port, 'flashsale_confirms_total{outcome="late"}')
        assert heard[-1] == 503, heard
        # who is confirmed too late hears 503, and those behind may still be taken
        assert late or heard.count(202) == heard.index(503), heard
        assert (await Shopper(shop, "ana", other).buy(stage.urls[0])).status == 202
