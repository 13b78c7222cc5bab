"""What outcomes do to purchases: the SQL against the model, in every state and in long random lives; and the outbox's rows."""

import asyncio
import itertools
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from flashsale.authority.client import Authority, Told
from flashsale.contract.lifecycle import HOLDING, Event
from flashsale.contract.model import next_step
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import purchase_id
from flashsale.payments import queues
from flashsale.upkeep.metrics import Metrics
from flashsale.upkeep.outbox import EVENTS_PER_ROUND_MAX, Outbox
from flashsale.upkeep.publisher import Publication, Publisher, Refused
from tests.contract.shops import NOW, TwinShop
from tests.contract.test_reserve_batch import until_somebody_waits
from tests.databases import Database

OUTCOMES = (
    "authorized",
    "declined",
    "captured",
    "voided",
    "refunded",
    "disputed",
    "dispute_won",
    "dispute_lost",
)
BY_HAND = "SELECT flash.{}_purchase($1, 'ana', 'a reason', $2{})"
AT_ONCE = timedelta(0)
NEVER = timedelta(hours=1)
LONG = timedelta(days=1)
PRICE = 100


@dataclass
class PayingShop(TwinShop):
    """The twin shop with a till. Ana's purchases are told apart by key."""

    tries: dict[str, int] = field(default_factory=dict)

    async def add_sale(self, *arguments: Any, **terms: Any) -> None:
        await super().add_sale(*arguments, **terms)
        await self.owner.execute("DELETE FROM flash.outbox")  # that it was made is not what these tests count

    async def pay(self, buyer: str, key: str, pay_key: str = "") -> Verdict | None:
        pay_key = pay_key or f"pay{len(self.model.purchases[self._own(buyer), key].payments)}"
        expected = self.model.pay(self._own(buyer), key, pay_key, NOW)
        heard = await self.authority.start_payment(self.id(buyer, key), self._own(buyer), pay_key, "card")
        assert heard == expected
        await self.compare()
        return heard

    async def settle(self, buyer: str, key: str, number: int, outcome: str) -> str:
        expected = self.model.settle(self._own(buyer), key, number, outcome, NOW)
        told = self.told(buyer, key, number, outcome)
        heard = (await self.authority.settle_payments([told]))[0] or await self.authority.settle_payment(told)
        assert heard == expected, (number, outcome)
        await self.compare()
        return heard

    async def refund(self, buyer: str, key: str) -> bool:
        """An operator does; was it possible?"""
        return await self._by_hand("refund", "", buyer, key, expected=self.model.refund(self._own(buyer), key))

    async def return_by_hand(self, buyer: str, key: str, event: Event) -> bool:
        """An operator does; was it possible?"""
        expected = self.model.return_by_hand(self._own(buyer), key, event)
        return await self._by_hand("return", f", '{event}'", buyer, key, expected=expected)

    async def _by_hand(self, what: str, rest: str, buyer: str, key: str, *, expected: bool) -> bool:
        try:
            await self.owner.execute(BY_HAND.format(what, rest), uuid.uuid4().hex, self.id(buyer, key))
            was_possible = True
        except asyncpg.InvalidParameterValueError:
            was_possible = False
        assert was_possible == expected, (what, rest)
        await self.compare()
        return was_possible

    async def relay(self) -> list[str]:
        """Every event to the broker; their topics."""
        events = await self.authority.lease_outbox(1000, AT_ONCE)
        await self.authority.mark_sent([event.id for event in events])
        return [event.topic for event in events]

    async def relay_in_time(self) -> None:
        """The same, and in time whatever this machine is busy with: a try that was sent late is not voided yet."""
        await self.relay()
        await self.owner.execute(
            "UPDATE flash.payment SET sent_at = asked_at WHERE sent_at IS NOT NULL AND void_at IS NULL"
        )

    async def ask_voids(self) -> None:
        await self.relay_in_time()
        self.model.ask_voids(NOW)
        await self.authority.expire_payments(256, NEVER, LONG)
        await self.compare()

    async def end_unanswered(self) -> None:
        await self.relay()
        self.model.end_unanswered()
        await self.owner.execute(
            "UPDATE flash.payment SET sent_at = sent_at - interval '1 minute' WHERE void_at IS NOT NULL"
        )
        await self.authority.expire_payments(256, timedelta(seconds=30), LONG)
        await self.compare()

    def told(self, buyer: str, key: str, number: int, outcome: str, units: int = 1) -> Told:
        return Told(self.id(buyer, key), number, outcome, PRICE * units, "EUR")

    def id(self, buyer: str, key: str) -> uuid.UUID:
        return purchase_id(self._own(buyer), key)

    async def compare(self) -> None:
        await super().compare()
        rows = await self.owner.fetch(
            """SELECT p.buyer, p.key, array_agg(y.state ORDER BY y.try) AS states FROM flash.payment y
               JOIN flash.purchase p ON p.id = y.purchase_id WHERE starts_with(p.buyer, $1) GROUP BY 1, 2""",
            self.prefix,
        )
        theirs = {(row["buyer"], row["key"]): row["states"] for row in rows}
        ours = {who: [y.state for y in p.payments] for who, p in self.model.purchases.items() if p.payments}
        assert theirs == ours
        for (buyer, key), purchase in self.model.purchases.items():
            for number, payment in enumerate(purchase.payments, 1):
                read = await self.authority.read_payment(purchase_id(buyer, key), number)
                assert read is not None
                assert read.next == next_step(payment, purchase.state)


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


