"""Every change is told, every topic is listed, and whatever is told is what the schema says. A sale is run through all arrows."""

import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from jsonschema import Draft202012Validator

from flashsale.authority.client import Attempt, Authority, Told
from flashsale.contract import events
from flashsale.contract.lifecycle import State
from flashsale.contract.wire import Cart, Line, purchase_id
from flashsale.payments import consumer
from flashsale.upkeep.outbox import told_as

AT_ONCE, NEVER, ALWAYS = timedelta(0), timedelta(hours=1), timedelta(days=1)
BUYER = "ana-who-must-not-be-named"
PRICE = 250
SCHEMA = events.schema()
VALIDATOR = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)


def topics(family: str = "") -> set[str]:
    """What the schema lists."""
    listed = {each["const"] for kind in SCHEMA["oneOf"] for each in kind["properties"]["type"]["oneOf"]}
    return {topic for topic in listed if topic.startswith(family)}


@pytest.fixture
async def owner(database: Any) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    yield connection
    await connection.close()


class Scene:
    """A shop, and everything it ever told."""

    def __init__(self, authority: Authority, owner: asyncpg.Connection) -> None:
        self.authority = authority
        self.owner = owner
        self.told: list[events.Document] = []

    async def open(self, units: int = 9) -> None:
        now = datetime.now(UTC)
        times = {"opens": now - timedelta(hours=1), "closes": now + timedelta(hours=1)}
        await self.authority.create_sale(
            "s", merchant="m", name="Sneakers", buyer_limit=99, hold_seconds=600, currency="EUR", **times
        )
        await self.authority.add_item("s", "b", "Box", 2 * PRICE, 0)
        await self.authority.add_item("s", "a", "Ärmel", PRICE, units)

    async def buy(self, key: str, *skus: str) -> uuid.UUID:
        purchase = purchase_id(BUYER, key)
        cart = Cart(tuple(Line(sku, 1) for sku in skus or ("a",)))
        (decision,) = await self.authority.reserve_batch([Attempt(uuid.uuid4(), purchase, BUYER, key, cart)])
        assert decision.purchase is not None
        return purchase

    async def pay(self, purchase: uuid.UUID, *outcomes: str, number: int = 1) -> None:
        assert await self.authority.start_payment(purchase, BUYER, f"pay-{number}", "card") is None
        await self.tell(purchase, *outcomes, number=number)

    async def tell(self, purchase: uuid.UUID, *outcomes: str, number: int = 1) -> None:
        for outcome in outcomes:
            told = Told(purchase, number, outcome, PRICE, "EUR")
            assert await self.authority.settle_payment(told) not in {"unknown", "mismatch"}

    async def lapse(self, purchase: uuid.UUID) -> None:
        await self.owner.execute("UPDATE purchase SET deadline = now() - interval '1 second' WHERE id = $1", purchase)

    async def relay(self) -> list[events.Document]:
        leased = await self.authority.lease_outbox(1000, AT_ONCE)
        await self.authority.mark_sent([event.id for event in leased])
        told = [told_as(event) for event in leased]
        self.told += told
        return told

    async def play_everything(self) -> None:
        """Every arrow of the life cycle, every errand of the worker, and everything that is done to a sale."""
        authority, owner = self.authority, self.owner
        await self.open()
        await authority.restock("b", 3)
        for state in ("PAUSED", "OPEN", None):
            await authority.change_sale("s", state=state)
        paid = await self.buy("paid", "a")
        await self.pay(paid, "authorized", "captured")
        await owner.execute("SELECT refund_purchase($1, 'ana', 'a scratch', $2)", uuid.uuid4().hex, paid)
        await self.tell(paid, "refunded")
        await owner.execute("SELECT return_purchase($1, 'ana', 'whole', $2, 'restock')", uuid.uuid4().hex, paid)
        for verdict in ("dispute_won", "dispute_lost"):
            await self.pay(await self.buy(verdict, "a"), "captured", "disputed", verdict)
        assert await authority.cancel(await self.buy("cancelled"), BUYER) is None
        declined = await self.buy("declined")
        for number in (1, 2, 3):
            await self.pay(declined, "declined", number=number)
        await self.lapse(await self.buy("expired"))
        await authority.expire_due(9)
        late = await self.buy("late")
        await self.pay(late)
        await self.relay()  # only what reached the broker is asked about again, or voided
        await authority.resume_payments(9, AT_ONCE)
        await self.relay()
        await self.lapse(late)
        await owner.execute("UPDATE payment SET sent_at = asked_at WHERE purchase_id = $1", late)  # or it may be late
        await authority.expire_payments(9, NEVER, ALWAYS)
        await self.relay()
        await authority.expire_payments(9, AT_ONCE, ALWAYS)
        told = await self.buy("told")
        await self.pay(told)
        await authority.hear_payment("event", Told(told, 1, "authorized", PRICE, "EUR"))
        await authority.change_sale("s", state="ENDED")
        await self.tell(late, "captured", "refunded")
        await self.tell(told, "voided")
        await owner.execute("SELECT record_operation('operator-key-0001', 'ops', 'sale.end', 's', 'it is over', '{}')")
        await self.relay()


@pytest.fixture
async def scene(authority: Authority, owner: asyncpg.Connection) -> Scene:
    return Scene(authority, owner)


def problems(document: events.Document) -> Iterator[str]:
    for error in VALIDATOR.iter_errors(document):
        yield f"{document['type']}: {[cause.message for cause in error.context or [error]]}"


async def test_a_whole_sale_tells_every_topic_and_nothing_that_is_not_in_the_schema(scene: Scene) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    await scene.play_everything()
    assert [problem for document in scene.told for problem in problems(document)] == []
    assert {document["type"] for document in scene.told} == topics()
    assert len({document["id"] for document in scene.told}) == len(scene.told)
    assert BUYER not in repr(scene.told), "no event names a buyer"


