"""What each backend needs, cell by cell: what it does while a store is gone, and that it serves again by itself.

| gone       | asyncio_redis                                         | gevent_rabbit                                      |
|------------|-------------------------------------------------------|----------------------------------------------------|
| Redis      | 503 ``try_later``; purchases can be read              | serves: 202 and decided, status, stock, cancel     |
|            | or, so told: PostgreSQL decides, a bounded number     |                                                    |
| RabbitMQ   | serves; payments wait, and what waited does not       | 503 ``try_later``, never 202; what PostgreSQL      |
|            | expire for it but is paid when the broker is back     | knows can be read                                  |
| PostgreSQL | 503 ``try_later``, for purchases and for reading      | 202 up to the queue's bound, decided later in      |
|            |                                                       | order; 503 for reading                             |

A store is gone in two ways: it refuses connections and breaks those it has, or it accepts and never answers. In every cell
the same keys are sent again afterwards, as clients do, and the auditor compares the books and the gate with everything that
anybody was told. That a full queue is 503 is in ``test_queue_confirms``.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from flashsale.authority.catalog import REFRESH_SECONDS_MIN
from flashsale.contract import wire
from flashsale.proof.auditor import audit
from flashsale.proof.evidence import ToldCall, parse_journal
from flashsale.proof.stores import Journal
from tests.contract.drivers import HttpDriver
from tests.databases import PASSWORDS, given, url_for
from tests.patience import PATIENCE_SECONDS
from tests.proxy import Down, Proxy, proxied
from tests.queued_shop import metric, shop_on
from tests.queues import empty_payments
from tests.servers import Process
from tests.sessions import AS_IT_COMES
from tests.stages import Stage, staged

UNITS = 100
CROWD = 30  # at once, so that one of them finds out and the others stand behind it
HOLD_SECONDS = 3.0  # what is left of a hold when its payment is asked for; shorter than the outage
SECRET = "webhooks-of-the-tests"

both_ways = pytest.mark.parametrize("how", ["refused", "frozen"])


class Heard(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Place:
    """One server, a sale, the ways to its stores, and a record of what shoppers were told.

    Shoppers try later when they are told to, but for those of ``hasty``, who take the first answer. That it is one, and none
    that waited for the store's return, shows in that it is heard while the store is gone.
    """

    stage: Stage
    shop: HttpDriver
    redis: Proxy
    rabbitmq: Proxy
    postgres: Proxy
    told: list[ToldCall] = field(default_factory=list)
    is_hasty: bool = False

    @property
    def hasty(self) -> Self:
        """The same place, for who is about a 503."""
        return replace(self, is_hasty=True)

    async def buy(self, who: str, *, sku: str = "a", pay_now: bool = False, **headers: str) -> Heard:
        """Ask for one unit; header names with _ for -."""
        body: dict[str, Any] = {"items": [{"sku": self.shop.own(sku), "quantity": 1}]}
        if pay_now:
            body["pay_now"] = "card"
        return await self._ask("buy", who, wire.PURCHASES_PATH, headers, body)

    async def look(self, who: str, **headers: str) -> Heard:
        """GET this buyer's purchase."""
        return await self._ask("look", who, self._path(who), headers)

    async def pay(self, who: str) -> Heard:
        return await self._ask("pay", who, f"{self._path(who)}/pay", {}, {"method": "card"})

    async def cancel(self, who: str) -> Heard:
        return await self._ask("cancel", who, f"{self._path(who)}/cancel", {}, {})

    async def get(self, path: str) -> Heard:
        return await self._ask("get", "anybody", path, {})

    async def crowd(self, name: str) -> dict[str, Heard]:
        """Two after each other, the first of whom finds out, then many at once."""
        heard = {f"{name}-{turn}": await self.buy(f"{name}-{turn}") for turn in ("first", "second")}
        names = [f"{name}-{number}" for number in range(CROWD)]
        return heard | dict(zip(names, await asyncio.gather(*map(self.buy, names)), strict=True))

    async def holds(self, who: str, *, pay_now: bool = False) -> Heard:
        """Send this key until it has its hold, and its payment is asked for; anything but "later" on the way fails."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                heard = await self.buy(who, pay_now=pay_now, Prefer="wait=5")
                is_unasked = pay_now and heard.status in {200, 201} and not heard.body["payments"]  # yet
                if heard.status != 202 and not is_unasked:
                    break
                await asyncio.sleep(0.05)
        assert heard.status in {200, 201}, heard.body
        return heard

    async def comes_to(self, who: str, state: str) -> Heard:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (heard := await self.look(who)).body.get("state") != state:
                await asyncio.sleep(0.05)
        return heard

    async def deadline_in(self, who: str, seconds: float) -> None:
        await self.stage.owner.execute(
            "UPDATE flash.purchase SET deadline = now() + make_interval(secs => $2) WHERE id = $1",
            self.shop.purchase(who, who),
            seconds,
        )

    async def balances(self, holding: int, **more: Any) -> None:
        """The books, the gate and what was told agree, and exactly ``holding`` units are held or sold."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (
                report := await audit(
                    self.stage.database.auditor_url, given("FLASH_TEST_REDIS_URL"), told=self.told, **more
                )
            ).clean:
                assert not report.findings["oversold"].number, report.document()
        assert await self.shop.available("a") == UNITS - holding

    def _path(self, who: str) -> str:
        return f"{wire.PURCHASES_PATH}/{self.shop.purchase(who, who)}"

    async def _ask(
        self, call: str, who: str, path: str, headers: dict[str, str], body: dict[str, Any] | None = None
    ) -> Heard:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {wire.BUYER_HEADER: self.shop.own(who), wire.KEY_HEADER: self.shop.key(who)}
        method = "GET" if body is None else "POST"
        sent, began = time.time(), time.monotonic()
        middlewares = AS_IT_COMES if self.is_hasty else None
        async with self.stage.session.request(
            method, self.stage.urls[0] + path, json=body, headers=named, middlewares=middlewares
        ) as answer:
            document = await answer.json(content_type=None) if "json" in answer.content_type else {}
            heard = Heard(answer.status, dict(answer.headers), document)
        if who != "anybody":
            self._note(call, who, (body or {}).get("items", []), (sent, sent + time.monotonic() - began), heard)
        return heard

    def _note(self, call: str, who: str, items: list[dict[str, Any]], when: tuple[float, float], heard: Heard) -> None:
        shown = heard.body if "lines" in heard.body else {}  # what is queued shows no purchase
        self.told.append(
            ToldCall(
                buyer=self.shop.own(who),
                call=call,
                key=self.shop.key(who),
                asked=tuple((item["sku"], item["quantity"]) for item in items),
                sent=when[0],
                answered=when[1],
                status=heard.status,
                purchase=shown.get("id"),
                state=shown.get("state"),
                lines=tuple((line["sku"], line["quantity"], line["seq"]) for line in shown.get("lines", ())),
                deadline=datetime.fromisoformat(shown["deadline"]).timestamp() if shown else None,
            )
        )


