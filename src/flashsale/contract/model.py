"""A whole shop in one small class: slow, obvious, right. Every implementation is tested against it.

It has no clock: whoever drives it says what time it is, as a number of seconds. One difference from the authority is left
open on purpose: the authority ends at most a bounded number of due holds per batch and leaves the rest to its sweeper, so
tests that compare the two keep fewer due holds than that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flashsale.contract.lifecycle import HOLDING, Event, State, move
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import TRIES_MAX


class Attempt(NamedTuple):
    """One purchase attempt. ``wish`` stands for the fingerprint: equal wishes, equal bodies."""

    rid: str
    buyer: str
    key: str
    lines: tuple[tuple[str, int], ...]
    queued_until: float = float("inf")

    @property
    def wish(self) -> tuple[tuple[str, int], ...]:
        """The body of the attempt, whatever order its lines came in."""
        return tuple(sorted(self.lines))


class Decision(NamedTuple):
    """The verdict, and for a hold each line's place in its SKU's ledger."""

    verdict: Verdict
    seqs: tuple[int, ...] = ()


@dataclass
class Sale:
    """What a merchant sets."""

    opens: float = 0.0
    closes: float = float("inf")
    state: str = "OPEN"
    buyer_limit: int = 2
    hold_seconds: float = 60.0


@dataclass
class Payment:
    """One try to pay, by the client's key of that try."""

    key: str
    state: str = "ASKED"
    is_voiding: bool = False


@dataclass
class Purchase:
    """A hold and what became of it."""

    buyer: str
    sale: str
    wish: tuple[tuple[str, int], ...]
    deadline: float
    seqs: tuple[int, ...]
    state: State = State.HELD
    payments: list[Payment] = field(default_factory=list)


# (state of a payment, what the gateway says of it) → its next state; a missing cell changes nothing. Captured money that the
# purchase has no use for becomes REFUNDING.
PAYMENT_MOVES: Mapping[tuple[str, str], str] = {
    ("ASKED", "authorized"): "AUTHORIZED",
    ("ASKED", "declined"): "DECLINED",
    ("ASKED", "captured"): "CAPTURED",
    ("ASKED", "voided"): "VOIDED",
    ("ASKED", "refunded"): "REFUNDED",
    ("AUTHORIZED", "captured"): "CAPTURED",
    ("AUTHORIZED", "voided"): "VOIDED",
    ("AUTHORIZED", "refunded"): "REFUNDED",
    ("CAPTURED", "refunded"): "REFUNDED",
    ("CAPTURED", "disputed"): "DISPUTED",
    ("CAPTURED", "dispute_won"): "DISPUTE_WON",
    ("CAPTURED", "dispute_lost"): "DISPUTE_LOST",
    ("DISPUTED", "dispute_won"): "DISPUTE_WON",
    ("DISPUTED", "dispute_lost"): "DISPUTE_LOST",
    ("DISPUTE_WON", "refunded"): "REFUNDED",
    ("DECLINED", "captured"): "REFUNDING",
    ("VOIDED", "captured"): "REFUNDING",
    ("REFUNDING", "refunded"): "REFUNDED",
    ("REFUNDING", "dispute_lost"): "DISPUTE_LOST",
}
# What an outcome says besides, when nobody has said it before: (state of the payment, outcome) → what came first.
IMPLIED: Mapping[tuple[str, str], str] = {
    ("DISPUTED", "refunded"): "dispute_won",
    **{
        (state, outcome): "captured"
        for state in ("ASKED", "AUTHORIZED", "DECLINED", "VOIDED")
        for outcome in ("disputed", "dispute_won", "dispute_lost")
    },
}

# What a dispute's news is to the purchase of the money; two, when the first was missed.
DISPUTES: Mapping[str, tuple[Event, ...]] = {
    "disputed": (Event.DISPUTE,),
    "dispute_won": (Event.WIN,),
    "dispute_lost": (Event.DISPUTE, Event.LOSE),
}


def next_step(payment: Payment, state: State) -> str:
    """What a try still needs from its gateway, given where its purchase stands."""
    match payment.state, state:
        case "ASKED", State.AUTHORIZING if not payment.is_voiding:
            return "authorize"
        case "AUTHORIZED", State.AUTHORIZED:
            return "capture"
        case "ASKED" | "AUTHORIZED", _:
            return "void"
        case "REFUNDING", _:
            return "refund"
        case "DISPUTED", _:
            return "look"
    return "nothing"


