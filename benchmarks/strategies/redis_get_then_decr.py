"""GET the counter in Redis, and DECR it if something is left; then record the sale in PostgreSQL.

Each command is atomic, and the two are not. ::

    A  GET   1
    B  GET   1
    A  DECR  0
    B  DECR  -1   nobody looks at what DECR says, and both are sold

The mend: decide by what DECR returns, or both in one Lua script. Neither helps when Redis comes back with an old file: then the
counter says again what was sold long ago, and PostgreSQL, which knows better, is not asked.
"""

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql_and_redis import SqlAndRedis
from benchmarks.strategies.strategy import WITHOUT_KEY, Moment, breaks


class GetThenDecr(SqlAndRedis):
    """Fast, because nobody is asked who would know."""

    title = "Redis: GET, then DECR"
    claims = breaks(meet=(Kind.OVERSOLD,), again=(Kind.DUPLICATE,), lose=(Kind.OVERSOLD,))
    also = WITHOUT_KEY | {Kind.UNDERSOLD, Kind.LEAKED}  # killed between DECR and INSERT

    async def prepare(self, item: str, stock: int) -> None:
        await self.redis.set(self.key(item), stock)

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        left = int(await self.redis.get(self.key(item)) or 0)
        if left < 1:
            moment.note(f"GET {left}: refused")
            return False
        await moment.checked(f"GET {left}")
        left = await self.redis.decr(self.key(item))
        await self.pool.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
        moment.note(f"DECR {left}: sold")
        await moment.acted()
        return True