@pytest.fixture
async def shop(authority: Authority, owner: asyncpg.Connection) -> PayingShop:
    return await opened(authority, owner)


async def opened(authority: Authority, owner: asyncpg.Connection, units: int = 1) -> PayingShop:
    shop = PayingShop(authority, owner)
    await shop.add_sale("s", {"a": units}, buyer_limit=2)
    await shop.reserve(shop.attempt("ana", "k", {"a": 1}))
    return shop


# How a purchase and its latest try come to stand where they stand.
LIVES = {
    "ASKED in AUTHORIZING": ["pay"],
    "ASKED, overdue": ["pay", "lapse"],
    "ASKED, voiding": ["pay", "lapse", "ask"],
    "ASKED, expired": ["pay", "lapse", "ask", "end"],
    "ASKED, expired, unit gone": ["pay", "lapse", "ask", "end", "ben buys"],
    "ASKED, expired, sale paused": ["pay", "lapse", "ask", "end", "pause"],
    "AUTHORIZED": ["pay", "authorized"],
    "AUTHORIZED while voiding": ["pay", "lapse", "ask", "authorized"],
    "AUTHORIZED again": ["pay", "lapse", "ask", "end", "authorized"],
    "AUTHORIZED, refused late": ["pay", "lapse", "ask", "end", "ben buys", "authorized"],
    "AUTHORIZED, refused late, unit back": ["pay", "lapse", "ask", "end", "ben buys", "authorized", "ben cancels"],
    "CAPTURED": ["pay", "authorized", "captured"],
    "CAPTURED late": ["pay", "lapse", "ask", "end", "captured"],
    "REFUNDING": ["pay", "lapse", "ask", "end", "ben buys", "captured"],
    "DECLINED once": ["pay", "declined"],
    "DECLINED twice, asked again": ["pay", "declined", "pay", "declined", "pay"],
    "DECLINED three times": ["pay", "declined", "pay", "declined", "pay", "declined"],
    "VOIDED in time": ["pay", "voided"],
    "VOIDED, expired": ["pay", "lapse", "ask", "voided"],
    "REFUNDED": ["pay", "authorized", "captured", "refunded"],
    "REFUNDING by hand": ["pay", "authorized", "captured", "refund"],
    "REFUNDING by hand, disputed": ["pay", "captured", "refund", "disputed"],
    "RESTOCKED": ["pay", "captured", "refund", "refunded", "restock"],
    "DISPUTED": ["pay", "captured", "disputed"],
    "DISPUTE_WON": ["pay", "captured", "disputed", "dispute_won"],
    "DISPUTE_WON, REFUNDING": ["pay", "captured", "dispute_won", "refund"],
    "CHARGED_BACK": ["pay", "captured", "disputed", "dispute_lost"],
    "CHARGED_BACK late": ["pay", "lapse", "ask", "end", "ben buys", "captured", "dispute_lost"],
    "capture gave up": ["pay", "authorized", "voided"],
}


async def live(shop: PayingShop, step: str) -> None:
    number = max(1, len(shop.model.purchases[shop._own("ana"), "k"].payments))
    match step:
        case "pay":
            await shop.pay("ana", "k")
        case "lapse":
            await shop.lapse("ana", "k")
        case "ask":
            await shop.ask_voids()
        case "end":
            await shop.end_unanswered()
        case "ben buys":
            await shop.reserve(shop.attempt("ben", "k", {"a": 1}))
        case "ben cancels":
            await shop.cancel("ben", "k")
        case "pause":
            await shop.change("s", "PAUSED")
        case "refund":
            await shop.refund("ana", "k")
        case "restock" | "cancel":
            await shop.return_by_hand("ana", "k", Event(step))
        case _:
            await shop.settle("ana", "k", number, step)


@pytest.mark.parametrize("life", LIVES)
async def test_every_outcome_in_every_state_twice(authority: Authority, owner: asyncpg.Connection, life: str) -> None:
    for outcome in OUTCOMES:
        shop = await opened(authority, owner)
        for step in LIVES[life]:
            await live(shop, step)
        number = len(shop.model.purchases[shop._own("ana"), "k"].payments)
        first = await shop.settle("ana", "k", number, outcome)
        assert await shop.settle("ana", "k", number, outcome) == first, "told twice, it means the same"
        await shop.settle("ana", "k", 1, outcome)  # and of the first try, which may be an old one


