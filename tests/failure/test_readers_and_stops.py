"""A server of asyncio_redis under a flood of readers, and one that is told to stop: what it can decide, it decides."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
import pytest

from flashsale.contract import wire
from tests.contract.drivers import HttpDriver
from tests.stages import Stage, staged

WAIT_SECONDS = 20
READERS = 400  # more than a server lets wait for its reading connections


class Place(NamedTuple):
    stage: Stage
    driver: HttpDriver


@pytest.fixture
async def place(template: str, redis_url: str) -> AsyncIterator[Place]:
    async with staged(template, redis_url) as stage:
        driver = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
        await driver.open("s", {"a": 100}, 1)
        await stage.gate_opens(driver.own("s"))
        yield Place(stage, driver)


async def buy(place: Place, who: str) -> int:
    """The status of one POST."""
    headers = {wire.BUYER_HEADER: place.driver.own(who), wire.KEY_HEADER: place.driver.key(who)}
    body = {"items": [{"sku": place.driver.own("a"), "quantity": 1}]}
    url = place.stage.urls[0] + wire.PURCHASES_PATH
    async with place.stage.session.post(url, json=body, headers=headers) as answer:
        return answer.status


async def test_a_flood_of_readers_does_not_stop_decisions(place: Place) -> None:
    until = time.monotonic() + 3

    async def read() -> set[int]:
        heard = set()
        while time.monotonic() < until:
            async with place.stage.session.get(place.stage.urls[0] + wire.SALES_PATH) as answer:
                heard.add(answer.status)
        return heard

    reading = [asyncio.create_task(read()) for _ in range(READERS)]
    bought: list[int] = []
    while time.monotonic() < until:
        bought.append(await buy(place, f"buyer-{len(bought)}"))
    statuses = set().union(*await asyncio.gather(*reading))
    assert statuses == {200, 503}, "the flood was none; more readers are needed"
    assert set(bought[:100]) == {201}
    assert "authority.down" not in place.stage.servers[0].log.read_text()


async def test_a_server_that_is_told_to_stop_answers_what_it_was_asked(place: Place) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"{place.stage.urls[0]}{wire.PURCHASES_PATH}/{place.driver.purchase('before', 'before')}"
        assert await buy(place, "before") == 201
        headers = {wire.BUYER_HEADER: place.driver.own("before"), "Prefer": f"wait={WAIT_SECONDS}"}
        waiting = asyncio.create_task(session.get(url, headers=headers).__aenter__())
        buying = [asyncio.create_task(buy(place, f"last-{number}")) for number in range(20)]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        assert await place.stage.servers[0].stop() == 0
        assert time.monotonic() - began < WAIT_SECONDS - 5, "it did not wait as long as its readers would"
        assert (await waiting).status == 200
        assert [await bought for bought in buying] == [201] * 20
