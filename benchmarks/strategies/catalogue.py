"""All strategies, by name, in the order in which they are told: those that oversell, those that lose, those that hold, ours."""

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.strategies.asyncio_redis import AsyncioRedis
from benchmarks.strategies.cache_aside import CacheAside
from benchmarks.strategies.gevent_rabbit import GeventRabbit
from benchmarks.strategies.queue_single_consumer import SingleConsumer
from benchmarks.strategies.redis_decr_compensate import DecrCompensate
from benchmarks.strategies.redis_get_then_decr import GetThenDecr
from benchmarks.strategies.redis_lua import Lua
from benchmarks.strategies.redis_ttl_lock import TtlLock
from benchmarks.strategies.sql_advisory_lock import AdvisoryLock
from benchmarks.strategies.sql_conditional_update import ConditionalUpdate
from benchmarks.strategies.sql_for_update import ForUpdate
from benchmarks.strategies.sql_optimistic import Optimistic
from benchmarks.strategies.sql_read_then_write import ReadThenWrite
from benchmarks.strategies.sql_serializable import Serializable
from benchmarks.strategies.sql_skip_locked import SkipLocked
from benchmarks.strategies.strategy import Strategy

STRATEGIES: Mapping[str, type[Strategy]] = MappingProxyType(
    {
        one.name(): one
        for one in (
            ReadThenWrite,
            GetThenDecr,
            CacheAside,
            TtlLock,
            Lua,
            DecrCompensate,
            SkipLocked,
            ForUpdate,
            ConditionalUpdate,
            Optimistic,
            AdvisoryLock,
            Serializable,
            SingleConsumer,
            AsyncioRedis,
            GeventRabbit,
        )
    }
)
