"""What a crowd sends when, and what it makes of the answers. Pure: whoever drives it says what time it is, and has the sockets.

Law 1, open loop: a wish is due at its intended time whatever became of all others, and every latency is counted from there; that no
connection was free, or that the driver was late, is the shopper's wait and is not forgotten. Law 2: 503 and 429 promised nothing,
and the same key is sent again; no answer, 502 and 504 are *unknown*, and the same key is sent again and says so. Law 3: a 202 is
accepted and not decided: its receipt is followed until there is a verdict. Law 4: everything is bounded by a shopper's patience.
"""

import heapq
import json
import random
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.comparison import contract
from benchmarks.comparison.arrivals import NS, Wish
from benchmarks.comparison.scenario import STORM
from flashsale.contract import wire
from flashsale.contract.verdict import Verdict

BUY, FOLLOW = "buy", "follow"
TRIES_MAX = 500  # of one wish; patience ends it before
TRY_NS = 30 * NS  # past this a try is unknown; a server that has no processor is still at work on it
FOLLOW_STEP_S = 5  # `Prefer: wait` of one look at what is queued
FOLLOW_LATER_MAX = (
    4  # 503 heard while following: after these the key is sent again, for the attempt may have been set aside
)
PAUSE_NS, PAUSE_NS_MAX = NS // 20, 8 * NS  # before the second try; doubled each time
STORM_TRY_NS, STORM_PAUSE_NS_MAX = (
    NS,
    NS,
)  # who storms waits a second for an answer, and a second at most before the next try
IN_FLIGHT_PAUSE_NS = NS // 5  # the same wish is under way elsewhere, and decided by then

_VERDICT = re.compile(rb'"verdict": ?"([a-z_]+)"')
_OUTCOMES = {
    Verdict.HELD.value: contract.SOLD,
    Verdict.REPLAYED.value: contract.SOLD,
    Verdict.SOLD_OUT.value: contract.SOLD_OUT,
    Verdict.OVER_LIMIT.value: contract.REFUSED,
    Verdict.SALE_NOT_OPEN.value: contract.REFUSED,
    Verdict.TOO_LATE.value: contract.REFUSED,
}
_QUEUED = "QUEUED"


class Answer(NamedTuple):
    """What came back; ``retry_after`` in seconds, None without the header."""

    status: int
    body: bytes
    retry_after: int | None


class Heard(NamedTuple):
    """What an answer of the contract said. ``shown``: the purchase in it, if it shows one."""

    verdict: str | None
    state: str | None = None
    receipt: str | None = None
    shown: dict[str, Any] | None = None


class Call:
    """One HTTP request for a wish. Nanoseconds since the release; ``answered`` -1: never."""

    __slots__ = ("answered", "ended", "heard", "kind", "mark", "sent", "seq", "status", "until")

    def __init__(self, seq: int, kind: str, mark: int, sent: int, until: int) -> None:
        self.seq = seq
        self.kind = kind
        self.mark = mark  # the Retry-Attempt sent, 0 for none
        self.sent = sent
        self.until = until  # without an answer by then its outcome is unknown
        self.answered = self.ended = -1  # ended: answered, or given up
        self.status = 0
        self.heard: Heard | None = None


