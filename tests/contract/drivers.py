"""The scenes' three casts: the reference model, the SQL authority, and running servers reached through the wire alone."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import aiohttp
import asyncpg

from flashsale.authority import client
from flashsale.contract import model, wire
from flashsale.contract.verdict import Verdict
from tests.contract.script import Wish
from tests.patience import PATIENCE_SECONDS

WAIT_SECONDS = 10  # of one long poll
COPY_SECONDS_MAX = 0.5  # an unmarked request may meet a copy this old: a server's own, or the gate's


class ModelDriver:
    """flashsale.contract.model."""

    def __init__(self) -> None:
        self.shop = model.Shop()
        self.now = 0.0

    async def open(self, sale: str, stock: dict[str, int], limit: int) -> None:
        self.shop.add_sale(sale, model.Sale(buyer_limit=limit), stock)

    async def reserve(self, wish: Wish, *, is_retry: bool) -> str:  # noqa: ARG002 - the model has no copy to be wrong
        (decision,) = self.shop.reserve([model.Attempt(uuid.uuid4().hex, wish.who, wish.key, wish.lines)], self.now)
        return decision.verdict

    async def cancel(self, who: str, key: str) -> str:
        return self.shop.cancel(who, key) or await self.state(who, key)

    async def lapse(self, who: str, key: str) -> None:
        self.shop.purchases[who, key].deadline = self.now
        self.shop.expire(self.now)

    async def change(self, sale: str, state: str) -> None:
        self.shop.change(sale, state=state)

    async def restock(self, sku: str, units: int) -> None:
        self.shop.restock(sku, units)

    async def available(self, sku: str) -> int:
        return self.shop.available(sku)

    async def state(self, who: str, key: str) -> str:
        return self.shop.purchases[who, key].state


class SqlDriver:
    """The SQL functions through authority.client. ``prefix`` keeps this scene's names apart in a shared database."""

    def __init__(self, authority: client.Authority, owner: asyncpg.Connection) -> None:
        self.authority = authority
        self.owner = owner
        self.prefix = uuid.uuid4().hex[:12]

    def own(self, name: str) -> str:
        """A name nobody else uses."""
        return f"{self.prefix}-{name}"

    def purchase(self, who: str, key: str) -> uuid.UUID:
        """The id of a purchase."""
        return wire.purchase_id(self.own(who), self.own(key))

    async def open(self, sale: str, stock: dict[str, int], limit: int) -> None:
        now = datetime.now(UTC)
        await self.authority.create_sale(
            self.own(sale),
            merchant="m",
            name=sale,
            opens=now - timedelta(days=1),
            closes=now + timedelta(days=1),
            buyer_limit=limit,
            hold_seconds=600,
            currency="EUR",
        )
        for sku, units in stock.items():
            await self.authority.add_item(self.own(sale), self.own(sku), sku, 250, units)

    async def reserve(self, wish: Wish, *, is_retry: bool) -> str:  # noqa: ARG002 - the authority always knows
        lines = tuple(sorted(wire.Line(self.own(sku), quantity) for sku, quantity in wish.lines))
        attempt = client.Attempt(
            uuid.uuid4(), self.purchase(wish.who, wish.key), self.own(wish.who), self.own(wish.key), wire.Cart(lines)
        )
        (decision,) = await self.authority.reserve_batch([attempt])
        return str(decision.verdict)

    async def cancel(self, who: str, key: str) -> str:
        return await self.authority.cancel(self.purchase(who, key), self.own(who)) or await self.state(who, key)

    async def lapse(self, who: str, key: str) -> None:
        await self.owner.execute(
            "UPDATE flash.purchase SET deadline = now() - interval '1 ms' WHERE id = $1", self.purchase(who, key)
        )
        async with asyncio.timeout(
            PATIENCE_SECONDS
        ):  # a sweep skips what another sweep has in hand, and that may be upkeep's
            while await SqlDriver.state(self, who, key) == "HELD":
                await self.authority.expire_due(256)

    async def change(self, sale: str, state: str) -> None:
        await self.authority.change_sale(self.own(sale), state=state)

    async def restock(self, sku: str, units: int) -> None:
        await self.authority.restock(self.own(sku), units)

    async def available(self, sku: str) -> int:
        stock = await self.authority.read_stock(self.own(sku))
        assert stock is not None
        return stock.available

    async def state(self, who: str, key: str) -> str:
        purchase = await self.authority.read_purchase(self.purchase(who, key), self.own(who))
        assert purchase is not None
        return purchase.state


