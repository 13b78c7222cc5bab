"""What can be wrong beyond PostgreSQL's own rows, as pure functions: each yields one witness per wrong thing, and nothing when all
is right. Which rule a witness belongs to, and how long it may take to settle, is in ``invariants``.
"""

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from flashsale.contract.wire import purchase_id
from flashsale.proof.evidence import (
    Booked,
    Gate,
    JournalEntry,
    PaymentRow,
    SaleRow,
    StockRow,
    ToldCall,
)
from flashsale.proof.invariants import SUBJECTS_MAX, WITNESSES_MAX

CERTAIN_MARGIN_S = 0.25  # a told hold counts until this long before its deadline: two processes read one clock apart
# What a key may have been before it became this; None: unknown. A wallet takes at once; everybody else sets aside first.
JOURNAL_MAY_FOLLOW: Mapping[str, frozenset[str | None]] = {
    "pending": frozenset({None}),
    "authorized": frozenset({None, "pending"}),
    "declined": frozenset({None, "pending"}),
    "captured": frozenset({"authorized"}),
    "voided": frozenset({None, "pending", "authorized"}),
    "refunded": frozenset({"captured", "dispute_won"}),
    "disputed": frozenset({"captured"}),
    "dispute_won": frozenset({"disputed"}),
    "dispute_lost": frozenset({"disputed"}),
}
TAKES_AT_ONCE = "wallet"
# A gateway that says this has our buyer's money, and the books call the payment so.
MONEY_KEPT = {"captured": "CAPTURED", "disputed": "DISPUTED", "dispute_won": "DISPUTE_WON"}
UNKNOWN_STATUSES = frozenset({202, 502, 504})  # the wish may yet be granted


class Witness(NamedTuple):
    """One thing that is wrong: by which rule, with what, in words."""

    rule: str
    subject: str
    text: str


class Tally(NamedTuple):
    """What a look found by one rule: how many, the first few subjects, fewer texts."""

    rule: str
    number: int
    subjects: tuple[str, ...]
    texts: tuple[str, ...]


class Tallies:
    """Witnesses counted by rule, a bounded number of them kept."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, list[str], list[str]]] = {}

    def add(self, witnesses: Iterable[Witness]) -> None:
        for rule, subject, text in witnesses:
            number, subjects, texts = self._found.get(rule, (0, [], []))
            if number < SUBJECTS_MAX:
                subjects.append(subject)
            if number < WITNESSES_MAX:
                texts.append(text)
            self._found[rule] = (number + 1, subjects, texts)

    def all(self) -> list[Tally]:
        return [Tally(rule, n, tuple(subjects), tuple(texts)) for rule, (n, subjects, texts) in self._found.items()]


# --- the gate


def gate_differences(sale: SaleRow, stock: Iterable[StockRow], gate: Gate | None, now: datetime) -> Iterator[Witness]:
    """Where a gate is not PostgreSQL's count. It means something only when nobody is buying."""
    if gate is None:
        yield from _gate_is_missing(sale, now)
        return
    yield from _gate_is_stale(sale, gate)
    if gate.pending:
        yield _drift(sale.id, f"the gate of {sale.id} has {gate.pending} attempts pending")
    forgotten = sale.held_ever - gate.won_number
    if forgotten > 0:
        yield _drift(sale.id, f"the gate of {sale.id} does not know {forgotten} purchases that were held")
    for row in stock:
        copy = gate.stock.get(row.sku)
        if copy is None:
            yield _drift(row.sku, f"{row.sku}: the gate has no copy of it")
            continue
        drift = copy.available + copy.pending - row.available
        if drift:
            text = f"{row.sku}: {drift:+d} (gate {copy.available} + {copy.pending} pending, PostgreSQL {row.available})"
            yield _drift(row.sku, text)
        if copy.cursor != row.seq:
            yield _drift(row.sku, f"{row.sku}: the gate is at seq {copy.cursor}, PostgreSQL at {row.seq}")