@contextlib.asynccontextmanager
async def placed(
    template: str, redis_url: str, *, direct: int = 0, queued: int = 0, **settings: str
) -> AsyncIterator[Place]:
    postgres_url, rabbitmq_url = given("FLASH_TEST_POSTGRES_URL"), given("FLASH_TEST_RABBITMQ_URL")
    async with proxied(redis_url) as redis, proxied(rabbitmq_url) as rabbitmq, proxied(postgres_url) as postgres:
        app_url = url_for(postgres.lead(postgres_url), database="{}", user="flash_app", password=PASSWORDS["flash_app"])
        broker = rabbitmq.lead(rabbitmq_url)
        async with staged(
            template,
            redis.lead(redis_url),
            servers=direct,
            queued_servers=queued,
            postgres_url=app_url,
            rabbitmq_url=broker,
            settings={"FLASH_RABBITMQ_URL": broker, "FLASH_WEBHOOK_SECRET": SECRET, **settings},
        ) as stage:
            place = Place(stage, shop_on(stage), redis, rabbitmq, postgres)
            await place.shop.open("s", {"a": UNITS}, 1)
            await stage.gate_opens(place.shop.own("s"))
            await place.holds("before")
            yield place


@pytest.fixture
async def direct(template: str, redis_url: str) -> AsyncIterator[Place]:
    """A server of asyncio_redis."""
    async with placed(template, redis_url, direct=1) as place:
        yield place


@pytest.fixture
async def queued(template: str, redis_url: str) -> AsyncIterator[Place]:
    """A server of gevent_rabbit, and a worker behind its queues."""
    async with placed(template, redis_url, queued=1) as place:
        yield place


