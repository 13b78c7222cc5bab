"""The gate's real scripts on a Redis made of dicts: Lua 5.1 by lupa, and the dozen commands the scripts use.

``tests/contract/test_gate_conformance.py`` shows that it answers like Redis itself.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import lupa.lua51

from flashsale.gate.client import SCRIPTS, Gate
from flashsale.gate.link import Link

T = TypeVar("T")
Data = dict[
    str, Any
]  # hash: dict of str, set: set, sorted set: dict of int; a str is a key of a type no script expects


class MemoryRedis:
    """One Redis. ``data``, ``run_id`` and ``now_ms`` may be set at will: that is the point of it."""

    def __init__(self, scripts: Mapping[str, str] = SCRIPTS) -> None:
        self.data: Data = {}
        self.run_id = "run-1"
        self.now_ms = 10_000
        self._lua = lupa.lua51.LuaRuntime(unpack_returned_tuples=True)
        self._commands = self._lua.table_from({"call": self._call})
        self._scripts: dict[str, Any] = {
            name: self._lua.execute(f"return function(redis, KEYS, ARGV) {source}\nend")
            for name, source in scripts.items()
        }

    def evalsha(self, script: str, key: bytes, arguments: Sequence[bytes | str | int]) -> Any:
        """Run a script; the reply as the client sees it from Redis."""
        argv = [argument.decode() if isinstance(argument, bytes) else str(argument) for argument in arguments]
        reply = self._scripts[script](
            self._commands,
            self._lua.table_from([key.decode()]),
            self._lua.table_from(argv),
        )
        return self._reply(reply)

    def _reply(self, value: Any) -> Any:
        if lupa.lua51.lua_type(value) == "table":
            return [self._reply(element) for element in value.values()]
        if value is False:
            return None  # what Redis makes of it
        return value.encode() if isinstance(value, str) else value

    def _call(self, command: str, *arguments: Any) -> Any:
        function: Callable[..., Any] = getattr(self, f"_{command.lower()}")
        answer = function(*(str(argument) for argument in arguments))
        return self._lua.table_from(answer) if isinstance(answer, list | dict) else answer

    def _time(self) -> list[str]:
        return [str(self.now_ms // 1000), str(self.now_ms % 1000 * 1000)]

    def _type(self, key: str) -> dict[str, str]:
        kinds = {"dict": "hash", "set": "set", "str": "string"}
        if key not in self.data:
            return {"ok": "none"}
        return {"ok": "zset" if key.endswith("pending_at") else kinds[type(self.data[key]).__name__]}

    def _hmget(self, key: str, *fields: str) -> list[str | bool]:
        found = self.data.get(key, {})
        return [found.get(field, False) for field in fields]

    def _hget(self, key: str, field: str) -> str | bool:
        value: str | bool = self.data.get(key, {}).get(field, False)
        return value

    def _hexists(self, key: str, field: str) -> int:
        return int(field in self.data.get(key, {}))

    def _hlen(self, key: str) -> int:
        return len(self.data.get(key, {}))

    def _hset(self, key: str, *pairs: str) -> int:
        self.data.setdefault(key, {}).update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(pairs) // 2

    def _hincrby(self, key: str, field: str, by: str) -> int:
        values = self.data.setdefault(key, {})
        values[field] = str(int(values.get(field, "0")) + int(by))
        return int(values[field])

    def _hdel(self, key: str, field: str) -> int:
        return self._remove(key, field)

    def _sismember(self, key: str, member: str) -> int:
        return int(member in self.data.get(key, ()))

    def _sadd(self, key: str, member: str) -> int:
        self.data.setdefault(key, set()).add(member)
        return 1

    def _zadd(self, key: str, score: str, member: str) -> int:
        self.data.setdefault(key, {})[member] = int(score)
        return 1

    def _zrem(self, key: str, member: str) -> int:
        return self._remove(key, member)

    def _zrangebyscore(self, key: str, _low: str, high: str, _limit: str, first: str, count: str) -> list[str]:
        found = sorted((score, member) for member, score in self.data.get(key, {}).items() if score <= int(high))
        return [member for _, member in found][int(first) : int(first) + int(count)]

    def _del(self, *keys: str) -> int:
        return sum(self.data.pop(key, None) is not None for key in keys)

    _unlink = _del

    def _remove(self, key: str, member: str) -> int:
        values = self.data.get(key, {})
        found = int(values.pop(member, None) is not None)
        if not values:
            self.data.pop(key, None)  # Redis has no empty containers
        return found


class MemoryLink(Link):
    """A link that answers in the call itself."""

    def __init__(self, redis: MemoryRedis) -> None:
        self.redis = redis

    @property
    def run_id(self) -> str:  # type: ignore[override]
        """That of the Redis behind."""
        return self.redis.run_id

    async def call(self, script: str, key: bytes, arguments: Sequence[bytes | str | int]) -> Any:  # type: ignore[override]
        """Run the script at once."""
        return self.redis.evalsha(script, key, arguments)


def memory_gate(redis: MemoryRedis) -> Gate:
    """The real client on it."""
    return Gate(MemoryLink(redis))


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        value: T = result.value
        return value
    raise AssertionError("the coroutine waits for something")
