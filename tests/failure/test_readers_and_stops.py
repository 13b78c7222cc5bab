"""A server of asyncio_redis under a flood of readers, and one that is told to stop: what it can decide, it decides."""

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import aiohttp
import pytest

from flashsale.backends.asyncio_redis.app import DECIDING_CALL_SECONDS
from flashsale.backends.asyncio_redis.dispatch import DECIDE_SECONDS
from flashsale.contract import wire
from flashsale.gate.client import DEADLINE_SECONDS
from tests.contract.drivers import HttpDriver
from tests.patience import PATIENCE_SECONDS
from tests.queued_shop import metric
from tests.sessions import AS_IT_COMES
from tests.stages import Stage, staged

WAIT_SECONDS = wire.WAIT_SECONDS_MAX
# A store that does not answer is waited for so long at least, by whom it is asked, before a shopper hears "later" for it.
STORE_SECONDS = min(DECIDE_SECONDS, DECIDING_CALL_SECONDS, DEADLINE_SECONDS)
UNITS = 100
LOOKS_MAX = 200
READERS = 400  # more than a server lets wait for its reading connections
LAST = 20  # who buy at the very end


class Place(NamedTuple):
    stage: Stage
    driver: HttpDriver


@pytest.fixture
async def place(request: pytest.FixtureRequest, template: str, redis_url: str) -> AsyncIterator[Place]:
    async with staged(template, redis_url, settings=getattr(request, "param", None)) as stage:
        driver = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
        await driver.open("s", {"a": UNITS}, 1)
        await stage.gate_opens(driver.own("s"))
        yield Place(stage, driver)


async def buy(place: Place, who: str, *, hasty: bool = False) -> int:
    """The status of one POST; of the first one for who is hasty."""
    headers = {wire.BUYER_HEADER: place.driver.own(who), wire.KEY_HEADER: place.driver.key(who)}
    body = {"items": [{"sku": place.driver.own("a"), "quantity": 1}]}
    url = place.stage.urls[0] + wire.PURCHASES_PATH
    middlewares = AS_IT_COMES if hasty else None
    async with place.stage.session.post(url, json=body, headers=headers, middlewares=middlewares) as answer:
        return answer.status


async def buy_at_once(place: Place, who: str) -> tuple[int, float]:
    """The status of the first answer, and after how many seconds it came."""
    began = time.monotonic()
    return await buy(place, who, hasty=True), time.monotonic() - began


async def pipelined(
    place: Place, connections: list[list[str]], stop: Callable[[], Awaitable[None]] | None = None
) -> list[list[tuple[int, bytes]]]:
    """All of each connection's buyers ask for a unit in one write, and then comes the stop. Every whole answer of each."""
    body = json.dumps({"items": [{"sku": place.driver.own("a"), "quantity": 1}]}).encode()
    port = place.stage.servers[0].port
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in connections]
    for (_, writer), names in zip(opened, connections, strict=True):
        for name in names:
            head = (
                f"POST {wire.PURCHASES_PATH} HTTP/1.1\r\nHost: shop\r\nContent-Type: {wire.JSON_TYPE}\r\n"
                f"Content-Length: {len(body)}\r\n{wire.BUYER_HEADER}: {place.driver.own(name)}\r\n"
                f"{wire.KEY_HEADER}: {place.driver.key(name)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
    if stop is not None:
        await stop()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            reading = zip(opened, connections, strict=True)
            return [[await answer(reader) for _ in names] for (reader, _), names in reading]
    finally:
        for _, writer in opened:
            writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer. Raises ``asyncio.IncompleteReadError`` when there is none any more."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: (\d+)\r\n", head)
    assert length
    return int(head.split()[1]), await reader.readexactly(int(length[1]))


# A server that is too busy to hear Redis in time asks PostgreSQL here: a refusal for Redis's sake would say nothing of readers.
@pytest.mark.parametrize("place", [{"FLASH_GATE_AWAY": "ask"}], ids=["PostgreSQL is asked"], indirect=True)
async def test_a_flood_of_readers_does_not_stop_decisions(place: Place) -> None:
    until = time.monotonic() + 3
    heard: set[int] = set()

    def goes_on() -> bool:
        """Three seconds, and on a slow machine until it was a flood."""
        now = time.monotonic()
        return now < until or (len(heard) < 2 and now < until + PATIENCE_SECONDS)

    async def read() -> None:
        while goes_on():
            url = place.stage.urls[0] + wire.SALES_PATH
            async with place.stage.session.get(url, middlewares=AS_IT_COMES) as answer:
                heard.add(answer.status)

    reading = [asyncio.create_task(read()) for _ in range(READERS)]
    bought: list[tuple[int, float]] = []
    while goes_on():
        bought.append(await buy_at_once(place, f"buyer-{len(bought)}"))
    await asyncio.gather(*reading)
    assert heard == {200, 503}, "the flood was none; more readers are needed"
    # Who stands behind readers hears "later" at once. A machine under load makes somebody wait for it first.
    at_least = min(DECIDE_SECONDS, DECIDING_CALL_SECONDS)  # PostgreSQL alone is waited for here
    assert next((seconds for status, seconds in bought[:UNITS] if status != 201), at_least) >= at_least


