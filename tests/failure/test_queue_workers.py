"""Every 202 is decided, once, whatever happens to the worker, to its messages, or to PostgreSQL behind it."""

import asyncio
import signal
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from flashsale.contract.wire import Cart, Line
from flashsale.queued import message, topology
from tests.contract.drivers import HttpDriver
from tests.databases import PASSWORDS, given, url_for
from tests.patience import PATIENCE_SECONDS
from tests.proxy import proxied
from tests.queued_shop import Shopper, metric, shop_on
from tests.queues import broker, put, ready_messages
from tests.stages import staged

UNITS = 50


def attempt(shop: HttpDriver, who: str, rid: uuid.UUID | None = None) -> message.Message:
    cart = Cart((Line(shop.own("a"), 1),))
    until = datetime.now(UTC) + timedelta(seconds=message.QUEUED_SECONDS_MAX)
    return message.Message(rid or uuid.uuid4(), shop.purchase(who, who), shop.own(who), shop.key(who), cart, until)


@pytest.mark.parametrize(
    "commits", [False, True], ids=["before the commit", "after the commit, before the acknowledgement"]
)
async def test_a_worker_killed_in_the_middle_of_a_batch_loses_no_202(
    template: str, redis_url: str, *, commits: bool
) -> None:
    async with proxied(given("FLASH_TEST_POSTGRES_URL")) as postgres:
        url = postgres.lead(given("FLASH_TEST_POSTGRES_URL"))
        way = url_for(url, database="{}", user="flash_app", password=PASSWORDS["flash_app"])
        async with staged(template, redis_url, servers=0, queued_servers=1, postgres_url=way) as stage:
            shop = shop_on(stage)
            await shop.open("s", {"a": UNITS}, 1)
            (worker,) = stage.workers
            shoppers = [Shopper(shop, f"b{n}") for n in range(2 * UNITS)]
            first = await asyncio.gather(*(shopper.settled(stage.urls[0]) for shopper in shoppers[:10]))
            assert {answer.status for answer in first} <= {200, 201}
            shoppers = [*shoppers[10:], *shoppers[:10]]  # the batch that the worker dies with must be one of holds

            if commits:
                postgres.swallows_replies = True
            else:
                postgres.freeze()
            answers = [await shopper.buy(stage.urls[0]) for shopper in shoppers]
            assert {answer.status for answer in answers} == {202}
            counted = "SELECT count(*) FROM flash.ledger WHERE kind = 'hold'"
            async with asyncio.timeout(PATIENCE_SECONDS):
                while commits and await stage.owner.fetchval(counted) <= len(first):
                    await asyncio.sleep(0.05)
            worker.send(signal.SIGKILL)
            assert worker.child is not None
            await worker.child.wait()
            assert (await stage.owner.fetchval(counted) > len(first)) == commits
            postgres.swallows_replies = False
            await postgres.refuse()
            postgres.thaw()
            await postgres.open()
            await worker.start()

            verdicts = await asyncio.gather(
                *(s.decided(stage.urls[0], a.receipt) for s, a in zip(shoppers, answers, strict=True))
            )
            assert sum(verdict.status == 200 for verdict in verdicts) == UNITS
            assert {verdict.body["verdict"] for verdict in verdicts if verdict.status != 200} == {"sold_out"}
            assert await stage.owner.fetchval(counted) == UNITS
            assert await ready_messages(topology.queue_of(shop.own("a"))) == 0


async def test_a_killed_front_leaves_its_port_and_every_key_finds_its_answer(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": UNITS}, 1)
        (front,) = stage.servers
        shoppers = [Shopper(shop, f"b{n}") for n in range(100)]
        posting = [asyncio.create_task(shopper.buy(front.url)) for shopper in shoppers]
        await asyncio.sleep(0.03)
        front.send(signal.SIGKILL)  # the master: its worker must not keep the port
        assert front.child is not None
        await front.child.wait()
        await front.start()
        await asyncio.gather(*posting, return_exceptions=True)  # some heard 202, some nothing
        answers = await asyncio.gather(*(s.settled(front.url, Retry_Attempt="1") for s in shoppers))
        assert {answer.status for answer in answers} <= {200, 201, 409}
        held = await stage.owner.fetchval("SELECT count(*) FROM flash.ledger WHERE kind = 'hold'")
        assert held == UNITS == sum(answer.status in {200, 201} for answer in answers)


async def test_poison_is_set_aside_and_its_neighbours_are_decided(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 5}, 2)
        queue = topology.queue_of(shop.own("a"))
        rid, purchase = uuid.uuid4(), uuid.uuid4()
        wishes = [attempt(shop, who) for who in ("ana", "ben", "cyd")]
        good = [message.encode(wish) for wish in wishes]
        another_version = good[0].replace(b'"v":1', b'"v":2')
        await put(queue, good[0], b"\xff not JSON", good[1], b"[" * 9000, another_version, good[2])
        await put(queue, b"{}", rid=str(rid), purchase=str(purchase))
        for who in ("ana", "ben", "cyd"):
            assert (await Shopper(shop, who).settled(stage.urls[0])).status in {200, 201}
        held = "SELECT count(*) FROM flash.attempt WHERE rid = ANY ($1) AND verdict = 'held'"
        assert await stage.owner.fetchval(held, [wish.rid for wish in wishes]) == len(wishes)
        assert await shop.available("a") == 2
        async with asyncio.timeout(
            PATIENCE_SECONDS
        ):  # nothing goes round in circles, and what can be named is on record
            while await stage.owner.fetchval("SELECT verdict FROM flash.attempt WHERE rid = $1", rid) != "void":
                await asyncio.sleep(0.05)
        (worker,) = stage.workers
        # at least: a worker that lost PostgreSQL for a moment meets them again
        assert await metric(stage, worker.ops_port, 'flashsale_checkout_poison_total{reason="unnamed"}') >= 3
        assert await metric(stage, worker.ops_port, 'flashsale_checkout_poison_total{reason="unreadable"}') >= 1
        async with asyncio.timeout(PATIENCE_SECONDS):  # and all of them are kept, as they came, for people to look at
            while (await ready_messages(queue), await ready_messages(topology.DEAD)) != (0, 4):
                await asyncio.sleep(0.1)


async def test_a_queue_that_is_deleted_is_made_again_and_served(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 5}, 2)
        assert (await Shopper(shop, "ana").settled(stage.urls[0])).status in {200, 201}
        async with broker() as channel:
            await channel.queue_delete(topology.queue_of(shop.own("a")))
        # the channel stays open, and nobody else would tell the worker
        assert (await Shopper(shop, "ben").settled(stage.urls[0])).status in {200, 201}


async def test_a_decision_that_waited_too_long_is_too_late(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 3}, 2)
        late = attempt(shop, "ana")._replace(queued_until=datetime.now(UTC) - timedelta(seconds=1))
        await put(topology.queue_of(shop.own("a")), message.encode(late))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (
                await stage.owner.fetchval("SELECT verdict FROM flash.attempt WHERE rid = $1", late.rid) != "too_late"
            ):
                await asyncio.sleep(0.05)
        assert await shop.available("a") == 3


async def test_pay_now_is_asked_once_and_told_with_the_hold(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": 3}, 2)
        wish = attempt(shop, "ana")
        wish = wish._replace(cart=wish.cart._replace(pay_now="card"))
        await put(topology.queue_of(shop.own("a")), *[message.encode(wish)] * 3)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (seen := await Shopper(shop, "ana").look(stage.urls[0])).body.get("state") != "AUTHORIZING":
                await asyncio.sleep(0.05)
        assert [payment["try"] for payment in seen.body["payments"]] == [1]
