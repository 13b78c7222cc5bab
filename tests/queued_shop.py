"""A shopper of the queued backend: asks, keeps the receipt, and comes back with it."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from flashsale.contract import wire
from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
from tests.patience import PATIENCE_SECONDS
from tests.sessions import AS_IT_COMES
from tests.stages import Stage


@dataclass
class Answer:
    """What a shopper heard, and after how many seconds."""

    status: int
    body: dict[str, Any]
    seconds: float

    @property
    def receipt(self) -> str:
        """Of a 202."""
        assert self.status == 202, self.body
        return str(self.body["receipt"])


class Shopper:
    """One buyer with one key."""

    def __init__(self, shop: HttpDriver, who: str, sku: str = "a") -> None:
        self.shop = shop
        self.wish = Wish(who, who, ((sku, 1),))
        self.purchase = shop.purchase(who, who)
        self.path = f"{wire.PURCHASES_PATH}/{self.purchase}"

    async def buy(self, server: str, *, hasty: bool = False, **headers: str) -> Answer:
        """POST; header names with _ for -. Who is ``hasty`` takes the first answer, and nobody else a 503."""
        body = {"items": [{"sku": self.shop.own(sku), "quantity": quantity} for sku, quantity in self.wish.lines]}
        named = {wire.KEY_HEADER: self.shop.key(self.wish.key), **_named(headers)}
        return await self._ask("POST", server + wire.PURCHASES_PATH, named, body, hasty=hasty)

    async def settled(self, server: str, **headers: str) -> Answer:
        """Send this key until its verdict is heard: a decision that is late is 202, and not the end."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (answer := await self.buy(server, hasty=False, Prefer="wait=5", **headers)).status == 202:
                await asyncio.sleep(0.05)
        return answer

    async def look(self, server: str, *, hasty: bool = False, **headers: str) -> Answer:
        """GET the purchase; as above."""
        return await self._ask("GET", server + self.path, _named(headers), None, hasty=hasty)

    async def decided(self, server: str, receipt: str) -> Answer:
        """What became of a queued attempt; fails when it stays undecided."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                answer = await self.look(server, Receipt=receipt, Prefer="wait=2")
                if answer.body.get("state") != "QUEUED":
                    return answer
                await asyncio.sleep(0.05)

    async def _ask(self, method: str, url: str, headers: dict[str, str], body: object, *, hasty: bool) -> Answer:
        began = time.perf_counter()
        headers |= {wire.BUYER_HEADER: self.shop.own(self.wish.who)}
        async with self.shop.session.request(
            method, url, headers=headers, json=body, middlewares=AS_IT_COMES if hasty else None
        ) as answer:
            return Answer(answer.status, await answer.json(content_type=None), time.perf_counter() - began)


def shop_on(stage: Stage) -> HttpDriver:
    """A shop whose names nobody else uses."""
    return HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)


async def metric(stage: Stage, ops_port: int, name: str) -> float:
    """One series of a process's own registry; 0.0 when it has none yet."""
    async with stage.session.get(f"http://127.0.0.1:{ops_port}/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line.startswith((name + " ", name + "{")):
                return float(line.rpartition(" ")[2])
    return 0.0


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