@dataclass
class Till:
    """A gateway with its journal, and the worker that pays there."""

    gateway: Process
    journal: Path

    def entries(self, purchase: uuid.UUID) -> list[str]:
        """What became of the purchase's money."""
        return [entry.state for entry in parse_journal(self.journal.read_text()) if entry.purchase == str(purchase)]


@pytest.fixture
async def till(direct: Place, tmp_path: Path) -> AsyncIterator[Till]:
    """Where the shoppers of ``direct`` pay; reaches RabbitMQ by the same way."""
    journal = tmp_path / "journal.jsonl"
    shared = {"FLASH_AUTH": "off", "FLASH_WEBHOOK_SECRET": SECRET}
    gateway = Process(
        "gateway_card",
        shared
        | {
            "FLASH_GATEWAY_JOURNAL": str(journal),
            "FLASH_GATEWAY_DECLINES_PERCENT": "0",
            "FLASH_GATEWAY_LATENCY_MS": "5",
        },
    )
    worker = Process(
        "payments",
        shared
        | {
            "FLASH_POSTGRES_URL": direct.stage.database.app_url,
            "FLASH_RABBITMQ_URL": direct.rabbitmq.lead(given("FLASH_TEST_RABBITMQ_URL")),
            "FLASH_GATEWAY_CARD_URL": gateway.url,
        },
    )
    await empty_payments()  # of what earlier tests left on the broker
    async with contextlib.AsyncExitStack() as started:
        for process in (gateway, worker):
            await process.start()
            started.push_async_callback(process.stop)
        yield Till(gateway, journal)


def assert_try_later(heard: Heard) -> None:
    assert heard.status == 503, heard.body
    assert heard.body["verdict"] == "try_later"
    assert heard.headers["Retry-After"] == "1"


@both_ways
async def test_asyncio_redis_without_redis(direct: Place, how: Down) -> None:
    async with direct.redis.down(how):
        refused = await direct.hasty.crowd("during")
        for heard in refused.values():
            assert_try_later(heard)
        assert (await direct.look("before")).body["state"] == "HELD"
        assert (await direct.buy("before", Retry_Attempt="1")).status == 200
        assert (await direct.get("/livez")).status == 200
    for who in refused:
        await direct.holds(who)
    await direct.balances(1 + len(refused))


@both_ways
async def test_asyncio_redis_that_asks_sells_out_without_redis(template: str, redis_url: str, how: Down) -> None:
    async with placed(template, redis_url, direct=1, FLASH_GATE_AWAY="ask") as place:
        async with place.redis.down(how):
            buyers = [f"during-{number}" for number in range(UNITS - 1)]
            await asyncio.gather(*map(place.holds, buyers))
            late = await asyncio.gather(*(place.buy(f"late-{number}") for number in range(CROWD)))
            assert {(heard.status, heard.body["verdict"]) for heard in late} <= {(409, "sold_out"), (503, "try_later")}
            assert (await place.buy("last")).body["verdict"] == "sold_out"
            assert (await place.buy("during-0")).status == 200, "a winner's retry is no stranger"
            assert (await place.cancel("during-0")).body["state"] == "CANCELLED"
            # marked: the server's own copy may be a moment behind, as nothing wakes it now
            assert (await place.buy("last", Retry_Attempt="1")).status == 201
        await place.balances(UNITS)
        assert (await place.buy("after")).body["verdict"] == "sold_out"


@both_ways
async def test_asyncio_redis_without_rabbitmq(direct: Place, till: Till, how: Down) -> None:
    async with direct.rabbitmq.down(how):
        await direct.holds("pays-at-once", pay_now=True)
        await direct.holds("pays-later")
        assert (await direct.pay("pays-later")).status == 202
        await direct.holds("walks-away")
        # the outage is longer than what is left of their holds; the buyer who asked for nothing loses it in time
        for who in ("pays-at-once", "pays-later", "walks-away"):
            await direct.deadline_in(who, HOLD_SECONDS)
        await direct.comes_to("walks-away", "EXPIRED")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await metric(direct.stage, direct.stage.upkeep.ops_port, "flash_broker_up"):
                await asyncio.sleep(0.1)
        others = await direct.crowd("during")
        assert {heard.status for heard in others.values()} == {201}
        for who in ("pays-at-once", "pays-later"):
            assert (await direct.look(who)).body["state"] == "AUTHORIZING"
    for who in ("pays-at-once", "pays-later"):
        paid = await direct.comes_to(who, "PAID")
        assert paid.body["generation"] == 1, "the hold was lost in between"
        assert till.entries(direct.shop.purchase(who, who)) == ["authorized", "captured"]
    await direct.balances(3 + len(others), journals=[Journal(till.gateway.url)])


