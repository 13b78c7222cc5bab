"""Payments through real processes: RabbitMQ, PostgreSQL, a gateway with its journal, and a kill at each place that matters."""

import asyncio
import json
import signal
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import pytest

from flashsale.authority.client import Attempt, Told
from flashsale.contract import wire
from flashsale.payments import queues
from flashsale.payments.gateway.notices import notice
from flashsale.payments.gateway.rules import Entry, State
from flashsale.payments.signature import HEADER, WINDOW_SECONDS, sign
from flashsale.proof.auditor import audit
from flashsale.proof.stores import Journal
from flashsale.settings import REPOSITORY
from flashsale.upkeep.expiry import RESUME_AFTER
from tests.contract.drivers import HttpDriver
from tests.contract.test_payments_mutants import GUARDS
from tests.contract.test_reserve_batch_mutants import mutate
from tests.databases import drop_database, execute, given, make_database
from tests.patience import PATIENCE_SECONDS
from tests.proxy import Proxy, proxied
from tests.queued_shop import metric
from tests.queues import empty_payments
from tests.servers import JWT_SECRET, Process
from tests.stages import Stage, staged

SECRET = "webhooks-of-the-tests"
UNITS = 60
WALLET = {"FLASH_GATEWAY_METHOD": "wallet"}
TRANSFER = {"FLASH_GATEWAY_METHOD": "transfer"}
TELLING = {"telling": "yes"}
# What the journal says of a payment that went well.
PAID_ENTRIES = {
    "card": ["authorized", "captured"],
    "wallet": ["captured"],
    "transfer": ["pending", "authorized", "captured"],
}
OPEN = "('ASKED', 'AUTHORIZED', 'REFUNDING', 'DISPUTED')"


