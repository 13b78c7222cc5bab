"""Checkout's own decisions, with a gate and an authority that say what they are told to say."""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import pytest

from flashsale.authority.catalog import Catalog
from flashsale.authority.client import (
    PING_SECONDS,
    Attempt,
    Authority,
    AuthorityUnavailable,
    BadBatch,
    Decision,
    NeverSent,
)
from flashsale.backends.asyncio_redis.checkout import ASKS_PER_SKU_MAX, Checkout, Deciding, Outcome, Wish
from flashsale.backends.asyncio_redis.dispatch import Dispatcher
from flashsale.contract import wire
from flashsale.contract.verdict import Verdict
from flashsale.gate.client import Gate, GateAnswer, GateDamaged, GateUnavailable, Settlement
from flashsale.gate.client import Outcome as GateOutcome
from flashsale.stream.refusals import Refusals
from tests.patience import PATIENCE_SECONDS

CART = wire.Cart((wire.Line("hat", 1),))
TWO = wire.Cart((wire.Line("hat", 2),))
IN_FLIGHT_MAX = 200


class OneSale(Catalog):
    """Hats are on sale, and nothing else."""

    def __init__(self) -> None:
        self.is_read = True

    def sale_of(self, cart: wire.Cart) -> str | None:
        return "s" if all(line.sku == "hat" for line in cart.lines) else None

    async def refresh(self) -> bool:
        return self.is_read


class ScriptedGate(Gate):
    """Answers as scripted; writes down what it is told to settle."""

    def __init__(self, outcome: GateOutcome | GateUnavailable) -> None:
        self.outcome = outcome
        self.is_away = False  # nothing is sent
        self.opens = asyncio.Event()
        self.opens.set()
        self.rids: list[uuid.UUID] = []
        self.settled: list[Settlement] = []
        self.settle_calls = 0

    def ask(
        self,
        sale: str,
        rid: int,
        purchase: int,
        buyer: str,
        lines: Iterable[wire.Line],
        *,
        hear: Callable[[GateAnswer | GateUnavailable], None],
    ) -> None:
        assert (sale, buyer) == ("s", buyer)
        assert rid != purchase
        assert list(lines)
        if self.is_away:
            raise GateUnavailable
        self.rids.append(uuid.UUID(int=rid))
        asyncio.get_running_loop().create_task(self._say(hear)).add_done_callback(asyncio.Task.result)

    async def reserve(
        self, sale: str, rid: uuid.UUID, purchase: uuid.UUID, buyer: str, lines: Iterable[wire.Line]
    ) -> GateAnswer:
        said: asyncio.Future[GateAnswer | GateUnavailable] = asyncio.get_running_loop().create_future()
        self.ask(sale, rid.int, purchase.int, buyer, lines, hear=said.set_result)
        answer = await said
        if isinstance(answer, GateUnavailable):
            raise answer
        return answer

    async def _say(self, hear: Callable[[GateAnswer | GateUnavailable], None]) -> None:
        await self.opens.wait()
        hear(self.outcome if isinstance(self.outcome, GateUnavailable) else GateAnswer(self.outcome, 7))

    async def settle(self, sale: str, settlements: Iterable[Settlement]) -> int:
        assert sale == "s"
        self.settle_calls += 1
        self.settled += settlements
        return 1


class ScriptedDispatcher(Dispatcher):
    """Decides as scripted, once it is let; writes down whom it was asked for."""

    def __init__(self, verdict: Verdict | Exception | None) -> None:
        self.verdict = verdict
        self.is_up = True
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked: list[Attempt] = []

    async def submit(self, attempt: Attempt) -> Decision:
        self.asked.append(attempt)
        await self.answers.wait()
        if isinstance(self.verdict, Exception):
            raise self.verdict
        made = {Verdict.HELD, Verdict.REPLAYED}
        return Decision(self.verdict, purchase_of(attempt) if self.verdict in made else None)


def purchase_of(attempt: Attempt) -> wire.Purchase:
    return wire.Purchase(attempt.purchase, "s", "HELD", 1, 1, datetime.now(UTC), (), 0, "EUR", [])


class SoldOut(Refusals):
    """Has one word for everybody."""

    def refuse(self, lines: Sequence[wire.Line], purchase: int, now: float) -> Verdict | None:
        assert (len(lines), purchase > 0, now > 0) == (1, True, True)
        return Verdict.SOLD_OUT