@both_ways
async def test_asyncio_redis_without_postgresql(direct: Place, how: Down) -> None:
    await direct.shop.open("t", {"b": UNITS}, 1)  # which the server has not heard of
    await asyncio.sleep(REFRESH_SECONDS_MIN)  # and what it read last no longer counts as fresh
    async with direct.postgres.down(how):
        hasty = direct.hasty
        assert_try_later(await hasty.buy("newcomer", sku="b"))
        refused = await hasty.crowd("during")
        for heard in [*refused.values(), await hasty.look("before"), await hasty.get(wire.SALES_PATH)]:
            assert_try_later(heard)
        assert (await direct.get("/livez")).status == 200
    for who in refused:
        await direct.holds(who)
    await direct.balances(1 + len(refused))


@both_ways
async def test_gevent_rabbit_without_redis(queued: Place, how: Down) -> None:
    async with queued.redis.down(how):
        taken = await queued.crowd("during")
        assert {heard.status for heard in taken.values()} == {202}
        for who, heard in taken.items():
            decided = await decision(queued, who, heard.body["receipt"])
            assert decided.body["state"] == "HELD", decided
        assert (await queued.cancel("during-first")).body["state"] == "CANCELLED"
        stock = await queued.get(f"{wire.STOCK_PATH}/{queued.shop.own('a')}")
        assert stock.body["available"] == UNITS - len(taken)  # "before" and all but the one who cancelled
    await queued.balances(len(taken))


@both_ways
async def test_gevent_rabbit_without_rabbitmq(queued: Place, how: Down) -> None:
    async with queued.rabbitmq.down(how):
        refused = await queued.hasty.crowd("during")
        for heard in refused.values():
            assert_try_later(heard)
        assert (await queued.look("before")).body["state"] == "HELD"
        assert (await queued.buy("before", Retry_Attempt="1")).status == 200
        assert (await queued.get(wire.SALES_PATH)).status == 200
    for who in refused:  # what was frozen on its way may have come through late; the key finds it
        await queued.holds(who)
    await queued.balances(1 + len(refused))


@both_ways
async def test_gevent_rabbit_without_postgresql(queued: Place, how: Down) -> None:
    (worker,) = queued.stage.workers
    left = 3  # so that the order of those who wait shows in who gets one
    early = [f"early-{number}" for number in range(UNITS - 1 - left)]
    for at in range(0, len(early), CROWD):
        await asyncio.gather(*map(queued.holds, early[at : at + CROWD]))
    async with queued.postgres.down(how):
        taken = {f"during-{number}": await queued.buy(f"during-{number}") for number in range(10)}
        assert {heard.status for heard in taken.values()} == {202}
        assert_try_later(await queued.hasty.look("during-0", Receipt=taken["during-0"].body["receipt"]))
        assert (await queued.buy("during-1", Retry_Attempt="1", Prefer="wait=1")).status == 202
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await metric(queued.stage, worker.ops_port, "flashsale_checkout_consuming"):
                await asyncio.sleep(0.1)
        # it waits with empty hands instead of taking and dropping the same messages
        seen = await metric(queued.stage, worker.ops_port, "flashsale_checkout_redelivered_total")
        await asyncio.sleep(2)
        assert await metric(queued.stage, worker.ops_port, "flashsale_checkout_consuming") == 0
        assert await metric(queued.stage, worker.ops_port, "flashsale_checkout_redelivered_total") == seen
    decided = [await decision(queued, who, heard.body["receipt"]) for who, heard in taken.items()]
    assert [heard.status for heard in decided] == [200] * left + [409] * (len(taken) - left)
    await queued.holds("before")
    await queued.balances(UNITS)


async def decision(place: Place, who: str, receipt: str) -> Heard:
    """What became of a queued attempt."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (heard := await place.look(who, Receipt=receipt, Prefer="wait=2")).body.get("state") == "QUEUED":
            await asyncio.sleep(0.05)
    return heard