@dataclass
class Till:
    """A stage with the gateway of one way to pay and a payment worker, on a RabbitMQ virtual host of its own."""

    stage: Stage
    driver: HttpDriver
    gateway: Process
    worker: Process
    journal: Path
    amqp: str
    broker: Proxy  # between RabbitMQ and everybody
    books: Proxy  # between PostgreSQL and the worker
    bank: Proxy  # between the gateway and the worker
    method: str

    async def post(self, who: str, path: str, body: dict[str, Any], key: str = "") -> tuple[int, dict[str, Any]]:
        headers = {wire.BUYER_HEADER: self.driver.own(who), wire.KEY_HEADER: key or self.driver.key(who)}
        async with self.stage.session.post(self.stage.urls[0] + path, json=body, headers=headers) as answer:
            return answer.status, json.loads(await answer.text())

    async def buy(self, who: str, *, pays: bool = False) -> str:
        """A hold, whose payment is asked for if it ``pays``; its id."""
        more = {"pay_now": self.method} if pays else {}
        items = [{"sku": self.driver.own("a"), "quantity": 1}]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                status, document = await self.post(who, wire.PURCHASES_PATH, {"items": items, **more})
                # a busy machine's answers: one promises nothing, and one is a hold that could not be asked for yet
                is_unasked = pays and status in {200, 201} and not document["payments"]
                if status != 503 and not is_unasked:
                    break
                await asyncio.sleep(0.2)
        assert status in {200, 201}, document
        return str(document["id"])

    async def pay(self, who: str, purchase: str, key: str = "a-key-of-this-payment") -> tuple[int, dict[str, Any]]:
        return await self.post(who, f"{wire.PURCHASES_PATH}/{purchase}/pay", {"method": self.method}, key)

    async def state(self, purchase: str) -> str:
        return str(
            await self.stage.owner.fetchval("SELECT state FROM flash.purchase WHERE id = $1", uuid.UUID(purchase))
        )

    async def comes_to(self, purchase: str, *states: str) -> None:
        # a message may run out of tries while a slow machine starts who was killed; its try is then asked about after a minute
        async with asyncio.timeout(PATIENCE_SECONDS + RESUME_AFTER.total_seconds()):
            while (state := await self.state(purchase)) not in states:
                await asyncio.sleep(0.05)
        assert state in states

    def entries(self, purchase: str) -> list[str]:
        """What the gateway's journal says became of the purchase's money."""
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [line["state"] for line in lines if line["purchase"] == purchase]

    async def sent(self, topic: str) -> None:
        """Wait until every event of the topic, of which there is one, is with the broker."""
        events = "SELECT count(*), count(sent_at) FROM flash.outbox WHERE topic = $1"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while tuple(await self.stage.owner.fetchrow(events, topic) or ()) != (1, 1):
                await asyncio.sleep(0.02)

    async def all_sent(self) -> None:
        """Wait until every event is with the broker."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await self.stage.owner.fetchval("SELECT count(*) FROM flash.outbox WHERE sent_at IS NULL"):
                await asyncio.sleep(0.05)

    async def lapse(self, purchase: str) -> None:
        await self.stage.owner.execute(
            "UPDATE flash.purchase SET deadline = now() - interval '1 second' WHERE id = $1", uuid.UUID(purchase)
        )

    async def counted(self, series: str) -> float:
        """One of the worker's counters."""
        url = f"http://127.0.0.1:{self.worker.ops_port}/metrics"
        async with self.stage.session.get(url) as answer:
            lines = (await answer.text()).splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{series} "))

    async def in_hand(self) -> None:
        """Wait until the worker works on a message."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self.counted("flash_payments_in_hand"):
                await asyncio.sleep(0.02)

    async def worker_is(self, *, ready: bool) -> None:
        """Wait until the worker says that it consumes, or that it does not."""
        url = f"http://127.0.0.1:{self.worker.ops_port}/readyz"
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                async with self.stage.session.get(url) as answer:
                    if (answer.status == 200) is ready:
                        return
                await asyncio.sleep(0.02)

    async def waiting(self, queue: str) -> int:
        """Messages that are ready in a queue."""
        async with await aio_pika.connect(self.amqp) as connection:
            channel = await connection.channel()
            declared = await channel.declare_queue(queue, passive=True)
            return int(declared.declaration_result.message_count or 0)


@pytest.fixture
async def till(request: pytest.FixtureRequest, template: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Till]:
    """``request.param``: settings of the gateway; TELLING: it sends webhooks."""
    settings: dict[str, str] = dict(getattr(request, "param", {}))
    is_telling = bool(settings.pop("telling", ""))
    method = settings.get("FLASH_GATEWAY_METHOD", "card")
    journal = tmp_path / "journal.jsonl"
    amqp = given("FLASH_TEST_RABBITMQ_URL")
    await empty_payments()
    async with proxied(amqp) as broker, proxied(given("FLASH_TEST_POSTGRES_URL")) as books:
        environment = {"FLASH_AUTH": "off", "FLASH_WEBHOOK_SECRET": SECRET}
        gateway = Process(
            f"gateway_{method}",
            environment
            | {
                "FLASH_GATEWAY_LATER_MS": "50",
                "FLASH_GATEWAY_JOURNAL": str(journal),
                "FLASH_GATEWAY_DECLINES_PERCENT": "0",
                "FLASH_GATEWAY_LATENCY_MS": "5",
            }
            | settings,
        )
        shared = {"FLASH_RABBITMQ_URL": broker.lead(amqp)}
        async with staged(template, redis_url, settings=shared) as stage, proxied(gateway.url) as bank:
            worker = Process(
                "payments",
                environment
                | shared
                | {
                    "FLASH_POSTGRES_URL": books.lead(stage.database.app_url),
                    f"FLASH_GATEWAY_{method.upper()}_URL": bank.lead(gateway.url),
                },
            )
            driver = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
            await driver.open("s", {"a": UNITS}, 5)
            await stage.gate_opens(driver.own("s"))
            if is_telling:
                gateway.tell_environment({"FLASH_WEBHOOK_URL": worker.url + wire.WEBHOOK_PATH})
            try:
                await gateway.start()
                await worker.start()
                yield Till(stage, driver, gateway, worker, journal, amqp, broker, books, bank, method)
            finally:
                for process in (gateway, worker):  # a failed test may have left one stopped
                    if process.child is not None and process.child.returncode is None:
                        process.send(signal.SIGCONT)
                try:
                    await worker.stop()  # fails when it logged an error
                finally:
                    await gateway.stop()


@pytest.mark.parametrize("till", [{}, WALLET, TRANSFER | TELLING], indirect=True, ids=["card", "wallet", "transfer"])
async def test_a_payment_from_the_wish_to_the_captured_money(till: Till) -> None:
    purchase = await till.buy("ana")
    status, document = await till.pay("ana", purchase)
    assert (status, document["payments"][0]["try"]) == (202, 1)
    await till.comes_to(purchase, "PAID")
    assert till.entries(purchase) == PAID_ENTRIES[till.method]
    status, document = await till.pay("ana", purchase)
    assert (status, document["state"]) == (202, "PAID"), "the same key says how it stands"
    assert (await till.pay("ana", purchase, "another-key-of-ana"))[1]["verdict"] == "too_late"
    assert (await till.pay("ben", purchase))[1]["verdict"] == "unknown_purchase"
    assert (await till.pay("ana", purchase, "short"))[0] == 400


async def test_pay_now_pays_with_the_first_call_and_asks_again_on_a_replay(till: Till) -> None:
    purchase = await till.buy("ana", pays=True)
    await till.comes_to(purchase, "PAID")
    # ben's server died between the hold and the wish to pay
    key = till.driver.key("ben")
    cart = wire.Cart((wire.Line(till.driver.own("a"), 1),), "card")
    buyer = till.driver.own("ben")
    attempt = Attempt(uuid.uuid4(), wire.purchase_id(buyer, key), buyer, key, cart)
    (decision,) = await till.stage.authority.reserve_batch([attempt])
    assert decision.purchase is not None
    await till.comes_to(await till.buy("ben", pays=True), "PAID")


DECLINING = {"FLASH_GATEWAY_DECLINES_PERCENT": "100"}


@pytest.mark.parametrize("till", [DECLINING, DECLINING | TRANSFER | TELLING], indirect=True, ids=["card", "transfer"])
async def test_three_declines_end_the_hold_and_return_the_unit(till: Till) -> None:
    purchase = await till.buy("ana")
    for number in (1, 2, 3):
        assert (await till.pay("ana", purchase, f"payment-try-number-{number}"))[0] == 202
        await till.comes_to(purchase, "HELD" if number < 3 else "DECLINED")
    begun = ["pending"] if till.method == "transfer" else []
    assert till.entries(purchase) == [*begun, "declined"] * 3
    assert await till.stage.owner.fetchval("SELECT sum(available) FROM flash.stock") == UNITS


@pytest.mark.parametrize("till", [{"FLASH_GATEWAY_SILENT_PERCENT": "100"}], indirect=True)
async def test_an_answer_that_is_lost_after_the_charge_is_asked_for_again(till: Till) -> None:
    purchase = await till.buy("ana", pays=True)
    await till.comes_to(purchase, "PAID")
    assert till.entries(purchase) == ["authorized", "captured"]


@pytest.mark.parametrize("answers", [1, 2], ids=["authorized", "captured"])
async def test_a_worker_killed_between_the_gateway_and_the_books(till: Till, answers: int) -> None:
    await a_worker_is_killed_between_the_gateway_and_the_books(till, answers)


async def a_worker_is_killed_between_the_gateway_and_the_books(till: Till, answers: int) -> None:
    await till.worker.restart(FLASH_CRASH_AT=f"payments.answered:{answers}")
    purchase = await till.buy("ana", pays=True)
    await till.worker.dies()
    assert till.entries(purchase) == ["authorized", "captured"][:answers]
    assert await till.state(purchase) == ["AUTHORIZING", "AUTHORIZED"][answers - 1]
    await till.worker.restart(FLASH_CRASH_AT="")
    await till.comes_to(purchase, "PAID")
    assert till.entries(purchase) == ["authorized", "captured"]
    assert await audited_entries(till) == 2


async def test_a_worker_stopped_in_the_middle_says_nothing_wrong_and_leaves_its_message(till: Till) -> None:
    till.gateway.send(signal.SIGSTOP)  # or it would have answered before a slow machine has stopped the worker
    purchase = await till.buy("ana", pays=True)
    await till.in_hand()
    assert await till.worker.stop() == 0
    assert await till.state(purchase) == "AUTHORIZING"
    till.gateway.send(signal.SIGCONT)
    await till.worker.start()
    await till.comes_to(purchase, "PAID")
    assert till.entries(purchase) == ["authorized", "captured"]


async def test_a_gateway_killed_in_the_middle_keeps_its_books(till: Till) -> None:
    purchases = [await till.buy(who, pays=True) for who in ("ana", "ben", "cyd")]
    await asyncio.sleep(0.05)
    await till.gateway.restart()
    for purchase in purchases:
        await till.comes_to(purchase, "PAID")
        assert till.entries(purchase) == ["authorized", "captured"]
    before = till.journal.read_bytes()
    with till.journal.open("ab") as file:
        file.write(b'{"key": "torn')
    await till.gateway.restart()
    assert till.journal.read_bytes() == before
    again = await till.buy("dan", pays=True)
    await till.comes_to(again, "PAID")


async def test_a_relay_killed_between_the_confirm_and_the_mark_publishes_twice_and_nobody_pays_twice(
    till: Till,
) -> None:
    await a_relay_is_killed_between_the_confirm_and_the_mark(till)


async def a_relay_is_killed_between_the_confirm_and_the_mark(till: Till) -> None:
    await till.all_sent()  # what the making of the sale told
    await till.broker.refuse()
    purchase = await till.buy("ana", pays=True)
    await till.stage.upkeep.restart(FLASH_CRASH_AT="upkeep.published")
    await till.broker.open()
    await till.stage.upkeep.dies()
    await till.comes_to(purchase, "PAID")
    assert await till.stage.owner.fetchval("SELECT sent_at FROM flash.outbox WHERE topic = 'payment.asked'") is None
    await till.stage.owner.execute("UPDATE flash.outbox SET leased_until = now()")  # the dead relay's lease runs out
    await till.stage.upkeep.restart(FLASH_CRASH_AT="")
    await till.all_sent()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await till.counted("flash_payments_settled_total") < 2:
            await asyncio.sleep(0.05)
    assert till.entries(purchase) == ["authorized", "captured"]
    assert await till.waiting(queues.DEAD) == 0
    assert await audited_entries(till) == 2


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_postgresql_away_costs_no_message_a_try(till: Till, how: str) -> None:
    first = await till.buy("ana", pays=True)
    await till.comes_to(first, "PAID")
    tries = ("flash_payments_retried_total", "flash_payments_dead_total")
    before = [await till.counted(series) for series in tries]
    if how == "refuses":
        await till.books.refuse()
    else:
        till.books.freeze()
    purchases = [await till.buy(who, pays=True) for who in ("ben", "cyd")]
    await till.worker_is(ready=False)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await till.waiting(queues.PAYMENTS) < len(purchases):
            await asyncio.sleep(0.05)
    assert [await till.counted(series) for series in tries] == before  # later a busy machine may cost one
    if how == "refuses":
        await till.books.open()
    else:
        till.books.thaw()
    for purchase in purchases:
        await till.comes_to(purchase, "PAID")
        assert till.entries(purchase) == ["authorized", "captured"]
    assert await till.counted(tries[1]) == before[1]


async def test_a_row_that_is_locked_costs_its_own_message_a_try_and_the_others_nothing(till: Till) -> None:
    till.worker.send(signal.SIGSTOP)  # or it would be paid before a slow machine has locked its row
    locked = await till.buy("ana", pays=True)
    async with till.stage.owner.transaction():
        await till.stage.owner.execute("SELECT FROM flash.purchase WHERE id = $1 FOR NO KEY UPDATE", uuid.UUID(locked))
        till.worker.send(signal.SIGCONT)
        other = await till.buy("ben", pays=True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await till.counted("flash_payments_retried_total"):
                await asyncio.sleep(0.02)
        await till.worker_is(ready=True)
        await till.comes_to(other, "PAID")
    await till.comes_to(locked, "PAID")
    assert till.entries(locked) == ["authorized", "captured"]


async def test_a_full_queue_delays_nothing_but_what_goes_there(till: Till) -> None:
    unsent = "SELECT count(*) FROM flash.outbox WHERE sent_at IS NULL AND starts_with(topic, $1)"
    async with await aio_pika.connect(till.amqp) as connection:
        channel = await connection.channel()
        exchange, _ = await queues.declare(channel)
        limits: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
        full = await channel.declare_queue(exclusive=True, arguments=limits)
        await channel.default_exchange.publish(aio_pika.Message(b""), full.name)
        await full.bind(exchange, queues.PAYMENT_TOPICS)
        await till.buy("ana", pays=True)
        await till.buy("ben")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await till.stage.owner.fetchval(unsent, "purchase."):
                await asyncio.sleep(0.02)
            while not await metric(till.stage, till.stage.upkeep.ops_port, "flash_outbox_refused_total"):
                await asyncio.sleep(0.02)  # counted when the others are marked
        assert await metric(till.stage, till.stage.upkeep.ops_port, "flash_broker_up") == 1
        assert await till.stage.owner.fetchval(unsent, "payment.") > 0
        await full.purge()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await till.stage.owner.fetchval(unsent, ""):
            await asyncio.sleep(0.02)


async def test_a_gateway_away_past_the_deadline_ends_the_hold_after_its_grace_and_the_money_is_set_free(
    till: Till,
) -> None:
    await in_reach(till)
    till.gateway.send(signal.SIGSTOP)
    purchase = await till.buy("ana", pays=True)
    await till.in_hand()
    await till.lapse(purchase)
    async with asyncio.timeout(PATIENCE_SECONDS):  # upkeep asks for the void first
        while not await till.stage.owner.fetchval(
            "SELECT count(*) FROM flash.payment WHERE void_at IS NOT NULL AND sent_at IS NOT NULL"
        ):
            await asyncio.sleep(0.05)
    assert await till.state(purchase) == "AUTHORIZING"
    await till.stage.owner.execute("UPDATE flash.payment SET sent_at = sent_at - interval '21 seconds'")
    await till.comes_to(purchase, "EXPIRED")
    till.gateway.send(signal.SIGCONT)
    await settled(till)
    # Whichever call the gateway saw first, no authorization stays open and nothing is kept that was not sold.
    entries = till.entries(purchase)
    ends = {("EXPIRED", "voided"), ("PAID", "captured")}
    assert (await till.state(purchase), entries[-1]) in ends, entries
    held = await till.stage.owner.fetchval("SELECT sum(total - available) FROM flash.stock")
    assert held == (entries[-1] == "captured")


async def test_storms_of_payments_with_kills_leave_money_and_purchases_equal(till: Till) -> None:
    purchases = [await till.buy(f"p{number}", pays=True) for number in range(40)]
    for victim in (till.gateway, till.worker, till.stage.upkeep, till.worker, till.gateway):
        await asyncio.sleep(0.1)
        await victim.restart()
    for purchase in purchases:
        await till.comes_to(purchase, "PAID")
        assert till.entries(purchase) == ["authorized", "captured"]
    await settled(till)
    assert await audited_entries(till) == 2 * len(purchases)


async def audited_entries(till: Till) -> int:
    """Everything is right, gate and journal included; how many entries the journal has."""
    report = await audit(
        till.stage.database.auditor_url,
        given("FLASH_TEST_REDIS_URL"),
        journals=[Journal(till.gateway.url, till.method)],
    )
    assert report.clean, report.document()
    return report.scope["journal_entries"]


async def test_late_money_buys_the_unit_again_while_there_is_one(till: Till) -> None:
    purchase = await till.buy("ana")
    await expired_while_the_worker_stands(till, purchase)
    assert await hear(till, await authorized(till, purchase)) == "nothing"
    assert await till.state(purchase) == "AUTHORIZED"
    till.worker.send(signal.SIGCONT)
    await till.comes_to(purchase, "PAID")
    assert till.entries(purchase) == ["authorized", "captured"]
    assert await audited_entries(till) == 2


async def late_money_for_a_paused_sale(till: Till) -> str:
    purchase = await till.buy("ana")
    await expired_while_the_worker_stands(till, purchase)
    await till.stage.owner.execute("SELECT flash.change_sale(id, 'PAUSED') FROM flash.sale")
    entry = await authorized(till, purchase)
    for number in range(3):  # one webhook, and two of other names about the same
        await hear(till, entry, f"event {number}")
    till.worker.send(signal.SIGCONT)
    return purchase


@pytest.mark.parametrize("till", [{}, WALLET], indirect=True, ids=["void", "refund"])
async def test_late_money_without_a_unit_goes_back_once(till: Till) -> None:
    purchase = await late_money_for_a_paused_sale(till)
    ends = {"card": ["authorized", "voided"], "wallet": ["captured", "refunded"]}[till.method]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while till.entries(purchase) != ends:
            await asyncio.sleep(0.05)
    await settled(till)
    assert till.entries(purchase) == ends
    assert await till.state(purchase) == "EXPIRED"
    assert await audited_entries(till) == 2


@pytest.mark.parametrize("is_open", [True, False], ids=["units are there", "sale paused"])
async def test_a_hold_that_lapses_while_its_money_is_set_aside(till: Till, *, is_open: bool) -> None:
    await till.worker.restart(FLASH_CRASH_AT="payments.answered:stop")
    purchase = await till.buy("ana")
    await in_reach(till)
    await till.pay("ana", purchase)
    await till.worker.stands()
    assert till.entries(purchase) == ["authorized"]
    await till.sent("payment.asked")
    await expires(till, purchase)
    if not is_open:
        await till.stage.owner.execute("SELECT flash.change_sale(id, 'PAUSED') FROM flash.sale")
    till.worker.send(signal.SIGCONT)
    await settled(till)
    # The worker also has the question to void it in hand: whichever is told first, nobody pays for nothing.
    ends = {("EXPIRED", "voided"), ("PAID", "captured")} if is_open else {("EXPIRED", "voided")}
    first, last = till.entries(purchase)
    assert first == "authorized"
    assert (await till.state(purchase), last) in ends
    assert await audited_entries(till) == 2


async def expired_while_the_worker_stands(till: Till, purchase: str) -> None:
    """The hold ends without its gateway: nobody is there to void the try, which the queue and the worker's hand have."""
    await in_reach(till)
    till.worker.send(signal.SIGSTOP)
    await till.pay("ana", purchase)
    await till.sent("payment.asked")
    await expires(till, purchase)


