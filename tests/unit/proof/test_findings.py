"""What is judged outside PostgreSQL, with one thing wrong by hand; a detector that never catches anything proves nothing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flashsale.contract.wire import purchase_id
from flashsale.proof import findings
from flashsale.proof.auditor import Patience
from flashsale.proof.evidence import Booked, Gate, GateStock, JournalEntry, PaymentRow, SaleRow, StockRow, ToldCall
from flashsale.proof.findings import Tallies, Tally, Till, Witness
from flashsale.proof.invariants import RULE, SUBJECTS_MAX, WITNESSES_MAX

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SOON = NOW + timedelta(minutes=1)
ANA, BEN = str(purchase_id("ana", "key of ana")), str(purchase_id("ben", "key of ben"))


def told(buyer: str = "ana", **changes: Any) -> ToldCall:
    """The answer to a purchase of one shoe."""
    key = f"key of {buyer}"
    call = ToldCall(
        buyer=buyer,
        call="buy",
        key=key,
        asked=(("shoe", 1),),
        sent=NOW.timestamp() - 10,
        answered=NOW.timestamp() - 9,
        status=201,
        purchase=str(purchase_id(buyer, key)),
        state="HELD",
        lines=(("shoe", 1, 2),),
        deadline=SOON.timestamp(),
    )
    return call._replace(**changes)


def rules(witnesses: Iterable[Witness]) -> list[str]:
    found = [witness.rule for witness in witnesses]
    assert set(found) <= set(RULE)
    return found


# --- the gate


@dataclass
class Watched:
    """A sale of one SKU and a gate that equals it."""

    sale: SaleRow = field(default_factory=lambda: SaleRow("sale", "OPEN", NOW + timedelta(hours=1), 3, 2))
    stock: StockRow = field(default_factory=lambda: StockRow("shoe", "sale", 2, 1, 4))
    gate: Gate | None = field(
        default_factory=lambda: Gate("sale", 3, True, {"shoe": GateStock(1, 0, 4)}, 0, 2, (ANA, BEN))
    )
    passed: dict[str, int] = field(default_factory=dict)

    def with_gate(self, **changes: Any) -> "Watched":
        assert self.gate is not None
        self.gate = self.gate._replace(**changes)
        return self

    def at_rest(self) -> int:
        return len(rules(findings.gate_differences(self.sale, [self.stock], self.gate, NOW)))

    def moving(self) -> int:
        return len(rules(findings.gate_differences_moving(self.sale, [self.stock], self.gate, NOW, self.passed)))


@pytest.mark.parametrize(
    ("gate", "at_rest", "moving"),
    [
        ({}, 0, 0),
        ({"stock": {"shoe": GateStock(0, 0, 4)}}, 1, 1),
        ({"stock": {"shoe": GateStock(0, 1, 4)}}, 0, 0),  # somebody is being decided
        ({"stock": {"shoe": GateStock(2, 0, 3)}}, 2, 0),  # a row is still to be applied
        ({"stock": {"shoe": GateStock(1, 0, 5)}}, 1, 0),  # cannot be: the gate was read first
        ({"stock": {}}, 1, 1),
        ({"pending": 1}, 1, 0),
        ({"epoch": 2}, 1, 1),
        ({"this_life": False}, 1, 1),
        ({"won_number": 1}, 1, 0),
    ],
)
def test_a_gate_is_judged_as_strictly_as_its_sale_stands_still(gate: dict[str, Any], at_rest: int, moving: int) -> None:
    watched = Watched().with_gate(**gate)
    assert (watched.at_rest(), watched.moving()) == (at_rest, moving)


def test_a_gate_that_never_reaches_what_postgresql_passed_is_drift() -> None:
    assert Watched(passed={"shoe": 4}).moving() == 0
    assert Watched(passed={"shoe": 4}).with_gate(stock={"shoe": GateStock(2, 1, 3)}).moving() == 1


def test_a_sale_that_is_over_needs_no_gate() -> None:
    assert (Watched(gate=None).at_rest(), Watched(gate=None).moving()) == (1, 1)
    for over in ({"state": "ENDED"}, {"closes": NOW - timedelta(seconds=1)}):
        watched = Watched(gate=None)
        watched.sale = watched.sale._replace(**over)
        assert (watched.at_rest(), watched.moving()) == (0, 0)


# --- money


def entries(key: str, *states: str, amount: int = 250, currency: str = "EUR") -> list[JournalEntry]:
    """A key's life in the gateway's journal; the key belongs to the purchase before the colon."""
    return [JournalEntry(key, key.rpartition(":")[0], state, amount, currency) for state in states]


def paid(purchase: str, number: int, state: str, purchase_state: str, method: str = "card") -> PaymentRow:
    return PaymentRow(purchase, number, state, method, purchase_state, 250, "EUR")


@dataclass
class Money:
    """Ana paid for her shoe at the second try; Ben's money was set free. Nothing is wrong."""

    payments: list[PaymentRow] = field(
        default_factory=lambda: [
            paid("ana", 1, "DECLINED", "PAID"),
            paid("ana", 2, "CAPTURED", "PAID"),
            paid("ben", 1, "VOIDED", "EXPIRED"),
        ]
    )
    card: list[JournalEntry] = field(
        default_factory=lambda: [
            *entries("ana:1", "declined"),
            *entries("ana:2", "authorized", "captured"),
            *entries("ben:1", "authorized", "voided"),
        ]
    )
    wallet: list[JournalEntry] = field(default_factory=list)
    all_sales: bool = True

    def wrong(self) -> dict[str, int]:
        tills = []
        for name in ("card", "wallet"):
            till = Till(name)
            till.add(getattr(self, name))
            tills.append(till)
        found = Tallies()
        found.add(findings.journals_against_books(self.payments, tills, all_sales=self.all_sales))
        broken = [tally for till in tills for tally in till.broken.all()]
        return {tally.rule.removeprefix("journal-"): tally.number for tally in [*found.all(), *broken]}


