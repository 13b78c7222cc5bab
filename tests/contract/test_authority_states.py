"""Random interleavings of all that can happen to a shop, over several connections, against the reference model.

The same five thousand steps at every run; ``FLASH_TEST_STATE_STEPS=N`` makes about N others. A failure tells the life in which it
happened, step by step. It is not shrunk: what goes wrong between connections may not go wrong a second time.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from flashsale.contract.model import Attempt
from flashsale.contract.verdict import DECIDED, Verdict
from flashsale.contract.wire import TRIES_MAX
from tests.contract import states
from tests.contract.states import Call, Identity, World
from tests.databases import drop_database, make_database

STEPS_USUAL = 5_000
STEPS_ASKED = int(os.environ.get("FLASH_TEST_STATE_STEPS", "0"))
STEPS_PER_LIFE = 50
WITHIN_S = 1200 + STEPS_ASKED // 5  # of hangs: on a busy machine a step takes a fiftieth of a second

BUYERS = ["ana", "ben", "cyd"]
SKUS = ["a", "b", "z", "nothing"]
OUTCOMES = ["authorized", "declined", "captured", "voided", "refunded", "disputed", "dispute_won", "dispute_lost"]

# How a step names what it is about, without looking at what there is: the last purchase but n, or a new key.
whom = st.integers(0, 5)
carts = st.dictionaries(st.sampled_from(["a", "a", "a", *SKUS]), st.integers(1, 2), min_size=1, max_size=2)
attempts = st.fixed_dictionaries(
    {
        "buyer": st.sampled_from(BUYERS),
        "again": st.none() | st.none() | whom,  # the key of a purchase that there is
        "same": st.booleans(),  # and its body
        "cart": carts,
        "rid": st.sampled_from(["", "", "", "", "r1", "r2"]),
        "late": st.sampled_from([False, False, False, False, True]),
    }
)
batches = st.lists(attempts, min_size=1, max_size=4)
tidings = st.fixed_dictionaries(
    {
        "whose": whom,
        "first": st.sampled_from([False, False, True]),
        "outcome": st.sampled_from([*OUTCOMES, "authorized", "captured"]),
        "right": st.sampled_from([True, True, True, True, True, False]),
        "webhook": st.booleans(),
    }
)
changes = st.sampled_from(
    [
        *[{"state": "PAUSED"}] * 2,
        *[{"state": "OPEN"}] * 4,
        *[{"buyer_limit": limit} for limit in (1, 2, 4, 6)],
        {"state": "ENDED"},
    ]
)
sales = st.sampled_from(["s", "s", "other"])
in_a_burst = st.one_of(
    st.tuples(st.just("reserve"), batches),
    st.tuples(st.just("reserve"), batches),
    st.tuples(st.just("cancel"), whom),
    st.tuples(st.just("pay"), whom, st.integers(0, 3)),
    st.tuples(st.just("tell"), tidings),
    st.tuples(st.just("sweep")),
    st.tuples(st.just("restock"), st.sampled_from("abz")),
    st.tuples(st.just("change"), sales, changes),
)


class Interleavings(RuleBasedStateMachine):
    """Every rule is one step, or a burst of calls at the same moment; each ends with a comparison of everything."""

    world: ClassVar[World]
    loop: ClassVar[asyncio.AbstractEventLoop]
    steps: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.keys = 0
        self.told: list[Call] = []
        self.lived: list[str] = []

    @initialize(units=st.integers(1, 5), limit=st.integers(1, 4), first=attempts)
    def begin(self, units: int, limit: int, first: dict[str, Any]) -> None:
        self.lived.append(f"begin with {units} units and a limit of {limit}")
        self._do(self.world.begin({"s": {"a": units, "b": 2}, "other": {"z": 1}}, limit))
        self._act(("reserve", [first | {"cart": {"a": 1}, "late": False}]))

    @rule(batch=batches)
    def reserve(self, batch: list[dict[str, Any]]) -> None:
        self._act(("reserve", batch))

    @rule(attempt=attempts)
    def reserve_one(self, attempt: dict[str, Any]) -> None:
        self._act(("reserve", [attempt]))

    @rule(who=whom)
    def cancel(self, who: int) -> None:
        self._act(("cancel", who))

    @rule(who=whom, pay_key=st.integers(0, 3), is_resumed=st.sampled_from([False, False, False, True]))
    def pay(self, who: int, pay_key: int, *, is_resumed: bool = False) -> None:
        self._act(("pay", who, pay_key))
        if is_resumed:
            self._relay()
            self._resume()

    @rule(tiding=tidings)
    def tell(self, tiding: dict[str, Any]) -> None:
        self._act(("tell", tiding))

    @rule(which=st.integers(0, 9))
    def tell_again(self, which: int) -> None:
        if self.told:
            call = self.told[-1 - which % len(self.told)]
            self._step("tell_again", self.world.act(call), call.name)

    @rule(who=whom, is_swept=st.booleans())
    def lapse(self, who: int, *, is_swept: bool) -> None:
        self._lapse(who)
        if is_swept:
            self._expire()

    @rule(work=st.sampled_from(["expire", "relay", "ask_for_voids", "end_unanswered", "resume"]))
    def tend(self, work: str) -> None:
        getattr(self, f"_{work}")()

    @rule(attempt=attempts, pay_key=st.integers(0, 3), tiding=tidings, shut=st.booleans())
    def outlive_the_hold(self, attempt: dict[str, Any], pay_key: int, tiding: dict[str, Any], *, shut: bool) -> None:
        """The way to late money is long, and chance would rarely go it to its end; nor find the sale shut there."""
        self._act(("reserve", [attempt | {"again": None}]))
        self.pay(0, pay_key)
        self._relay()
        self._lapse(0)
        self._ask_for_voids()
        self._relay()
        self._end_unanswered()
        if shut:
            self._act(("change", "s", {"state": "PAUSED"}))
        self._act(("tell", tiding | {"whose": 0, "right": True}))
        if shut:
            self._act(("change", "s", {"state": "OPEN"}))

    @rule(who=whom, pay_key=st.integers(0, 3))
    def pay_in_vain(self, who: int, pay_key: int) -> None:
        for again in range(TRIES_MAX):
            self.pay(who, (pay_key + again) % 4)
            self.tell({"whose": who, "first": False, "outcome": "declined", "right": True, "webhook": False})

    @rule(sku=st.sampled_from("abz"))
    def restock(self, sku: str) -> None:
        self._act(("restock", sku))

    @rule(sale=sales, change=changes)
    def change(self, sale: str, change: dict[str, Any]) -> None:
        self._act(("change", sale, change))

    @rule(attempt=attempts, comes_late=st.booleans())
    def fence(self, attempt: dict[str, Any], *, comes_late: bool) -> None:
        wish = self._attempt(attempt)
        for call in (states.fence(wish), states.reserve([wish])) if comes_late else (states.fence(wish),):
            self._step("fence", self.world.act(call), call.name)

    @rule(wishes=st.lists(in_a_burst, min_size=2, max_size=4))
    def burst(self, wishes: list[tuple[Any, ...]]) -> None:
        self._act(*wishes)

    @rule(one=in_a_burst, other=in_a_burst)
    def pair(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
        self._act(one, other)

    def _act(self, *wishes: tuple[Any, ...]) -> None:
        calls = [getattr(self, f"_call_{name}")(*arguments) for name, *arguments in wishes]
        name = "burst" if len(calls) > 1 else wishes[0][0]
        self._step(name, self.world.act(*calls), " | ".join(call.name for call in calls))

    def _step(self, name: str, work: Coroutine[Any, Any, None], about: str = "") -> None:
        self.lived.append(f"{name}: {about}")
        self._do(work)
        self.steps[name] += 1

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self.loop.run_until_complete(work)
        except Exception as error:
            error.add_note("the life until then:\n" + "\n".join(self.lived))
            raise

    def _who(self, back: int) -> Identity:
        known = list(self.world.shop.purchases)
        return known[-1 - back % len(known)] if known else ("nobody", "k")

    def _attempt(self, wish: dict[str, Any]) -> Attempt:
        who, lines = (wish["buyer"], f"k{self.keys}"), tuple(wish["cart"].items())
        self.keys += 1
        if wish["again"] is not None:
            who = self._who(wish["again"])
            if wish["same"] and who in self.world.shop.purchases:
                lines = self.world.shop.purchases[who].wish
        return Attempt(wish["rid"] or f"rid{self.keys}", *who, lines, states.NOW - 1 if wish["late"] else float("inf"))

    def _call_reserve(self, batch: list[dict[str, Any]]) -> Call:
        return states.reserve([self._attempt(wish) for wish in batch])

    def _call_cancel(self, who: int) -> Call:
        return states.cancel(self._who(who))

    def _call_pay(self, who: int, pay_key: int) -> Call:
        return states.pay(self._who(who), f"pay{pay_key}")

    def _call_tell(self, tiding: dict[str, Any]) -> Call:
        who = self._who(tiding["whose"])
        purchase = self.world.shop.purchases.get(who)
        number = max(1, len(purchase.payments)) if purchase and not tiding["first"] else 1
        amount = (self.world.shop.total(who) if purchase else 0) + (not tiding["right"])
        event = f"event{len(self.told)}" if tiding["webhook"] else None
        self.told.append(states.tell(who, number, tiding["outcome"], amount, event))
        return self.told[-1]

    def _lapse(self, who: int) -> None:
        self._step("lapse", self.world.lapse(self._who(who)), str(self._who(who)))

    def _expire(self) -> None:
        self._act(("sweep",))

    def _relay(self) -> None:
        self._step("relay", self.world.relay())

    def _ask_for_voids(self) -> None:
        self._step("ask_for_voids", self.world.act(states.expire_payments(is_patient=True)))

    def _end_unanswered(self) -> None:
        self._do(self.world.wait_for_gateways())
        self._step("end_unanswered", self.world.act(states.expire_payments(is_patient=False)))

    def _resume(self) -> None:
        self._step("resume", self.world.act(states.resume()))

    def _call_sweep(self) -> Call:
        return states.expire()

    def _call_restock(self, sku: str) -> Call:
        return states.restock(sku, 1)

    def _call_change(self, sale: str, change: dict[str, Any]) -> Call:
        return states.change(sale, **change)


# What must have happened on the way, or five thousand steps prove little: answers, and how a purchase and its latest try stood.
HEARD = (
    *(f"reserve {verdict}" for verdict in (*DECIDED, Verdict.TRY_LATER)),
    *(f"cancel {answer}" for answer in (None, Verdict.TOO_LATE)),
    *(f"pay {answer}" for answer in (None, Verdict.TOO_LATE)),
    *(f"tell {answer}" for answer in ("capture", "void", "refund", "nothing", "unknown", "mismatch")),
    *(f"hear {answer}" for answer in ("nothing", "heard", "unknown", "mismatch")),
    *(f"fence {answer}" for answer in ("void", Verdict.HELD)),
    *(f"expire {answer}" for answer in (1, (1, 0), (0, 1))),
    *(f"change {answer}" for answer in (None, "refused")),
    "resume 1",
)
STOOD = (
    *("AUTHORIZING ASKED", "AUTHORIZED AUTHORIZED", "PAID CAPTURED", "REFUNDED REFUNDED", "DECLINED DECLINED"),
    *(f"EXPIRED {state}" for state in ("ASKED", "AUTHORIZED", "VOIDED", "REFUNDING", "REFUNDED")),
)


@contextmanager
def stage(template: str) -> Iterator[World]:
    """A world for the machine."""
    loop = asyncio.new_event_loop()
    database = loop.run_until_complete(make_database(template))
    try:
        world = loop.run_until_complete(World.of(database))
        Interleavings.loop, Interleavings.world, Interleavings.steps = loop, world, Counter()
        yield world
        loop.run_until_complete(world.close())
    finally:
        loop.run_until_complete(drop_database(database))
        loop.close()


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_S)
def test_every_interleaving_comes_out_as_in_the_model(template: str) -> None:
    wanted = STEPS_ASKED or STEPS_USUAL
    with stage(template) as world:
        run_state_machine_as_test(
            Interleavings,
            settings=settings(
                max_examples=-(-wanted // STEPS_PER_LIFE),
                stateful_step_count=STEPS_PER_LIFE,
                deadline=None,
                derandomize=not STEPS_ASKED,
                phases=[Phase.generate],
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert Interleavings.steps.total() >= wanted, Interleavings.steps
    assert not [answer for answer in HEARD if not world.answers[answer]], world.answers
    assert not [standing for standing in STOOD if not world.standings[standing]], world.standings
