"""What a server refuses without asking anybody, on real stores: it does so, and it is never in the way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import NamedTuple

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from flashsale.contract import wire
from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
from tests.patience import PATIENCE_SECONDS
from tests.servers import Process
from tests.stages import Stage, staged

BACKENDS = ("asyncio_redis", "gevent_rabbit")


class Shop(NamedTuple):
    """One server, and its wire."""

    stage: Stage
    driver: HttpDriver
    server: Process

    async def post(self, sku: str, who: str, *, is_retry: bool = False) -> int | str:
        """201 or 200, once it is decided, or the verdict of a refusal."""
        headers = {wire.BUYER_HEADER: self.driver.own(who), wire.KEY_HEADER: self.driver.key(who)}
        if is_retry:
            headers[wire.RETRY_HEADER] = "1"
        body = {"items": [{"sku": self.driver.own(sku), "quantity": 1}]}
        async with self.stage.session.post(self.driver.url + wire.PURCHASES_PATH, json=body, headers=headers) as answer:
            document = await answer.json(content_type=None)
            if answer.status != HTTPStatus.ACCEPTED:
                return answer.status if answer.ok else str(document["verdict"])
            wish = Wish(who, who, ((sku, 1),))
            verdict = await self.driver.follow(wish, answer.headers["Location"], document["receipt"])
            return {"held": 201, "replayed": 200}.get(verdict, verdict)

    async def at_once(self, verdict: str) -> float:
        """How many were refused at once with this verdict."""
        async with self.stage.session.get(f"http://127.0.0.1:{self.server.ops_port}/metrics") as answer:
            families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
        samples = families["flashsale_refused_at_once"].samples
        return next(sample.value for sample in samples if sample.labels["verdict"] == verdict)

    async def refused_at_once(self, sku: str, verdict: str) -> None:
        """Come as strangers until one is refused at once."""
        before, number = await self.at_once(verdict), 0

        async def is_refused() -> bool:
            nonlocal number
            number += 1
            await self.post(sku, f"{sku}-stranger-{number}")
            return await self.at_once(verdict) > before

        await until(is_refused)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(template: str, redis_url: str) -> AsyncIterator[Stage]:
    async with staged(template, redis_url, servers=1, queued_servers=1) as made:
        yield made


@pytest.fixture(params=BACKENDS)
def shop(request: pytest.FixtureRequest, stage: Stage) -> Shop:
    (server,) = [server for server in stage.servers if server.role == request.param]
    return Shop(stage, HttpDriver(stage.authority, stage.owner, stage.session, [server.url]), server)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_sold_out_item_is_refused_at_once_but_never_to_its_winner_or_to_a_marked_retry(shop: Shop) -> None:
    await shop.driver.open("s", {"a": 1}, 1)
    await shop.stage.gate_opens(shop.driver.own("s"))
    assert await shop.post("a", "ana") == 201
    await shop.refused_at_once("a", "sold_out")
    for _ in range(50):
        assert await shop.post("a", "ana") == 200
    before = await shop.at_once("sold_out")
    for _ in range(20):
        assert await shop.post("a", "ben", is_retry=True) == "sold_out"
    assert await shop.at_once("sold_out") == before


@pytest.mark.asyncio(loop_scope="module")
async def test_a_returned_unit_is_sold_again(shop: Shop) -> None:
    await shop.driver.open("s", {"a": 1}, 1)
    await shop.stage.gate_opens(shop.driver.own("s"))
    assert await shop.post("a", "ana") == 201
    winner = "ana"
    for number in range(3):
        await shop.refused_at_once("a", "sold_out")
        assert await shop.driver.cancel(winner, winner) == "CANCELLED"
        winner = f"next-{number}"

        async def is_held(who: str = winner) -> bool:
            return await shop.post("a", who) == 201

        await until(is_held)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_hold_that_lapses_while_nobody_ends_it_is_sold_again(shop: Shop) -> None:
    await shop.driver.open("s", {"a": 1}, 1)
    await shop.stage.gate_opens(shop.driver.own("s"))
    assert await shop.post("a", "ana") == 201
    await shop.refused_at_once("a", "sold_out")
    await shop.stage.upkeep.stop()
    try:
        purchase = shop.driver.purchase("ana", "ana")
        lapsed = "UPDATE flash.purchase SET deadline = now() - interval '1 s' WHERE id = $1"
        await shop.stage.owner.execute(lapsed, purchase)

        async def is_held() -> bool:
            return await shop.post("a", "ben") == 201

        await until(is_held)
    finally:
        await shop.stage.upkeep.start()


@pytest.mark.asyncio(loop_scope="module")
async def test_before_the_doors_everybody_hears_it_at_once_and_then_they_open(shop: Shop) -> None:
    await shop.driver.open("s", {"a": 5}, 1)
    await shop.stage.gate_opens(shop.driver.own("s"))
    await shop.stage.authority.change_sale(shop.driver.own("s"), opens=datetime.now(UTC) + timedelta(hours=1))
    await shop.refused_at_once("a", "sale_not_open")
    await shop.stage.authority.change_sale(shop.driver.own("s"), opens=datetime.now(UTC))

    async def is_held() -> bool:
        return await shop.post("a", "ana") == 201

    await until(is_held)