@pytest.mark.slow
async def test_random_lives_end_as_in_the_model(authority: Authority, owner: asyncpg.Connection) -> None:
    steps = ["pay", "pay", "lapse", "ask", "end", "end", "ben buys", "ben cancels", "refund", "restock", "cancel", *OUTCOMES,
             "lapse", "authorized", "captured", "captured", "voided", "first captured"]  # fmt: skip
    seen: set[tuple[str, str]] = set()
    for seed in range(80):
        chance = random.Random(seed)
        shop = await opened(authority, owner)
        await shop.pay("ana", "k")
        for _ in range(12):
            step = chance.choice(steps)
            if step == "end":
                await live(shop, "ask")
            if step == "first captured":
                await shop.settle("ana", "k", 1, "captured")
            else:
                await live(shop, step)
            purchase = shop.model.purchases[shop._own("ana"), "k"]
            seen.add((purchase.state, purchase.payments[-1].state))
    for pair in [("AUTHORIZED", "AUTHORIZED"), ("PAID", "CAPTURED"), ("EXPIRED", "ASKED"), ("EXPIRED", "REFUNDING"),
("EXPIRED", "VOIDED"), ("REFUNDED", "REFUNDED"), ("PAID", "REFUNDING"), ("DISPUTED", "DISPUTED"), ("CHARGED_BACK", "DISPUTE_LOST"),
("RESTOCKED", "DISPUTE_LOST"), ("RESTOCKED", "REFUNDED")]:  # fmt: skip
        assert pair in seen, f"no life came to {pair}"


async def test_late_money_takes_a_new_hold_generation_and_its_place_in_the_ledger(shop: PayingShop) -> None:
    for step in LIVES["ASKED, expired"]:
        await live(shop, step)
    assert await shop.settle("ana", "k", 1, "authorized") == "capture"
    rows = await shop.owner.fetch(
        "SELECT kind, reason, generation FROM flash.ledger WHERE purchase_id = $1 ORDER BY seq", shop.id("ana", "k")
    )
    assert [tuple(row) for row in rows] == [("hold", "held", 1), ("return", "expired", 1), ("hold", "late_money", 2)]
    assert await shop.settle("ana", "k", 1, "captured") == "nothing"
    document = await shop.authority.read_purchase(shop.id("ana", "k"), shop._own("ana"))
    assert document is not None
    assert (document.state, document.generation, document.lines[0].seq) == ("PAID", 2, 4)


async def test_the_answer_to_late_money_is_given_once(shop: PayingShop) -> None:
    for step in LIVES["AUTHORIZED, refused late, unit back"]:
        await live(shop, step)
    assert await shop.settle("ana", "k", 1, "authorized") == "void", "the unit is back, and the answer stays"


async def test_an_older_trys_money_goes_back_and_the_paid_purchase_stays(shop: PayingShop) -> None:
    for step in ("pay", "declined"):
        await live(shop, step)
    assert await shop.settle("ana", "k", 1, "captured") == "refund", "a gateway that changed its mind"
    for step in ("pay", "authorized", "captured"):
        await live(shop, step)
    assert await shop.settle("ana", "k", 1, "refunded") == "nothing"
    assert shop.model.purchases[shop._own("ana"), "k"].state == "PAID"


async def test_an_older_trys_dispute_costs_the_paid_purchase_nothing(shop: PayingShop) -> None:
    for step in ("pay", "declined"):
        await live(shop, step)
    assert await shop.settle("ana", "k", 1, "captured") == "refund"
    for step in ("pay", "authorized", "captured"):
        await live(shop, step)
    assert await shop.settle("ana", "k", 1, "dispute_lost") == "nothing"
    assert shop.model.purchases[shop._own("ana"), "k"].state == "PAID"
    assert await shop.refund("ana", "k"), "a refund is of the try that paid"


async def test_an_older_trys_money_does_not_pay_for_a_newer_one(shop: PayingShop) -> None:
    for step in ("pay", "declined", "pay"):
        await live(shop, step)
    for outcome in OUTCOMES:
        await shop.settle("ana", "k", 1, outcome)
        assert shop.model.purchases[shop._own("ana"), "k"].state == "AUTHORIZING", "it waits for the newer try"


@pytest.mark.parametrize("life", ["AUTHORIZED while voiding", "AUTHORIZED again"])
async def test_a_void_that_an_authorization_crossed_ends_the_hold_as_expired(shop: PayingShop, life: str) -> None:
    for step in LIVES[life]:
        await live(shop, step)
    assert await shop.settle("ana", "k", 1, "voided") == "nothing"
    assert shop.model.purchases[shop._own("ana"), "k"].state == "EXPIRED"


