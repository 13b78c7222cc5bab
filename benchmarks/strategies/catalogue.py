"""All strategies by name, in the order in which they are told: those that oversell, those that lose units, those that hold, ours."""

import importlib
import inspect
from collections.abc import Iterator

from benchmarks.strategies.strategy import Strategy

STRATEGIES = (
    "sql_read_then_write",
    "redis_get_then_decr",
    "cache_aside",
    "redis_ttl_lock",
    "redis_lua",
    "redis_decr_compensate",
    "sql_skip_locked",
    "sql_for_update",
    "sql_conditional_update",
    "sql_optimistic",
    "sql_advisory_lock",
    "sql_serializable",
    "queue_single_consumer",
    "asyncio_redis",
    "gevent_rabbit",
)


def strategy(name: str) -> type[Strategy]:
    """The one in the module of this name. Imported when it is wanted: a client that is killed is soon back without all drivers."""
    (found,) = _strategies_in(f"benchmarks.strategies.{name}")
    return found


def _strategies_in(module: str) -> Iterator[type[Strategy]]:
    for _, kind in inspect.getmembers(importlib.import_module(module), inspect.isclass):
        if issubclass(kind, Strategy) and kind.__module__ == module:
            yield kind
