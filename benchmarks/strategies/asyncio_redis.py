"""Ours: the gate in Redis may only refuse, PostgreSQL decides batches under one lock order, and 201 leaves after the commit.

Why it holds: a gate that is too high costs a late `sold_out`, one that is too low a retry, and none can cost a unit. Units that the
gate set aside for a server that died are given back once PostgreSQL has fenced the attempt. A buyer who asks again is known by the key, also
after sell-out. A Redis with an old file is noticed and replaced. Two processes are stopped between gate and authority (`meet`), one is
killed after the debit (`die`) and one after the commit (`again`), by crash points that are compiled in.
"""

from types import MappingProxyType

from benchmarks.strategies.engine import Arming, Engine
from benchmarks.strategies.strategy import Attack


class AsyncioRedis(Engine):
    """Two servers and upkeep."""

    title = "ours: asyncio_redis"
    stores = ("redis", "postgres")
    servers = ("asyncio_redis", "asyncio_redis")
    behind = ()
    arming = MappingProxyType(
        {
            Attack.MEET: Arming("asyncio_redis", "asyncio_redis.deciding:stop", 2),
            Attack.DIE: Arming("asyncio_redis", "asyncio_redis.debited", 1),
            Attack.AGAIN: Arming("asyncio_redis", "asyncio_redis.decided", 2),
        }
    )