async def test_the_limit_counts_for_late_money(shop: PayingShop) -> None:
    await shop.restock("a", 5)
    for step in LIVES["ASKED, expired"]:
        await live(shop, step)
    await shop.reserve(shop.attempt("ana", "other", {"a": 2}))
    assert await shop.settle("ana", "k", 1, "authorized") == "void"


async def test_who_may_pay_what(shop: PayingShop) -> None:
    authority, ana = shop.authority, shop._own("ana")
    mine = shop.id("ana", "k")
    assert await authority.start_payment(uuid.uuid4(), ana, "p1", "card") is Verdict.UNKNOWN_PURCHASE
    assert await authority.start_payment(mine, "somebody", "p1", "card") is Verdict.UNKNOWN_PURCHASE
    assert await shop.pay("ana", "k", "p1") is None
    assert await shop.pay("ana", "k", "p1") is None, "the same key asks once"
    assert await authority.start_payment(mine, ana, "p1", "wallet") is Verdict.KEY_REUSED
    assert await shop.pay("ana", "k", "p2") is Verdict.TOO_LATE, "one try at a time"
    assert await shop.cancel("ana", "k") is Verdict.TOO_LATE, "not while it is being paid"
    await shop.settle("ana", "k", 1, "declined")
    assert await shop.pay("ana", "k", "p1") is None, "the old key still says what became of it"
    await shop.lapse("ana", "k")
    assert await shop.pay("ana", "k", "p2") is Verdict.TOO_LATE, "the deadline has passed, whoever noticed"


async def test_outcomes_about_other_money_change_nothing(shop: PayingShop) -> None:
    await shop.pay("ana", "k")
    right = shop.told("ana", "k", 1, "captured")
    for wrong, why in (
        (right._replace(amount_minor=PRICE + 1), "mismatch"),
        (right._replace(currency="USD"), "mismatch"),
        (right._replace(number=2), "unknown"),
        (right._replace(purchase=uuid.uuid4()), "unknown"),
    ):
        assert await shop.authority.settle_payment(wrong) == why
        assert await shop.authority.hear_payment("event", wrong) == why
    await shop.compare()
    assert await shop.authority.hear_payment("event", right) == "nothing", "what was not believed was not heard"
    assert await shop.authority.hear_payment("event", right) == "heard"


async def test_what_a_webhook_asks_for_goes_through_the_outbox(shop: PayingShop) -> None:
    await shop.pay("ana", "k")
    await shop.relay()
    assert await shop.authority.hear_payment("e1", shop.told("ana", "k", 1, "authorized")) == "nothing"
    assert sorted(await shop.relay()) == ["payment.told", "purchase.authorized"]
    payment = await shop.authority.read_payment(shop.id("ana", "k"), 1)
    assert payment is not None
    assert payment.next == "capture"


async def test_a_try_that_was_never_sent_does_not_cost_the_hold(shop: PayingShop) -> None:
    await shop.pay("ana", "k")
    await shop.lapse("ana", "k")
    for _ in range(2):
        assert await shop.authority.expire_payments(10, AT_ONCE, LONG) == (0, 0)
        assert (await shop.authority.expire_due(10)).ended == 0
    await shop.relay()
    assert await shop.authority.expire_payments(10, AT_ONCE, LONG) == (1, 0)
    assert await shop.authority.expire_payments(10, AT_ONCE, LONG) == (0, 0), (
        "the request to void waits for the broker, too"
    )
    assert await shop.relay() == ["payment.void"]
    assert await shop.authority.expire_payments(10, NEVER, LONG) == (0, 0), "the gateway has its time to answer"
    assert await shop.authority.expire_payments(10, AT_ONCE, LONG) == (0, 1)


async def test_a_try_that_was_sent_late_has_its_time_before_it_is_voided(shop: PayingShop) -> None:
    await shop.pay("ana", "k")
    await shop.owner.execute("UPDATE flash.payment SET asked_at = asked_at - interval '1 minute'")
    await shop.lapse("ana", "k")
    await shop.relay()
    assert await shop.authority.expire_payments(10, NEVER, LONG) == (0, 0), "the worker is about to come back, too"
    assert await shop.authority.expire_payments(10, AT_ONCE, LONG) == (1, 0)


async def test_a_request_to_void_is_not_sent_because_an_older_message_was(shop: PayingShop) -> None:
    await shop.pay("ana", "k")
    events = [event.id for event in await shop.authority.lease_outbox(100, AT_ONCE)]
    await shop.authority.mark_sent(events)
    await shop.lapse("ana", "k")
    assert await shop.authority.expire_payments(10, AT_ONCE, LONG) == (1, 0)
    await shop.authority.mark_sent(events)  # a second relay, whose lease had lapsed, published the same
    assert await shop.authority.expire_payments(10, AT_ONCE, LONG) == (0, 0)