class Counter:
    """A checkout and its surroundings."""

    def __init__(
        self,
        gate: GateOutcome | GateUnavailable,
        verdict: Verdict | Exception | None = Verdict.HELD,
        *,
        asks: bool = False,
    ) -> None:
        self.gate = ScriptedGate(gate)
        self.dispatcher = ScriptedDispatcher(verdict)
        self.catalog = OneSale()
        self.refusals = Refusals()
        self.checkout = Checkout(
            self.gate, self.dispatcher, self.catalog, self.refusals, IN_FLIGHT_MAX, asks_without_gate=asks
        )

    async def buy(self, who: str = "ana", cart: wire.Cart = CART, *, retry: bool = False) -> Outcome:
        key = "0123456789abcdef"
        said: asyncio.Future[Outcome | Deciding] = asyncio.get_running_loop().create_future()
        wish = Wish(wire.purchase_number(who, key), who, key, cart)
        self.checkout.begin(wish, said.set_result, is_retry=retry)
        outcome = await said
        return outcome if isinstance(outcome, Outcome) else await outcome

    async def settled(self) -> list[bool]:
        await self.checkout.close()
        return [settlement.keep for settlement in self.gate.settled]


async def test_a_debit_carries_the_gate_s_epoch_and_is_kept_by_a_hold_alone() -> None:
    for verdict, keep in ((Verdict.HELD, True), (Verdict.REPLAYED, False), (Verdict.SOLD_OUT, False)):
        counter = Counter(GateOutcome.DEBITED, verdict)
        assert (await counter.buy()).verdict is verdict
        assert counter.dispatcher.asked[0].epoch == 7
        assert await counter.settled() == [keep]


async def test_the_winners_of_one_batch_are_settled_in_one_call() -> None:
    counter = Counter(GateOutcome.DEBITED)
    counter.dispatcher.answers.clear()
    buying = [asyncio.create_task(counter.buy(who)) for who in ("ana", "ben", "cyd")]
    while len(counter.dispatcher.asked) < len(buying):
        await asyncio.sleep(0)
    counter.dispatcher.answers.set()
    await asyncio.gather(*buying)
    assert await counter.settled() == [True] * 3
    assert len({settlement.rid for settlement in counter.gate.settled}) == 3
    assert counter.gate.settle_calls == 1


async def test_a_damaged_sale_does_not_keep_others_from_being_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(GateOutcome.DEBITED)
    settled = []

    async def settle(sale: str, settlements: Iterable[Settlement]) -> int:
        if sale == "damaged":
            raise GateDamaged
        settled.append((sale, len(list(settlements))))
        return 1

    monkeypatch.setattr(counter.gate, "settle", settle)
    for sale in ("damaged", "s", "s"):
        counter.checkout._settle_soon(sale, uuid.uuid4(), keep=True)
    await counter.checkout.close()
    assert settled == [("s", 2)]


async def test_what_can_be_refused_at_once_is_unless_the_purchase_is_being_decided() -> None:
    counter = Counter(GateOutcome.DEBITED)
    counter.checkout._refusals = SoldOut()
    purchase = wire.purchase_id("ana", "0123456789abcdef")
    refused = counter.checkout.refuse(purchase.int, CART)
    assert refused is not None
    assert refused.verdict is Verdict.SOLD_OUT
    counter.dispatcher.answers.clear()
    buying = asyncio.create_task(counter.buy())
    while not counter.dispatcher.asked:
        await asyncio.sleep(0)
    assert counter.checkout.refuse(purchase.int, CART) is None
    counter.dispatcher.answers.set()
    assert (await buying).verdict is Verdict.HELD


async def test_an_attempt_that_was_never_sent_gives_its_units_back_at_once() -> None:
    counter = Counter(GateOutcome.DEBITED, NeverSent())
    assert (await counter.buy()).verdict is Verdict.TRY_LATER
    assert await counter.settled() == [False]


async def test_an_attempt_whose_outcome_is_unknown_is_the_janitor_s() -> None:
    counter = Counter(GateOutcome.DEBITED, AuthorityUnavailable())
    assert (await counter.buy()).verdict is Verdict.TRY_LATER
    assert await counter.settled() == []


async def test_a_gate_that_does_not_answer_decides_nothing() -> None:
    counter = Counter(GateUnavailable())
    assert (await counter.buy()).verdict is Verdict.TRY_LATER
    assert counter.dispatcher.asked == []


async def test_a_gate_that_is_not_there_decides_nothing_and_keeps_nobody() -> None:
    counter = Counter(GateOutcome.DEBITED)
    counter.gate.is_away = True
    assert (await counter.buy()).verdict is Verdict.TRY_LATER
    assert (counter.dispatcher.asked, counter.gate.rids) == ([], [])
    counter.gate.is_away = False
    assert (await counter.buy()).verdict is Verdict.HELD


