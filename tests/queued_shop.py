"""A shopper of the queued backend: asks, keeps the receipt, and comes back with it."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import aiohttp

from flashsale.contract import wire
from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
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

    async def buy(self, server: str, **headers: str) -> Answer:
        """POST; header names with _ for -."""
        body = {"items": [{"sku": self.shop.own(sku), "quantity": quantity} for sku, quantity in self.wish.lines]}
        named = {wire.KEY_HEADER: self.shop.key(self.wish.key), **_named(headers)}
        return await self._ask("POST", server + wire.PURCHASES_PATH, named, body)

    async def settled(self, server: str, within_s: float = 40.0, **headers: str) -> Answer:
        """Send this key until its verdict is heard: a late confirm is 503, a late decision 202, and neither the end."""
        async with asyncio.timeout(within_s):
            while (answer := await self.buy(server, Prefer="wait=5", **headers)).status in {202, 503}:
                await asyncio.sleep(0.05)
        return answer

    async def look(self, server: str, **headers: str) -> Answer:
        """GET the purchase."""
        return await self._ask("GET", server + self.path, _named(headers), None)

    async def decided(self, server: str, receipt: str, within_s: float = 20.0) -> Answer:
        """What became of a queued attempt; fails when it stays undecided."""
        async with asyncio.timeout(within_s):
            while True:
                answer = await self.look(server, Receipt=receipt, Prefer="wait=2")
                if answer.status != 503 and answer.body.get("state") != "QUEUED":
                    return answer
                await asyncio.sleep(0.05)

    async def _ask(self, method: str, url: str, headers: dict[str, str], body: object) -> Answer:
        began = time.perf_counter()
        headers |= {wire.BUYER_HEADER: self.shop.own(self.wish.who)}
        async with self.shop.session.request(
            method, url, headers=headers, json=body, timeout=aiohttp.ClientTimeout(total=30)
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