async def test_an_open_try_is_asked_about_again_until_it_is_settled(shop: PayingShop) -> None:
    await shop.pay("ana", "k")
    assert await shop.authority.resume_payments(10, AT_ONCE) == 0, "its first message has not left"
    await shop.relay()
    assert await shop.authority.resume_payments(10, NEVER) == 0
    assert await shop.authority.resume_payments(10, AT_ONCE) == 1
    assert await shop.authority.resume_payments(10, AT_ONCE) == 0, "one message at a time"
    assert await shop.relay() == ["payment.resumed"]
    await shop.settle("ana", "k", 1, "declined")
    assert await shop.authority.resume_payments(10, AT_ONCE) == 0


async def test_what_is_refused_for_ever_is_asked_about_ever_more_rarely(shop: PayingShop) -> None:
    await shop.pay("ana", "k")
    after = timedelta(seconds=60)
    for minutes in (1, 2, 4, 8, 16, 32, 64, 64):
        await shop.relay()
        for early in (timedelta(seconds=5), timedelta()):
            await shop.owner.execute(
                "UPDATE flash.payment SET sent_at = clock_timestamp() - $1::interval", minutes * after - early
            )
            assert await shop.authority.resume_payments(10, after) == (not early), minutes
    await shop.relay()
    await shop.settle("ana", "k", 1, "authorized")
    assert await shop.owner.fetchval("SELECT asks FROM flash.payment") == 0, "its new state is news"


async def test_a_dispute_is_asked_about_until_it_is_decided(shop: PayingShop) -> None:
    for step in LIVES["DISPUTED"]:
        await live(shop, step)
    await shop.relay()
    assert await shop.authority.resume_payments(10, AT_ONCE) == 1
    await shop.relay()
    await shop.settle("ana", "k", 1, "dispute_won")
    assert await shop.authority.resume_payments(10, AT_ONCE) == 0


async def test_a_refund_by_hand_is_asked_for_once(shop: PayingShop) -> None:
    for step in LIVES["CAPTURED"]:
        await live(shop, step)
    await shop.relay()
    key = uuid.uuid4().hex
    for _ in range(2):  # the operator repeats the command with its key
        await shop.owner.execute(BY_HAND.format("refund", ""), key, shop.id("ana", "k"))
    assert not await shop.owner.fetchval("SELECT sent_at FROM flash.payment"), "its message waits for the broker"
    assert [topic for topic in await shop.relay() if topic.startswith("payment.")] == ["payment.refund"]
    assert await shop.owner.fetchval("SELECT count(*) FROM flash.operation") == 1
    with pytest.raises(asyncpg.InvalidParameterValueError, match="being refunded already"):
        await shop.owner.execute(BY_HAND.format("refund", ""), uuid.uuid4().hex, shop.id("ana", "k"))
    assert await shop.owner.fetchval("SELECT count(*) FROM flash.operation") == 1, "what was refused was not done"
    with pytest.raises(asyncpg.InvalidParameterValueError, match="unknown"):
        await shop.owner.execute(BY_HAND.format("refund", ""), uuid.uuid4().hex, uuid.uuid4())


async def test_units_are_restocked_by_hand_once(shop: PayingShop) -> None:
    for step in LIVES["CHARGED_BACK"]:
        await live(shop, step)
    units = "SELECT available FROM flash.stock WHERE sku = $1"
    assert await shop.owner.fetchval(units, shop._own("a")) == 0, "they do not return by themselves"
    key, restock = uuid.uuid4().hex, BY_HAND.format("return", ", 'restock'")
    for _ in range(2):
        await shop.owner.execute(restock, key, shop.id("ana", "k"))
    assert await shop.owner.fetchval(units, shop._own("a")) == 1
    with pytest.raises(asyncpg.InvalidParameterValueError, match="RESTOCKED"):
        await shop.owner.execute(restock, uuid.uuid4().hex, shop.id("ana", "k"))
    with pytest.raises(asyncpg.InvalidParameterValueError, match="not an operator's"):
        await shop.owner.execute(BY_HAND.format("return", ", 'expire'"), uuid.uuid4().hex, shop.id("ana", "k"))


async def test_only_an_operator_gives_money_back(shop: PayingShop, database: Database) -> None:
    for step in LIVES["CAPTURED"]:
        await live(shop, step)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await shop.authority.pool.execute(BY_HAND.format("refund", ""), uuid.uuid4().hex, shop.id("ana", "k"))
    operator = await asyncpg.connect(database.operator_url)
    try:
        await operator.execute(BY_HAND.format("refund", ""), uuid.uuid4().hex, shop.id("ana", "k"))
    finally:
        await operator.close()


