"""Counts and latencies of a crowd, while it shops and at the end. Pure: whoever drives it says what time it is."""

import math
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from flashsale.contract.verdict import Verdict


class Fate(StrEnum):
    """How one purchase wish ended for its shopper."""

    HELD = "held"
    SOLD_OUT = "sold_out"
    OVER_LIMIT = "over_limit"
    REFUSED = "refused"  # another refusal that this crowd can meet, such as sale_not_open
    ERROR = "error"  # an answer that a correct request never gets
    UNANSWERED = "unanswered"  # no definite answer within all tries


FATES = {
    Verdict.HELD: Fate.HELD,
    Verdict.REPLAYED: Fate.HELD,
    Verdict.SOLD_OUT: Fate.SOLD_OUT,
    Verdict.OVER_LIMIT: Fate.OVER_LIMIT,
    Verdict.SALE_NOT_OPEN: Fate.REFUSED,
    Verdict.TOO_LATE: Fate.REFUSED,
}


class Payment(StrEnum):
    """How paying for one hold ended for its shopper."""

    PAID = "paid"
    DECLINED = "declined"  # for the last time
    EXPIRED = "expired"  # the hold lapsed before anybody took the money
    ERROR = "error"  # an answer that a correct request never gets
    UNANSWERED = "unanswered"  # still open when the shopper gave up waiting


PAYMENTS = {"PAID": Payment.PAID, "DECLINED": Payment.DECLINED, "EXPIRED": Payment.EXPIRED}
LATENCY_SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}


class Tally:
    """What happened so far. Two latencies are kept per wish and one per payment, so it is bounded by the crowd."""

    def __init__(self, shoppers: int) -> None:
        self.shoppers = shoppers
        self.arrived = 0
        self.left = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self.fates: Counter[Fate] = Counter()
        self.answers: Counter[str] = Counter()  # every answer heard, by verdict or status
        self.unknown: Counter[str] = Counter()  # tries whose outcome stayed unknown, by how
        self.try_later = 0
        self.cancelled = 0
        self.lapsed = 0
        self.watches_cut_short = 0
        self.last_arrival_s = 0.0
        self.queued = 0
        self.payments: Counter[Payment] = Counter()
        self.payments_tried_again = 0
        self._accepted: list[float] = []
        self._decided: list[float] = []
        self._paid: list[float] = []

    def wish_begins(self) -> None:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def wish_is_queued(self, latency_s: float) -> None:
        """The first 202 of a wish was heard. ``latency_s`` counts from the moment the shopper meant to ask."""
        self.queued += 1
        self._accepted.append(latency_s)

    def wish_ends(self, fate: Fate, latency_s: float, *, was_queued: bool = False) -> None:
        """``latency_s`` counts as above; a wish that was never queued is accepted by its answer."""
        self.in_flight -= 1
        self.fates[fate] += 1
        if fate is not Fate.UNANSWERED:
            self._decided.append(latency_s)
            if not was_queued:
                self._accepted.append(latency_s)

    def payment_ends(self, payment: Payment, latency_s: float) -> None:
        """``latency_s`` counts from the moment the shopper meant to pay."""
        self.payments[payment] += 1
        if payment is Payment.PAID:
            self._paid.append(latency_s)

    @property
    def everybody_was_answered(self) -> bool:
        """Did every wish and every payment come to an end that the contract knows?"""
        return not (
            self.fates[Fate.UNANSWERED]
            or self.fates[Fate.ERROR]
            or self.payments[Payment.UNANSWERED]
            or self.payments[Payment.ERROR]
        )

    def progress(self, elapsed_s: float) -> dict[str, Any]:
        """One line for whoever watches."""
        return {
            "elapsed_s": round(elapsed_s, 2),
            "arrived": self.arrived,
            "left": self.left,
            "in_flight": self.in_flight,
            "attempts": self.fates.total(),
            "held": self.fates[Fate.HELD],
        }

    def result(self, wall_s: float) -> dict[str, Any]:
        """Everything, for machines. Latencies in milliseconds from the intended time."""
        return {
            "shoppers": self.shoppers,
            "attempts": self.fates.total(),
            **{fate.value: self.fates[fate] for fate in Fate},
            "everybody_was_answered": self.everybody_was_answered,
            "queued": self.queued,
            "payments": {payment.value: self.payments[payment] for payment in Payment},
            "payments_tried_again": self.payments_tried_again,
            "cancelled": self.cancelled,
            "lapsed_while_watched": self.lapsed,
            "watches_cut_short": self.watches_cut_short,
            "try_later_answers": self.try_later,
            "unknown_tries": dict(sorted(self.unknown.items())),
            "answers": dict(sorted(self.answers.items())),
            "accepted_ms": latencies_ms(self._accepted),
            "decided_ms": latencies_ms(self._decided),
            "paid_ms": latencies_ms(self._paid),
            "peak_in_flight": self.peak_in_flight,
            "arrivals_per_s": round(self.arrived / self.last_arrival_s, 1) if self.last_arrival_s else 0.0,
            "wall_s": round(wall_s, 3),
        }


def latencies_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Nearest-rank percentiles in milliseconds; empty when there is nothing to rank."""
    ranked = sorted(seconds)
    return {
        name: round(ranked[math.ceil(share * len(ranked)) - 1] * 1000, 2)
        for name, share in LATENCY_SHARES.items()
        if ranked
    }