async def test_every_state_of_a_purchase_and_of_a_payment_has_its_topic(owner: asyncpg.Connection) -> None:
    assert topics("purchase.") == {f"purchase.{state.lower()}" for state in State}
    text = await owner.fetchval(
        """SELECT pg_get_constraintdef(oid) FROM pg_constraint
           WHERE conrelid = 'payment'::regclass AND conname = 'payment_state_check'"""
    )
    states = set(re.findall(r"'([A-Z_]+)'", text)) - {"ASKED", "AUTHORIZED", "CAPTURED"}
    assert topics("money.") == {f"money.{state.lower()}" for state in states}


async def test_an_event_shows_its_own_version_however_late_it_is_published(scene: Scene) -> None:
    await scene.open()
    await scene.relay()
    purchase = await scene.buy("k")
    await scene.pay(purchase, "authorized", "captured")
    told = [document for document in await scene.relay() if document["type"].startswith("purchase.")]
    assert [(each["type"], each["data"]["state"], each["data"]["version"]) for each in told] == [
        ("purchase.held", "HELD", 1),
        ("purchase.authorizing", "AUTHORIZING", 2),
        ("purchase.authorized", "AUTHORIZED", 3),
        ("purchase.paid", "PAID", 4),
    ]
    assert sorted(each["sequence"] for each in told) == [each["sequence"] for each in told]
    assert {each["source"] for each in told} == {"/sales/s"}
    assert told[0]["data"]["items"] == [{"sku": "a", "quantity": 1, "unit_price_minor": PRICE}]
    assert told[0]["data"]["total_minor"] == PRICE


async def test_the_changes_of_a_sale_without_items_have_an_order_too(scene: Scene) -> None:
    now = datetime.now(UTC)
    await scene.authority.create_sale(
        "s", merchant="m", name="x", opens=now, closes=now + NEVER, buyer_limit=1, hold_seconds=60, currency="EUR"
    )
    await scene.authority.change_sale("s", state="PAUSED")
    await scene.authority.change_sale("s", buyer_limit=2)
    await scene.authority.add_item("s", "a", "x", PRICE, 1)
    await scene.authority.change_sale("s", state="OPEN")
    told = [document for document in await scene.relay() if document["subject"] == "s"]
    assert [each["type"] for each in told] == ["sale.created", "sale.paused", "sale.changed", "sale.open"]
    assert [int(each["sequence"]) for each in told] == [0, 1, 2, 3]


async def test_stock_is_told_as_it_was_changed_and_not_by_purchases(scene: Scene) -> None:
    await scene.open(units=5)
    await scene.buy("k")
    await scene.authority.restock("a", 2)
    told = [document for document in await scene.relay() if document["subject"] == "a"]
    assert [(each["type"], int(each["sequence"]), each["data"].get("units")) for each in told] == [
        ("item.added", 0, None),
        ("stock.changed", 1, 5),
        ("stock.changed", 3, 2),
    ]
    assert [each["data"].get("reason") for each in told] == [None, "opening", "restock"]


async def test_a_repair_is_told_as_what_the_ledger_lacked(scene: Scene, owner: asyncpg.Connection) -> None:
    await scene.open(units=5)
    await scene.relay()
    await owner.execute("UPDATE stock SET available = 4 WHERE sku = 'a'")  # somebody broke it; the ledger is right
    row = {"sku": "a", "seq": 1, "available": 4, "total": 5, "to_available": 5, "to_total": 5, "delta": 0}
    plan = json.dumps({"returns": [], "stock": [row], "quota": [], "sales": []})
    await owner.execute("SELECT repair_books('operator-key-0001', 'ops', 'it was broken', $1)", plan)
    repaired, deed = sorted(await scene.relay(), key=lambda each: str(each["type"]), reverse=True)
    assert [problem for each in (repaired, deed) for problem in problems(each)] == []
    assert repaired["data"] == {"sale": "s", "sku": "a", "units": 0, "reason": "repaired"}
    assert deed["data"] == {"action": "audit.repair", "subject": "books"}


async def test_the_worker_understands_every_errand(scene: Scene) -> None:
    await scene.play_everything()
    errands = [document for document in scene.told if document["type"].startswith("payment.")]
    assert {consumer.parse(events.encode(each)).number for each in errands} == {1, 2, 3}


async def test_an_event_of_a_purchase_that_nobody_has_is_told_all_the_same(scene: Scene) -> None:
    # rows that a damaged database left: the relay must not stand still behind them
    await scene.owner.execute(
        "INSERT INTO outbox (topic, subject, version, at) VALUES ('payment.told', $1, 1, now())", str(uuid.uuid4())
    )
    (document,) = await scene.relay()
    assert consumer.parse(events.encode(document)).number == 1


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"}, {"id": "7"}, {"source": "s"}, {"type": "purchase.stolen"}, {"subject": "ana"}, {"time": "today"},
        {"sequence": "1"}, {"buyer": BUYER}, {"datacontenttype": "text/plain"},
        *({"data": {field: value}} for field, value in (
            ("buyer", BUYER), ("state", "LOST"), ("items", []), ("total_minor", -1), ("version", 0), ("currency", "euro"),
        )),
    ],
)  # fmt: skip
async def test_the_schema_refuses_what_is_not_promised(scene: Scene, change: dict[str, Any]) -> None:
    await scene.open()
    await scene.buy("k")
    (held,) = [document for document in await scene.relay() if document["type"] == "purchase.held"]
    data = change.get("data")
    changed = held | change | ({"data": held["data"] | data} if isinstance(data, dict) else {})
    assert not list(problems(held))
    assert list(problems(changed))