async def test_a_gate_that_does_not_answer_is_asked_around_under_another_rid_if_so_told() -> None:
    counter = Counter(GateUnavailable(), Verdict.HELD, asks=True)
    assert (await counter.buy()).verdict is Verdict.HELD
    (asked,) = counter.dispatcher.asked
    assert asked.epoch is None, "no gate took its units"
    assert asked.rid not in counter.gate.rids, "that rid may have been debited, and will be fenced"
    assert await counter.settled() == [], "and it is the janitor's"


async def test_a_cart_that_cannot_be_placed_is_not_waited_for_twice() -> None:
    counter = Counter(GateOutcome.DEBITED)
    counter.catalog.is_read = False  # PostgreSQL did not answer
    assert (await counter.buy(cart=wire.Cart((wire.Line("new", 1),)))).verdict is Verdict.TRY_LATER
    assert counter.dispatcher.asked == []


@pytest.mark.parametrize("outcome", [GateOutcome.SOLD_OUT, GateOutcome.SALE_NOT_OPEN, GateOutcome.IN_FLIGHT])
async def test_a_refusal_of_the_gate_is_the_answer(outcome: GateOutcome) -> None:
    counter = Counter(outcome)
    heard = await counter.buy()
    assert (heard.verdict.value, bool(heard.detail)) == (outcome.value, True)
    assert counter.dispatcher.asked == []
    assert counter.checkout._bound.working == 0
    counter.gate.outcome = GateOutcome.DEBITED
    assert (await counter.buy()).verdict is Verdict.HELD, "nothing is left of the flight that was refused"
    assert counter.checkout._bound.working == 0


async def test_a_marked_retry_is_never_answered_by_a_copy() -> None:
    counter = Counter(GateOutcome.SOLD_OUT, Verdict.REPLAYED)
    assert (await counter.buy(retry=True)).verdict is Verdict.REPLAYED


async def test_a_marked_retry_does_not_join_a_flight_that_a_copy_answers() -> None:
    counter = Counter(GateOutcome.SOLD_OUT, Verdict.REPLAYED)
    counter.gate.opens.clear()
    unmarked = asyncio.create_task(counter.buy())
    await asyncio.sleep(0)
    marked = asyncio.create_task(counter.buy(retry=True))
    await asyncio.sleep(0)
    counter.gate.opens.set()
    assert [(await unmarked).verdict, (await marked).verdict] == [Verdict.SOLD_OUT, Verdict.REPLAYED]


async def test_one_wish_sent_twice_at_once_is_one_attempt() -> None:
    counter = Counter(GateOutcome.DEBITED)
    counter.dispatcher.answers.clear()
    first, second = (asyncio.create_task(counter.buy()) for _ in range(2))
    await asyncio.sleep(0)
    counter.dispatcher.answers.set()
    assert [(await first).verdict, (await second).verdict] == [Verdict.HELD, Verdict.REPLAYED]
    assert len(counter.dispatcher.asked) == 1


async def test_another_body_waits_for_the_first_and_is_an_attempt_of_its_own() -> None:
    counter = Counter(GateOutcome.DEBITED)
    counter.dispatcher.answers.clear()
    first, second = asyncio.create_task(counter.buy()), asyncio.create_task(counter.buy(cart=TWO))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(counter.dispatcher.asked) == 1
    counter.dispatcher.verdict = Verdict.KEY_REUSED
    counter.dispatcher.answers.set()
    await asyncio.gather(first, second)
    assert [attempt.cart for attempt in counter.dispatcher.asked] == [CART, TWO]


@pytest.mark.parametrize(
    ("cart", "gate"),
    [
        (CART, GateOutcome.ASK),
        (CART, GateOutcome.STALE),
        (CART, GateUnavailable()),
        (wire.Cart((wire.Line("made-up", 1),)), GateOutcome.ASK),
    ],
)
async def test_asks_are_bounded_per_sku_and_made_up_ones_together(
    cart: wire.Cart, gate: GateOutcome | GateUnavailable
) -> None:
    counter = Counter(gate, Verdict.SOLD_OUT, asks=True)
    counter.dispatcher.answers.clear()
    carts = [cart if cart is CART else wire.Cart((wire.Line(f"made-up-{n}", 1),)) for n in range(ASKS_PER_SKU_MAX + 9)]
    asking = [asyncio.create_task(counter.buy(f"buyer-{n}", carts[n])) for n in range(len(carts))]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(counter.dispatcher.asked) == ASKS_PER_SKU_MAX
    counter.dispatcher.answers.set()
    verdicts = [(await asked).verdict for asked in asking]
    assert verdicts.count(Verdict.TRY_LATER) == 9
    assert (await counter.buy("late", cart)).verdict is Verdict.SOLD_OUT  # the places are free again


