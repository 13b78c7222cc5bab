"""Brings one try to its end, or to where its gateway must do something by itself: ask the authority what is next, do it at the
gateway, tell the outcome, until nothing is next.

Whoever dies between any two of these leaves a try that the next message takes up where it stands.
"""

import uuid
from typing import Protocol

from flashsale import crash
from flashsale.authority.client import Authority, AuthorityUnavailable, BadBatch, Payment, Told
from flashsale.payments.client import DISPUTED, PENDING, GatewayRefused, Gateways, GatewayUnavailable
from flashsale.payments.together import Together

# Authorize, capture, and as many more for a void and a refund that turn out to be needed. More would be a circle.
STEPS_MAX = 4
BATCH_MAX = 128  # tries in one statement: more would keep their rows from webhooks and relays for longer
NOTHING = "nothing"
CAPTURE = "capture"
DISBELIEVED = frozenset({"unknown", "mismatch"})


class Disputed(Exception):  # noqa: N818 - news, not an accident
    """The gateway's books and ours disagree about a try; only a person can say who is right."""


class _Gateway(Protocol):
    async def do(self, operation: str, payment: Payment) -> Told: ...


class Worker:
    """Works on any number of tries at once; the authority serialises those of one purchase."""

    def __init__(self, authority: Authority, gateway: Gateways | _Gateway) -> None:
        self._authority = authority
        self._gateway = gateway
        # The tries in hand share their statements: a payment is mostly round trips.
        self._read: Together[tuple[uuid.UUID, int], Payment | None] = Together(authority.read_payments, BATCH_MAX)
        self._settled: Together[Told, str | None] = Together(authority.settle_payments, BATCH_MAX)
        self._answered = crash.point("payments.answered")

    async def drive(self, purchase: uuid.UUID, number: int, *, is_last: bool = False) -> None:
        """Do what a try needs. ``is_last``: this message will not be tried again, so money that cannot be taken is set free.

        Raises ``GatewayUnavailable`` or ``AuthorityUnavailable`` (do it again), ``GatewayRefused`` or ``Disputed`` (do not).
        """
        payment = await self._read.ask((purchase, number))
        if payment is None:
            raise Disputed(f"there is no try {number} of purchase {purchase}")
        step = payment.next
        is_untakable = False
        for _ in range(STEPS_MAX):
            if step == NOTHING:
                return
            operation = "void" if is_untakable and step == CAPTURE else step
            try:
                told = await self._gateway.do(operation, payment)
            except (GatewayRefused, GatewayUnavailable) as error:
                if operation != CAPTURE or (isinstance(error, GatewayUnavailable) and not is_last):
                    raise
                is_untakable = True  # the void's answer says captured, should this capture have gone through unheard
                continue
            self._answered()
            if told.outcome == PENDING:
                return
            step = await self._settle(told)
            if step in DISBELIEVED:
                raise Disputed(
                    f"after {operation} the gateway says {told.outcome} of {told.amount_minor} {told.currency}"
                )
            if told.outcome == DISPUTED:  # its bank will decide, and nothing can be done before
                return
            is_untakable = operation == CAPTURE  # asked for and still next: it did not take
        if step != NOTHING:
            raise Disputed(f"after {STEPS_MAX} steps the next one would be {step}")

    async def _settle(self, told: Told) -> str:
        try:
            step = await self._settled.ask(told)
        except (BadBatch, AuthorityUnavailable):
            step = None  # one of the others may be to blame
        return step or await self._authority.settle_payment(told)
