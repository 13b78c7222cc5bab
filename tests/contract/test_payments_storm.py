"""Payments, outcomes, expiry, cancellations and relays at once on few rows: no deadlock, and the books are right afterwards."""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from flashsale.authority.client import Attempt, Authority, Told
from flashsale.contract.wire import Cart, Line, purchase_id
from tests.contract.test_storm import CALM_S
from tests.databases import Database, patient

SKUS = ["a", "b", "c"]
BUYERS = [f"buyer{number}" for number in range(30)]
HOLDING = "('HELD', 'AUTHORIZING', 'AUTHORIZED', 'PAID', 'DISPUTED', 'CHARGED_BACK', 'REFUNDED')"
OUTCOMES = [
    "authorized",
    "authorized",
    "captured",
    "captured",
    "declined",
    "voided",
    "refunded",
    "disputed",
    "dispute_won",
    "dispute_lost",
]
AT_ONCE = timedelta(0)
WEATHER = ("held", "asked", "cancelled", "expired", "voiding", "ended unanswered", "resumed", "relayed", "capture", "void",
           "refund", "look", "webhook heard", "webhook nothing", "together", "alone", "refund by hand", "restock by hand")  # fmt: skip


class Storm:
    """Actors that share three rows of stock; each returns after one round of what it does."""

    def __init__(self, authority: Authority, operator: asyncpg.Connection) -> None:
        self.authority = authority
        self.operator = operator
        self.random = random.Random(2)
        self.done: Counter[str] = Counter()

    async def batch(self) -> None:
        """Carts in any order, with keys that come again; each batch also ends due holds."""
        decisions = await self.authority.reserve_batch([self._attempt() for _ in range(16)])
        self.done.update(str(decision.verdict) for decision in decisions)

    async def pay(self) -> None:
        """Holds somebody has, with a key that comes again."""
        for row in await self._some("state = 'HELD'"):
            key = f"pay{self.random.randrange(6)}"
            refused = await self.authority.start_payment(row["id"], row["buyer"], key, "card")
            self.done["pay refused" if refused else "asked"] += 1
        await asyncio.sleep(0.1)  # some holds must lapse unpaid

    async def settle(self) -> None:
        """Any outcome of any try, in any order: a gateway gone mad, and webhooks about it."""
        rows = await self.authority.pool.fetch(
            "SELECT purchase_id, try, amount_minor, currency FROM payment ORDER BY random() LIMIT 8"
        )
        for purchase, number, amount, currency in rows:
            outcome = self.random.choice(OUTCOMES)
            told = Told(purchase, number, outcome, amount, currency)
            if self.random.random() < 0.5:
                together = (await self.authority.settle_payments([told]))[0]
                self.done["together" if together else "alone"] += 1
                self.done[together or await self.authority.settle_payment(told)] += 1
            else:
                event = f"{purchase}:{number}:{outcome}:{self.random.randrange(3)}"
                self.done["webhook " + await self.authority.hear_payment(event, told)] += 1

    async def sweep(self) -> None:
        """Both expiries and the resuming of what stays open."""
        self.done["expired"] += (await self.authority.expire_due(32)).ended
        voiding, ended = await self.authority.expire_payments(32, timedelta(milliseconds=50), timedelta(days=1))
        self.done["voiding"] += voiding
        self.done["ended unanswered"] += ended
        self.done["resumed"] += await self.authority.resume_payments(32, timedelta(milliseconds=200))
        await asyncio.sleep(0.01)

    async def relay(self) -> None:
        """Some of what is leased is not confirmed; some leases lapse."""
        events = await self.authority.lease_outbox(100, timedelta(milliseconds=20))
        ids = [event.id for event in events]
        self.random.shuffle(ids)
        await self.authority.mark_sent(ids[5:], ids[:5])
        self.done["relayed"] += len(ids[5:])

    async def cancel(self) -> None:
        """Holds that may be on their way to being paid."""
        for row in await self._some("true"):
            refused = await self.authority.cancel(row["id"], row["buyer"])
            self.done["cancel refused" if refused else "cancelled"] += 1

    async def operate(self) -> None:
        """Refunds, restocks and cancellations by hand, of purchases in any state."""
        for row in await self._some("state <> 'HELD'"):
            event = self.random.choice(["refund", "refund", "restock", "cancel"])
            call = (
                "refund_purchase($1, 'ana', 'x', $2)"
                if event == "refund"
                else f"return_purchase($1, 'ana', 'x', $2, '{event}')"
            )
            try:
                await self.operator.execute(f"SELECT {call}", uuid.uuid4().hex, row["id"])
                self.done[f"{event} by hand"] += 1
            except asyncpg.InvalidParameterValueError:
                self.done[f"{event} impossible"] += 1
        await asyncio.sleep(0.01)

    async def pause(self) -> None:
        """The whole sale at once."""
        for state in ("PAUSED", "OPEN"):
            await self.authority.change_sale("s", state=state)
        await self.authority.restock(self.random.choice(SKUS), 2)
        await self.authority.forget_events(50, timedelta(seconds=1))
        await asyncio.sleep(0.05)

    async def _some(self, condition: str) -> list[asyncpg.Record]:
        return await self.authority.pool.fetch(
            f"SELECT id, buyer FROM purchase WHERE {condition} ORDER BY random() LIMIT 4"
        )

    def _attempt(self) -> Attempt:
        buyer = self.random.choice(BUYERS)
        key = f"key{self.random.randrange(500)}"
        skus = self.random.sample(SKUS, self.random.randint(1, 3))
        cart = Cart(tuple(Line(sku, 1) for sku in skus))
        return Attempt(uuid.uuid4(), purchase_id(buyer, key), buyer, key, cart)