def gate_differences_moving(
    sale: SaleRow, stock: Iterable[StockRow], gate: Gate | None, now: datetime, passed: Mapping[str, int]
) -> Iterator[Witness]:
    """
    The same while people are buying. The gate was read first: a SKU with nothing pending, whose cursor is at PostgreSQL's seq, stood
    still in between, so its units are equal or wrong. ``passed`` is the seq of the look before, which the gate must have reached.
    """
    if sale.state == "ENDED" or sale.closes <= now:
        return
    if gate is None:
        yield from _gate_is_missing(sale, now)
        return
    yield from _gate_is_stale(sale, gate)
    for row in stock:
        copy = gate.stock.get(row.sku)
        if copy is None:
            yield _drift(row.sku, f"{row.sku}: the gate has no copy of it")
        elif copy.cursor == row.seq and not copy.pending and copy.available != row.available:
            yield _drift(
                row.sku, f"{row.sku}: gate {copy.available}, PostgreSQL {row.available}, both at seq {row.seq}"
            )
        elif copy.cursor < passed.get(row.sku, 0):
            yield _drift(
                row.sku, f"{row.sku}: the gate is at seq {copy.cursor}, PostgreSQL passed {passed[row.sku]} a look ago"
            )


def won_unknown(gate: Gate, unknown: Iterable[str]) -> Iterator[Witness]:
    """Purchases that a gate saw held and that are ``unknown`` to the books."""
    for purchase in unknown:
        text = f"the gate of {gate.sale} saw purchase {purchase} held; PostgreSQL has none"
        yield Witness("won-unknown", purchase, text)


def _gate_is_missing(sale: SaleRow, now: datetime) -> Iterator[Witness]:
    if sale.state != "ENDED" and sale.closes > now:  # a sale that is over needs none
        yield _drift(sale.id, f"sale {sale.id} has no gate")


def _gate_is_stale(sale: SaleRow, gate: Gate) -> Iterator[Witness]:
    if not gate.this_life:
        yield _drift(sale.id, f"the gate of {sale.id} was built before Redis restarted")
    if gate.epoch != sale.epoch:
        yield _drift(sale.id, f"the gate of {sale.id} has epoch {gate.epoch}, PostgreSQL {sale.epoch}")


def _drift(subject: str, text: str) -> Witness:
    return Witness("gate-drift", subject, text)


# --- money


