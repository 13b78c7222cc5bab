"""What strategies share that ask Redis first. A module of its own, since a client that is killed is back sooner without the driver."""

from typing import Self

from redis.asyncio import Redis

from benchmarks.strategies.sql import Sql


class SqlAndRedis(Sql):
    """Redis has what is asked first, PostgreSQL the sales."""

    stores = ("redis", "postgres")
    redis: Redis

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.redis = Redis.from_url(self.at.redis, decode_responses=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.redis.aclose()
        await super().__aexit__()

    def key(self, item: str) -> str:
        """Of this item."""
        return f"{self.name()}:{item}"
