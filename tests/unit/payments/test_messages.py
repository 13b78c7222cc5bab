"""What travels: events, webhooks and their signatures, delays; and what the worker makes of a gateway's answers."""

import asyncio
import json
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from flashsale.authority.client import Authority, AuthorityUnavailable, BadBatch, OutboxEvent, Payment, Told
from flashsale.contract import events
from flashsale.payments import consumer, queues, webhook
from flashsale.payments.client import GatewayRefused, GatewayUnavailable
from flashsale.payments.gateway.notices import notice
from flashsale.payments.gateway.rules import Entry, State
from flashsale.payments.metrics import Metrics
from flashsale.payments.signature import WINDOW_SECONDS, sign, why_not
from flashsale.payments.together import Together
from flashsale.payments.worker import STEPS_MAX, Disputed, Worker
from flashsale.upkeep import outbox

PURCHASE = uuid.UUID("00000000-0000-8000-8000-000000000001")
AT = 1_900_000_000


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (sign("secret", AT, b"body"), ""),
        (sign("secret", AT - WINDOW_SECONDS, b"body"), ""),
        (sign("secret", AT - WINDOW_SECONDS - 1, b"body"), "away from now"),
        (sign("secret", AT + WINDOW_SECONDS + 1, b"body"), "away from now"),
        (sign("other", AT, b"body"), "does not match"),
        (sign("secret", AT, b"other"), "does not match"),
        (sign("secret", AT, b"body").replace(f"t={AT}", f"t={AT + 1}"), "does not match"),
        (None, "missing or malformed"),
        ("", "missing or malformed"),
        (f"t={AT}", "missing or malformed"),
        (sign("secret", AT, b"body") + ",v0=x", "missing or malformed"),
        (f"t={AT},v1=" + "\u0660" * 64, "missing or malformed"),
    ],
)
def test_a_signature_proves_who_what_and_when(header: str | None, why: str) -> None:
    assert why in why_not("secret", header, b"body", AT)
    assert bool(why) == bool(why_not("secret", header, b"body", AT))


def test_the_shop_understands_what_the_gateway_sends() -> None:
    entry = Entry(f"{PURCHASE}:2", str(PURCHASE), State.CAPTURED, 250, "EUR", AT)
    heard = webhook.parse(notice(entry))
    assert heard == (f"{PURCHASE}:2:captured", Told(PURCHASE, 2, "captured", 250, "EUR"))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""}, {"id": "x" * (webhook.EVENT_CHARS_MAX + 1)}, {"id": 7}, {"data": []}, {"data": None},
        *({"data": {field: value}} for field, value in (
            ("key", f"{PURCHASE}:0"), ("key", f"{PURCHASE}:4"), ("key", f"{PURCHASE}:02"), ("key", str(PURCHASE)), ("key", 1),
            ("purchase", str(uuid.UUID(int=7))), ("purchase", None), ("key", "x:1"),
            ("state", "maybe"), ("state", []), ("amount_minor", "250"), ("amount_minor", 250.0), ("amount_minor", True),
            ("currency", None),
        )),
    ],
)  # fmt: skip
def test_an_event_that_tells_nothing_is_not_understood(changes: dict[str, object]) -> None:
    document = json.loads(notice(Entry(f"{PURCHASE}:2", str(PURCHASE), State.CAPTURED, 250, "EUR", AT)))
    data = changes.get("data")
    whole = document | changes | ({"data": document["data"] | data} if isinstance(data, dict) else {})
    with pytest.raises(ValueError, match=r".+"):
        webhook.parse(json.dumps(whole).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * webhook.BODY_BYTES_MAX])
def test_a_body_that_is_no_event_is_not_understood(body: bytes) -> None:
    with pytest.raises(ValueError, match="lacks something"):
        webhook.parse(body)


EVENT = OutboxEvent(
    7, "payment.asked", str(PURCHASE), 3, datetime(2030, 1, 1, tzinfo=UTC), "s", {"sale": "s", "try": 3}
)


def test_the_worker_understands_what_the_relay_sends() -> None:
    assert consumer.parse(events.encode(outbox.told_as(EVENT))) == (PURCHASE, 3)


