"""What the gate says to an attempt, and in which order it looks."""

from typing import Any
from uuid import UUID

import pytest

from flashsale.contract.verdict import PRECEDENCE
from flashsale.contract.wire import Line
from flashsale.gate.client import Gate, Image, Item, Outcome, Settlement
from tests.unit.gate.memory_redis import MemoryRedis, at_once, memory_gate

SALE = "spring"
OPENS, CLOSES = 100_000, 200_000
FRESH_MS = 500
GUARD_MS = 200
ANA = UUID(int=1)


class Door:
    """A gate with two items and a clock; ``ask`` is one attempt with a rid of its own."""

    def __init__(self, *, hat: int = 3, scarf: int = 3, limit: int = 2, state: str = "OPEN", at: int = 150_000) -> None:
        self.redis = MemoryRedis()
        self.redis.now_ms = at
        self.gate: Gate = memory_gate(self.redis)
        items = tuple(
            Item(sku, units, 1, state, OPENS, CLOSES, limit) for sku, units in (("hat", hat), ("scarf", scarf))
        )
        assert at_once(self.gate.init(SALE, Image(1, at, items, [ANA])))
        self.rid = 0

    def ask(self, buyer: str = "ben", purchase: int | None = None, **lines: int) -> Outcome:
        self.rid += 1
        wish = [Line(sku, quantity) for sku, quantity in (lines or {"hat": 1}).items()]
        answer = at_once(
            self.gate.reserve(SALE, UUID(int=self.rid), UUID(int=purchase or 1000 + self.rid), buyer, wish),
        )
        assert answer.epoch == 1
        return answer.outcome

    def settle(self, *, keep: bool) -> int:
        return at_once(self.gate.settle(SALE, [Settlement(UUID(int=self.rid), keep)]))

    def stock(self, sku: str = "hat") -> tuple[int, int]:
        found = self.redis.data[f"{{{SALE}}}:stock:{sku}"]
        return int(found["available"]), int(found["pending"])


def test_units_are_set_aside_until_settled() -> None:
    door = Door()
    assert door.ask(hat=2) == Outcome.DEBITED
    assert door.stock() == (1, 2)
    assert door.settle(keep=True) == 1
    assert door.stock() == (1, 0)
    assert door.settle(keep=True) == 0


def test_units_of_a_refused_attempt_return_once() -> None:
    door = Door()
    door.ask(hat=2)
    assert (door.settle(keep=False), door.settle(keep=False)) == (1, 0)
    assert door.stock() == (3, 0)


def test_all_lines_or_nothing() -> None:
    door = Door(scarf=0)
    assert door.ask(hat=1, scarf=1) == Outcome.SOLD_OUT
    assert door.stock("hat") == (3, 0)


def test_short_but_pending_asks() -> None:
    door = Door(hat=1)
    door.ask()
    assert door.ask("cem") == Outcome.ASK


@pytest.mark.parametrize(
    ("age", "outcome"), [(FRESH_MS - 1, Outcome.SOLD_OUT), (FRESH_MS, Outcome.ASK), (-1, Outcome.ASK)]
)
def test_only_a_fresh_copy_refuses(age: int, outcome: Outcome) -> None:
    door = Door(hat=0)
    door.redis.now_ms += age
    assert door.ask() == outcome


def test_an_old_copy_still_debits() -> None:
    door = Door(state="PAUSED")
    door.redis.now_ms += FRESH_MS
    assert door.ask() == Outcome.DEBITED


@pytest.mark.parametrize(
    ("at", "outcome", "outcome_without_stock"),
    [
        (OPENS - GUARD_MS - 1, Outcome.SALE_NOT_OPEN, Outcome.SALE_NOT_OPEN),
        (OPENS - GUARD_MS, Outcome.DEBITED, Outcome.ASK),
        (OPENS + GUARD_MS - 1, Outcome.DEBITED, Outcome.ASK),
        (OPENS + GUARD_MS, Outcome.DEBITED, Outcome.SOLD_OUT),
        (CLOSES - GUARD_MS - 1, Outcome.DEBITED, Outcome.SOLD_OUT),
        (CLOSES - GUARD_MS, Outcome.DEBITED, Outcome.ASK),
        (CLOSES + GUARD_MS - 1, Outcome.DEBITED, Outcome.ASK),
        (CLOSES + GUARD_MS, Outcome.SALE_NOT_OPEN, Outcome.SALE_NOT_OPEN),
    ],
)
def test_near_a_bell_postgresql_decides(at: int, outcome: Outcome, outcome_without_stock: Outcome) -> None:
    assert Door(at=at).ask() == outcome
    assert Door(at=at, hat=0).ask() == outcome_without_stock


def test_a_buyer_with_undecided_attempts_waits_for_them() -> None:
    door = Door(hat=9)
    assert [door.ask(), door.ask(), door.ask(), door.ask("cem")] == [
        Outcome.DEBITED,
        Outcome.DEBITED,
        Outcome.IN_FLIGHT,
        Outcome.DEBITED,
    ]


def test_a_wish_beyond_the_limit_is_postgresqls_to_refuse() -> None:
    # in_flight would say "ask again", and it would never come true
    assert Door(hat=9).ask(hat=3) == Outcome.ASK


def test_another_life_of_redis_an_unknown_item_or_no_gate_is_stale() -> None:
    door = Door()
    assert door.ask(shoe=1) == Outcome.STALE
    door.redis.run_id = "run-2"
    assert door.ask() == Outcome.STALE
    door.redis.data.clear()
    assert at_once(door.gate.reserve(SALE, ANA, ANA, "ben", [Line("hat", 1)])) == (Outcome.STALE, 0)


def test_a_gate_older_than_one_already_seen_is_stale() -> None:
    door = Door()
    old = {key: value.copy() for key, value in door.redis.data.items()}
    at_once(door.gate.init(SALE, Image(7, door.redis.now_ms, (), ())))
    assert at_once(door.gate.reserve(SALE, UUID(int=5), UUID(int=6), "ben", [])).epoch == 7
    door.redis.data = old
    assert door.ask() == Outcome.STALE


# Each pair: both facts hold; the verdict that stands first in PRECEDENCE wins. KNOWN stands for replay and key_reused, which
# only PostgreSQL can tell apart; STALE for unknown_sku; in_flight is the gate's word before over_limit.
FACTS: dict[str, dict[str, Any]] = {
    "replayed": {"purchase": ANA.int},
    "unknown_sku": {"shoe": 1},
    "sale_not_open": {"state": "PAUSED"},
    "sold_out": {"hat": 0},
}
ANSWER_TO = {
    "replayed": Outcome.KNOWN,
    "unknown_sku": Outcome.STALE,
    "sale_not_open": Outcome.SALE_NOT_OPEN,
    "sold_out": Outcome.SOLD_OUT,
}


@pytest.mark.parametrize("second", FACTS)
@pytest.mark.parametrize("first", FACTS)
def test_precedence_is_that_of_the_contract(first: str, second: str) -> None:
    facts = FACTS[first] | FACTS[second]
    door = Door(hat=facts.get("hat", 3), state=facts.get("state", "OPEN"))
    wish = {sku: 1 for sku in ("hat", "shoe") if sku == "hat" or sku in facts}
    outcome = door.ask("ben", facts.get("purchase"), **wish)
    order = [verdict.value for verdict in PRECEDENCE]
    assert outcome == ANSWER_TO[min(first, second, key=order.index)]


def test_sold_out_stands_before_in_flight() -> None:
    door = Door(hat=2, scarf=0)
    door.ask(hat=2)
    assert door.ask(scarf=1) == Outcome.SOLD_OUT