class Till:
    """
    The latest state of every key in one gateway's journal, folded as its lines come, and the lines that break the gateway's own laws.
    What was broken stays broken: a journal is only ever appended to.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.latest: dict[str, JournalEntry] = {}
        self.broken = Tallies()
        self.entries = 0

    def add(self, entries: Iterable[JournalEntry]) -> None:
        for entry in entries:
            self.entries += 1
            before = self.latest.get(entry.key)
            self.broken.add(self._laws(entry, before))
            self.latest[entry.key] = entry

    def _laws(self, entry: JournalEntry, before: JournalEntry | None) -> Iterator[Witness]:
        state = before.state if before is not None else None
        rule = "journal-breaks-its-rules"
        at_once = self.name == TAKES_AT_ONCE and (state, entry.state) == (None, "captured")
        if state not in JOURNAL_MAY_FOLLOW.get(entry.state, frozenset()) and not at_once:
            yield Witness(rule, entry.key, f"{self.name}: key {entry.key} is {entry.state} after {state}")
        if before is not None and before[1:2] + before[3:] != entry[1:2] + entry[3:]:
            text = f"{self.name}: key {entry.key} changed from {before[3:]} of {before.purchase} to {entry[3:]}"
            yield Witness(rule, entry.key, text)


def journals_against_books(
    payments: Sequence[PaymentRow], tills: Sequence[Till], *, all_sales: bool
) -> Iterator[Witness]:
    """
    Captures in the journals are the captured payments, one to one and equal in amount. Unless ``all_sales`` were read, a purchase
    that the books do not show is another sale's.
    """
    books = {row.key: row for row in payments}
    states = {row.purchase: row.purchase_state for row in payments}
    taken: Counter[str] = Counter()
    for till in tills:
        for entry in till.latest.values():
            if all_sales or entry.purchase in states:
                taken[entry.key] += entry.state in MONEY_KEPT
                yield from _entry_against_books(till.name, entry, books.get(entry.key), states.get(entry.purchase))
    for key, row in books.items():
        if row.state in MONEY_KEPT.values() and not taken[key]:
            text = (
                f"payment {row.number} of purchase {row.purchase} is {row.state}, and no gateway keeps anything for it"
            )
            yield Witness("journal-against-books", key, text)
    for key, number in taken.items():
        if number > 1:
            yield Witness("journal-against-books", key, f"{number} gateways took money for key {key}")


def _entry_against_books(
    name: str, entry: JournalEntry, booked: PaymentRow | None, state: str | None
) -> Iterator[Witness]:
    rule = "journal-against-books"
    if entry.state == "authorized":
        yield Witness(rule, entry.key, f"{name} holds {_sum(entry)} of purchase {entry.purchase} open")
    if entry.state not in MONEY_KEPT:
        return
    if booked is None or (booked.state, booked.purchase, booked.method) != (
        MONEY_KEPT[entry.state],
        entry.purchase,
        name,
    ):
        known = "none" if booked is None else f"{booked.state} by {booked.method}"
        text = f"{name} keeps {_sum(entry)} for key {entry.key} of purchase {entry.purchase}, {state}; the books say {known}"
        yield Witness(rule, entry.key, text)
    elif (entry.amount_minor, entry.currency) != (booked.owed_minor, booked.owed_currency):
        text = f"{name} took {_sum(entry)} for key {entry.key}, which costs {booked.owed_minor} {booked.owed_currency}"
        yield Witness("journal-other-amount", entry.key, text)


def _sum(entry: JournalEntry) -> str:
    return f"{entry.amount_minor} {entry.currency}"


# --- what shoppers were told


def told_not_so(told: Sequence[ToldCall], books: Mapping[str, Booked]) -> Iterator[Witness]:
    """Purchases that somebody was told of and that are not, or not so, in the books. ``told`` are calls that show a purchase."""
    reported: set[str] = set()
    for call in told:
        if call.purchase is None or call.purchase in reported:
            continue
        why = _why_lost(call, books.get(call.purchase))
        if why:
            reported.add(call.purchase)
            text = f"{call.buyer} was told of purchase {call.purchase} (key {call.key}): {why}"
            yield Witness("told-not-so", call.purchase, text)


def _why_lost(call: ToldCall, row: Booked | None) -> str:
    if row is None:
        return "PostgreSQL has none"
    if (row.buyer, row.key) != (call.buyer, call.key):
        return f"PostgreSQL has it as key {row.key} of {row.buyer}"
    wanted = {(sku, quantity) for sku, quantity, _ in call.lines}
    if wanted != set(row.lines) or (call.asked and wanted != set(call.asked)):
        return f"told {sorted(wanted)}, PostgreSQL has {list(row.lines)}, asked {list(call.asked)}"
    for place in call.lines:
        if place not in row.holds:
            return f"the ledger has no hold of {place[1]} {place[0]} for it at seq {place[2]}"
    if call.call == "cancel" and row.state != "CANCELLED":
        return f"its cancellation was acknowledged, PostgreSQL says {row.state}"
    return ""


def accepted(told: Sequence[ToldCall]) -> dict[str, ToldCall]:
    """The purchases of wishes that were accepted with 202, by id."""
    return {str(purchase_id(call.buyer, call.key)): call for call in told if call.status == 202 and call.call == "buy"}


def accepted_undecided(calls: Mapping[str, ToldCall], decided: set[str]) -> Iterator[Witness]:
    """Accepted wishes without a verdict."""
    for purchase, call in calls.items():
        if purchase not in decided:
            text = f"{call.buyer} heard 202 for key {call.key}, and purchase {purchase} has no verdict"
            yield Witness("accepted-undecided", purchase, text)


def asked_for(told: Sequence[ToldCall]) -> set[str]:
    """Every purchase that a shopper tried to make, by id, whatever was heard of it."""
    return {
        str(purchase_id(buyer, key)) for buyer, key in {(call.buyer, call.key) for call in told if call.call == "buy"}
    }


def never_asked_for(purchases: Iterable[str]) -> Iterator[Witness]:
    """Purchases in the books that no shopper asked for."""
    for purchase in purchases:
        yield Witness("never-asked-for", purchase, f"purchase {purchase} is in the books, and no shopper asked for it")


def never_answered(told: Sequence[ToldCall]) -> Iterator[Witness]:
    """Wishes about which a shopper still knows nothing."""
    open_wishes: dict[tuple[str, str], bool] = {}
    for call in told:
        wish = call.buyer, call.key
        heard = call.status is not None and call.status not in UNKNOWN_STATUSES and call.state != "QUEUED"
        if call.call == "buy":
            open_wishes.setdefault(wish, True)
        if wish in open_wishes and heard:
            open_wishes[wish] = False
    for (buyer, key), is_open in open_wishes.items():
        if is_open:
            yield Witness("never-answered", f"{buyer} {key}", f"{buyer} never heard what became of key {key}")


def oversold_as_told(totals: Mapping[str, int], told: Sequence[ToldCall]) -> Iterator[Witness]:
    """If the certain holds of one moment exceed the stock, it was oversold, whatever the server's own books say."""
    changes: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for hold in _certain_holds(told):
        for sku, units, _ in hold.lines:
            changes[sku] += [(hold.begins, units), (hold.ends, -units)]
    for sku, moments in changes.items():
        certain, total = 0, totals.get(sku, 0)
        for at, units in sorted(moments):  # at one moment ends sort before beginnings, which favours the server
            certain += units
            if units > 0 and certain > total:
                text = f"{sku}: at {at:.3f} shoppers held {certain} units for certain, of {total}"
                yield Witness("certain-holds-above-total", sku, text)


