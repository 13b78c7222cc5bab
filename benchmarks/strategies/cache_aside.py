"""Ask a cached copy whether something is left; if so subtract one in the database and drop the copy.

The database is the authority, and nobody asks it: the check reads the copy, and the act does not check. ::

    A  GET copy  1
    B  GET copy  1
    A  UPDATE available - 1   0, copy dropped
    B  UPDATE available - 1  -1, sold

A copy is old by design, so this breaks even one buyer after the other, if the copy outlives the last unit: a reader who fills it from
what it read before the sale, or a Redis that returns with an old file. The mend: the act checks (`WHERE available >= 1`), and the
copy may only refuse.
"""

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql_and_redis import SqlAndRedis
from benchmarks.strategies.strategy import WITHOUT_KEY, Moment, breaks

COPY_SECONDS = 60


class CacheAside(SqlAndRedis):
    """A page's cache, believed at the till."""

    title = "Cache-aside: copy asked, database written"
    claims = breaks(meet=(Kind.OVERSOLD,), again=(Kind.DUPLICATE,), lose=(Kind.OVERSOLD,))
    also = WITHOUT_KEY

    async def prepare(self, item: str, stock: int) -> None:
        await super().prepare(item, stock)
        await self.redis.set(self.key(item), stock, ex=COPY_SECONDS)  # somebody has looked at the page

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        text = await self.redis.get(self.key(item))
        if text is not None:
            copy = int(text)
        else:
            copy = await self.pool.fetchval("SELECT available FROM shelf WHERE item = $1", item)
            await self.redis.set(self.key(item), copy, ex=COPY_SECONDS)
        if copy < 1:
            moment.note(f"copy says {copy}: refused")
            return False
        await moment.checked(f"copy says {copy}")
        async with self.pool.acquire() as connection, connection.transaction():
            left = await connection.fetchval(
                "UPDATE shelf SET available = available - 1 WHERE item = $1 RETURNING available", item
            )
            await connection.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
        await self.redis.delete(self.key(item))
        moment.note(f"database now {left}: sold")
        await moment.acted()
        return True