async def expires(till: Till, purchase: str) -> None:
    """The hold ends while nobody answers the question to void its try."""
    # What took its relay more than two seconds is not voided at once; and later there is nobody who consumes.
    await till.stage.owner.execute("UPDATE flash.payment SET asked_at = sent_at")
    await till.lapse(purchase)
    await till.sent("payment.void")
    assert await till.state(purchase) == "AUTHORIZING"
    # as long as the grace, and a worker that consumed all that time: upkeep started lately, which cannot be moved
    await till.stage.owner.execute(
        "UPDATE flash.payment SET sent_at = sent_at - interval '1 hour', void_at = void_at - interval '1 hour'"
    )
    await till.stage.authority.expire_payments(9, timedelta(seconds=20), timedelta(hours=1))
    await till.comes_to(purchase, "EXPIRED")  # upkeep may have been quicker: on a slow machine it is up for as long


async def in_reach(till: Till) -> None:
    """Upkeep has seen that messages come through to the worker; only what is sent from now on may be voided at once."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await metric(till.stage, till.stage.upkeep.ops_port, "flash_road_open_seconds"):
            await asyncio.sleep(0.02)


async def hear(till: Till, entry: Entry, event: str = "event") -> str:
    """A webhook as the worker would take it."""
    told = Told(uuid.UUID(entry.purchase), 1, entry.state, entry.amount_minor, entry.currency)
    return await till.stage.authority.hear_payment(event, told)


async def authorized(till: Till, purchase: str) -> Entry:
    """The gateway sets the money of the first try aside, or takes it, whoever asked; what it would tell us of it."""
    price = await till.stage.owner.fetchval("SELECT amount_minor FROM flash.payment")
    asked = {"key": f"{purchase}:1", "purchase": purchase, "amount_minor": price, "currency": "EUR"}
    async with till.stage.session.post(f"{till.gateway.url}/payments/authorize", json=asked) as answer:
        assert answer.status == 200
        state = State((await answer.json())["state"])
    return Entry(f"{purchase}:1", purchase, state, price, "EUR", time.time())


async def settled(till: Till) -> None:
    """Nothing is open any more."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await till.stage.owner.fetchval(f"SELECT count(*) FROM flash.payment WHERE state IN {OPEN}"):
            await asyncio.sleep(0.05)