async def test_one_too_many_hears_so_whatever_it_sent_and_comes_through_later(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, settings={"FLASH_IN_FLIGHT_MAX": "1"}) as stage:
        driver = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
        await driver.open("s", {"a": 100}, 1)
        await stage.gate_opens(driver.own("s"))
        place = Place(stage, driver)
        names = [f"buyer-{number}" for number in range(8)]
        (heard,) = await pipelined(place, [names])
        statuses = {status for status, _ in heard}
        assert 503 in statuses
        assert statuses <= {201, 503}  # a store that was slow makes the one who came in time try later too
        for status, body in heard:
            assert status == 201 or json.loads(body)["verdict"] == "try_later"
        for name in names:
            assert await buy(place, name) in {200, 201}
        assert await driver.available("a") == 100 - len(names)


async def test_a_stop_with_a_batch_at_postgresql_answers_every_request_that_was_sent(place: Place) -> None:
    names = [[f"{connection}-{number}" for number in range(12)] for connection in range(3)]
    server = place.stage.servers[0]
    ready = f"http://127.0.0.1:{server.ops_port}/readyz"

    async def stop() -> None:
        looks = 0
        # a machine that is too slow to see it sends its stop a little earlier or later, which must be as well
        while looks < LOOKS_MAX and not await metric(place.stage, server.ops_port, "flashsale_in_flight"):
            looks += 1
            await asyncio.sleep(0.01)
        server.send(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await is_ready(place, ready):
                await asyncio.sleep(0.01)

    async with place.stage.owner.transaction():  # what the batch needs, so that it is there when the stop comes
        await place.stage.owner.execute("SELECT FROM flash.stock WHERE sku = $1 FOR UPDATE", place.driver.own("a"))
        asked = asyncio.create_task(pipelined(place, names, stop))
        while not asked.done() and await is_ready(place, ready):
            await asyncio.sleep(0.01)
    heard = await asked
    assert await server.stop() == 0
    for answers, buyers in zip(heard, names, strict=True):
        for (status, body), who in zip(answers, buyers, strict=True):
            document = json.loads(body)
            # the lock may have outlasted the server's patience with PostgreSQL
            assert (status, document.get("id")) == (201, str(place.driver.purchase(who, who))) or (
                (status, document["verdict"]) == (503, "try_later")
            )
            if status == 201:
                assert await place.driver.authority.read_purchase(
                    place.driver.purchase(who, who), place.driver.own(who)
                )


async def is_ready(place: Place, url: str) -> bool:
    """Does the server want more?"""
    try:
        async with place.stage.session.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False  # it has ended


async def test_a_server_that_is_told_to_stop_answers_what_it_was_asked(place: Place) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"{place.stage.urls[0]}{wire.PURCHASES_PATH}/{place.driver.purchase('before', 'before')}"
        assert await buy(place, "before") == 201
        headers = {wire.BUYER_HEADER: place.driver.own("before"), "Prefer": f"wait={WAIT_SECONDS}"}
        already = await come(place)
        waiting = asyncio.create_task(session.get(url, headers=headers).__aenter__())
        buying = [asyncio.create_task(buy_at_once(place, f"last-{number}")) for number in range(LAST)]
        async with asyncio.timeout(PATIENCE_SECONDS):  # a stop before a request has come is a refused connection
            while await come(place) < already + LAST:
                await asyncio.sleep(0.001)
        began = time.monotonic()
        assert await place.stage.servers[0].stop() == 0
        assert time.monotonic() - began < WAIT_SECONDS - 1, "it did not wait as long as its readers would"
        assert (await waiting).status == 200
        heard = [await bought for bought in buying]
        # Who hears "later" here heard it from a store that was slow, and there is nobody left to ask again.
        assert all(status == 201 or (status == 503 and seconds >= STORE_SECONDS) for status, seconds in heard), heard


async def come(place: Place) -> float:
    """How many attempts the server has read, answered or not."""
    port = place.stage.servers[0].ops_port
    async with place.stage.session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    series = ("flashsale_attempts_total{", "flashsale_in_flight ")
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))