def test_honest_money_is_clean() -> None:
    assert Money().wrong() == {}


AGAINST, RULES_BROKEN, AMOUNT = "against-books", "breaks-its-rules", "other-amount"


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        # the same goods paid twice, by another key, again by the same, at another gateway
        (lambda m: m.card.extend(entries("ana:3", "authorized", "captured")), {AGAINST: 1}),
        (lambda m: m.card.extend(entries("ana:2", "captured")), {RULES_BROKEN: 1}),
        (lambda m: m.wallet.extend(entries("ana:2", "captured")), {AGAINST: 2}),
        # paid by another try than the books say, and with another purchase's key
        (lambda m: m.card.__setitem__(slice(0, 3), entries("ana:1", "authorized", "captured")), {AGAINST: 2}),
        (lambda m: m.card.__setitem__(slice(1, 3), [e._replace(purchase="ana") for e in entries("ben:2", "authorized", "captured")]),
         {AGAINST: 2}),
        (lambda m: m.card.__setitem__(slice(1, 3), [e._replace(purchase="ben") for e in entries("ana:2", "authorized", "captured")]),
         {AGAINST: 1}),
        # paid in the books, and not at the gateway
        (lambda m: m.card.__delitem__(2), {AGAINST: 2}),
        (lambda m: m.card.extend(entries("ana:2", "refunded")), {AGAINST: 1}),
        # taken for what was not sold, and for what nobody knows
        (lambda m: m.card.extend(entries("ben:2", "authorized", "captured")), {AGAINST: 1}),
        (lambda m: m.card.extend(entries("nobody:1", "authorized", "captured")), {AGAINST: 1}),
        (lambda m: m.__init__(card=[*m.card, *entries("nobody:1", "authorized", "captured")], all_sales=False), {}),
        # given back, it is right again
        (lambda m: m.card.extend(entries("ben:2", "authorized", "captured", "refunded")), {}),
        # set aside and forgotten
        (lambda m: m.card.extend(entries("ben:2", "authorized")), {AGAINST: 1}),
        # other money
        (lambda m: m.card.__setitem__(slice(1, 3), entries("ana:2", "authorized", "captured", amount=249)), {AMOUNT: 1}),
        (lambda m: m.card.__setitem__(slice(1, 3), entries("ana:2", "authorized", "captured", currency="USD")), {AMOUNT: 1}),
        # contested: the money is out of the shop's hands, and the books say so or not
        (lambda m: m.card.extend(entries("ana:2", "disputed")), {AGAINST: 1}),
        (lambda m: (m.card.extend(entries("ana:2", "disputed")), m.payments.__setitem__(1, paid("ana", 2, "DISPUTED", "DISPUTED"))), {}),
        (lambda m: m.card.extend(entries("ana:2", "disputed", "dispute_lost")), {AGAINST: 1}),
        # a gateway that breaks its own laws: it gave back twice, set free what it took, ...
        (lambda m: m.card.extend(entries("ben:2", "authorized", "captured", "refunded", "refunded")), {RULES_BROKEN: 1}),
        (lambda m: m.card.extend(entries("ana:2", "voided")), {RULES_BROKEN: 1, AGAINST: 1}),
        (lambda m: m.card.extend(entries("ben:1", "captured")), {RULES_BROKEN: 1, AGAINST: 1}),
        (lambda m: m.card.extend(entries("ben:2", "captured", "refunded")), {RULES_BROKEN: 1}),
        (lambda m: m.wallet.extend(entries("ben:2", "captured", "refunded")), {}),  # a wallet takes at once
        (lambda m: m.card.extend(entries("ana:1", "declined")), {RULES_BROKEN: 1}),
        (lambda m: m.card.extend(entries("ana:2", "refunded", amount=1)), {RULES_BROKEN: 1, AGAINST: 1}),
    ],
)  # fmt: skip
def test_money_that_is_not_right_is_found(spoil: Callable[[Money], object], expected: dict[str, int]) -> None:
    money = Money()
    spoil(money)
    assert money.wrong() == expected