def signed(entry: Entry, *, secret: str = SECRET, ago: int = 0, **changes: Any) -> tuple[bytes, dict[str, str]]:
    """A webhook as the gateway sends it; ``changes`` to its data after it was signed by nobody."""
    document = json.loads(notice(entry))
    document["data"] |= changes
    body = json.dumps(document).encode()
    return body, {HEADER: sign(secret, int(time.time()) - ago, body)}


async def test_webhooks_that_prove_nothing_change_nothing(till: Till) -> None:
    await till.broker.refuse()  # no message reaches the worker: nothing but a webhook can settle anything
    purchase = await till.buy("ana", pays=True)
    right = await authorized(till, purchase)
    price = right.amount_minor

    async def send(body: bytes, headers: dict[str, str]) -> int:
        url = till.worker.url + wire.WEBHOOK_PATH
        while True:
            async with till.stage.session.post(url, data=body, headers=headers) as answer:
                if answer.status != 503:  # nothing was heard, says a busy machine
                    return answer.status
            await asyncio.sleep(0.2)

    body, headers = signed(right)
    other = str(uuid.uuid4())
    table = {
        "unsigned": (401, (body, {})),
        "wrong secret": (401, signed(right, secret="somebody-elses-secret")),
        "signed for another body": (401, (body.replace(b"authorized", b"captured"), headers)),
        "old": (401, signed(right, ago=2 * WINDOW_SECONDS)),
        "from the future": (401, signed(right, ago=-2 * WINDOW_SECONDS)),
        "wrong amount": (409, signed(right, amount_minor=price - 1)),
        "wrong currency": (409, signed(right, currency="USD")),
        "wrong try": (404, signed(right, key=f"{purchase}:2")),
        "no such try": (400, signed(right, key=f"{purchase}:4")),
        "key of another purchase": (400, signed(right, purchase=other)),
        "unknown purchase": (404, signed(right, purchase=other, key=f"{other}:1")),
        "no outcome": (400, signed(right, state="maybe")),
        "amount as text": (400, signed(right, amount_minor="100")),
        "amount beyond the column": (400, signed(right, amount_minor=10**30)),
        "not JSON": (401, (b"{", headers)),
    }
    assert {name: await send(*message) for name, (_, message) in table.items()} == {
        name: status for name, (status, _) in table.items()
    }
    assert await till.state(purchase) == "AUTHORIZING"
    assert await send(body, headers) == 200
    assert await till.state(purchase) == "AUTHORIZED"
    assert await send(body, headers) == 200, "a replay is no news"
    heard = await till.stage.owner.fetchval("SELECT count(*) FROM flash.outbox WHERE topic = 'payment.told'")
    assert heard == 1
    await till.broker.open()
    await till.comes_to(purchase, "PAID")
    assert till.entries(purchase) == ["authorized", "captured"]