class Visit:
    """One wish's way. Times are -1 until they happen."""

    __slots__ = (
        "accepted", "decided", "deferred", "later", "outcome", "purchase", "receipt", "sent", "status", "tries", "troubles", "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.sent = self.accepted = self.decided = -1
        self.tries = self.deferred = self.unknown = self.troubles = self.later = self.status = 0
        self.outcome = ""
        self.receipt = ""  # of what is queued; then it is followed, and nothing else is asked
        self.purchase = ""


class Crowd:
    """
    Everybody. The driver asks ``due`` whether there is something to send, has ``begin`` make the request, and tells what became of it
    with ``answer`` or ``lose``. ``calls`` is every request in order of sending.
    """

    def __init__(self, wishes: Sequence[Wish], *, patience_ns: int, retry: str, seed: int) -> None:
        self.wishes = list(wishes)
        self.visits = [Visit() for _ in wishes]
        self.calls: list[Call] = []
        self.open = len(wishes)  # neither decided nor given up
        self._patience_ns = patience_ns
        self._is_storm = retry == STORM
        self._dice = random.Random(f"{seed}:pauses")
        # Made before anybody comes: ten thousand at one moment would wait for it.
        self._first = [_buy(wish, 0) for wish in wishes]
        self._arrived = 0  # of the wishes, which come in order
        # (when, wish) of those that asked before; one entry per wish at most, so it is bounded by them
        self._due: list[tuple[int, int]] = []

    @property
    def next_due(self) -> int | None:
        """When the next request is due; None while all that are left wait for answers."""
        moments = [self._due[0][0]] if self._due else []
        if self._arrived < len(self.wishes):
            moments.append(self.wishes[self._arrived].intended_ns)
        return min(moments, default=None)

    def due(self, now: int) -> bool:
        """Is there a request to be sent now? Gives up wishes whose patience has ended on the way."""
        while (seq := self._first_due(now)) is not None:
            if now <= self.wishes[seq].intended_ns + self._patience_ns and self.visits[seq].tries < TRIES_MAX:
                return True
            self._take(seq)
            self._end(seq, contract.UNSENT if self.visits[seq].sent < 0 else contract.TIMEOUT, -1)
        return False

    def begin(self, now: int) -> tuple[Call, bytes]:
        """The request that is due, sent ``now``. To be called once ``due`` said yes, and a connection is there."""
        seq = self._first_due(now)
        assert seq is not None, "due"
        self._take(seq)
        visit = self.visits[seq]
        if visit.receipt:
            call = Call(seq, FOLLOW, 0, now, now + FOLLOW_STEP_S * NS + TRY_NS)
            request = _follow(self.wishes[seq], visit)
        else:
            visit.tries += 1
            call = Call(seq, BUY, visit.unknown, now, now + (STORM_TRY_NS if self._is_storm else TRY_NS))
            request = _buy(self.wishes[seq], visit.unknown) if visit.unknown else self._first[seq]
        if visit.sent < 0:
            visit.sent = now
        self.calls.append(call)
        return call, request

    def _first_due(self, now: int) -> int | None:
        # whoever asked before comes first at one moment, as they have waited longer
        if self._due and self._due[0][0] <= now:
            return self._due[0][1]
        if self._arrived < len(self.wishes) and self.wishes[self._arrived].intended_ns <= now:
            return self._arrived
        return None

    def _take(self, seq: int) -> None:
        if seq == self._arrived:
            self._arrived += 1
        else:
            heapq.heappop(self._due)

    def answer(self, call: Call, answer: Answer, now: int) -> None:
        """The answer to ``call`` came ``now``."""
        call.answered = call.ended = now
        call.status, call.heard = answer.status, hear(answer, call.kind)
        visit, heard = self.visits[call.seq], call.heard
        visit.status = answer.status
        if answer.status in (502, 504):
            self._unknown(call, now)
        elif answer.status in (503, 429):
            visit.deferred += 1
            if call.kind == FOLLOW:
                visit.later += 1
                if visit.later >= FOLLOW_LATER_MAX:
                    visit.receipt = ""
                    visit.unknown += 1
            told = 0 if self._is_storm else (answer.retry_after or 0) * NS
            self._again(call.seq, now + told + self._pause(visit))
        elif heard.verdict == Verdict.IN_FLIGHT.value:
            self._again(call.seq, now + IN_FLIGHT_PAUSE_NS + self._pause(visit))
        elif heard.state == _QUEUED:
            if visit.accepted < 0:
                visit.accepted = now
            if heard.receipt:
                visit.receipt, visit.later = heard.receipt, 0
                visit.purchase = str(wire.purchase_id(self.wishes[call.seq].buyer, self.wishes[call.seq].key))
            # whoever was answered before the wait was over would be answered so again at once
            early = call.kind == FOLLOW and now - call.sent < FOLLOW_STEP_S * NS
            self._again(call.seq, now + (self._pause(visit) if early else 0))
        else:
            outcome = _OUTCOMES.get(heard.verdict or "", contract.ERROR)
            if visit.accepted < 0 and outcome != contract.ERROR:  # which took nothing on
                visit.accepted = now
            self._end(call.seq, outcome, now)

    def lose(self, call: Call, now: int, *, was_sent: bool) -> None:
        """No answer will come to ``call``. Unless it was never sent, nobody knows what became of it."""
        call.ended = now
        if was_sent:
            self._unknown(call, now)
        else:
            self._again(call.seq, now + self._pause(self.visits[call.seq]))

    def _unknown(self, call: Call, now: int) -> None:
        visit = self.visits[call.seq]
        visit.unknown += call.kind == BUY
        self._again(call.seq, now + self._pause(visit))

    def _again(self, seq: int, at: int) -> None:
        heapq.heappush(self._due, (at, seq))

    def _end(self, seq: int, outcome: str, now: int) -> None:
        self.visits[seq].outcome, self.visits[seq].decided = outcome, now
        self.open -= 1

    def _pause(self, visit: Visit) -> int:
        longest = min(PAUSE_NS << min(visit.troubles, 20), STORM_PAUSE_NS_MAX if self._is_storm else PAUSE_NS_MAX)
        visit.troubles += 1
        return round(longest * self._dice.uniform(0.5, 1.5))


def hear(answer: Answer, kind: str) -> Heard:
    """What the answer said; nothing, if it is not of the contract."""
    if answer.status not in (200, 201, 202):
        found = _VERDICT.search(answer.body)
        return Heard(found[1].decode() if found else None)
    try:
        document = json.loads(answer.body)
        if document["state"] == _QUEUED:
            return Heard(Verdict.QUEUED.value, _QUEUED, document.get("receipt") if kind == BUY else None)
        verdict = Verdict.HELD if answer.status == 201 else Verdict.REPLAYED
        return Heard(verdict.value, document["state"], None, document)
    except (ValueError, KeyError, TypeError):
        return Heard(None)


def _buy(wish: Wish, mark: int) -> bytes:
    body = f'{{"items":[{{"sku":"{wish.sku}","quantity":1}}]}}'
    marked = f"{wire.RETRY_HEADER}: {mark}\r\n" if mark else ""
    return (
        f"POST {wire.PURCHASES_PATH} HTTP/1.1\r\nHost: sale\r\n{wire.BUYER_HEADER}: {wish.buyer}\r\n{wire.KEY_HEADER}: {wish.key}\r\n"
        f"{marked}Content-Type: {wire.JSON_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _follow(wish: Wish, visit: Visit) -> bytes:
    return (
        f"GET {wire.PURCHASES_PATH}/{visit.purchase} HTTP/1.1\r\nHost: sale\r\n{wire.BUYER_HEADER}: {wish.buyer}\r\n"
        f"{wire.RECEIPT_HEADER}: {visit.receipt}\r\nPrefer: wait={FOLLOW_STEP_S}\r\n\r\n"
    ).encode()
