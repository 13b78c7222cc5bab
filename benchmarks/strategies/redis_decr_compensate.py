"""DECR first and look at what it says; below zero, INCR it back and refuse. Then record the sale in PostgreSQL.

It cannot oversell while Redis remembers: DECR hands out each number once. But the counter and the sale are in two places, and
whoever dies in between takes a unit along. ::

    A  DECR  0     A is killed: no sale is recorded, and no INCR ever comes
    B  DECR  -1
    B  INCR  0     sold out, with one unit on the shelf for ever

The same when a refused one dies before its INCR, once a unit is returned. The mend: remember who took what together with the taking,
and have somebody put right what stays open; and never let the counter be the authority, since a Redis with an old file sells again.
"""

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql_and_redis import SqlAndRedis
from benchmarks.strategies.strategy import WITHOUT_KEY, Moment, breaks


class DecrCompensate(SqlAndRedis):
    """The pattern of most articles."""

    title = "Redis: DECR, then compensate"
    claims = breaks(die=(Kind.UNDERSOLD, Kind.LEAKED), again=(Kind.DUPLICATE,), lose=(Kind.OVERSOLD,))
    also = WITHOUT_KEY

    async def prepare(self, item: str, stock: int) -> None:
        await self.redis.set(self.key(item), stock)

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        left = await self.redis.decr(self.key(item))
        if left < 0:
            moment.note(f"DECR {left}")
            left = await self.redis.incr(self.key(item))
            moment.note(f"INCR {left}: refused")
            return False
        await moment.checked(f"DECR {left}")
        await self.pool.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
        moment.note("recorded: sold")
        await moment.acted()
        return True