async def test_a_message_nobody_can_act_on_is_set_aside_and_not_lost(till: Till) -> None:
    async with await aio_pika.connect(till.amqp) as connection:
        exchange, _ = await queues.declare(await connection.channel())
        for body in (
            b"{",
            b'{"subject": "x"}',
            json.dumps({"subject": str(uuid.uuid4()), "data": {"try": 1}}).encode(),
            json.dumps({"subject": str(uuid.uuid4()), "data": {"try": 2**40}}).encode(),
        ):
            await exchange.publish(aio_pika.Message(body), "payment.asked")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await till.waiting(queues.DEAD) < 4:
            await asyncio.sleep(0.1)
    assert await till.waiting(queues.PAYMENTS) == 0


@pytest.mark.parametrize("after", ["at once", "killed", "broker lost"])
@pytest.mark.parametrize("till", [{"FLASH_GATEWAY_LATENCY_MS": "300"}], indirect=True)
async def test_a_refund_by_an_operator_is_done_once_whoever_dies(till: Till, after: str) -> None:
    purchase = await till.buy("ana", pays=True)
    await till.comes_to(purchase, "PAID")
    if after == "broker lost":
        await till.broker.refuse()
    till.gateway.send(signal.SIGSTOP)  # or it might have given it back before a slow machine has looked
    operator = await asyncpg.connect(till.stage.database.operator_url)
    try:
        for _ in range(2):
            await operator.execute(
                "SELECT flash.refund_purchase($1, 'ana', 'a scratch', $2)", "k" * 16, uuid.UUID(purchase)
            )
    finally:
        await operator.close()
    assert await till.state(purchase) == "PAID", "until the gateway has given it back"
    till.gateway.send(signal.SIGCONT)
    if after == "broker lost":
        await asyncio.sleep(0.5)
        assert till.entries(purchase) == ["authorized", "captured"]
        await till.broker.open()
    elif after == "killed":
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "refunded" not in till.entries(purchase):
                await asyncio.sleep(0.001)
        await till.worker.restart()
    await till.comes_to(purchase, "REFUNDED")
    assert till.entries(purchase) == ["authorized", "captured", "refunded"]
    held = await till.stage.owner.fetchval("SELECT sum(total - available) FROM flash.stock")
    assert held == 1, "units return when told"
    assert await audited_entries(till) == 3


