"""Our two, as strategies: bought from over HTTP, as any client would, and by the rules that the API tells its clients."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Any, NamedTuple, Self

import aiohttp
import asyncpg

from benchmarks.strategies.strategy import Attack, Moment, Strategy, breaks
from flashsale.authority.migrate import migrate
from flashsale.contract import wire
from flashsale.contract.verdict import Verdict

BOUGHT, QUEUED, LATER = {200, 201}, 202, 503
LATER_SECONDS = 0.1  # Retry-After is in whole seconds, and a trial has four buyers
ANSWER_SECONDS = 20.0  # who has no answer by then asks another server
BUYING_SECONDS = 180.0
KEY_CHARS = 16  # at least

_RECORDED = """
    SELECT p.key FROM line l JOIN purchase p ON p.id = l.purchase_id, generate_series(1, l.quantity)
    WHERE l.sku = $1 AND p.state = 'HELD'"""


class Arming(NamedTuple):
    """Where processes of ours die or stand still by themselves (``flashsale.crash``), and how many of the role do."""

    role: str
    point: str
    processes: int


class Engine(Strategy):
    """One of our backends: ``roles`` are its processes, ``arming`` is how an attack reaches into them."""

    claims = breaks()
    also = frozenset()  # nothing is known of it
    is_ours = True
    servers: tuple[str, ...]  # roles that serve HTTP, one entry per process
    behind: tuple[str, ...]
    arming: Mapping[Attack, Arming]

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        )
        # The merchant's and the examiner's, who are in no hurry: the authority's own client has deadlines. A client opens none.
        settings = {"search_path": "flash"}
        self._pool = await asyncpg.create_pool(self.at.postgres, min_size=0, max_size=2, server_settings=settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.terminate()
        await self._session.close()

    async def install(self) -> None:
        await migrate(self.at.postgres, {})

    async def prepare(self, item: str, stock: int) -> None:
        now = datetime.now(UTC)
        times = now - timedelta(minutes=1), now + timedelta(hours=1)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "SELECT create_sale($1, 'lab', 'lab', $2, $3, $4, 3600, 'EUR')", item, *times, stock
            )
            await connection.execute("SELECT add_item($1, $1, 'Nothing', 100, $2)", item, stock)

    async def recorded(self, item: str) -> list[str]:
        return [row["key"].rstrip("_") for row in await self._pool.fetch(_RECORDED, item)]

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        headers = {wire.BUYER_HEADER: attempt, wire.KEY_HEADER: attempt.ljust(KEY_CHARS, "_"), "Prefer": "wait=5"}
        ends = asyncio.get_running_loop().time() + BUYING_SECONDS
        for server in cycle(self.at.servers):
            try:
                status, body = await self._ask("POST", server + wire.PURCHASES_PATH, headers, item)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                moment.again(f"no answer: {type(error).__name__}; the same key again")
                headers[wire.RETRY_HEADER] = "1"
                status, body = LATER, {}
            if status == QUEUED:
                moment.note("queued, has a receipt")
                headers[wire.RECEIPT_HEADER] = body["receipt"]
                headers[wire.RETRY_HEADER] = "1"
                status, body = await self._follow(server, body["id"], headers, moment)
            if status in BOUGHT:
                return True
            if body.get("verdict") == Verdict.SOLD_OUT:
                return False
            if status != LATER:
                raise RuntimeError(f"{status} {body}")
            if asyncio.get_running_loop().time() > ends:
                raise TimeoutError
            await asyncio.sleep(LATER_SECONDS)
        raise AssertionError("a circle ends")

    async def _follow(self, server: str, purchase: str, headers: dict[str, str], moment: Moment) -> tuple[int, Any]:
        # until it is decided, or this server says nothing any more: then the same key again says what became of it
        while True:
            try:
                status, body = await self._ask("GET", f"{server}{wire.PURCHASES_PATH}/{purchase}", headers, None)
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                moment.again(f"no answer: {type(error).__name__}")
                return LATER, {}
            if status == LATER or body.get("state") != "QUEUED":
                return status, body

    async def _ask(self, method: str, url: str, headers: dict[str, str], item: str | None) -> tuple[int, Any]:
        body = None if item is None else {"items": [{"sku": item, "quantity": 1}]}
        async with self._session.request(method, url, headers=headers, json=body) as answer:
            return answer.status, await answer.json(content_type=None)