class _CertainHold(NamedTuple):
    lines: tuple[tuple[str, int, int], ...]
    begins: float
    ends: float


def _certain_holds(told: Sequence[ToldCall]) -> Iterator[_CertainHold]:
    # Certain is a hold from the moment its buyer heard of it until the buyer asked to cancel it or its deadline came near.
    cancels: dict[str, float] = {}
    first: dict[str, ToldCall] = {}
    for call in told:
        # asking to pay ends the certainty too: a last decline returns the units before the deadline
        if call.purchase is not None and call.call in {"cancel", "pay"}:
            cancels[call.purchase] = min(call.sent, cancels.get(call.purchase, call.sent))
        elif call.purchase is not None and call.state == "HELD":
            first.setdefault(call.purchase, call)  # a shopper's calls stand in the order of its answers
    for purchase, call in first.items():
        if call.answered is not None and call.deadline is not None:
            ends = min(cancels.get(purchase, call.deadline), call.deadline - CERTAIN_MARGIN_S)
            if call.answered < ends:
                yield _CertainHold(call.lines, call.answered, ends)


def duplicated_as_told(told: Sequence[ToldCall]) -> Iterator[Witness]:
    """One key that was two purchases, and one place in a ledger that was given to two."""
    by_key: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    by_place: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for call in told:
        if call.shows_purchase and call.purchase is not None:
            by_key[call.buyer, call.key].add(call.purchase)
            for sku, _, seq in call.lines:
                by_place[sku, seq].add(call.purchase)
    for (buyer, key), ids in by_key.items():
        if len(ids) > 1:
            text = f"{buyer} was told of {len(ids)} purchases for key {key}: {', '.join(sorted(ids))}"
            yield Witness("told-two-of-one-key", f"{buyer} {key}", text)
    for (sku, seq), ids in by_place.items():
        if len(ids) > 1:
            text = f"{sku}: place {seq} of the ledger was told to {', '.join(sorted(ids))}"
            yield Witness("told-one-place-twice", sku, text)


def fairness(told: Sequence[ToldCall]) -> dict[str, dict[str, Any]]:
    """
    Per SKU: of all pairs of first holds, how many stand in the ledger in another order than their buyers first asked. A report and
    no finding: retries, several servers and batches all reorder, and none of it is forbidden.
    """
    came: dict[tuple[str, str], float] = {}
    places: dict[str, dict[str, tuple[float, int]]] = defaultdict(dict)
    for call in told:
        wish = call.buyer, call.key
        if call.call == "buy":
            came[wish] = min(call.sent, came.get(wish, call.sent))
        if call.shows_purchase and call.purchase is not None and wish in came:
            for sku, _, seq in call.lines:
                places[sku].setdefault(call.purchase, (came[wish], seq))
    return {sku: _inversions([seq for _, seq in sorted(found.values())]) for sku, found in places.items()}


def _inversions(seqs: Sequence[int]) -> dict[str, Any]:
    served: list[int] = []
    inverted = 0
    for seq in seqs:
        at = bisect.bisect(served, seq)
        inverted += len(served) - at
        served.insert(at, seq)  # a move of memory: a hundred thousand holds take a second
    pairs = len(seqs) * (len(seqs) - 1) // 2
    return {"holds": len(seqs), "inverted_pairs": inverted, "share": round(inverted / pairs, 4) if pairs else 0.0}