@dataclass
class Shop:
    """Sales, items, purchases. ``ledger[sku]`` lists the deltas of its movements; the place in the list plus one is seq."""

    sales: dict[str, Sale] = field(default_factory=dict)
    sale_of: dict[str, str] = field(default_factory=dict)
    ledger: dict[str, list[int]] = field(default_factory=dict)
    purchases: dict[tuple[str, str], Purchase] = field(default_factory=dict)
    attempts: dict[str, tuple[tuple[str, str], Decision]] = field(default_factory=dict)

    def add_sale(self, name: str, sale: Sale, stock: dict[str, int]) -> None:
        """Add a sale and its items with their opening stock."""
        self.sales[name] = sale
        for sku, units in stock.items():
            self.sale_of[sku] = name
            self.ledger[sku] = [units] if units else []

    def available(self, sku: str) -> int:
        """Units of the SKU that nobody holds."""
        return sum(self.ledger[sku])

    def active(self, sale: str, buyer: str) -> int:
        """Units of the sale that this buyer keeps off the shelf."""
        mine = (p for p in self.purchases.values() if p.sale == sale and p.buyer == buyer and p.state in HOLDING)
        return sum(quantity for purchase in mine for _, quantity in purchase.wish)

    def change(self, name: str, **changes: str | float) -> None:
        """Pause, reopen, end or reschedule: a movement of nothing on every SKU of the sale."""
        for attribute, value in changes.items():
            setattr(self.sales[name], attribute, value)
        for sku in [sku for sku, sale in self.sale_of.items() if sale == name]:
            self.ledger[sku].append(0)

    def restock(self, sku: str, units: int) -> None:
        """Put more units on sale."""
        self.ledger[sku].append(units)

    def reserve(self, batch: Sequence[Attempt], now: float) -> list[Decision]:
        """Decide attempts in arrival order, each on what its predecessors left."""
        skus = {sku for attempt in batch for sku, _ in attempt.lines}
        buyers = {attempt.buyer for attempt in batch}
        self._expire(
            (p for p in self.purchases.values() if p.buyer in buyers or skus & {sku for sku, _ in p.wish}),
            now,
        )
        return [self._reserve_one(attempt, now) for attempt in batch]

    def cancel(self, buyer: str, key: str) -> Verdict | None:
        """Give a hold up. None when it is given up, now or before; else the verdict that says why not."""
        purchase = self.purchases.get((buyer, key))
        if purchase is None:
            return Verdict.UNKNOWN_PURCHASE
        return None if self._happen(purchase, Event.CANCEL) else Verdict.TOO_LATE

    def expire(self, now: float) -> None:
        """End every hold whose deadline has passed, oldest first."""
        self._expire(self.purchases.values(), now)

    def pay(self, buyer: str, key: str, pay_key: str, now: float) -> Verdict | None:
        """Ask for a hold to be paid. None when it is asked, now or before; else the verdict that says why not."""
        purchase = self.purchases.get((buyer, key))
        if purchase is None:
            return Verdict.UNKNOWN_PURCHASE
        if any(payment.key == pay_key for payment in purchase.payments):
            return None
        if purchase.deadline <= now or not self._happen(purchase, Event.PAY):
            return Verdict.TOO_LATE
        purchase.payments.append(Payment(pay_key))
        return None

    def settle(self, buyer: str, key: str, number: int, outcome: str, now: float) -> str:
        """What a gateway says became of a try; what must be done next: authorize, capture, void, refund, look or nothing."""
        purchase = self.purchases[buyer, key]
        payment = purchase.payments[number - 1]
        if (payment.state, outcome) in IMPLIED:
            self.settle(buyer, key, number, IMPLIED[payment.state, outcome], now)
        was = payment.state
        payment.state = PAYMENT_MOVES.get((was, outcome), was)
        if number == len(purchase.payments) and payment.state != was:
            if outcome in DISPUTES:
                for event in DISPUTES[outcome]:
                    self._happen(purchase, event)
            else:
                self._follow(purchase, payment, outcome, was, now)
        if payment.state == "CAPTURED" != was and purchase.state is not State.PAID:
            payment.state = "REFUNDING"
        if outcome == "authorized" and was in {"DECLINED", "VOIDED"}:
            return "void"
        return next_step(payment, purchase.state)

    def refund(self, buyer: str, key: str) -> bool:
        """An operator gives the money of a paid purchase back; False: it is not paid, or is being given back already."""
        purchase = self.purchases[buyer, key]
        if purchase.state is not State.PAID or purchase.payments[-1].state == "REFUNDING":
            return False
        purchase.payments[-1].state = "REFUNDING"
        return True

    def return_by_hand(self, buyer: str, key: str, event: Event) -> bool:
        """An operator restocks what was refunded or charged back, or cancels a hold; False: not in this state."""
        purchase = self.purchases[buyer, key]
        step = move(purchase.state, event)
        return step is not None and step.state is not purchase.state and self._happen(purchase, event)

    def ask_voids(self, now: float) -> None:
        """Ask for the void of every try that outlived its hold."""
        for purchase in self.purchases.values():
            if purchase.state is State.AUTHORIZING and purchase.deadline <= now:
                purchase.payments[-1].is_voiding = True

    def end_unanswered(self) -> None:
        """End every hold whose gateway was asked to void and has not answered."""
        for purchase in self.purchases.values():
            if purchase.state is State.AUTHORIZING and purchase.payments[-1].is_voiding:
                self._happen(purchase, Event.EXPIRE)

    def void(self, rid: str, buyer: str, key: str) -> Verdict | None:
        """Fence an attempt: it is never decided after this. Its verdict if it was decided before, else None."""
        known = self.attempts.setdefault(rid, ((buyer, key), Decision(Verdict.TRY_LATER)))
        return None if known[1].verdict is Verdict.TRY_LATER else known[1].verdict

    def _follow(self, purchase: Purchase, payment: Payment, outcome: str, was: str, now: float) -> None:
        # What the latest try's new state means for its purchase.
        if outcome in {"authorized", "captured"}:
            if purchase.state is State.EXPIRED and was == "ASKED" and self._can_hold_again(purchase, now):
                self._happen(purchase, Event.LATE_MONEY)
            elif outcome == "authorized":
                self._happen(purchase, Event.AUTHORIZE)
            if outcome == "captured" and payment.state == "CAPTURED":
                self._happen(purchase, Event.CAPTURE)
        elif purchase.state is State.PAID:
            self._happen(purchase, Event.REFUND)
        elif purchase.state is State.AUTHORIZED:
            self._happen(purchase, Event.EXPIRE if payment.is_voiding else Event.GIVE_UP)
        elif purchase.state is State.AUTHORIZING and outcome != "declined" and purchase.deadline <= now:
            self._happen(purchase, Event.EXPIRE)
        elif purchase.state is State.AUTHORIZING:
            self._happen(purchase, Event.DECLINE if len(purchase.payments) < TRIES_MAX else Event.GIVE_UP)

    def _can_hold_again(self, purchase: Purchase, now: float) -> bool:
        sale = self.sales[purchase.sale]
        wanted = sum(quantity for _, quantity in purchase.wish)
        return (
            sale.state == "OPEN"
            and sale.opens <= now < sale.closes
            and all(self.available(sku) >= quantity for sku, quantity in purchase.wish)
            and self.active(purchase.sale, purchase.buyer) + wanted <= sale.buyer_limit
        )

    def _reserve_one(self, attempt: Attempt, now: float) -> Decision:
        identity = (attempt.buyer, attempt.key)
        if attempt.rid in self.attempts:
            known_identity, decision = self.attempts[attempt.rid]
            return decision if known_identity == identity else Decision(Verdict.MALFORMED)
        decision = Decision(self._judge(attempt, now))
        if decision.verdict is Verdict.HELD:
            sale = self.sale_of[attempt.wish[0][0]]
            for sku, quantity in attempt.wish:
                self.ledger[sku].append(-quantity)
            seqs = tuple(len(self.ledger[sku]) for sku, _ in attempt.wish)
            deadline = now + self.sales[sale].hold_seconds
            self.purchases[identity] = Purchase(attempt.buyer, sale, attempt.wish, deadline, seqs)
            decision = Decision(Verdict.HELD, seqs)
        self.attempts[attempt.rid] = (identity, decision)
        return decision

    def _judge(self, attempt: Attempt, now: float) -> Verdict:
        known = self.purchases.get((attempt.buyer, attempt.key))
        if known is not None:
            return Verdict.REPLAYED if known.wish == attempt.wish else Verdict.KEY_REUSED
        if any(sku not in self.sale_of for sku, _ in attempt.wish):
            return Verdict.UNKNOWN_SKU
        names = {self.sale_of[sku] for sku, _ in attempt.wish}
        if len(names) > 1:
            return Verdict.MIXED_SALES
        name = names.pop()
        sale = self.sales[name]
        if sale.state != "OPEN" or not sale.opens <= now < sale.closes:
            return Verdict.SALE_NOT_OPEN
        if attempt.queued_until < now:
            return Verdict.TOO_LATE
        if any(self.available(sku) < quantity for sku, quantity in attempt.wish):
            return Verdict.SOLD_OUT
        wanted = sum(quantity for _, quantity in attempt.wish)
        if self.active(name, attempt.buyer) + wanted > sale.buyer_limit:
            return Verdict.OVER_LIMIT
        return Verdict.HELD

    def _expire(self, purchases: Iterable[Purchase], now: float) -> None:
        due = [p for p in purchases if p.state is State.HELD and p.deadline <= now]
        for purchase in sorted(due, key=lambda p: p.deadline):
            self._happen(purchase, Event.EXPIRE)

    def _happen(self, purchase: Purchase, event: Event) -> bool:
        step = move(purchase.state, event)
        if step is None:
            return False
        purchase.state = step.state
        for sku, quantity in purchase.wish:
            if step.units:
                self.ledger[sku].append(step.units * quantity)
        return True