async def test_many_outcomes_at_once_are_each_what_they_are_alone(shop: PayingShop) -> None:
    who = ["ana", "ben", "cyd", "dan", "eve", "fay"]
    await shop.restock("a", len(who))
    await shop.reserve(*(shop.attempt(buyer, "k", {"a": 1}) for buyer in who[1:]))
    for buyer in who:
        await shop.pay(buyer, "k")
    await shop.settle("ben", "k", 1, "authorized")
    told = [shop.told(*each) for each in (
        ("ana", "k", 1, "authorized"), ("ben", "k", 1, "captured"), ("cyd", "k", 1, "captured"), ("dan", "k", 1, "declined"),
        ("ana", "k", 1, "authorized"),  # its second, in the same batch
    )]  # fmt: skip
    told.append(shop.told("eve", "k", 1, "captured")._replace(amount_minor=PRICE + 1))
    told.append(shop.told("eve", "k", 1, "captured")._replace(currency="USD"))
    told.append(shop.told("eve", "k", 2, "captured"))
    told.append(shop.told("fay", "k", 1, "captured"))
    async with shop.owner.transaction():
        await shop.owner.execute("SELECT FROM flash.purchase WHERE id = $1 FOR NO KEY UPDATE", shop.id("fay", "k"))
        heard = await shop.authority.settle_payments(told)
    assert sorted((heard.pop(4), heard[0]), key=str) == [None, "capture"], "one of two about one try is left"
    assert heard[1:] == ["nothing", "nothing", None, None, None, None, None]
    for buyer, outcome in (("ana", "authorized"), ("ben", "captured"), ("cyd", "captured")):
        shop.model.settle(shop._own(buyer), "k", 1, outcome, NOW)
    await shop.compare()
    topics = Counter(await shop.relay())
    assert (topics["purchase.authorized"], topics["purchase.paid"]) == (2, 2)


async def test_one_message_for_a_person_is_enough(shop: PayingShop) -> None:
    async def is_set_aside() -> bool:
        payment = await shop.authority.read_payment(shop.id("ana", "k"), 1)
        assert payment is not None
        return payment.is_set_aside

    await shop.pay("ana", "k")
    assert not await is_set_aside()
    await shop.authority.set_payment_aside(shop.id("ana", "k"), 1)
    assert await is_set_aside()
    await shop.settle("ana", "k", 1, "authorized")
    assert not await is_set_aside(), "whatever happens to it now is news"
    await shop.authority.set_payment_aside(shop.id("ana", "k"), 1)
    await shop.settle("ana", "k", 1, "voided")
    assert not await is_set_aside()


@pytest.mark.parametrize("up", [AT_ONCE, timedelta(seconds=5)])
async def test_a_try_that_the_broker_had_when_it_went_away_has_its_time(shop: PayingShop, up: timedelta) -> None:
    await shop.pay("ana", "k")
    await shop.relay()
    await shop.lapse("ana", "k")
    await shop.owner.execute(
        "UPDATE flash.payment SET asked_at = asked_at - interval '10 s', sent_at = sent_at - interval '10 s'"
    )
    grace = timedelta(seconds=7)
    assert await shop.authority.expire_payments(10, grace, up) == (0, 0), "sent 10 s ago, and away since then"
    assert await shop.authority.expire_payments(10, grace, timedelta(seconds=8)) == (1, 0), (
        "back for longer than the grace"
    )
    await shop.relay()
    await shop.owner.execute("UPDATE flash.payment SET sent_at = sent_at - interval '10 s'")
    assert await shop.authority.expire_payments(10, grace, up) == (0, 0), "the same for the request to void"
    assert await shop.authority.expire_payments(10, grace, timedelta(seconds=8)) == (0, 1)


async def test_leases_keep_relays_apart_and_lapse(shop: PayingShop) -> None:
    leases = await asyncio.gather(*(shop.authority.lease_outbox(1, NEVER) for _ in range(4)))
    ids = [event.id for lease in leases for event in lease]
    assert len(ids) == len(set(ids)) == 1, "one event, one relay"
    assert await shop.authority.lease_outbox(9, NEVER) == []
    await shop.authority.mark_sent([], ids)
    assert [event.id for event in await shop.authority.lease_outbox(9, AT_ONCE)] == ids, (
        "given back, it is free at once"
    )
    assert [event.id for event in await shop.authority.lease_outbox(9, NEVER)] == ids, "and a lease lapses"
    await shop.authority.mark_sent(ids)
    assert await shop.authority.lease_outbox(9, AT_ONCE) == []
    await shop.cancel("ana", "k")
    async with shop.owner.transaction():
        await shop.owner.execute("SELECT FROM flash.outbox FOR NO KEY UPDATE")
        assert await shop.authority.lease_outbox(9, NEVER) == [], "what another has in hand is not waited for"