@pytest.mark.parametrize("till", [{"FLASH_GATEWAY_DISPUTES_PERCENT": "100"} | TELLING], indirect=True)
async def test_disputes_are_won_or_lost_and_units_stay(till: Till) -> None:
    purchases = [await till.buy(f"p{number}", pays=True) for number in range(20)]
    ends = {"PAID": "dispute_won", "CHARGED_BACK": "dispute_lost"}
    # of the payment: a purchase is PAID before its dispute as well, and the journal has the end before anybody is told
    over = "SELECT count(*) FROM flash.payment WHERE state IN ('DISPUTE_WON', 'DISPUTE_LOST')"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await till.stage.owner.fetchval(over) < len(purchases):
            await asyncio.sleep(0.05)
    told = [(await till.state(purchase), till.entries(purchase)) for purchase in purchases]
    for state, entries in told:
        assert entries == ["authorized", "captured", "disputed", ends[state]]
    # The kind is the key's, and keys are new in each run: of eight, all were of one kind once in 128 runs.
    assert {state for state, _ in told} == set(ends), "twenty of one kind would be a wonder"
    held = await till.stage.owner.fetchval("SELECT sum(total - available) FROM flash.stock")
    assert held == len(purchases)
    assert await audited_entries(till) == 4 * len(purchases)


