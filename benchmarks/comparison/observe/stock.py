"""Units left, as the authority and its copy say."""

import contextlib

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

ASK_S = 2.0  # who answers later than this has nothing to say about now
_AVAILABLE = "SELECT sku, available FROM flash.stock WHERE sku = ANY($1) ORDER BY sku"


class Stock:
    """Rows of ``STOCK``; the viewers' are written by the viewers."""

    period_s = 0.2

    def __init__(self, books: asyncpg.Connection, gate: Redis, sale: str, skus: list[str]) -> None:
        self._books = books
        self._gate = gate
        self._keys = {sku: f"{{{sale}}}:stock:{sku}" for sku in skus}
        self.rows: list[tuple[object, ...]] = []

    async def look(self, t_ns: int) -> None:
        with contextlib.suppress(asyncpg.PostgresError, OSError, TimeoutError):
            for sku, available in await self._books.fetch(_AVAILABLE, list(self._keys), timeout=ASK_S):
                self.rows.append((t_ns, sku, available, "postgres"))
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with self._gate.pipeline(transaction=False) as asked:
                for key in self._keys.values():
                    asked.hget(key, "available")
                told = await asked.execute()
            self.rows += [
                (t_ns, sku, int(available), "gate")
                for sku, available in zip(self._keys, told, strict=True)
                if available is not None
            ]
