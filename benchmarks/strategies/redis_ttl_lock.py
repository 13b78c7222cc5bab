"""A lock in Redis with a time to live (SET NX PX), and under it a read and a write in PostgreSQL. Freed only by its owner.

What breaks it: the lock ends by the clock, and its holder does not. A pause longer than its life (a collector, a stopped machine, a
slow statement) and there are two. ::

    A  SET lock NX PX   ok     A pauses
                               the lock lapses
    B  SET lock NX PX   ok
    A  reads 1, B reads 1, both write 0: two units of one

A longer life makes that rarer and the death of a holder worse. The mend: PostgreSQL must refuse the late one: a number that grows with
every lock and is compared when writing, or the conditional UPDATE, which needs no lock.
"""

import asyncio

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql_and_redis import SqlAndRedis
from benchmarks.strategies.strategy import TRIES_MAX, WITHOUT_KEY, Moment, breaks

LIFE_MS = 40
PAUSE_SECONDS = 0.005

_UNLOCK = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


class TtlLock(SqlAndRedis):
    """A lease, taken for a lock."""

    title = "Redis: lock with a time to live"
    claims = breaks(meet=(Kind.OVERSOLD,), again=(Kind.DUPLICATE,))
    also = WITHOUT_KEY

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        lock = self.key(item)
        for _ in range(TRIES_MAX):
            if await self.redis.set(lock, attempt, nx=True, px=LIFE_MS):
                break
            moment.again("locked")
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            raise RuntimeError(f"no lock in {TRIES_MAX} tries")
        try:
            return await self._buy_locked(item, attempt, moment)
        finally:
            await self.redis.eval(_UNLOCK, 1, lock, attempt)

    async def _buy_locked(self, item: str, attempt: str, moment: Moment) -> bool:
        async with self.pool.acquire() as connection:
            left = await connection.fetchval("SELECT available FROM shelf WHERE item = $1", item)
            if left < 1:
                moment.note(f"locked, read {left}: refused")
                return False
            await moment.checked(f"locked, read {left}")
            async with connection.transaction():
                await connection.execute("UPDATE shelf SET available = $2 WHERE item = $1", item, left - 1)
                await connection.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
            moment.note(f"wrote {left - 1}: sold")
            await moment.acted()
            return True