MIXED = {
    "FLASH_GATEWAY_DECLINES_PERCENT": "20",
    "FLASH_GATEWAY_ERRORS_PERCENT": "20",
    "FLASH_GATEWAY_SILENT_PERCENT": "10",
    "FLASH_GATEWAY_REPEATS_PERCENT": "50",
    "FLASH_GATEWAY_LATE_PERCENT": "50",
    "FLASH_GATEWAY_DISPUTES_PERCENT": "30",
    "FLASH_GATEWAY_LATER_MS": "200",
}


@pytest.mark.parametrize(
    "till", [MIXED | TELLING, MIXED | WALLET | TELLING, MIXED | TRANSFER | TELLING], indirect=True,
    ids=["card", "wallet", "transfer"],
)  # fmt: skip
async def test_a_gateway_with_every_fault_leaves_the_books_right(till: Till) -> None:
    purchases = [await till.buy(f"p{number}", pays=True) for number in range(25)]
    for purchase in purchases:
        await till.comes_to(purchase, "PAID", "HELD", "CHARGED_BACK", "DISPUTED")
    await settled(till)
    assert await audited_entries(till) >= len(purchases)
    assert await till.waiting(queues.DEAD) == 0


async def test_a_gateway_that_is_gone_for_a_while_delays_payments_and_no_more(till: Till) -> None:
    # refused on its way, and not killed: its start on a slow machine may take longer than all tries of a message
    await till.bank.refuse()
    till.worker.send(signal.SIGSTOP)  # or the first message may have had them all when the last hold is bought
    purchases = [await till.buy(f"p{number}", pays=True) for number in range(12)]
    till.worker.send(signal.SIGCONT)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await till.counted("flash_payments_retried_total") < len(purchases):
            await asyncio.sleep(0.05)
    await till.bank.open()
    for purchase in purchases:
        await till.comes_to(purchase, "PAID")
        assert till.entries(purchase) == ["authorized", "captured"]
    assert await till.waiting(queues.DEAD) == 0


async def test_what_the_gateway_refuses_for_ever_is_set_aside_once(till: Till) -> None:
    purchase = await till.buy("ana")
    asked = {"key": f"{purchase}:1", "purchase": purchase, "amount_minor": 1, "currency": "EUR"}
    async with till.stage.session.post(f"{till.gateway.url}/payments/authorize", json=asked) as answer:
        assert answer.status == 200  # the try's key was used for other money: a fault of ours, long ago
    await till.pay("ana", purchase)
    done = "SELECT set_aside_at IS NOT NULL AND sent_at IS NOT NULL FROM flash.payment"
    for number in (1, 2, 3):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while till.worker.log.read_text().count("payment.set_aside") < number:
                await asyncio.sleep(0.02)
            # the worker says so first, and the relay's mark may be later still
            while not await till.stage.owner.fetchval(done):
                await asyncio.sleep(0.02)
        await till.stage.owner.execute("UPDATE flash.payment SET sent_at = sent_at - interval '1 hour'")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await till.waiting(queues.DEAD) != 1:
            await asyncio.sleep(0.05)
    assert await till.counted("flash_payments_dead_total") == 1
    await till.stage.owner.execute("UPDATE flash.payment SET state = 'VOIDED'")  # a person has seen to it


