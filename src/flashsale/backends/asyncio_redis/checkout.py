"""From a purchase attempt to its verdict: single flight, gate, authority, settle.

Only two answers are given without asking PostgreSQL, both refusals: ``sold_out`` and ``sale_not_open``, by the gate or, for as long as
this process knows it by a reading of its own, without asking the gate either (``stream/refusals.py``).
A yes comes from PostgreSQL after its commit. When a store does not answer, the answer is ``try_later`` and whatever the gate
still holds for the attempt is given back by the janitor, after it has fenced the attempt. Without Redis PostgreSQL may be asked
instead (``asks_without_gate``), by as few at once as about a gate that cannot tell.
"""

import asyncio
import functools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from flashsale import crash
from flashsale.authority.catalog import Catalog
from flashsale.authority.client import Attempt, AuthorityUnavailable, Decision, NeverSent
from flashsale.backends.asyncio_redis import metrics
from flashsale.backends.asyncio_redis.dispatch import Dispatcher
from flashsale.bound import Bound
from flashsale.contract.verdict import DETAILS, Verdict
from flashsale.contract.wire import Cart, Purchase, attempt_id, attempt_number
from flashsale.gate.client import Gate, GateAnswer, GateUnavailable, Settlement
from flashsale.gate.client import Outcome as GateOutcome
from flashsale.queued.receipt import Receipt
from flashsale.stream.refusals import Refusals

# Asks at once per SKU that the gate could not refuse (short while holds are being decided, its copy old, or itself away). They
# cost a row lock each; beyond this many, waiting a second serves everybody better.
ASKS_PER_SKU_MAX = 64
UNKNOWN = ""  # the bucket of carts that this process cannot place; no SKU is empty


class Outcome(NamedTuple):
    """The verdict, the purchase for a yes and a replay, and a sentence for everything else."""

    verdict: Verdict
    purchase: Purchase | None = None
    detail: str = ""


Deciding = Coroutine[Any, Any, Outcome]


class Wish(NamedTuple):
    """Who wants what. ``number`` is that of the purchase of ``buyer`` and ``key``."""

    number: int
    buyer: str
    key: str
    cart: Cart


class _Flight:
    """An attempt being decided. ``outcome`` is made by the first who waits for it; nearly nobody does."""

    __slots__ = ("cart", "is_retry", "outcome")

    def __init__(self, cart: Cart, *, is_retry: bool) -> None:
        self.cart = cart
        self.is_retry = is_retry
        self.outcome: asyncio.Future[Outcome] | None = None


class _Asked(NamedTuple):
    """An attempt that the gate was asked about."""

    wish: Wish
    rid: int
    sale: str
    flight: _Flight
    started: float
    hear: Callable[[Outcome | Deciding], None]