class HttpDriver(SqlDriver):
    """Servers of one backend behind their URLs, taken in turn, so that no scene may lean on one process's memory.

    What a merchant does goes through the authority; what a buyer does, through the wire.
    """

    def __init__(
        self, authority: client.Authority, owner: asyncpg.Connection, session: aiohttp.ClientSession, urls: list[str]
    ) -> None:
        super().__init__(authority, owner)
        self.session = session
        self.urls = urls

    @property
    def url(self) -> str:
        """The next server's."""
        self.urls = [*self.urls[1:], self.urls[0]]
        return self.urls[0]

    def key(self, key: str) -> str:
        """An idempotency key of the right length."""
        return self.own(key).ljust(16, "_")

    def purchase(self, who: str, key: str) -> uuid.UUID:
        return wire.purchase_id(self.own(who), self.key(key))

    async def reserve(self, wish: Wish, *, is_retry: bool) -> str:
        # A change made a moment ago may not have reached the copy: a refusal of what was sent so soon may be behind, whenever
        # it is heard. (``try_later`` means what it says, e.g. for a sale that has no gate yet; the session sees to it.)
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            sent = clock()
            verdict = await self._post(wish, is_retry=is_retry)
            may_be_behind = verdict in {Verdict.SOLD_OUT, Verdict.SALE_NOT_OPEN} and not is_retry
            if not may_be_behind or sent >= began + COPY_SECONDS_MAX:
                return verdict
            await asyncio.sleep(0.02)

    async def cancel(self, who: str, key: str) -> str:
        url = f"{self.url}{wire.PURCHASES_PATH}/{self.purchase(who, key)}/cancel"
        async with self.session.post(url, headers={wire.BUYER_HEADER: self.own(who)}) as answer:
            body = await answer.json(content_type=None)
            return str(body["state"] if answer.ok else body["verdict"])

    async def state(self, who: str, key: str) -> str:
        url = f"{self.url}{wire.PURCHASES_PATH}/{self.purchase(who, key)}"
        async with self.session.get(url, headers={wire.BUYER_HEADER: self.own(who)}) as answer:
            return str((await answer.json())["state"])

    async def available(self, sku: str) -> int:
        async with self.session.get(f"{self.url}{wire.STOCK_PATH}/{self.own(sku)}") as answer:
            return int((await answer.json())["available"])

    async def _post(self, wish: Wish, *, is_retry: bool) -> str:
        headers = {wire.BUYER_HEADER: self.own(wish.who), wire.KEY_HEADER: self.key(wish.key)}
        if is_retry:
            headers[wire.RETRY_HEADER] = "1"
        body = {"items": [{"sku": self.own(sku), "quantity": quantity} for sku, quantity in wish.lines]}
        async with self.session.post(self.url + wire.PURCHASES_PATH, json=body, headers=headers) as answer:
            document = await answer.json(content_type=None)
            if answer.status == 202:
                return await self.follow(wish, answer.headers["Location"], document["receipt"])
            if answer.ok:
                assert document["id"] == str(self.purchase(wish.who, wish.key))
                return {201: "held", 200: "replayed"}[answer.status]
            assert answer.content_type == wire.PROBLEM_TYPE
            return str(document["verdict"])

    async def follow(self, wish: Wish, path: str, receipt: str) -> str:
        """Ask what became of a queued wish until it is decided; any server of either backend must know."""
        assert path == f"{wire.PURCHASES_PATH}/{self.purchase(wish.who, wish.key)}"
        headers = {
            wire.BUYER_HEADER: self.own(wish.who),
            wire.RECEIPT_HEADER: receipt,
            "Prefer": f"wait={WAIT_SECONDS}",
        }
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                async with self.session.get(self.url + path, headers=headers) as answer:
                    document = await answer.json(content_type=None)
                    if not answer.ok:
                        return str(document["verdict"])
                    if document["state"] != "QUEUED":
                        return "replayed" if wire.REPLAYED_HEADER in answer.headers else "held"
