"""What the gate makes of keys that no script left like that."""

from collections.abc import Callable
from uuid import UUID

import pytest

from flashsale.gate.client import Image, Item
from tests.unit.gate.memory_redis import Data, MemoryRedis, at_once, memory_gate

SALE = "spring"
SKUS = ["hat", "scarf"]
GATE, HAT, PENDING = (f"{{{SALE}}}:{name}" for name in ("gate", "stock:hat", "pending"))
ITEMS = tuple(Item(sku, 3, 7, "OPEN", 0, 10**14, 2) for sku in SKUS)
WINNER = UUID(int=1)

DAMAGES: dict[str, tuple[Callable[[Data], object], str]] = {
    "the gate of another type": (lambda data: data.update({GATE: "x"}), "gate is no hash"),
    "stock of another type": (lambda data: data.update({HAT: "x"}), "stock:hat is no hash"),
    "a gate and stock of another type": (lambda data: data.update({GATE: "x", HAT: "x"}), "stock:hat is no hash"),
    "won of another type": (lambda data: data.update({f"{{{SALE}}}:won": {"a": "1"}}), "won is no set"),
    "an epoch that is a word": (lambda data: data[GATE].update(epoch="x"), "the epoch is no number"),
    "an epoch beyond any": (lambda data: data[GATE].update(epoch="9" * 30), "the epoch is no number"),
    "a cursor that is a word": (lambda data: data[HAT].update(cursor="x"), "cursor of stock:hat is no number"),
    "units in fractions": (lambda data: data[HAT].update(available="1.5"), "available of stock:hat is no number"),
    "no pending units": (lambda data: data[HAT].pop("pending"), "pending of stock:hat is no number"),
    "endless stamps": (lambda data: data[HAT].update(stamp_ms="inf"), "stamp_ms of stock:hat is no number"),
}


@pytest.fixture
def redis() -> MemoryRedis:
    redis = MemoryRedis()
    assert at_once(memory_gate(redis).init(SALE, Image(3, redis.now_ms, ITEMS, [WINNER])))
    return redis


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_seen_and_replaced(redis: MemoryRedis, damage: str) -> None:
    gate, (spoil, name) = memory_gate(redis), DAMAGES[damage]
    sound = {key: value.copy() for key, value in redis.data.items()}
    assert not at_once(gate.look(SALE, SKUS)).damage
    spoil(redis.data)
    view = at_once(gate.look(SALE, SKUS))
    assert (view.damage, view.items, view.now_ms) == (name, {}, redis.now_ms)
    assert view.epoch == (0 if "gate" in damage or "epoch" in damage else 3)
    if view.epoch:
        assert not at_once(gate.init(SALE, Image(3, redis.now_ms, ITEMS, [WINNER]))), "an image that comes too late"
    assert at_once(gate.init(SALE, Image(4, redis.now_ms, ITEMS, [WINNER])))
    sound[GATE]["epoch"] = "4"
    assert redis.data == sound


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_gate_is_dropped_whole(redis: MemoryRedis, damage: str) -> None:
    spoil, _ = DAMAGES[damage]
    spoil(redis.data)
    assert at_once(memory_gate(redis).drop(SALE, SKUS))
    assert not redis.data
    assert not at_once(memory_gate(redis).drop(SALE, SKUS))


@pytest.mark.parametrize("record", [None, "junk", f"{WINNER.hex} ana hat=two", f"{WINNER.hex} ana hat"])
def test_an_attempt_that_cannot_be_read_is_damage(redis: MemoryRedis, record: str | None) -> None:
    redis.data[f"{PENDING}_at"] = {WINNER.hex: redis.now_ms}
    if record is not None:
        redis.data[PENDING] = {WINNER.hex: record}
    gate = memory_gate(redis)
    view = at_once(gate.look(SALE, SKUS, 9))
    assert view.damage.startswith("a pending attempt cannot be read")
    assert (view.epoch, view.items, view.pending, view.pending_count) == (3, {}, (), 0)
    assert not at_once(gate.look(SALE, SKUS)).damage, "nobody asked for attempts"
