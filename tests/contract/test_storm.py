"""Everybody at once on few rows: no deadlock, and the books are right afterwards.

`./flash test tests/contract/test_storm.py --storm-seconds 120` is the long form.
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from flashsale.authority.client import Attempt, Authority, Told
from flashsale.contract.wire import Cart, Line, purchase_id
from tests.databases import Database, patient
from tests.patience import PATIENCE_SECONDS

SKUS = ["a", "b", "c", "d"]
BUYERS = [f"buyer{number}" for number in range(40)]
BATCH = 32
BATCHERS, CANCELLERS = 3, 2
DUEL_ROUNDS, DUELLISTS = 120, 32
DUEL_SKUS = [f"sku{number}" for number in range(50)]
STOCK = 30  # per SKU; the buyers' limits together ask for eight times as much
WEATHER = ("held", "sold_out", "over_limit", "sale_not_open", "cancelled", "expired", "pauses", "restocks")
ENDED = 40  # holds that everybody wants to end at once
CALM_S = PATIENCE_SECONDS  # a storm on a slow machine may rage this much longer until it has seen all of WEATHER
KINDS = ("new purchases", "new quotas", "old quotas", "stock")  # which rows both want


class Storm:
    """Actors that share four rows of stock; each returns after one round of what it does."""

    def __init__(self, authority: Authority, seed: int) -> None:
        self.authority = authority
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()

    async def batch(self) -> None:
        """Carts of one to three SKUs in any order, with many keys twice; every batch sees lapsed holds."""
        decisions = await self.authority.reserve_batch([self._attempt() for _ in range(BATCH)])
        self.done.update(str(decision.verdict) for decision in decisions)

    async def cancel(self) -> None:
        """A hold somebody has, or had."""
        rows = await self.authority.pool.fetch("SELECT id, buyer FROM purchase ORDER BY random() LIMIT 8")
        for row in rows:
            refused = await self.authority.cancel(row["id"], row["buyer"])
            self.done["cancel refused" if refused else "cancelled"] += 1

    async def sweep(self) -> None:
        """Two of these run beside the batches' own ending of due holds."""
        expired = await self.authority.expire_due(64)
        self.done["expired"] += expired.ended
        await asyncio.sleep(0.01)

    async def pause(self) -> None:
        """Closed for a moment, then open again; the gate keeper's epoch moves too."""
        await self.authority.change_sale("s", state="PAUSED")
        await self.authority.raise_epoch("s", 0)
        await self.authority.change_sale("s", state="OPEN")
        self.done["pauses"] += 1
        await asyncio.sleep(0.02)

    async def restock(self) -> None:
        """Keeps the shelves from being empty for good, and never fills them: a storm must sell out as well."""
        if empty := await self.authority.pool.fetchval(
            "SELECT sku FROM stock WHERE available = 0 ORDER BY random() LIMIT 1"
        ):
            await self.authority.restock(empty, 3)
            self.done["restocks"] += 1
        await asyncio.sleep(0.02)

    def _attempt(self) -> Attempt:
        buyer = self.random.choice(BUYERS)
        key = f"key{self.random.randrange(400)}"
        skus = self.random.sample(SKUS, self.random.randint(1, 3))
        cart = Cart(tuple(Line(sku, self.random.randint(1, 2)) for sku in skus))
        return Attempt(uuid.uuid4(), purchase_id(buyer, key), buyer, key, cart)


@pytest.mark.timeout(3600)  # as long as --storm-seconds asks; the storm itself ends by the clock
async def test_no_deadlock_in_a_storm(database: Database, storm_seconds: float) -> None:
    seen = await storm(database, storm_seconds)
    for happened in WEATHER:
        assert seen[happened], f"the storm never saw {happened}: {seen}"


async def storm(database: Database, seconds: float) -> Counter[str]:
    """Let it rage; what happened how often. Raises on the first deadlock or other failure, and on wrong books."""
    authority = await patient(database, size=BATCHERS + CANCELLERS + 6)
    now = datetime.now(UTC)
    await authority.create_sale(
        "s",
        merchant="m",
        name="s",
        opens=now - timedelta(1),
        closes=now + timedelta(1),
        buyer_limit=6,
        hold_seconds=1,
        currency="EUR",
    )
    for sku in SKUS:
        await authority.add_item("s", sku, sku, 100, STOCK)
    actors = Storm(authority, seed=1)
    start = time.monotonic()

    def rages() -> bool:
        """What comes up depends on the machine's speed, so a storm that has not seen everything goes on."""
        lasted = time.monotonic() - start
        return lasted < seconds or (lasted < seconds + CALM_S and not all(actors.done[it] for it in WEATHER))

    async def repeat(act: Callable[[], Awaitable[None]]) -> None:
        while rages():
            await act()  # AuthorityUnavailable, which a deadlock is (40P01), fails the test

    async with asyncio.TaskGroup() as group:
        for act, count in (
            (actors.batch, BATCHERS),
            (actors.cancel, CANCELLERS),
            (actors.sweep, 2),
            (actors.pause, 1),
            (actors.restock, 2),
        ):
            for _ in range(count):
                group.create_task(repeat(act))

    owner = await asyncpg.connect(database.owner_url)
    try:
        assert await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
        await books_are_right(owner)
    finally:
        await owner.close()
        await authority.close()
    return actors.done