# --- what shoppers were told


def booked(buyer: str = "ana", seq: int = 2, **changes: Any) -> Booked:
    key = f"key of {buyer}"
    row = Booked(str(purchase_id(buyer, key)), buyer, key, "HELD", (("shoe", 1),), (("shoe", 1, seq),))
    return row._replace(**changes)


@pytest.mark.parametrize(
    ("call", "row", "lost"),
    [
        (told(), booked(), 0),
        (told(state="EXPIRED"), booked(state="EXPIRED"), 0),
        (told(), None, 1),
        (told(), booked(key="another key"), 1),
        (told(), booked(lines=(("shoe", 2),)), 1),
        (told(asked=(("shoe", 2),)), booked(), 1),
        (told(), booked(seq=3), 1),
        (told(call="cancel", asked=(), state="CANCELLED"), booked(), 1),
        (told(call="cancel", asked=(), state="CANCELLED"), booked(state="CANCELLED"), 0),
    ],
)
def test_what_was_told_is_so(call: ToldCall, row: Booked | None, lost: int) -> None:
    assert rules(findings.told_not_so([call, call], {} if row is None else {row.id: row})) == ["told-not-so"] * lost


def test_a_key_is_one_purchase_and_a_place_one_buyers() -> None:
    honest = [told(), told("ben", lines=(("shoe", 1, 3),)), told(call="look")]
    assert rules(findings.duplicated_as_told(honest)) == []
    assert rules(findings.duplicated_as_told([told(), told(purchase=BEN, lines=())])) == ["told-two-of-one-key"]
    assert rules(findings.duplicated_as_told([told(), told("ben")])) == ["told-one-place-twice"]
    assert rules(findings.duplicated_as_told([told(), told("ben", status=409)])) == []


def test_accepted_is_decided() -> None:
    calls = [told(status=202, purchase=None, state="QUEUED"), told("ben")]
    accepted = findings.accepted(calls)
    assert list(accepted) == [ANA]
    assert rules(findings.accepted_undecided(accepted, {ANA})) == []
    assert rules(findings.accepted_undecided(accepted, {BEN})) == ["accepted-undecided"]


def test_a_purchase_is_somebodys_wish() -> None:
    assert findings.asked_for([told(status=None, answered=None), told("ben", call="pay")]) == {ANA}
    assert rules(findings.never_asked_for([BEN])) == ["never-asked-for"]