class Checkout:
    """Decides purchase attempts, as many at once as it answers in time and at most ``in_flight_max``."""

    def __init__(
        self,
        gate: Gate,
        dispatcher: Dispatcher,
        catalog: Catalog,
        refusals: Refusals,
        in_flight_max: int,
        *,
        asks_without_gate: bool,
    ) -> None:
        self._gate = gate
        self._dispatcher = dispatcher
        self._catalog = catalog
        self._refusals = refusals
        self._bound = Bound(in_flight_max)
        self._asks_without_gate = asks_without_gate
        self._flights: dict[int, _Flight] = {}  # by purchase id; an int is found without a call of Python's
        self._asks: Counter[str] = Counter()
        self._unsettled: dict[str, list[Settlement]] = {}  # by sale, of this loop turn
        self._settling: set[asyncio.Task[None]] = set()
        self._debited = crash.point("asyncio_redis.debited")
        self._decided = crash.point("asyncio_redis.decided")
        self._answered = crash.point("asyncio_redis.answered")
        metrics.in_flight.set_function(lambda: self._bound.working)
        metrics.in_flight_limit.set_function(lambda: self._bound.limit)

    def is_full(self, working: int) -> bool:
        """Is one attempt more than ``working`` too many?"""
        return self._bound.is_full(working)

    def shed(self, attempts: int) -> None:
        """So many were told ``try_later`` unread."""
        metrics.attempts[Verdict.TRY_LATER] += attempts

    def refuse(self, number: int, cart: Cart) -> Outcome | None:
        """What can be said to a first attempt at once, by a copy of PostgreSQL a quarter of a second old at most; None: nothing.

        ``number``: of its purchase. Not for a marked retry, nor for an attempt put in again: those no copy may answer.
        """
        if number in self._flights:
            return None
        verdict = self._refusals.refuse(cart.lines, number, time.monotonic())
        if verdict is None:
            return None
        metrics.refused_at_once[verdict] += 1
        metrics.attempts[verdict] += 1
        metrics.seconds.observe(0.0)
        return _refused(verdict)

    def begin(
        self,
        wish: Wish,
        hear: Callable[[Outcome | Deciding], None],
        *,
        is_retry: bool,
        receipt: Receipt | None = None,
    ) -> None:
        """Decide one attempt. ``hear`` is given the outcome or the coroutine that will come to it, once, and may not raise.

        All else as for ``purchase``. Nearly everybody is refused by the gate. For them there is no task and no future, which cost a
        quarter of all that such an attempt did.
        """
        number, buyer, _, cart = wish
        sale = None if is_retry or receipt is not None else self._catalog.sale_of(cart)
        started = time.monotonic()
        if sale is None or number in self._flights or not self._dispatcher.is_up or not self._bound.enter(started):
            hear(self.purchase(wish, is_retry=is_retry, receipt=receipt))
            return
        flight = self._flights[number] = _Flight(cart, is_retry=False)
        asked = _Asked(wish, attempt_number(), sale, flight, started, hear)
        try:
            self._gate.ask(sale, asked.rid, number, buyer, cart.lines, hear=functools.partial(self._hear_gate, asked))
        except GateUnavailable as error:
            self._hear_gate(asked, error)

    async def purchase(self, wish: Wish, *, is_retry: bool, receipt: Receipt | None = None) -> Outcome:
        """The answer to one attempt. ``is_retry``: the client has sent this key before, so no copy may answer it.

        ``receipt``: put this attempt in again.
        """
        started = time.monotonic()
        if not self._bound.enter(started):
            metrics.attempts[Verdict.TRY_LATER] += 1
            return _refused(Verdict.TRY_LATER)
        outcome = None
        try:
            outcome = await self._single_flight(wish, is_retry=is_retry, receipt=receipt)
        finally:
            self._leave(started, outcome)
        return outcome

    async def close(self) -> None:
        """Wait for what was decided to reach the gate; bounded by the gate's own deadlines."""
        if self._settling:
            await asyncio.wait(self._settling)

    async def _single_flight(self, wish: Wish, *, is_retry: bool, receipt: Receipt | None) -> Outcome:
        # One wish sent twice at once must not debit the gate twice; another body must not overtake the first.
        number, _, _, cart = wish
        while (flight := self._flights.get(number)) is not None:
            if flight.outcome is None:
                flight.outcome = asyncio.get_running_loop().create_future()
            outcome = await asyncio.shield(flight.outcome)
            by_authority = flight.is_retry or outcome.purchase is not None
            if flight.cart == cart and (by_authority or not is_retry):
                return outcome._replace(verdict=Verdict.REPLAYED) if outcome.verdict is Verdict.HELD else outcome
        flight = _Flight(cart, is_retry=is_retry)
        self._flights[number] = flight
        outcome = _refused(Verdict.TRY_LATER)
        try:
            if receipt is not None:
                outcome = await self._again(_attempt(receipt.rid, wish))
            else:
                outcome = await self._decide(_attempt(attempt_id(), wish), is_retry=is_retry)
        finally:
            self._land(number, flight, outcome)
        return outcome

    def _hear_gate(self, asked: _Asked, answer: GateAnswer | GateUnavailable) -> None:
        if isinstance(answer, GateUnavailable) or (refused := _REFUSED_BY_GATE.get(answer.outcome)) is None:
            asked.hear(self._go_on(asked, answer))
            return
        _count_gate(answer, asked.started)
        self._land(asked.wish.number, asked.flight, refused)
        self._leave(asked.started, refused)
        asked.hear(refused)

    async def _go_on(self, asked: _Asked, answer: GateAnswer | GateUnavailable) -> Outcome:
        outcome, landed = None, _refused(Verdict.TRY_LATER)
        try:
            attempt = _attempt(uuid.UUID(int=asked.rid), asked.wish)
            outcome = landed = await self._after_gate(attempt, asked.sale, asked.started, answer)
        finally:
            self._land(asked.wish.number, asked.flight, landed)
            self._leave(asked.started, outcome)
        return outcome

    def _land(self, number: int, flight: _Flight, outcome: Outcome) -> None:
        del self._flights[number]
        if flight.outcome is not None:
            flight.outcome.set_result(outcome)

    def _leave(self, started: float, outcome: Outcome | None) -> None:
        # None: it came to nothing, which is no verdict
        ended = time.monotonic()
        self._bound.leave(ended, ended - started)
        if outcome is not None:
            metrics.attempts[outcome.verdict] += 1
            metrics.seconds.observe(ended - started)

    async def _again(self, attempt: Attempt) -> Outcome:
        # Queued elsewhere, or lost there: its rid is decided once whoever comes first. No gate: it may never be debited twice,
        # and what waits in a queue may be neither fenced nor given back by the janitor.
        outcome = await self._authority_says(attempt)
        return outcome._replace(verdict=Verdict.REPLAYED) if outcome.verdict is Verdict.HELD else outcome

    async def _decide(self, attempt: Attempt, *, is_retry: bool) -> Outcome:
        if not self._dispatcher.is_up:  # before the gate: a debit that cannot be decided blocks a unit for seconds
            return _refused(Verdict.TRY_LATER)
        if is_retry:
            return await self._authority_says(attempt)
        sale = self._catalog.sale_of(attempt.cart)
        if sale is None:
            if not await self._catalog.refresh():  # to ask the same PostgreSQL again would double the wait for a 503
                return _refused(Verdict.TRY_LATER)
            sale = self._catalog.sale_of(attempt.cart)
        if sale is None:
            # Unknown or mixed, unless the key made a purchase: PostgreSQL knows all three. One bucket for what is made up.
            return await self._ask(attempt, [UNKNOWN])
        return await self._through_gate(attempt, sale)

    async def _through_gate(self, attempt: Attempt, sale: str) -> Outcome:
        began, answer = time.monotonic(), None
        try:
            answer = await self._gate.reserve(sale, attempt.rid, attempt.purchase, attempt.buyer, attempt.cart.lines)
        except GateUnavailable as error:
            return await self._after_gate(attempt, sale, began, error)
        return await self._after_gate(attempt, sale, began, answer)

    async def _after_gate(
        self, attempt: Attempt, sale: str, began: float, answer: GateAnswer | GateUnavailable
    ) -> Outcome:
        if isinstance(answer, GateUnavailable):
            if not self._asks_without_gate:
                return _refused(Verdict.TRY_LATER)
            # Under a new rid: the call that got no answer may have debited the old one, which is the janitor's to fence.
            return await self._ask(attempt._replace(rid=attempt_id()), [line.sku for line in attempt.cart.lines])
        _count_gate(answer, began)
        match answer.outcome:
            case GateOutcome.DEBITED:
                self._debited()
                return await self._settled(attempt._replace(epoch=answer.epoch), sale)
            case GateOutcome.KNOWN:
                return await self._authority_says(attempt)
            # stale: being rebuilt, or dropped with its sale; nothing was debited
            case GateOutcome.ASK | GateOutcome.STALE:
                return await self._ask(attempt, [line.sku for line in attempt.cart.lines])
            case _:
                return _REFUSED_BY_GATE[answer.outcome]

    async def _settled(self, attempt: Attempt, sale: str) -> Outcome:
        try:
            decision = await self._dispatcher.submit(attempt)
        except NeverSent:
            self._settle_soon(sale, attempt.rid, keep=False)
            return _refused(Verdict.TRY_LATER)
        except AuthorityUnavailable:
            return _refused(Verdict.TRY_LATER)  # unknown: only the janitor may give the units back
        self._decided()
        self._settle_soon(sale, attempt.rid, keep=decision.verdict is Verdict.HELD)
        return _told(decision)

    def _settle_soon(self, sale: str, rid: uuid.UUID, *, keep: bool) -> None:
        # nobody's answer waits for it; the winners of a batch are told of in one loop turn, and settled in one call
        if not self._unsettled:
            task = asyncio.create_task(self._settle())
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
        self._unsettled.setdefault(sale, []).append(Settlement(rid, keep))

    async def _settle(self) -> None:
        await asyncio.sleep(0)  # the answers leave first, on either way
        self._answered()
        unsettled, self._unsettled = self._unsettled, {}
        for sale, settlements in unsettled.items():
            try:
                await self._gate.settle(sale, settlements)
            except GateUnavailable:
                continue  # the rids stay pending; the janitor settles them by the verdicts in PostgreSQL

    async def _ask(self, attempt: Attempt, buckets: Sequence[str]) -> Outcome:
        if any(self._asks[bucket] >= ASKS_PER_SKU_MAX for bucket in buckets):
            return _refused(Verdict.TRY_LATER)
        self._asks.update(buckets)
        try:
            return await self._authority_says(attempt)
        finally:
            self._asks.subtract(buckets)
            for bucket in buckets:
                if not self._asks[bucket]:
                    del self._asks[bucket]

    async def _authority_says(self, attempt: Attempt) -> Outcome:
        try:
            return _told(await self._dispatcher.submit(attempt))
        except AuthorityUnavailable:
            return _refused(Verdict.TRY_LATER)


def _told(decision: Decision) -> Outcome:
    if decision.verdict is None:  # fenced by the janitor while it waited: nothing was decided
        return _refused(Verdict.TRY_LATER)
    return Outcome(decision.verdict, decision.purchase, DETAILS.get(decision.verdict, ""))


def _attempt(rid: uuid.UUID, wish: Wish) -> Attempt:
    return Attempt(rid, uuid.UUID(int=wish.number), wish.buyer, wish.key, wish.cart)


def _count_gate(answer: GateAnswer, began: float) -> None:
    metrics.gate_seconds.observe(time.monotonic() - began)
    metrics.gate_answers[answer.outcome] += 1


def _refused(verdict: Verdict) -> Outcome:
    return _REFUSED[verdict]


_REFUSED = {verdict: Outcome(verdict, None, detail) for verdict, detail in DETAILS.items()}
_REFUSED_BY_GATE = {
    outcome: _refused(Verdict(outcome.value))
    for outcome in (GateOutcome.SOLD_OUT, GateOutcome.SALE_NOT_OPEN, GateOutcome.IN_FLIGHT)
}