async def test_a_payment_that_the_broker_has_while_it_is_away_is_not_voided(till: Till) -> None:
    await in_reach(till)
    await till.worker.stop()
    purchase = await till.buy("ana", pays=True)
    await till.sent("payment.asked")
    await till.broker.refuse()
    await till.lapse(purchase)
    await asyncio.sleep(1.5)  # three of upkeep's rounds, each of which would have asked for the void
    await till.broker.open()
    await asyncio.sleep(1.5)
    assert await till.stage.owner.fetchval("SELECT count(void_at) FROM flash.payment") == 0
    assert await till.state(purchase) == "AUTHORIZING"
    await till.worker.start()
    await till.comes_to(purchase, "PAID")
    assert till.entries(purchase) == ["authorized", "captured"]


async def test_another_shops_payments_are_refused_until_the_first_is_gone(till: Till, template: str) -> None:
    other = await make_database(template)
    shared = {"FLASH_AUTH": "off", "FLASH_JWT_SECRET": JWT_SECRET, "FLASH_POSTGRES_URL": other.app_url}
    shared |= {"FLASH_RABBITMQ_URL": till.broker.lead(till.amqp), "FLASH_REDIS_URL": given("FLASH_TEST_REDIS_URL")}
    newcomers = [Process("payments", shared), Process("upkeep", shared)]
    try:
        for newcomer in newcomers:
            await newcomer.spawn()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all("another shop" in newcomer.log.read_text() for newcomer in newcomers):
                await asyncio.sleep(0.05)
        await execute(
            other.owner_url,
            "INSERT INTO flash.outbox (topic, subject, version, at) VALUES ('payment.asked', gen_random_uuid()::text, 1, now())",
        )
        purchase = await till.buy("ana", pays=True)
        await till.comes_to(purchase, "PAID")
        connection = await asyncpg.connect(other.owner_url)
        assert await connection.fetchval("SELECT sent_at FROM flash.outbox") is None, "its relay keeps its events"
        await till.worker.stop()
        await till.stage.upkeep.stop()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await connection.fetchval("SELECT sent_at FROM flash.outbox") is None:
                await asyncio.sleep(0.05)
        await connection.close()
        await asyncio.gather(*(newcomer.ready() for newcomer in newcomers))
    finally:
        await asyncio.gather(*(newcomer.stop() for newcomer in newcomers if newcomer.child is not None))
        await drop_database(other)


# --- the same without the repair: rows A10 to A12 of the crash table must fail then


def altered(place: Path, module: str, there: str, instead: str) -> dict[str, str]:
    """The environment of a process whose ``module`` reads ``instead`` of ``there``."""
    source = REPOSITORY / "src" / f"{module.replace('.', '/')}.py"
    assert source.read_text("utf-8").count(there) == 1, "the control is out of date"
    # the package first, or the module would be read once more when it is made
    (place / "sitecustomize.py").write_text(f"""
import importlib, sys, types
importlib.import_module({module.rpartition(".")[0]!r})
made = sys.modules[{module!r}] = types.ModuleType({module!r})
made.__file__ = {str(source)!r}
exec(compile(open(made.__file__).read().replace({there!r}, {instead!r}), made.__file__, "exec"), made.__dict__)
""")
    return {"PYTHONPATH": f"{place}:{REPOSITORY / 'src'}:{REPOSITORY}"}


async def test_a_relay_that_marks_what_it_leased_never_publishes_it_again(till: Till, tmp_path: Path) -> None:
    lease = "leased = await self._authority.lease_outbox(EVENTS_PER_ROUND_MAX, LEASE)\n"
    mark = "        await self._authority.mark_sent([event.id for event in leased], [], [])\n"
    till.stage.upkeep.tell_environment(altered(tmp_path, "flashsale.upkeep.outbox", lease, lease + mark))
    with pytest.raises(AssertionError, match="is None"):
        await a_relay_is_killed_between_the_confirm_and_the_mark(till)


async def test_a_worker_whose_keys_are_its_own_takes_the_money_twice(till: Till, tmp_path: Path) -> None:
    there, instead = (
        "{payment.purchase}:{payment.number}",
        "{payment.purchase}:{payment.number}:{__import__('os').getpid()}",
    )
    till.worker.tell_environment(altered(tmp_path, "flashsale.payments.client", there, instead))
    with pytest.raises(AssertionError, match="At index 1 diff: 'authorized'"):
        await a_worker_is_killed_between_the_gateway_and_the_books(till, 1)


async def test_late_money_that_nobody_checks_buys_what_is_not_for_sale(till: Till) -> None:
    await till.stage.owner.execute("SET search_path = flash")
    await mutate(till.stage.owner, *GUARDS["late money needs an open sale"])
    await till.comes_to(await late_money_for_a_paused_sale(till), "PAID")