async def test_winners_who_ask_again_are_not_bounded_like_strangers() -> None:
    counter = Counter(GateOutcome.KNOWN, Verdict.REPLAYED)
    heard = await asyncio.gather(*(counter.buy(f"buyer-{n}") for n in range(ASKS_PER_SKU_MAX + 9)))
    assert {outcome.verdict for outcome in heard} == {Verdict.REPLAYED}


async def test_attempts_in_flight_are_bounded() -> None:
    counter = Counter(GateOutcome.DEBITED)
    counter.dispatcher.answers.clear()
    buying = [asyncio.create_task(counter.buy(f"buyer-{n}")) for n in range(IN_FLIGHT_MAX)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert (await counter.buy("one-too-many")).verdict is Verdict.TRY_LATER
    counter.dispatcher.answers.set()
    await asyncio.gather(*buying)
    assert (await counter.buy("later")).verdict is Verdict.HELD


async def test_nothing_is_debited_while_postgresql_is_down() -> None:
    counter = Counter(GateOutcome.DEBITED)
    counter.dispatcher.is_up = False
    assert (await counter.buy()).verdict is Verdict.TRY_LATER
    assert await counter.settled() == []


class SlowAuthority(Authority):
    """Fails the first batch it is given, after letting others queue up behind it."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def reserve_batch(self, attempts: object) -> list[Decision]:
        self.asked.append(len(list(attempts)))  # type: ignore[call-overload]
        await asyncio.sleep(60)
        raise AssertionError

    async def ping(self, within_s: float = PING_SECONDS) -> None:
        raise AuthorityUnavailable(within_s)


async def test_who_waits_behind_a_batch_without_an_answer_was_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashsale.backends.asyncio_redis.dispatch.DECIDE_SECONDS", 0.05)
    dispatcher = Dispatcher(SlowAuthority(), 2, lambda _: None)
    attempts = [Attempt(uuid.uuid4(), uuid.uuid4(), "ana", str(n), CART) for n in range(5)]
    heard = await asyncio.gather(*(dispatcher.submit(attempt) for attempt in attempts), return_exceptions=True)
    assert [type(error) for error in heard] == [AuthorityUnavailable] * 2 + [NeverSent] * 3
    assert not dispatcher.is_up
    with pytest.raises(NeverSent):
        await dispatcher.submit(attempts[0])
    dispatcher.close()


class LateAuthority(SlowAuthority):
    """Comes back, and answers later than a batch may take."""

    async def ping(self, within_s: float = PING_SECONDS) -> None:
        assert within_s > 1, "a busy machine needs this for a connection"
        await asyncio.sleep(0.2)


async def test_a_postgresql_that_is_back_and_slow_is_believed_to_be_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashsale.backends.asyncio_redis.dispatch.DECIDE_SECONDS", 0.05)
    dispatcher = Dispatcher(LateAuthority(), 2, lambda _: None)
    with pytest.raises(AuthorityUnavailable):
        await dispatcher.submit(Attempt(uuid.uuid4(), uuid.uuid4(), "ana", "k", CART))
    assert not dispatcher.is_up
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not dispatcher.is_up:
            await asyncio.sleep(0.01)
    dispatcher.close()


class OneBreaks(Authority):
    """Cannot bear one buyer, and then decides nothing for anybody in the batch; what it did decide, it did in order."""

    def __init__(self) -> None:
        self.decided: list[str] = []

    async def reserve_batch(self, attempts: Sequence[Attempt]) -> list[Decision]:
        if any(attempt.buyer == "poison" for attempt in attempts):
            raise BadBatch("value out of range")
        self.decided += [attempt.buyer for attempt in attempts]
        return [Decision(Verdict.HELD) for _ in attempts]


async def test_an_attempt_that_breaks_its_batch_is_told_so_and_its_neighbours_are_held_in_order() -> None:
    authority, moved = OneBreaks(), list[str]()
    dispatcher = Dispatcher(authority, 8, moved.extend)
    buyers = ["b0", "b1", "b2", "poison", "b4"]
    attempts = [Attempt(uuid.uuid4(), uuid.uuid4(), buyer, "k", CART) for buyer in buyers]
    heard = await asyncio.gather(*(dispatcher.submit(attempt) for attempt in attempts))
    expected = [Verdict.MALFORMED if buyer == "poison" else Verdict.HELD for buyer in buyers]
    assert [decision.verdict for decision in heard] == expected
    assert authority.decided == ["b0", "b1", "b2", "b4"]
    assert dispatcher.is_up
    assert moved == ["hat"]
    dispatcher.close()