async def test_old_events_are_forgotten_and_unsent_ones_are_not(shop: PayingShop) -> None:
    await shop.relay()
    await shop.pay("ana", "k")
    await shop.authority.hear_payment("e1", shop.told("ana", "k", 1, "declined"))
    unsent = await shop.owner.fetchval("SELECT count(*) FROM flash.outbox WHERE sent_at IS NULL")
    assert await shop.authority.forget_events(100, NEVER) == 0
    assert await shop.authority.forget_events(100, AT_ONCE) == 2, "one sent, one heard"
    assert await shop.owner.fetchval("SELECT count(*) FROM flash.outbox") == unsent > 0


@pytest.mark.parametrize("pair", list(itertools.combinations(OUTCOMES, 2)), ids="+".join)
async def test_two_outcomes_at_once_are_one_after_the_other(
    authority: Authority, owner: asyncpg.Connection, pair: tuple[str, str]
) -> None:
    shop = await opened(authority, owner)
    await shop.pay("ana", "k")
    told = [shop.told("ana", "k", 1, outcome) for outcome in pair]
    await asyncio.gather(*(authority.settle_payment(each) for each in told * 2))
    state = await owner.fetchval("SELECT state FROM flash.purchase WHERE id = $1", shop.id("ana", "k"))
    held = await owner.fetchval("SELECT -sum(delta) FROM flash.ledger WHERE purchase_id = $1", shop.id("ana", "k"))
    assert held == (state in HOLDING)


# Who waits for the first row of a kind must hold no later one. Each case: which function, what somebody else holds, and what
# must be free meanwhile. {first} and {last} are two purchases by id; {ana} comes before {ben}, {a} before {b}, by name.
PAYMENT = "SELECT FROM flash.payment WHERE purchase_id = {} FOR NO KEY UPDATE"
EVENT = "SELECT FROM flash.outbox WHERE id = (SELECT {}(id) FROM flash.outbox WHERE topic = 'payment.asked') FOR NO KEY UPDATE"
QUOTA = "SELECT FROM flash.quota WHERE buyer = {} FOR NO KEY UPDATE"
STOCK = "SELECT FROM flash.stock WHERE sku = {} FOR NO KEY UPDATE"
LOCK_ORDER = {
    "mark_sent: payments in order": ("mark_sent", PAYMENT.format("{first}"), PAYMENT.format("{last}")),
    "mark_sent: payments before events": ("mark_sent", PAYMENT.format("{first}"), EVENT.format("min")),
    "mark_sent: events in order": ("mark_sent", EVENT.format("min"), EVENT.format("max")),
    "expire_payments: payments in order": ("expire_payments", PAYMENT.format("{first}"), PAYMENT.format("{last}")),
    "expire_payments: payments before quotas": ("expire_payments", PAYMENT.format("{last}"), QUOTA.format("{ana}")),
    "expire_payments: quotas in order": ("expire_payments", QUOTA.format("{ana}"), QUOTA.format("{ben}")),
    "expire_payments: quotas before stock": ("expire_payments", QUOTA.format("{ben}"), STOCK.format("{a}")),
    "expire_payments: stock in order": ("expire_payments", STOCK.format("{a}"), STOCK.format("{b}")),
    "settle_payments: payments in order": ("settle_payments", PAYMENT.format("{first}"), PAYMENT.format("{last}")),
    "settle_payment: the payment before quotas": ("settle_payment", PAYMENT.format("{cyd_id}"), QUOTA.format("{cyd}")),
    "settle_payment: quotas before stock": ("settle_payment", QUOTA.format("{cyd}"), STOCK.format("{a}")),
    "settle_payment: stock in order": ("settle_payment", STOCK.format("{a}"), STOCK.format("{b}")),
}