def test_an_event_travels_as_a_cloud_event() -> None:
    assert outbox.told_as(EVENT._replace(topic="purchase.held", data={"version": 3})) == {
        "specversion": "1.0", "id": "7-20300101T000000000000", "source": "/sales/s", "type": "purchase.held",
        "subject": str(PURCHASE), "time": "2030-01-01T00:00:00.000Z", "datacontenttype": "application/json",
        "sequence": "0000000000000000003", "data": {"version": 3},
    }  # fmt: skip
    assert outbox.told_as(EVENT._replace(sale=None))["source"] == "/shop"
    assert "sequence" not in outbox.told_as(EVENT), "of two messages about a try neither is newer"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"x"', b"\xff", b'{"subject":1}', b'{"subject":"x","data":{"try":1}}', b"null", b"[" * 100_000]
    + [b'{"subject":"%s","data":{"try":%s}}' % (str(PURCHASE).encode(), no_try)
       for no_try in (b"0", b"4", b'"1"', b"true", b"1.0", b"1e999", b"99999999999999999999", b"null")],
)  # fmt: skip
def test_a_message_that_is_none_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(ValueError, match="no payment event"):
        consumer.parse(body)


def test_delays_grow_and_end() -> None:
    names = [queues.retry_queue(tries) for tries in range(1, len(queues.RETRY_MS) + 2)]
    assert names[0] == "payments.retry.500"
    assert names[-1] is None
    assert list(queues.RETRY_MS) == sorted(queues.RETRY_MS)


class Books:
    """An authority that says what is next from a list."""

    def __init__(self, *steps: str, fails: Exception | None = None) -> None:
        self.steps = list(steps)
        self.fails = fails

    async def read_payments(self, tries: Sequence[tuple[uuid.UUID, int]]) -> list[Payment | None]:
        return [Payment(*t, "card", 250, "EUR", self.steps.pop(0)) if self.steps else None for t in tries]

    async def settle_payments(self, told: Sequence[Told]) -> list[str | None]:
        if self.fails is not None:
            raise self.fails
        return [None] * len(told)

    async def settle_payment(self, _: Told) -> str:
        return self.steps.pop(0)


class Till:
    """A gateway that does as it is told and remembers what, or fails as it is told."""

    def __init__(self, fails: dict[str, type[Exception]] | None = None, says: dict[str, str] | None = None) -> None:
        self.fails = fails or {}
        self.says = says or {}
        self.done: list[str] = []

    async def do(self, operation: str, payment: Payment) -> Told:
        self.done.append(operation)
        if operation in self.fails:
            raise self.fails[operation](operation)
        outcome = self.says.get(operation, operation)
        return Told(payment.purchase, payment.number, outcome, payment.amount_minor, payment.currency)


async def drive(*steps: str, is_last: bool = False, fails: dict[str, type[Exception]] | None = None) -> list[str]:
    till = Till(fails)
    await Worker(cast("Authority", Books(*steps)), till).drive(PURCHASE, 1, is_last=is_last)
    return till.done


async def test_the_worker_does_what_is_next_until_nothing_is() -> None:
    assert await drive("nothing") == []
    assert await drive("authorize", "capture", "nothing") == ["authorize", "capture"]
    assert await drive("authorize", "void", "nothing") == ["authorize", "void"]
    assert await drive("refund", "nothing") == ["refund"]


async def test_what_a_bank_has_not_decided_is_waited_for() -> None:
    for steps, operation, says in (
        (["authorize"], "authorize", "pending"),
        (["refund", "refund"], "refund", "disputed"),
        (["look", "look"], "look", "disputed"),
    ):
        till = Till(says={operation: says})
        await Worker(cast("Authority", Books(*steps)), till).drive(PURCHASE, 1)
        assert till.done == [operation]


@pytest.mark.parametrize("fails", [BadBatch(), AuthorityUnavailable()], ids=repr)
async def test_who_fails_together_is_settled_alone(fails: Exception) -> None:
    till = Till()
    await Worker(cast("Authority", Books("authorize", "capture", "nothing", fails=fails)), till).drive(PURCHASE, 1)
    assert till.done == ["authorize", "capture"]


async def test_money_that_cannot_be_taken_is_set_free() -> None:
    refused = await drive("authorize", "capture", "nothing", fails={"capture": GatewayRefused})
    assert refused == ["authorize", "capture", "void"]
    assert await drive("capture", "capture", "nothing") == ["capture", "void"], "it was taken to mean no"
    out_of_tries = await drive("capture", "nothing", is_last=True, fails={"capture": GatewayUnavailable})
    assert out_of_tries == ["capture", "void"]
    assert await drive("authorize", "capture", "nothing", is_last=True) == ["authorize", "capture"]


