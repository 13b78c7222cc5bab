"""Random traces give the same replies and leave the same keys on Redis as on the Redis of dicts that the search walks on."""

import random
import secrets
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from flashsale.contract.wire import Line
from flashsale.gate.client import SCRIPTS, Gate, Image, Item, Row, Settlement, Step
from flashsale.gate.link import Link
from tests.patience import PATIENCE_SECONDS
from tests.unit.gate.memory_redis import MemoryRedis, memory_gate

SKUS = ("a", "b", "unknown")
STATES = ("OPEN", "OPEN", "OPEN", "PAUSED")
TRACES = 150
CALLS_PER_TRACE = 40
NOW_MS = 1_700_000_000_000
STEP_MS_MAX = 50  # between two calls, so that a trace crosses the 500 ms after which a stamp is old
# Both read a clock of the test's: what comes out may not depend on how long a machine takes for a trace.
CLOCK = f"conformance-clock-{secrets.token_hex(6)}"
TIMED = {
    name: source.replace("redis.call('TIME')", f"redis.call('HMGET', '{CLOCK}', 's', 'us')")
    for name, source in SCRIPTS.items()
}


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    client = Redis.from_url(redis_url, decode_responses=True)
    yield client
    await client.aclose()


class Pair:
    """The same verbs on both, and both replies."""

    def __init__(self, redis: Any, real: Gate, memory: MemoryRedis) -> None:
        self.redis, self.real, self.memory, self.copy = redis, real, memory, memory_gate(memory)

    async def at(self, now_ms: int) -> None:
        """What time it is for both."""
        self.memory.now_ms = now_ms
        await self.redis.hset(CLOCK, mapping={"s": now_ms // 1000, "us": now_ms % 1000 * 1000})

    async def call(self, verb: str, *arguments: Any) -> tuple[Any, Any]:
        return await getattr(self.real, verb)(*arguments), await getattr(self.copy, verb)(*arguments)


async def test_random_traces_end_alike(redis_url: str, redis: Any) -> None:
    link = Link(redis_url, TIMED, PATIENCE_SECONDS)
    await link.open()
    gate = Gate(link)
    seen = set()
    for seed in range(TRACES):
        sale = f"conformance-{secrets.token_hex(6)}"
        memory = MemoryRedis()
        memory.run_id = link.run_id
        pair, chance = Pair(redis, gate, memory), random.Random(seed)
        answers: list[tuple[Any, Any]] = []
        for arguments in trace(chance, sale):
            await pair.at(NOW_MS if not answers else memory.now_ms + chance.randint(0, STEP_MS_MAX))
            answers.append(await pair.call(*arguments))
        left, kept = await stored(redis, sale), comparable(memory.data)
        assert await pair.call("drop", sale) == (True, True)
        assert await stored(redis, sale) == comparable(memory.data) == {}
        for at, (answer, expected) in enumerate(answers):
            assert answer == expected, f"seed {seed}, call {at}"
            seen.add(str(answer)[:40])
        assert left == kept, f"seed {seed}"
    await link.close()
    await redis.delete(CLOCK)
    assert len(seen) > 10


def trace(chance: random.Random, sale: str) -> list[tuple[Any, ...]]:
    """Calls that hit every branch often; every id is drawn from a few, so that they meet."""
    now_ms = NOW_MS
    rids = [UUID(int=number) for number in range(1, 30)]
    purchases = [UUID(int=1000 + number) for number in range(12)]

    def item(sku: str, seq: int) -> Item:
        opens, closes = chance.choice(
            ((0, 10**14), (0, 10**14), (now_ms + 100, 10**14), (0, now_ms), (now_ms + 9999, 10**14))
        )
        return Item(sku, chance.randint(0, 6), seq, chance.choice(STATES), opens, closes, chance.randint(1, 5))

    stamps = (now_ms, now_ms, now_ms - 5000, now_ms + 5000)
    epoch = 3
    calls: list[tuple[Any, ...]] = [
        ("init", sale, Image(epoch, now_ms, (item("a", 4), item("b", 7)), purchases[:2])),
    ]
    for _ in range(CALLS_PER_TRACE):
        kind = chance.choice(("reserve",) * 6 + ("settle", "settle", "apply", "apply", "look", "init"))
        if kind == "reserve":
            lines = [
                Line(sku, chance.randint(1, 3)) for sku in SKUS if chance.random() < (0.1 if sku == "unknown" else 0.6)
            ]
            if lines:
                calls.append(
                    ("reserve", sale, chance.choice(rids), chance.choice(purchases), chance.choice("xyz"), lines)
                )
        elif kind == "settle":
            calls.append(("settle", sale, [Settlement(rid, chance.random() < 0.5) for rid in chance.sample(rids, 6)]))
        elif kind == "apply":
            sku, cursor, count = chance.choice(SKUS), chance.randint(4, 9), chance.randint(0, 3)
            rows = tuple(
                Row(cursor + at, chance.randint(-2, 2), chance.random() < 0.3, chance.choice((None, *purchases)))
                for at in range(1, count + 1)
            )
            step = Step(cursor, item(sku, cursor + count + chance.choice((0, 0, 2))), rows)
            calls.append(("apply", sale, chance.choice((epoch, epoch, 2)), chance.choice(stamps), step))
        elif kind == "look":
            calls.append(("look", sale, SKUS, chance.choice((0, 99)), chance.choice((0, 60_000))))
        elif chance.random() < 0.3:
            epoch += chance.choice((0, 1))
            calls.append(
                ("init", sale, Image(epoch, chance.choice(stamps), (item("a", 4), item("b", 7)), purchases[3:5]))
            )
    return calls


async def stored(redis: Any, sale: str) -> dict[str, object]:
    """Everything Redis has of the sale."""
    data: dict[str, Any] = {}
    for key in await redis.keys(f"{{{sale}}}:*"):
        kind = await redis.type(key)
        if kind == "hash":
            data[key] = await redis.hgetall(key)
        elif kind == "set":
            data[key] = await redis.smembers(key)
        else:
            data[key] = dict(await redis.zrange(key, 0, -1, withscores=True))
    return comparable(data)


def comparable(data: dict[str, Any]) -> dict[str, object]:
    """A copy."""
    return {key: value.copy() for key, value in data.items()}
