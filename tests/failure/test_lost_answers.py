"""Win, lose the answer, sell out, retry: the winner finds their purchase, on any process."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from flashsale.contract import wire
from tests.contract.drivers import COPY_SECONDS_MAX, HttpDriver
from tests.patience import PATIENCE_SECONDS
from tests.sessions import AS_IT_COMES
from tests.stages import Stage, staged

WINNERS = 1_000
AT_ONCE = 200  # connections; the point is the answers, not a connection storm


@pytest.fixture
async def stage(template: str, redis_url: str) -> AsyncIterator[Stage]:
    async with staged(template, redis_url, servers=2) as made:
        yield made


async def send(
    stage: Stage, driver: HttpDriver, server: int, who: str, *, quantity: int = 1, retry: bool = False
) -> tuple[int, str]:
    """One POST, again while it is to be tried later; status and purchase id or verdict."""
    headers = {wire.BUYER_HEADER: driver.own(who), wire.KEY_HEADER: driver.key(who)}
    if retry:
        headers[wire.RETRY_HEADER] = "1"
    body = {"items": [{"sku": driver.own("a"), "quantity": quantity}]}
    url = stage.urls[server] + wire.PURCHASES_PATH
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            async with stage.session.post(url, json=body, headers=headers, middlewares=AS_IT_COMES) as answer:
                document = await answer.json(content_type=None)
                if answer.status != 503:
                    return answer.status, str(document.get("id") or document["verdict"])
            await asyncio.sleep(0.2)


async def all_of(*sendings: object) -> list[tuple[int, str]]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(sending: object) -> tuple[int, str]:
        async with limit:
            return await sending  # type: ignore[misc,no-any-return]

    return await asyncio.gather(*(one(sending) for sending in sendings))


async def win_and_lose_the_answer(stage: Stage, driver: HttpDriver, who: str) -> None:
    """Send a purchase and hang up as soon as it is sent: whatever the server answers, nobody hears it."""
    body = f'{{"items":[{{"sku":"{driver.own("a")}","quantity":1}}]}}'
    request = (
        f"POST {wire.PURCHASES_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"{wire.BUYER_HEADER}: {driver.own(who)}\r\n{wire.KEY_HEADER}: {driver.key(who)}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", stage.servers[0].port)
    writer.write(request.encode())
    await writer.drain()
    await asyncio.sleep(0)  # the bytes are out; the answer is not awaited
    writer.close()


async def those_without(stage: Stage, driver: HttpDriver, buyers: list[str]) -> list[str]:
    """Who of them has no purchase yet."""
    rows = await stage.owner.fetch("SELECT id FROM flash.purchase WHERE sale_id = $1 AND version > 0", driver.own("s"))
    made = {row["id"] for row in rows}
    return [who for who in buyers if driver.purchase(who, who) not in made]


@pytest.mark.parametrize("marked", [True, False])
async def test_every_winner_finds_the_same_purchase_after_sell_out(stage: Stage, *, marked: bool) -> None:
    driver = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
    await driver.open("s", {"a": WINNERS}, 1)
    await stage.gate_opens(driver.own("s"))
    winners = [f"winner{number}" for number in range(WINNERS)]
    async with asyncio.timeout(5 * PATIENCE_SECONDS):  # of a thousand connections
        while without := await those_without(stage, driver, winners):  # a busy machine may answer "later", unheard
            for start in range(0, len(without), AT_ONCE):
                sent = without[start : start + AT_ONCE]
                await asyncio.gather(*(win_and_lose_the_answer(stage, driver, who) for who in sent))
            await asyncio.sleep(0.5)
    assert await driver.available("a") == 0

    # sold out, for everybody who comes now
    assert await send(stage, driver, 1, "late", retry=True) == (409, "sold_out")
    if not marked:
        await asyncio.sleep(COPY_SECONDS_MAX)
    answers = await all_of(*(send(stage, driver, n % 2, who, retry=marked) for n, who in enumerate(winners)))
    expected = [(200, str(driver.purchase(who, who))) for who in winners]
    assert answers == expected
    again = await all_of(*(send(stage, driver, n % 2, who, quantity=2, retry=marked) for n, who in enumerate(winners)))
    assert again == [(422, "key_reused")] * WINNERS
    assert (
        await stage.owner.fetchval("SELECT count(*) FROM flash.purchase WHERE sale_id = $1", driver.own("s")) == WINNERS
    )


async def test_a_wish_sent_many_times_at_once_is_one_purchase(stage: Stage) -> None:
    driver = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
    await driver.open("s", {"a": 50}, 50)
    await stage.gate_opens(driver.own("s"))
    answers = await all_of(*(send(stage, driver, n % 2, "ana", quantity=1 + n % 2) for n in range(100)))
    purchase = str(driver.purchase("ana", "ana"))
    assert sum(answer == (201, purchase) for answer in answers) <= 1  # none: its first answer was to try later
    assert sum(answer == (200, purchase) for answer in answers) >= 1
    assert {answer for answer in answers if answer[0] not in {200, 201}} <= {(422, "key_reused")}
    assert await driver.available("a") in {48, 49}