async def check_lock_order(shop: PayingShop, owner_url: str, case: str) -> None:
    function, taken, free = LOCK_ORDER[case]
    await shop.add_sale("s", {"b": 9, "a": 9}, buyer_limit=9)
    ids = {buyer: shop.id(buyer, "k") for buyer in ("ana", "ben", "cyd")}
    first, last = sorted((ids["ana"], ids["ben"]))
    names = {
        **{name: f"'{shop.prefix}-{name}'" for name in ("ana", "ben", "cyd", "a", "b")},
        **{
            name: f"'{purchase}'::uuid" for name, purchase in (("first", first), ("last", last), ("cyd_id", ids["cyd"]))
        },
    }
    call: Awaitable[object]
    if function == "settle_payment":  # late money for a cart of two lines
        await shop.reserve(shop.attempt("cyd", "k", {"b": 1, "a": 1}))
        await shop.pay("cyd", "k")
        await shop.lapse("cyd", "k")
        await shop.ask_voids()
        await shop.end_unanswered()
        call = shop.authority.settle_payment(shop.told("cyd", "k", 1, "authorized", units=2))
    else:
        await shop.reserve(shop.attempt("ben", "k", {"b": 1}), shop.attempt("ana", "k", {"a": 1}))
        for buyer in sorted(("ana", "ben"), key=lambda who: ids[who], reverse=True):
            await shop.pay(buyer, "k")
        if function == "mark_sent":
            events = [event.id for event in await shop.authority.lease_outbox(1000, AT_ONCE)]
            call = shop.authority.mark_sent(events[::-1])
        elif function == "settle_payments":
            call = shop.authority.settle_payments([shop.told(buyer, "k", 1, "captured") for buyer in ("ana", "ben")])
        else:
            for buyer in ("ben", "ana"):  # the longest overdue is the first to be ended
                await shop.lapse(buyer, "k")
            await shop.ask_voids()
            await shop.relay()
            call = shop.authority.expire_payments(10, AT_ONCE, LONG)
    other = await asyncpg.connect(owner_url)
    transaction = shop.owner.transaction()
    await transaction.start()
    await shop.owner.execute(taken.format(**names))
    waiting = asyncio.ensure_future(call)
    try:
        await until_somebody_waits(other, function, call=waiting)
        await other.execute("SET lock_timeout = '50ms'")
        probe = other.transaction()
        await probe.start()
        await other.execute(free.format(**names))  # LockNotAvailableError: a later row was taken before an earlier one
        await probe.rollback()
    finally:
        await other.close()
        await transaction.rollback()
        await asyncio.gather(
            waiting, return_exceptions=True
        )  # on a slow machine it gave up waiting, and that is no matter


@pytest.mark.parametrize("case", LOCK_ORDER)
async def test_rows_are_locked_in_one_order(
    authority: Authority, owner: asyncpg.Connection, database: Database, case: str
) -> None:
    await check_lock_order(PayingShop(authority, owner), database.owner_url, case)


class Broker:
    """A broker whose queue of payments is full; what else came through."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def channel(self, **_: bool) -> "Broker":
        return self

    async def close(self) -> None:
        pass

    async def publish(self, batch: Sequence[Publication], _: float) -> list[Exception | None]:
        self.taken += [one.topic for one in batch if not one.is_mandatory]
        return [Refused() if one.is_mandatory else None for one in batch]


async def test_refused_payments_at_the_head_delay_nothing_behind_them(
    shop: PayingShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.relay()
    await shop.owner.execute(
        """INSERT INTO flash.outbox (topic, subject, version, at)
           SELECT 'payment.told', gen_random_uuid()::text, 1, now() - interval '1 minute' FROM generate_series(1, $1)""",
        2 * EVENTS_PER_ROUND_MAX,
    )
    await shop.cancel("ana", "k")
    broker = Broker()

    async def connect(_: str) -> Broker:
        return broker

    async def declare(_: Broker) -> tuple[SimpleNamespace, None]:
        return SimpleNamespace(name=""), None

    async def on(*_: object) -> Broker:
        return broker

    monkeypatch.setattr(queues, "connect", connect)
    monkeypatch.setattr(queues, "declare", declare)
    monkeypatch.setattr(Publisher, "on", on)
    outbox = Outbox(shop.authority, "", Metrics())
    for _ in range(4):
        await outbox.round()
    await outbox.close()
    assert broker.taken == ["purchase.cancelled"]
    unsent = await shop.owner.fetchval("SELECT count(*) FROM flash.outbox WHERE sent_at IS NULL")
    assert unsent == 2 * EVENTS_PER_ROUND_MAX, "what is refused is kept"


async def test_what_is_refused_waits_as_long_as_it_has_waited_within_bounds(shop: PayingShop) -> None:
    await shop.relay()
    for ago, least in ((0, 0.9), (4, 4), (600, 9.9)):
        await shop.pay("ana", "k", f"pay{ago}")
        await shop.settle("ana", "k", len(shop.model.purchases[shop._own("ana"), "k"].payments), "declined")
        began = await shop.owner.fetchval("SELECT clock_timestamp()")
        await shop.owner.execute(
            "UPDATE flash.outbox SET at = clock_timestamp() - make_interval(secs => $1) WHERE sent_at IS NULL", ago
        )
        ids = [event.id for event in await shop.authority.lease_outbox(9, NEVER)]
        before = await shop.owner.fetchval("SELECT clock_timestamp()")
        await shop.authority.mark_sent([], [], ids)
        after = await shop.owner.fetchval("SELECT clock_timestamp()")
        most = min(max(ago + (after - began).total_seconds(), 1), 10)
        for until in await shop.owner.fetch("SELECT leased_until FROM flash.outbox WHERE id = ANY ($1)", ids):
            assert (until[0] - after).total_seconds() <= most
            assert (until[0] - before).total_seconds() >= least
        await shop.authority.mark_sent(ids)