async def duel(database: Database, rounds: int, kinds: Sequence[str] = KINDS) -> None:
    """Two connections, each round carts that want the same rows in opposite orders: whoever locks in order of arrival
    deadlocks. Raises on the first failure, and on wrong books.
    """
    authority = await patient(database, size=2)
    now = datetime.now(UTC)
    await authority.create_sale(
        "s",
        merchant="m",
        name="s",
        opens=now - timedelta(1),
        closes=now + timedelta(1),
        buyer_limit=2,
        hold_seconds=600,
        currency="EUR",
    )
    for sku in DUEL_SKUS:
        await authority.add_item("s", sku, sku, 100, 100_000)
    try:
        for number in range(rounds):
            kind = kinds[number % len(kinds)]
            mine = [f"duellist-{0 if kind == 'old quotas' else number}-{n}" for n in range(DUELLISTS)]
            theirs = [f"{buyer}-other" for buyer in mine] if kind == "stock" else mine
            first = [duellist(buyer, f"k{number}", DUEL_SKUS[n % len(DUEL_SKUS)]) for n, buyer in enumerate(mine)]
            key = f"k{number}" if kind == "new purchases" else f"l{number}"
            opponents = [duellist(buyer, key, DUEL_SKUS[n % len(DUEL_SKUS)]) for n, buyer in enumerate(theirs)][::-1]
            await asyncio.gather(authority.reserve_batch(first), authority.reserve_batch(opponents))
        owner = await asyncpg.connect(database.owner_url)
        try:
            await books_are_right(owner)
        finally:
            await owner.close()
    finally:
        await authority.close()


def duellist(buyer: str, key: str, sku: str) -> Attempt:
    return Attempt(uuid.uuid4(), purchase_id(buyer, key), buyer, key, Cart((Line(sku, 1),)))


async def test_carts_in_opposite_orders_do_not_deadlock(database: Database) -> None:
    await duel(database, DUEL_ROUNDS)


async def test_a_hold_that_everybody_ends_at_once_returns_its_units_once(database: Database) -> None:
    # due holds, of which some are being paid: sweepers, batches, cancels, outcomes and void timers all want to end them
    authority = await patient(database, size=12)
    owner = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    now = datetime.now(UTC)
    await authority.create_sale(
        "s", merchant="m", name="s", opens=now - timedelta(1), closes=now + timedelta(1), buyer_limit=9, hold_seconds=60, currency="EUR",
    )  # fmt: skip
    for sku in SKUS:
        await authority.add_item("s", sku, sku, 100, STOCK)
    try:
        holds = [duellist(f"b{number}", "k", SKUS[number % len(SKUS)]) for number in range(ENDED)]
        await authority.reserve_batch(holds)
        paying = holds[::2]
        for hold in paying:
            await authority.start_payment(hold.purchase, hold.buyer, "pay", "card")
        await owner.execute("UPDATE payment SET sent_at = now() - interval '1 hour'")
        await owner.execute("UPDATE purchase SET deadline = now() - interval '1 second'")
        outcomes = [Told(hold.purchase, 1, word, 100, "EUR") for hold in paying for word in ("declined", "voided")]
        await asyncio.gather(
            *(authority.expire_due(8) for _ in range(8)),
            *(authority.reserve_batch([duellist("late", f"k{number}", sku)]) for number, sku in enumerate(SKUS)),
            *(authority.cancel(hold.purchase, hold.buyer) for hold in holds),
            *(authority.expire_payments(8, timedelta(0), timedelta(days=1)) for _ in range(8)),
            *(authority.settle_payment(told) for told in outcomes),
        )
        for _ in range(2):  # whatever was in somebody's hands meanwhile
            await authority.expire_due(ENDED)
            await authority.expire_payments(ENDED, timedelta(0), timedelta(days=1))
        returned = await owner.fetch(
            "SELECT purchase_id, sum(delta) AS units, count(*) FROM ledger WHERE kind = 'return' GROUP BY 1"
        )
        assert {row["purchase_id"]: (row["units"], row["count"]) for row in returned} == {
            h.purchase: (1, 1) for h in holds
        }
        assert await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
        await books_are_right(owner)
    finally:
        await owner.close()
        await authority.close()


async def books_are_right(owner: asyncpg.Connection) -> None:
    """Conservation, ledger and quota, by queries that share nothing with the functions under test."""
    stock = await owner.fetch(
        """SELECT k.sku, k.available, k.total, k.seq, l.fold, l.rows, l.lowest, h.units FROM flash.stock k
           CROSS JOIN LATERAL (SELECT sum(delta) AS fold, count(*) AS rows, min(fold) AS lowest FROM (
               SELECT delta, sum(delta) OVER (ORDER BY seq) AS fold FROM flash.ledger WHERE sku = k.sku) f) l
           CROSS JOIN LATERAL (SELECT coalesce(sum(quantity), 0) AS units FROM flash.line JOIN flash.purchase p ON p.id = purchase_id
               WHERE sku = k.sku AND p.state = 'HELD') h""",
    )
    for row in stock:
        assert row["available"] == row["fold"] == row["total"] - row["units"], row
        assert row["seq"] == row["rows"], row
        assert row["lowest"] >= 0, row
    assert not await owner.fetch(
        """SELECT buyer FROM flash.quota q WHERE active <> (SELECT coalesce(sum(quantity), 0) FROM flash.line
           JOIN flash.purchase p ON p.id = purchase_id WHERE p.sale_id = q.sale_id AND p.buyer = q.buyer AND p.state = 'HELD')""",
    )
    # after the ledger says paused, no hold until it says open
    assert not await owner.fetch(
        """SELECT h.sku, h.seq FROM flash.ledger h WHERE h.kind = 'hold' AND 'paused' = (
               SELECT reason FROM flash.ledger s WHERE s.sku = h.sku AND s.kind = 'sale' AND s.seq < h.seq ORDER BY s.seq DESC LIMIT 1)""",
    )


@pytest.fixture
def storm_seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--storm-seconds"))
