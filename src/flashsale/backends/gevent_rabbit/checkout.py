"""From a purchase attempt to its place in the queue: single flight, publish, receipt; and on wish, to its verdict.

No yes is this process's. It refuses alone what it knows of a reading of its own (``stream/refusals.py``). What PostgreSQL already
knows it is asked for: retries that say so, and receipts that come back. Everything else is queued unread, so that nothing but the
queue needs to be up.
"""

import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from gevent.event import AsyncResult

from flashsale import crash
from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.backends.gevent_rabbit import metrics
from flashsale.backends.gevent_rabbit.dispatch import Dispatcher, QueueUnavailable
from flashsale.backends.gevent_rabbit.watch import Watch
from flashsale.bound import Bound
from flashsale.contract.verdict import DETAILS, Verdict
from flashsale.contract.wire import Cart, Purchase, attempt_id
from flashsale.queued.message import QUEUED_SECONDS_MAX, Message
from flashsale.queued.receipt import Receipt, Receipts
from flashsale.stream.refusals import Refusals


class Outcome(NamedTuple):
    """The verdict, the purchase for a yes and a replay, the receipt for what is queued, a sentence for everything else."""

    verdict: Verdict
    purchase: Purchase | None = None
    detail: str = ""
    receipt: str = ""


@dataclass(frozen=True)
class _Flight:
    fingerprint: bytes
    outcome: "AsyncResult[Outcome]"


class Checkout:
    """Queues purchase attempts, as many at once as are confirmed in time and at most ``in_flight_max``."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        authority: GreenAuthority,
        watch: Watch,
        receipts: Receipts,
        refusals: Refusals,
        *,
        in_flight_max: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._authority = authority
        self._watch = watch
        self._receipts = receipts
        self._refusals = refusals
        self._bound = Bound(in_flight_max)
        self._flights: dict[uuid.UUID, _Flight] = {}
        metrics.in_flight.set_function(lambda: self._bound.working)
        metrics.in_flight_limit.set_function(lambda: self._bound.limit)
        self._publishing = crash.point("gevent_rabbit.publishing")
        self._confirmed = crash.point("gevent_rabbit.confirmed")

    def is_full(self) -> bool:
        """Is one attempt more too many?"""
        return self._bound.is_full(self._bound.working)

    def shed(self, attempts: int) -> None:
        """So many were told ``try_later`` unread."""
        metrics.attempts[Verdict.TRY_LATER] += attempts

    def refuse(self, purchase: uuid.UUID, cart: Cart) -> Outcome | None:
        """What can be said to a first attempt at once, by a copy of PostgreSQL a quarter of a second old at most; None: nothing.

        Not for a marked retry, nor for an attempt put in again: those no copy may answer.
        """
        if purchase in self._flights:
            return None
        verdict = self._refusals.refuse(cart.lines, purchase.int, time.monotonic())
        if verdict is None:
            return None
        metrics.refused_at_once[verdict] += 1
        metrics.attempts[verdict] += 1
        metrics.seconds.observe(0.0)
        return _refused(verdict)

    def purchase(
        self,
        purchase: uuid.UUID,
        buyer: str,
        key: str,
        cart: Cart,
        *,
        is_retry: bool,
        receipt: Receipt | None = None,
        wait_s: float = 0.0,
    ) -> Outcome:
        """The answer to one attempt. ``is_retry``: the client has sent this key before, so no copy may answer it.

        ``purchase``: the id of buyer and key; ``receipt``: put this attempt in again; ``wait_s``: seconds the client would wait for
        the verdict.
        """
        started = time.monotonic()
        if not self._bound.enter(started):
            metrics.attempts[Verdict.TRY_LATER] += 1
            return _refused(Verdict.TRY_LATER)
        try:
            outcome = self._single_flight(purchase, buyer, key, cart, is_retry=is_retry, receipt=receipt)
        finally:
            ended = time.monotonic()
            self._bound.leave(ended, ended - started)
        metrics.attempts[outcome.verdict] += 1
        metrics.seconds.observe(ended - started)
        if outcome.verdict is Verdict.QUEUED and wait_s:
            queued = self._receipts.read(outcome.receipt, buyer, purchase, time.time())
            try:
                return self.follow(queued, outcome.receipt, buyer, wait_s)
            except AuthorityUnavailable:
                return outcome  # queued it is, whoever does not answer
        return outcome

    def follow(self, receipt: Receipt, text: str, buyer: str, wait_s: float) -> Outcome:
        """What became of a queued attempt, after at most ``wait_s`` seconds. Raises ``AuthorityUnavailable``.

        Who does not know whether it is decided does not say that it is queued: somebody may have heard otherwise.
        """
        deadline = time.monotonic() + wait_s
        with self._watch.waiting(receipt.purchase, receipt.rid) as waiter:
            while True:
                standing = self._authority.read_standing(receipt.rid, receipt.purchase, buyer)
                verdict = standing.answer(receipt.fingerprint)
                left_s = deadline - time.monotonic()
                if verdict is not Verdict.QUEUED or left_s <= 0 or not waiter.sleep(0, left_s):
                    break
        if verdict is Verdict.QUEUED:
            return Outcome(verdict, receipt=text)
        return Outcome(
            verdict,
            standing.purchase if verdict in {Verdict.HELD, Verdict.REPLAYED} else None,
            DETAILS.get(verdict, ""),
        )

    def _single_flight(
        self, purchase: uuid.UUID, buyer: str, key: str, cart: Cart, *, is_retry: bool, receipt: Receipt | None
    ) -> Outcome:
        # One wish sent twice at once is one attempt; another body must not overtake the first.
        while (flight := self._flights.get(purchase)) is not None:
            outcome: Outcome = flight.outcome.get()
            if flight.fingerprint == cart.fingerprint:
                return outcome
        flight = _Flight(cart.fingerprint, AsyncResult())
        self._flights[purchase] = flight
        outcome = _refused(Verdict.TRY_LATER)
        try:
            rid = receipt.rid if receipt is not None else attempt_id()
            queued_until = self._authority.now() + timedelta(seconds=QUEUED_SECONDS_MAX)
            attempt = Message(rid, purchase, buyer, key, cart, queued_until)
            outcome = self._decide(attempt, may_be_known=is_retry or receipt is not None)
        finally:
            del self._flights[purchase]
            flight.outcome.set(outcome)
        return outcome

    def _decide(self, attempt: Message, *, may_be_known: bool) -> Outcome:
        if may_be_known and (known := self._authority_says(attempt)) is not None:
            return known
        self._publishing()
        try:
            self._dispatcher.submit(attempt)
        except QueueUnavailable:
            return _refused(Verdict.TRY_LATER)
        self._confirmed()
        fingerprint = attempt.cart.fingerprint
        receipt = self._receipts.issue(attempt.rid, attempt.purchase, fingerprint, attempt.buyer, time.time())
        return Outcome(Verdict.QUEUED, receipt=receipt)

    def _authority_says(self, attempt: Message) -> Outcome | None:
        try:
            standing = self._authority.read_standing(attempt.rid, attempt.purchase, attempt.buyer)
        except AuthorityUnavailable:
            return None  # the queue may have it all the same: PostgreSQL will answer it there, once, when it is back
        verdict = standing.answer(attempt.cart.fingerprint)
        if verdict is Verdict.QUEUED:
            return None
        if verdict in {Verdict.HELD, Verdict.REPLAYED}:
            return Outcome(Verdict.REPLAYED, standing.purchase)
        return _refused(verdict)


def _refused(verdict: Verdict) -> Outcome:
    return Outcome(verdict, None, DETAILS[verdict])