@pytest.mark.timeout(3600)  # as long as --storm-seconds asks; the storm itself ends by the clock
async def test_no_deadlock_in_a_storm_of_money(database: Database, storm_seconds: float) -> None:
    authority = await patient(database, size=16)
    now = datetime.now(UTC)
    await authority.create_sale(
        "s", merchant="m", name="s", opens=now - timedelta(1), closes=now + timedelta(1),
        buyer_limit=8, hold_seconds=1, currency="EUR",
    )  # fmt: skip
    for sku in SKUS:
        await authority.add_item("s", sku, sku, 100, 60)
    operator = await asyncpg.connect(database.operator_url, server_settings={"search_path": "flash"})
    storm = Storm(authority, operator)
    start = time.monotonic()

    def rages() -> bool:
        lasted = time.monotonic() - start
        return lasted < storm_seconds or (lasted < storm_seconds + CALM_S and not all(storm.done[it] for it in WEATHER))

    async def repeat(act: Callable[[], Awaitable[None]]) -> None:
        while rages():
            await act()  # AuthorityUnavailable, which a deadlock is (40P01), fails the test

    owner = await asyncpg.connect(database.owner_url)
    try:
        async with asyncio.TaskGroup() as group:
            for act, count in (
                (storm.batch, 2), (storm.pay, 1), (storm.settle, 3), (storm.sweep, 2),
                (storm.relay, 2), (storm.cancel, 1), (storm.pause, 1), (storm.operate, 1),
            ):  # fmt: skip
                for _ in range(count):
                    group.create_task(repeat(act))
        assert await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
        await books_are_right(owner)
    finally:
        await owner.close()
        await operator.close()
        await authority.close()
    for happened in WEATHER:
        assert storm.done[happened], f"the storm never saw {happened}: {storm.done}"


async def books_are_right(owner: asyncpg.Connection) -> None:
    """Conservation, ledger, quota and money, by queries that share nothing with the functions under test."""
    for row in await owner.fetch(
        f"""SELECT k.sku, k.available, k.total, k.seq, l.fold, l.rows, l.lowest, h.units FROM flash.stock k
            CROSS JOIN LATERAL (SELECT sum(delta) AS fold, count(*) AS rows, min(fold) AS lowest FROM (
                SELECT delta, sum(delta) OVER (ORDER BY seq) AS fold FROM flash.ledger WHERE sku = k.sku) f) l
            CROSS JOIN LATERAL (SELECT coalesce(sum(quantity), 0) AS units FROM flash.line
                JOIN flash.purchase p ON p.id = purchase_id WHERE sku = k.sku AND p.state IN {HOLDING}) h"""
    ):
        assert row["available"] == row["fold"] == row["total"] - row["units"], row
        assert row["seq"] == row["rows"], row
        assert row["lowest"] >= 0, row
    assert not await owner.fetch(
        f"""SELECT buyer FROM flash.quota q WHERE active <> (SELECT coalesce(sum(quantity), 0) FROM flash.line
            JOIN flash.purchase p ON p.id = purchase_id WHERE p.buyer = q.buyer AND p.state IN {HOLDING})"""
    )
    # the latest try stands where its purchase does, and no other keeps money
    assert not await owner.fetch(
        """SELECT p.id, p.state, y.state FROM flash.purchase p JOIN flash.payment y ON y.purchase_id = p.id
           WHERE CASE WHEN EXISTS (SELECT FROM flash.payment l WHERE l.purchase_id = p.id AND l.try > y.try)
                      THEN y.state IN ('CAPTURED', 'DISPUTED', 'DISPUTE_WON')
                      WHEN p.state = 'PAID' THEN y.state NOT IN ('CAPTURED', 'DISPUTE_WON', 'REFUNDING')
                      WHEN p.state = 'DISPUTED' THEN y.state <> 'DISPUTED'
                      WHEN p.state = 'CHARGED_BACK' THEN y.state <> 'DISPUTE_LOST'
                      ELSE y.state IN ('CAPTURED', 'DISPUTED', 'DISPUTE_WON') END"""
    )
    assert not await owner.fetch(
        """SELECT id FROM flash.purchase p WHERE state = 'PAID'
           AND NOT EXISTS (SELECT FROM flash.payment WHERE purchase_id = p.id)"""
    )
    assert not await owner.fetch(
        """SELECT p.id FROM flash.purchase p JOIN flash.payment y ON y.purchase_id = p.id
           WHERE p.state = 'AUTHORIZED' AND y.try = (SELECT max(try) FROM flash.payment WHERE purchase_id = p.id)
             AND y.state <> 'AUTHORIZED'"""
    )


@pytest.fixture
def storm_seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--storm-seconds"))
