"""Everything in one Lua script in Redis: check, subtract, record the sale. Nothing stands behind it.

No race can break it: a script runs alone. What breaks it is that Redis is the authority and does not keep what it said. ::

    script            1 → 0, sold to A; A is told
    Redis dies, and comes back with the file of a minute ago, or as a replica that was behind
    script            1 → 0, sold to B; of A nothing is known

`appendfsync always` mends a crash and no failover, which is asynchronous. The mend: Redis may refuse, and whoever says yes keeps it
on a disk of its own before saying so. That, and a key to know a buyer again by, is what `asyncio_redis` is.
"""

from typing import Self

from redis.asyncio import Redis

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.strategy import WITHOUT_KEY, Moment, Strategy, breaks

_BUY = """
    local left = tonumber(redis.call('GET', KEYS[1]) or 0)
    if left < 1 then return -1 end
    redis.call('RPUSH', KEYS[2], ARGV[1])
    return redis.call('DECR', KEYS[1])"""


class Lua(Strategy):
    """The fastest, and it forgets."""

    title = "Redis: Lua script alone"
    stores = ("redis",)
    claims = breaks(again=(Kind.DUPLICATE,), lose=(Kind.OVERSOLD, Kind.LOST))
    also = WITHOUT_KEY

    async def __aenter__(self) -> Self:
        self.redis = Redis.from_url(self.at.redis, decode_responses=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.redis.aclose()

    async def install(self) -> None:
        pass

    async def prepare(self, item: str, stock: int) -> None:
        await self.redis.set(f"lua:{item}", stock)

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        left = int(await self.redis.eval(_BUY, 2, f"lua:{item}", f"lua:{item}:sold", attempt))
        if left < 0:
            moment.note("script: refused")
            return False
        moment.note(f"script: {left} left, sold")
        await moment.acted()
        return True

    async def recorded(self, item: str) -> list[str]:
        return [str(attempt) for attempt in await self.redis.lrange(f"lua:{item}:sold", 0, -1)]
