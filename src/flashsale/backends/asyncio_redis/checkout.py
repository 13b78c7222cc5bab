"""From a purchase attempt to its verdict: single flight, gate, authority, settle.

Only two answers are given without asking PostgreSQL, both refusals: ``sold_out`` and ``sale_not_open``, by the gate or, for as long as
this process knows it by a reading of its own, without asking the gate either (``stream/refusals.py``).
A yes comes from PostgreSQL after its commit. When a store does not answer, the answer is ``try_later`` and whatever the gate
still holds for the attempt is given back by the janitor, after it has fenced the attempt. Without Redis PostgreSQL may be asked
instead (``asks_without_gate``), by as few at once as about a gate that cannot tell.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from flashsale import crash
from flashsale.authority.catalog import Catalog
from flashsale.authority.client import Attempt, AuthorityUnavailable, Decision, NeverSent
from flashsale.backends.asyncio_redis import metrics
from flashsale.backends.asyncio_redis.dispatch import Dispatcher
from flashsale.bound import Bound
from flashsale.contract.verdict import DETAILS, Verdict
from flashsale.contract.wire import Cart, Purchase, attempt_id
from flashsale.gate.client import Gate, GateUnavailable, Settlement
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


class _Flight:
    """An attempt being decided. ``outcome`` is made by the first who waits for it; nearly nobody does."""

    __slots__ = ("cart", "is_retry", "outcome")

    def __init__(self, cart: Cart, *, is_retry: bool) -> None:
        self.cart = cart
        self.is_retry = is_retry
        self.outcome: asyncio.Future[Outcome] | None = None


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

    async def purchase(
        self, purchase: uuid.UUID, buyer: str, key: str, cart: Cart, *, is_retry: bool, receipt: Receipt | None = None
    ) -> Outcome:
        """The answer to one attempt. ``is_retry``: the client has sent this key before, so no copy may answer it.

        ``purchase``: the id of buyer and key; ``receipt``: put this attempt in again.
        """
        started = time.monotonic()
        if not self._bound.enter(started):
            metrics.attempts[Verdict.TRY_LATER] += 1
            return _refused(Verdict.TRY_LATER)
        try:
            outcome = await self._single_flight(purchase, buyer, key, cart, is_retry=is_retry, receipt=receipt)
        finally:
            ended = time.monotonic()
            self._bound.leave(ended, ended - started)
        metrics.attempts[outcome.verdict] += 1
        metrics.seconds.observe(ended - started)
        return outcome

    async def close(self) -> None:
        """Wait for what was decided to reach the gate; bounded by the gate's own deadlines."""
        if self._settling:
            await asyncio.wait(self._settling)

    async def _single_flight(
        self, purchase: uuid.UUID, buyer: str, key: str, cart: Cart, *, is_retry: bool, receipt: Receipt | None
    ) -> Outcome:
        # One wish sent twice at once must not debit the gate twice; another body must not overtake the first.
        number = purchase.int
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
                outcome = await self._again(Attempt(receipt.rid, purchase, buyer, key, cart))
            else:
                outcome = await self._decide(Attempt(attempt_id(), purchase, buyer, key, cart), is_retry=is_retry)
        finally:
            del self._flights[number]
            if flight.outcome is not None:
                flight.outcome.set_result(outcome)
        return outcome

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
        began = time.perf_counter()
        try:
            outcome, epoch = await self._gate.reserve(
                sale, attempt.rid, attempt.purchase, attempt.buyer, attempt.cart.lines
            )
        except GateUnavailable:
            if not self._asks_without_gate:
                return _refused(Verdict.TRY_LATER)
            # Under a new rid: the call that got no answer may have debited the old one, which is the janitor's to fence.
            return await self._ask(attempt._replace(rid=attempt_id()), [line.sku for line in attempt.cart.lines])
        metrics.gate_seconds.observe(time.perf_counter() - began)
        metrics.gate_answers[outcome] += 1
        match outcome:
            case GateOutcome.DEBITED:
                self._debited()
                return await self._settled(attempt._replace(epoch=epoch), sale)
            case GateOutcome.KNOWN:
                return await self._authority_says(attempt)
            # stale: being rebuilt, or dropped with its sale; nothing was debited
            case GateOutcome.ASK | GateOutcome.STALE:
                return await self._ask(attempt, [line.sku for line in attempt.cart.lines])
            case _:
                return _refused(Verdict(outcome.value))

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


def _refused(verdict: Verdict) -> Outcome:
    return _REFUSED[verdict]


_REFUSED = {verdict: Outcome(verdict, None, detail) for verdict, detail in DETAILS.items()}
