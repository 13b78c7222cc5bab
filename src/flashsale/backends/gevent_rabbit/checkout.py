"""From a purchase attempt to its place in the queue: single flight, publish, receipt; and on wish, to its verdict.

No answer is a verdict of this process. What PostgreSQL already knows it is asked for: retries that say so, and receipts that
come back. Everything else is queued unread, so that nothing but the queue needs to be up.
"""

import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from gevent.event import AsyncResult

from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.backends.gevent_rabbit import metrics
from flashsale.backends.gevent_rabbit.dispatch import Dispatcher, QueueUnavailable
from flashsale.backends.gevent_rabbit.watch import Watch
from flashsale.contract.verdict import DETAILS, Verdict
from flashsale.contract.wire import Cart, Purchase, attempt_id, purchase_id
from flashsale.queued.message import QUEUED_SECONDS_MAX, Message
from flashsale.queued.receipt import Receipt, Receipts


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
    """Queues purchase attempts, at most ``in_flight_max`` at once."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        authority: GreenAuthority,
        watch: Watch,
        receipts: Receipts,
        in_flight_max: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._authority = authority
        self._watch = watch
        self._receipts = receipts
        self._in_flight_max = in_flight_max
        self._in_flight = 0
        self._flights: dict[uuid.UUID, _Flight] = {}

    def purchase(
        self, buyer: str, key: str, cart: Cart, *, is_retry: bool, receipt: Receipt | None = None, wait_s: float = 0.0
    ) -> Outcome:
        """The answer to one attempt. ``is_retry``: the client has sent this key before, so no copy may answer it.

        ``receipt``: put this attempt in again. ``wait_s``: seconds the client would wait for the verdict.
        """
        if self._in_flight >= self._in_flight_max:
            metrics.attempts.labels(Verdict.TRY_LATER).inc()
            return _refused(Verdict.TRY_LATER)
        started = time.perf_counter()
        self._in_flight += 1
        metrics.in_flight.set(self._in_flight)
        try:
            outcome = self._single_flight(buyer, key, cart, is_retry=is_retry, receipt=receipt)
        finally:
            self._in_flight -= 1
            metrics.in_flight.set(self._in_flight)
        metrics.attempts.labels(outcome.verdict).inc()
        metrics.seconds.observe(time.perf_counter() - started)
        if outcome.verdict is Verdict.QUEUED and wait_s:
            purchase = purchase_id(buyer, key)
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

    def _single_flight(self, buyer: str, key: str, cart: Cart, *, is_retry: bool, receipt: Receipt | None) -> Outcome:
        # One wish sent twice at once is one attempt; another body must not overtake the first.
        purchase = purchase_id(buyer, key)
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
        try:
            self._dispatcher.submit(attempt)
        except QueueUnavailable:
            return _refused(Verdict.TRY_LATER)
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