@pytest.mark.parametrize(
    ("calls", "open_wishes"),
    [
        ([told()], 0),
        ([told(status=409, purchase=None, state=None)], 0),
        ([told(status=503, purchase=None, state=None)], 0),  # nothing was promised
        ([told(status=None, answered=None)], 1),
        ([told(status=504)], 1),
        ([told(status=202, state="QUEUED")], 1),
        ([told(status=202, state="QUEUED"), told(call="follow", status=200, state="QUEUED")], 1),
        ([told(status=202, state="QUEUED"), told(call="follow", status=200)], 0),
        ([told(status=None), told(call="look", status=200)], 0),
        ([told(status=None), told("ben")], 1),
    ],
)
def test_a_wish_is_answered_in_the_end(calls: list[ToldCall], open_wishes: int) -> None:
    assert rules(findings.never_answered(calls)) == ["never-answered"] * open_wishes


@pytest.mark.parametrize(
    ("second", "oversold"),
    [
        (told("ben", lines=(("shoe", 1, 3),)), 1),
        (told("ben", lines=(("shoe", 1, 3),), answered=SOON.timestamp() - 0.1), 0),  # Ana's was about to lapse
        (told("ben", lines=(("shoe", 1, 3),), state="CANCELLED"), 0),  # heard of after it was over
        (told("ben", lines=(("shoe", 1, 3),), status=None, state=None, answered=None), 0),  # never heard of
    ],
)
def test_only_certain_holds_count_against_the_stock(second: ToldCall, oversold: int) -> None:
    assert len(rules(findings.oversold_as_told({"shoe": 1}, [told(), second]))) == oversold
    assert rules(findings.oversold_as_told({"shoe": 2}, [told(), second])) == []


@pytest.mark.parametrize("call", ["cancel", "pay"])  # either may return the units before the deadline
def test_a_hold_is_certain_until_its_buyer_asked_to_cancel_or_to_pay(call: str) -> None:
    asked = told(call=call, status=200, state="CANCELLED", asked=(), sent=NOW.timestamp() - 5)
    for answered, expected in ((NOW.timestamp() - 6, 1), (NOW.timestamp() - 4, 0)):
        calls = [told(), asked, told("ben", lines=(("shoe", 1, 3),), answered=answered)]
        assert len(rules(findings.oversold_as_told({"shoe": 1}, calls))) == expected


def test_fairness_counts_pairs_served_in_another_order() -> None:
    calls = [
        told(name, sent=at, lines=(("shoe", 1, seq),)) for name, at, seq in (("a", 1, 3), ("b", 2, 2), ("c", 3, 4))
    ]
    calls.append(told("a", sent=9, lines=(("shoe", 1, 3),), status=200))  # asked again: the first time counts
    assert findings.fairness(calls) == {"shoe": {"holds": 3, "inverted_pairs": 1, "share": 0.3333}}
    assert findings.fairness([told(), told("ben", status=409, purchase=None)])["shoe"]["share"] == 0.0


# --- how findings are counted


def test_all_are_counted_and_a_few_are_named() -> None:
    found = Tallies()
    found.add(Witness("gate-drift", str(number), str(number)) for number in range(SUBJECTS_MAX + 5))
    (tally,) = found.all()
    assert tally.number == SUBJECTS_MAX + 5
    assert (len(tally.subjects), len(tally.texts)) == (SUBJECTS_MAX, WITNESSES_MAX)


def tally(rule: str, *subjects: str) -> Tally:
    return Tally(rule, len(subjects), subjects, ())


def test_what_never_settles_counts_at_once_and_the_rest_when_the_same_has_lasted() -> None:
    patience = Patience(1_000)
    settles = RULE["gate-drift"].settles_s
    assert patience.confirmed([tally("units-twice", "a"), tally("gate-drift", "a")], 0) == [tally("units-twice", "a")]
    assert patience.confirmed([tally("gate-drift", "b")], settles) == []  # another one
    assert patience.confirmed([tally("gate-drift", "a", "b")], 2 * settles - 1) == []  # the first was gone in between
    assert patience.confirmed([tally("gate-drift", "a", "b")], 2 * settles) == [tally("gate-drift", "a", "b")]
    assert Patience(0).confirmed([tally("gate-drift", "a")], 0) == [tally("gate-drift", "a")]