@pytest.mark.parametrize(
    ("steps", "fails"),
    [
        (("capture",), {"capture": GatewayUnavailable}),  # there are tries left
        (("authorize",), {"authorize": GatewayUnavailable}),
        (("authorize",), {"authorize": GatewayRefused}),
        (("capture",), {"capture": GatewayRefused, "void": GatewayRefused}),
        (("refund",), {"refund": GatewayRefused}),
    ],
)
async def test_what_cannot_be_done_at_all_is_said(steps: tuple[str, ...], fails: dict[str, type[Exception]]) -> None:
    with pytest.raises(list(fails.values())[-1]):
        await drive(*steps, fails=fails)


@pytest.mark.parametrize(
    "steps", [(), ("authorize", "mismatch"), ("authorize", "unknown"), ("void",) * (STEPS_MAX + 1)]
)
async def test_what_the_books_do_not_believe_is_disputed(steps: tuple[str, ...]) -> None:
    with pytest.raises(Disputed):
        await drive(*steps)


@pytest.mark.parametrize("raised", [Exception, ConnectionResetError(), RuntimeError("closed")], ids=repr)
def test_whatever_the_driver_raises_for_a_lost_connection_is_one_thing(raised: Exception) -> None:
    with pytest.raises(queues.BrokerUnavailable), queues.asking():
        raise raised


def test_what_no_lost_connection_explains_is_left_alone() -> None:
    with pytest.raises(KeyError), queues.asking():
        raise KeyError


class Lost:
    """A channel, an exchange and a message of a connection that is lost: the driver's bare exception, whatever is asked."""

    message_id, content_type = "1", "application/json"

    def __init__(self, body: bytes = b"no event") -> None:
        self.body = body
        self.headers: dict[str, object] = {}
        self.default_exchange = self

    async def publish(self, *_: object, **__: object) -> None:
        raise Exception  # noqa: TRY002 - as the driver does

    basic_ack = publish


async def test_a_copy_that_meets_a_lost_connection_is_an_outage() -> None:
    taker = consumer.Consumer("", cast("Authority", None), cast("Worker", None), Metrics())
    lost = cast("Any", Lost())
    with pytest.raises(queues.BrokerUnavailable):
        await taker._work(lost, lost)


async def test_an_acknowledgement_that_meets_a_lost_connection_is_an_outage() -> None:
    acks = consumer.Acks(cast("Any", Lost()))
    acks.add(1)
    with pytest.raises(queues.BrokerUnavailable):
        await acks.run()


class Channel:
    """A broker that knows which tags wait for their acknowledgement, and refuses any other."""

    def __init__(self, *, tags: int) -> None:
        self.waiting = set(range(1, tags + 1))
        self.told = 0

    async def basic_ack(self, tag: int, *, multiple: bool = False) -> None:
        assert tag in self.waiting, f"{tag} is not known (any more)"
        self.told += 1
        self.waiting -= set(range(1, tag + 1)) if multiple else {tag}


async def test_what_is_done_is_acknowledged_and_nothing_else_is() -> None:
    for seed in range(20):
        chance, count = random.Random(seed), 200
        channel = Channel(tags=count)
        acks = consumer.Acks(cast("Any", channel))
        telling = asyncio.create_task(acks.run())
        order = list(range(1, count + 1))
        order.sort(key=lambda tag, chance=chance: tag + chance.randrange(1, 40))  # type: ignore[misc]
        left = set(order)
        for number, tag in enumerate(order):
            left.discard(tag)
            acks.add(tag)
            if chance.random() < 0.2 or number == count - 1:
                for _ in range(count):
                    await asyncio.sleep(0)
                assert channel.waiting == left
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def test_what_is_done_in_order_is_acknowledged_as_one() -> None:
    channel = Channel(tags=100)
    acks = consumer.Acks(cast("Any", channel))
    for tag in range(1, 101):
        acks.add(tag)
    telling = asyncio.create_task(acks.run())
    await asyncio.sleep(0.01)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    assert (channel.told, channel.waiting) == (1, set())


async def test_calls_that_come_while_one_is_in_flight_go_together() -> None:
    batches: list[list[int]] = []

    async def double(numbers: Sequence[int]) -> list[int]:
        batches.append(list(numbers))
        await asyncio.sleep(0)
        if 13 in numbers:
            raise ValueError
        return [2 * number for number in numbers]

    together = Together(double, 4)
    assert await asyncio.gather(*map(together.ask, range(10))) == [2 * number for number in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    heard = await asyncio.gather(*map(together.ask, (12, 13, 14)), return_exceptions=True)
    assert [type(answer) for answer in heard] == [ValueError] * 3
    assert await together.ask(20) == 40, "one failure is of its batch alone"
    leaver = asyncio.create_task(together.ask(1))
    await asyncio.sleep(0)
    leaver.cancel()
    assert await together.ask(2) == 4, "one who left keeps nobody waiting"
