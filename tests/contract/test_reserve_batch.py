"""The SQL authority equals the reference model: named traps first, then whatever hypothesis can think of."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashsale.authority import client
from flashsale.authority.batch import decide
from flashsale.backends.asyncio_redis.app import DECIDING_CALL_SECONDS, DECIDING_CONNECTIONS
from flashsale.backends.asyncio_redis.dispatch import DECIDE_SECONDS
from flashsale.contract.lifecycle import TRANSITIONS, State
from flashsale.contract.verdict import DECIDED, Verdict
from flashsale.contract.wire import Cart, Line, purchase_id
from tests.contract.shops import TwinShop
from tests.databases import Database, drop_database, make_database, patient
from tests.patience import PATIENCE_SECONDS
from tests.proxy import proxied

T = TypeVar("T")

HELD, SOLD_OUT, OVER_LIMIT = Verdict.HELD, Verdict.SOLD_OUT, Verdict.OVER_LIMIT


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


@pytest.fixture
async def shop(authority: client.Authority, owner: asyncpg.Connection) -> TwinShop:
    return TwinShop(authority, owner)


async def test_the_same_key_twice_in_one_batch_is_one_purchase(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 5})
    verdicts = await shop.reserve(shop.attempt("ana", "k1", {"a": 1}), shop.attempt("ana", "k1", {"a": 1}))
    assert verdicts == [HELD, Verdict.REPLAYED]


async def test_the_same_key_with_another_body_is_told_so(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 5})
    verdicts = await shop.reserve(shop.attempt("ana", "k1", {"a": 1}), shop.attempt("ana", "k1", {"a": 2}))
    assert verdicts == [HELD, Verdict.KEY_REUSED]
    assert await shop.reserve(shop.attempt("ana", "k1", {"a": 2})) == [Verdict.KEY_REUSED]


async def test_two_keys_at_the_limit(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 9}, buyer_limit=2)
    batch = [
        shop.attempt("ana", key, {"a": quantity}) for key, quantity in (("k1", 1), ("k2", 2), ("k3", 1), ("k4", 1))
    ]
    assert await shop.reserve(*batch) == [HELD, OVER_LIMIT, HELD, OVER_LIMIT]


async def test_mixed_quantities_against_little_stock(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 3}, buyer_limit=5)
    batch = [shop.attempt(buyer, "k", {"a": n}) for buyer, n in (("ana", 2), ("ben", 2), ("cyd", 1), ("dee", 1))]
    assert await shop.reserve(*batch) == [HELD, SOLD_OUT, HELD, SOLD_OUT]


async def test_a_loser_then_a_winner_on_one_key(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 1}, buyer_limit=5)
    batch = [shop.attempt("ana", "k", {"a": 2}), shop.attempt("ana", "k", {"a": 1}), shop.attempt("ana", "k", {"a": 2})]
    assert await shop.reserve(*batch) == [SOLD_OUT, HELD, Verdict.KEY_REUSED]


async def test_a_refusal_is_not_pinned(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 1})
    assert await shop.reserve(shop.attempt("ana", "k", {"a": 1}), shop.attempt("ben", "k", {"a": 1})) == [
        HELD,
        SOLD_OUT,
    ]
    await shop.cancel("ana", "k")
    assert await shop.reserve(shop.attempt("ben", "k", {"a": 1})) == [HELD]


async def test_a_cart_is_held_whole_or_not_at_all(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 5, "b": 1}, buyer_limit=9)
    batch = [
        shop.attempt("ana", "k", {"b": 1, "a": 2}),
        shop.attempt("ben", "k", {"a": 2, "b": 1}),
        shop.attempt("cyd", "k", {"a": 3}),
    ]
    assert await shop.reserve(*batch) == [HELD, SOLD_OUT, HELD]


async def test_replay_while_paused_ended_and_sold_out(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 1})
    assert await shop.reserve(shop.attempt("ana", "k", {"a": 1})) == [HELD]
    assert await shop.reserve(shop.attempt("ana", "k", {"a": 1}), shop.attempt("ben", "k", {"a": 1})) == [
        Verdict.REPLAYED,
        SOLD_OUT,
    ]
    for state in ("PAUSED", "ENDED"):
        await shop.change("s", state)
        verdicts = await shop.reserve(shop.attempt("ana", "k", {"a": 1}), shop.attempt("ben", "k", {"a": 1}))
        assert verdicts == [Verdict.REPLAYED, Verdict.SALE_NOT_OPEN]


async def test_a_lapsed_hold_frees_its_units_and_its_buyer_at_once(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 2}, buyer_limit=2)
    assert await shop.reserve(shop.attempt("ana", "k1", {"a": 2})) == [HELD]
    await shop.lapse("ana", "k1")
    verdicts = await shop.reserve(
        shop.attempt("ben", "k", {"a": 1}), shop.attempt("ana", "k2", {"a": 1}), shop.attempt("ana", "k1", {"a": 2})
    )
    assert verdicts == [HELD, HELD, Verdict.REPLAYED]


async def test_precedence_pairwise(shop: TwinShop) -> None:
    # each attempt breaks two neighbouring rules (and most break more); the first one in the table is heard
    await shop.add_sale("s", {"a": 1, "b": 1}, buyer_limit=1)
    await shop.add_sale("other", {"z": 5})
    await shop.add_sale("later", {"l": 0}, opens=datetime.now(UTC) + timedelta(days=1))
    await shop.add_sale("over", {"o": 5}, closes=datetime.now(UTC) - timedelta(days=1))
    await shop.reserve(shop.attempt("ana", "won", {"a": 1}))
    cases = [
        (shop.attempt("ana", "won", {"nothing": 1}), Verdict.KEY_REUSED),
        (shop.attempt("ana", "k", {"nothing": 1, "a": 1, "z": 1}), Verdict.UNKNOWN_SKU),
        (shop.attempt("ana", "k", {"l": 1, "a": 1}), Verdict.MIXED_SALES),
        (shop.attempt("ana", "k", {"l": 1}, late=True), Verdict.SALE_NOT_OPEN),
        (shop.attempt("ana", "k", {"o": 1}), Verdict.SALE_NOT_OPEN),
        (shop.attempt("ana", "k", {"a": 1}, late=True), Verdict.TOO_LATE),
        (shop.attempt("ana", "k", {"a": 1}), SOLD_OUT),
        (shop.attempt("ana", "k", {"b": 1}), OVER_LIMIT),
        (shop.attempt("ana", "won", {"a": 1}, late=True), Verdict.REPLAYED),
    ]
    assert await shop.reserve(*(attempt for attempt, _ in cases)) == [verdict for _, verdict in cases]


async def test_one_rid_is_decided_once(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 1})
    first = shop.attempt("ana", "k", {"a": 1}, rid="r")
    assert await shop.reserve(first) == [HELD]
    assert await shop.reserve(first, first) == [HELD, HELD]
    assert await shop.reserve(shop.attempt("ben", "k", {"a": 1}, rid="r")) == [Verdict.MALFORMED]
    lost = shop.attempt("ben", "k", {"a": 1}, rid="q")
    assert await shop.reserve(lost, lost) == [SOLD_OUT, SOLD_OUT]
    await shop.cancel("ana", "k")
    assert await shop.reserve(lost) == [SOLD_OUT]  # this attempt is over; a new one may win
    assert await shop.reserve(shop.attempt("ben", "k", {"a": 1})) == [HELD]


async def test_cancelling_twice_returns_once(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 2})
    await shop.reserve(shop.attempt("ana", "k", {"a": 1}))
    assert [await shop.cancel("ana", "k"), await shop.cancel("ana", "k")] == [None, None]
    assert await shop.cancel("ben", "k") is Verdict.UNKNOWN_PURCHASE
    await shop.reserve(shop.attempt("ben", "k", {"a": 1}))
    await shop.lapse("ben", "k")
    await shop.expire()
    assert await shop.cancel("ben", "k") is Verdict.TOO_LATE


async def test_one_rid_twice_in_one_batch_is_decided_once(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 1})
    first = shop.attempt("ana", "k", {"a": 1}, rid="r")
    other = shop.attempt("ben", "k", {"a": 1}, rid="r")
    assert await shop.reserve(first, first, other) == [HELD, HELD, Verdict.MALFORMED]


async def test_any_line_that_is_short_refuses_the_cart(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 1, "b": 1, "c": 1}, buyer_limit=9)
    for quantities in ((2, 1, 1), (1, 2, 1), (1, 1, 2)):
        lines = dict(zip("abc", quantities, strict=True))
        assert await shop.reserve(shop.attempt("ana", "k", lines)) == [SOLD_OUT]
    assert await shop.reserve(shop.attempt("ana", "k", {"a": 1, "b": 1, "c": 1})) == [HELD]


async def test_a_cancel_that_had_to_wait_sees_what_it_waited_for(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 1})
    await shop.reserve(shop.attempt("ana", "k", {"a": 1}))
    buyer = f"{shop.prefix}-ana"
    transaction = shop.owner.transaction()
    await transaction.start()
    await shop.owner.execute("UPDATE flash.purchase SET state = 'EXPIRED' WHERE buyer = $1", buyer)
    cancelling = asyncio.create_task(shop.authority.cancel(purchase_id(buyer, "k"), buyer))
    await until_somebody_waits(shop.owner, "cancel_purchase", call=cancelling)
    await transaction.commit()
    assert await cancelling is Verdict.TOO_LATE


async def test_ending_due_holds_never_waits(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 3})
    await shop.reserve(shop.attempt("ana", "k", {"a": 1}), shop.attempt("ben", "k", {"a": 1}))
    await shop.lapse("ana", "k")
    await shop.lapse("ben", "k")
    # ana's hold is in somebody's hands
    transaction = shop.owner.transaction()
    await transaction.start()
    await shop.owner.execute("SELECT FROM flash.purchase WHERE buyer = $1 FOR UPDATE", f"{shop.prefix}-ana")
    attempt = client.Attempt(uuid.uuid4(), purchase_id("cyd", "k"), "cyd", "k", Cart((Line(f"{shop.prefix}-a", 2),)))
    (decision,) = await shop.authority.reserve_batch([attempt])  # ben's unit and the one on the shelf
    assert decision.verdict is HELD
    assert (await shop.authority.expire_due(9)).ended == 0
    await transaction.commit()
    assert (await shop.authority.expire_due(9)).ended == 1


async def test_a_decision_waits_for_what_somebody_is_changing(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 2, "b": 2}, buyer_limit=2)
    await shop.reserve(shop.attempt("ana", "k1", {"a": 1}))
    ana, ben = f"{shop.prefix}-ana", f"{shop.prefix}-ben"
    for change, buyer, sku, verdict in (
        (f"UPDATE flash.quota SET active = 2 WHERE buyer = '{ana}'", ana, "b", OVER_LIMIT),
        (f"UPDATE flash.stock SET available = 0 WHERE sku = '{shop.prefix}-a'", ben, "a", SOLD_OUT),
    ):
        attempt = client.Attempt(
            uuid.uuid4(), purchase_id(buyer, "k2"), buyer, "k2", Cart((Line(f"{shop.prefix}-{sku}", 1),))
        )
        transaction = shop.owner.transaction()
        await transaction.start()
        await shop.owner.execute(change)
        deciding = asyncio.create_task(shop.authority.reserve_batch([attempt]))
        await until_somebody_waits(shop.owner, "reserve_batch", call=deciding)
        await transaction.commit()
        assert [decision.verdict for decision in await deciding] == [verdict]


async def test_who_waits_for_stock_holds_the_quota(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 2}, buyer_limit=2)
    await shop.reserve(shop.attempt("ana", "k1", {"a": 1}))
    ana = f"{shop.prefix}-ana"
    attempt = client.Attempt(uuid.uuid4(), purchase_id(ana, "k2"), ana, "k2", Cart((Line(f"{shop.prefix}-a", 1),)))
    transaction = shop.owner.transaction()
    await transaction.start()
    await shop.owner.execute("SELECT FROM flash.stock WHERE sku = $1 FOR NO KEY UPDATE", f"{shop.prefix}-a")
    deciding = asyncio.create_task(shop.authority.reserve_batch([attempt]))
    await until_somebody_waits(shop.owner, "reserve_batch", call=deciding)
    free = await shop.owner.fetch("SELECT FROM flash.quota WHERE buyer = $1 FOR NO KEY UPDATE SKIP LOCKED", ana)
    await transaction.rollback()
    assert not free
    assert [decision.verdict for decision in await deciding] == [HELD]


async def test_who_needs_nothing_waits_for_nobody(shop: TwinShop) -> None:
    # a replay, a decided attempt and carts that nobody can hold are answered while their stock and quota are in somebody's
    # hands; and so is a hold beside them, of another SKU
    await shop.add_sale("s", {"a": 9, "b": 9, "none": 0}, buyer_limit=9)
    await shop.add_sale("other", {"z": 9})
    decided = attempt_of(shop, "ben", "k1", "none")
    await shop.authority.reserve_batch([attempt_of(shop, "ana", "k1", "a"), decided])
    batch = [
        attempt_of(shop, "ana", "k1", "a"),
        decided,
        attempt_of(shop, "cyd", "k1", "a", "nothing"),
        attempt_of(shop, "cyd", "k2", "a", "z"),
        attempt_of(shop, "dee", "k1", "b"),
    ]
    transaction = shop.owner.transaction()
    await transaction.start()
    await shop.owner.execute("SELECT FROM flash.stock WHERE sku <> $1 FOR UPDATE", f"{shop.prefix}-b")
    await shop.owner.execute("SELECT FROM flash.quota WHERE starts_with(buyer, $1) FOR UPDATE", shop.prefix)
    decisions = await shop.authority.reserve_batch(batch)
    await transaction.rollback()
    verdicts = [Verdict.REPLAYED, SOLD_OUT, Verdict.UNKNOWN_SKU, Verdict.MIXED_SALES, HELD]
    assert [decision.verdict for decision in decisions] == verdicts
    await shop.authority.reserve_batch([attempt_of(shop, "cyd", "k3", "a")])
    assert await shop.owner.fetchval("SELECT active FROM flash.quota WHERE buyer = $1", f"{shop.prefix}-cyd") == 1


async def test_one_batch_at_a_time_decides_a_purchase(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 9}, buyer_limit=9)
    attempts = [attempt_of(shop, "ana", "k", "a") for _ in range(2)]
    assert await decided_at_once(shop, attempts) == [HELD, Verdict.REPLAYED]


async def test_one_batch_at_a_time_decides_an_attempt(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 9}, buyer_limit=9)
    first = attempt_of(shop, "ana", "k", "a")
    second = attempt_of(shop, "ben", "k", "a")._replace(rid=first.rid)
    assert await decided_at_once(shop, [first, second]) == [HELD, Verdict.MALFORMED]


async def decided_at_once(shop: TwinShop, attempts: list[client.Attempt]) -> list[Verdict | None]:
    """The verdicts of two attempts, the second of which comes while the first is being decided."""
    transaction = shop.owner.transaction()
    await transaction.start()
    await shop.owner.execute("SELECT FROM flash.stock WHERE sku = $1 FOR UPDATE", f"{shop.prefix}-a")
    first = asyncio.create_task(persist(lambda: shop.authority.reserve_batch(attempts[:1])))
    await until_somebody_waits(shop.owner, "reserve_batch", call=first)
    second = asyncio.create_task(persist(lambda: shop.authority.reserve_batch(attempts[1:])))
    await until_somebody_waits(shop.owner, "reserve_batch", 2, call=second)
    await transaction.rollback()
    return [(await first)[0].verdict, (await second)[0].verdict]


async def test_who_gives_an_attempt_up_waits_for_whoever_decides_it(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 9}, buyer_limit=9)
    attempt = attempt_of(shop, "ana", "k", "a")
    transaction = shop.owner.transaction()
    await transaction.start()
    await shop.owner.execute("SELECT FROM flash.stock WHERE sku = $1 FOR UPDATE", f"{shop.prefix}-a")
    deciding = asyncio.create_task(persist(lambda: shop.authority.reserve_batch([attempt])))
    await until_somebody_waits(shop.owner, "reserve_batch", call=deciding)
    pair = (attempt.rid, attempt.purchase)
    giving_up = asyncio.create_task(persist(lambda: shop.authority.void_attempts([pair])))
    waits = asyncio.create_task(until_somebody_waits(shop.owner, "void_attempts"))
    await asyncio.wait({giving_up, waits}, return_when=asyncio.FIRST_COMPLETED)
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)  # it asks by the connection that rolls back
    await transaction.rollback()
    assert [decision.verdict for decision in await deciding] == [HELD]
    assert await giving_up == {attempt.rid: "held"}


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """Make the call again while it stands behind a lock for longer than a shopper would wait."""
    while True:
        try:
            return await call()
        except client.AuthorityUnavailable:
            await asyncio.sleep(0.01)


def attempt_of(shop: TwinShop, buyer: str, key: str, *skus: str) -> client.Attempt:
    """One unit of each SKU, under this shop's own names; unknown to the model."""
    own = f"{shop.prefix}-{buyer}"
    cart = Cart(tuple(Line(f"{shop.prefix}-{sku}", 1) for sku in skus))
    return client.Attempt(uuid.uuid4(), purchase_id(own, key), own, key, cart)


async def until_somebody_waits(
    connection: asyncpg.Connection, statement: str, callers: int = 1, *, call: asyncio.Future[Any] | None = None
) -> None:
    """Return once ``callers`` of ``statement`` in this database wait for a lock. Fails if ``call`` ends without having waited."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while callers > await connection.fetchval(
            """SELECT count(*) FROM (SELECT pg_stat_clear_snapshot() OFFSET 0) fresh CROSS JOIN pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock' AND strpos(query, $1) > 0""",
            statement,
        ):
            assert call is None or not call.done(), "nobody waited"
            await asyncio.sleep(0.005)
            await connection.execute("SELECT pg_stat_clear_snapshot()")  # or a transaction sees its first look for ever


# Who waits for the first row of a kind must hold no later one, in whatever order its attempts came. Each case: what somebody
# else holds, and what must be free meanwhile. Attempts of ben and sku b arrive first, those of ana and sku a last.
LOCK_ORDER = {
    "purchases are claimed in order": (
        "SELECT pg_advisory_xact_lock(least(uuid_hash_extended({ana_id}, 0), uuid_hash_extended({ben_id}, 0)))",
        "SELECT pg_advisory_xact_lock(greatest(uuid_hash_extended({ana_id}, 0), uuid_hash_extended({ben_id}, 0)))",
    ),
    "quotas are made in order": (
        "INSERT INTO flash.quota VALUES ({sale}, {ana}, 0)",
        "INSERT INTO flash.quota VALUES ({sale}, {ben}, 0)",
    ),
    "quotas are locked in order": (
        "SELECT FROM flash.quota WHERE buyer = {old_ana} FOR NO KEY UPDATE",
        "SELECT FROM flash.quota WHERE buyer = {old_ben} FOR NO KEY UPDATE",
    ),
    "stock is locked in order": (
        "SELECT FROM flash.stock WHERE sku = {a} FOR NO KEY UPDATE",
        "SELECT FROM flash.stock WHERE sku = {b} FOR NO KEY UPDATE",
    ),
}


async def check_lock_order(shop: TwinShop, owner_url: str, case: str) -> None:
    await shop.add_sale("s", {"a": 9, "b": 9}, buyer_limit=9)
    await shop.reserve(shop.attempt("old-ana", "k1", {"a": 1}), shop.attempt("old-ben", "k1", {"b": 1}))
    old = "old-" if case == "quotas are locked in order" else ""
    # the batch comes in descending order of what is locked, so that arrival order is never lock order
    batch = sorted(
        (
            client.Attempt(uuid.uuid4(), purchase_id(own, "k2"), own, "k2", Cart((Line(f"{shop.prefix}-{sku}", 1),)))
            for own, sku in ((f"{shop.prefix}-{old}ben", "b"), (f"{shop.prefix}-{old}ana", "a"))
        ),
        key=lambda attempt: attempt.buyer,
        reverse=True,
    )
    if "claimed" in case and await claim_of(shop, batch[0]) < await claim_of(shop, batch[1]):
        batch.reverse()
    ana, ben = sorted(batch, key=lambda attempt: attempt.buyer)
    names = {
        "ana_id": f"'{ana.purchase}'::uuid",
        "ben_id": f"'{ben.purchase}'::uuid",
        **{
            name: f"'{shop.prefix}-{name.replace('_', '-')}'" for name in ("ana", "ben", "old_ana", "old_ben", "a", "b")
        },
        "sale": f"'{shop.prefix}-s'",
    }
    taken, free = (statement.format(**names) for statement in LOCK_ORDER[case])
    other = await asyncpg.connect(owner_url)
    try:
        transaction = shop.owner.transaction()
        await transaction.start()
        await shop.owner.execute(taken)
        deciding = asyncio.create_task(shop.authority.reserve_batch(batch))
        await until_somebody_waits(other, "reserve_batch", call=deciding)
        await other.execute("SET lock_timeout = '50ms'")
        probe = other.transaction()
        await probe.start()
        await other.execute(free)  # LockNotAvailableError: the batch took a later row before an earlier one
        await probe.rollback()
        await transaction.rollback()
        assert [decision.verdict for decision in await deciding] == [HELD, HELD]
    finally:
        await other.close()


async def claim_of(shop: TwinShop, attempt: client.Attempt) -> int:
    return int(await shop.owner.fetchval("SELECT uuid_hash_extended($1, 0)", attempt.purchase))


@pytest.mark.parametrize("case", LOCK_ORDER)
async def test_rows_are_locked_in_one_order(shop: TwinShop, database: Database, case: str) -> None:
    await check_lock_order(shop, database.owner_url, case)


async def test_a_voided_attempt_is_never_decided(shop: TwinShop) -> None:
    authority = shop.authority
    await shop.add_sale("s", {"a": 1})
    cart = Cart((Line(f"{shop.prefix}-a", 1),))
    attempt = client.Attempt(uuid.uuid4(), purchase_id("ana", "k"), "ana", "k", cart)
    assert await authority.void_attempts([(attempt.rid, attempt.purchase)]) == {attempt.rid: "void"}
    assert await authority.reserve_batch([attempt]) == [client.Decision(None)]
    again = attempt._replace(rid=uuid.uuid4())
    (decision,) = await authority.reserve_batch([again])
    assert decision.verdict is HELD
    assert await authority.void_attempts([(again.rid, again.purchase)]) == {again.rid: "held"}


async def test_a_poisoned_attempt_does_not_fail_its_neighbours(authority: client.Authority, shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 9})
    sku = f"{shop.prefix}-a"
    good = [
        client.Attempt(uuid.uuid4(), purchase_id(b, "k"), b, "k", Cart((Line(sku, 1),))) for b in ("ana", "ben", "cyd")
    ]
    twice = good[1]._replace(cart=Cart((Line(sku, 1), Line(sku, 1))))  # breaks line's primary key
    huge = good[2]._replace(cart=Cart((Line(sku, 2**40),)), rid=uuid.uuid4())  # does not even fit the parameter
    decisions = await decide(authority, [good[0], twice, huge, good[2]], 5)
    assert [decision.verdict for decision in decisions] == [HELD, Verdict.MALFORMED, Verdict.MALFORMED, HELD]


async def test_a_purchase_id_that_is_not_of_its_buyer_and_key_decides_nothing(shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 9})
    cart = Cart((Line(f"{shop.prefix}-a", 1),))
    first = client.Attempt(uuid.uuid4(), purchase_id("ana", "k"), "ana", "k", cart)
    assert [d.verdict for d in await shop.authority.reserve_batch([first])] == [HELD]
    with pytest.raises(client.BadBatch):
        await shop.authority.reserve_batch([first._replace(rid=uuid.uuid4(), purchase=uuid.uuid4())])
    assert (await shop.authority.read_stock(f"{shop.prefix}-a") or pytest.fail("gone")).available == 8


async def test_a_batch_run_again_after_a_lost_reply_is_exact(authority: client.Authority, shop: TwinShop) -> None:
    await shop.add_sale("s", {"a": 2})
    batch = [
        client.Attempt(uuid.uuid4(), purchase_id(b, "k"), b, "k", Cart((Line(f"{shop.prefix}-a", 1),)), 7)
        for b in ("ana", "ben", "cyd")
    ]
    first = await authority.reserve_batch(batch)
    again = await authority.reserve_batch(batch)
    assert [d.verdict for d in again] == [d.verdict for d in first] == [HELD, HELD, SOLD_OUT]
    assert [d.purchase for d in again] == [d.purchase for d in first]
    assert (await authority.read_stock(f"{shop.prefix}-a") or pytest.fail("gone")).seq == 3


async def test_a_batch_whose_answer_is_swallowed_is_run_again_in_time(database: Database, shop: TwinShop) -> None:
    assert DECIDING_CALL_SECONDS <= DECIDE_SECONDS * 2 / 3, (
        "then there is time; how long a machine takes is not asked here"
    )
    await shop.add_sale("s", {"a": 5})
    async with proxied(database.app_url) as proxy:
        deciding = await client.Authority.connect(
            proxy.lead(database.app_url), DECIDING_CONNECTIONS, DECIDING_CALL_SECONDS
        )
        cart = Cart((Line(f"{shop.prefix}-a", 1),))
        attempt = client.Attempt(uuid.uuid4(), purchase_id("ana", "k"), "ana", "k", cart)
        # the driver prepares a statement once per connection, and only then sends it without waiting
        first = attempt._replace(rid=uuid.uuid4(), purchase=purchase_id("ben", "k"), buyer="ben")
        await persist(lambda: deciding.reserve_batch([first]))
        proxy.swallows_replies = True
        decided = asyncio.create_task(decide(deciding, [attempt], PATIENCE_SECONDS))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await shop.authority.read_purchase(attempt.purchase, "ana") is None:
                await asyncio.sleep(0.01)
        proxy.swallows_replies = False  # the answer is gone; the connection stands
        assert [decision.verdict for decision in await decided] == [HELD]
        await deciding.close()
    assert (await shop.authority.read_stock(f"{shop.prefix}-a") or pytest.fail("gone")).available == 3


async def test_only_read_committed_is_served(database: Database) -> None:
    connection = await asyncpg.connect(database.app_url, server_settings={"search_path": "flash"})
    try:
        with pytest.raises(asyncpg.RaiseError, match="READ COMMITTED"):
            async with connection.transaction(isolation="repeatable_read"):
                await connection.fetch(
                    "SELECT * FROM reserve_batch($1::uuid[], $1, '{ana}', '{k}', '{x}', '{null}', '{null}', '{1}', '{a}', '{1}')",
                    [uuid.uuid4()],
                )
    finally:
        await connection.close()


async def test_the_lifecycle_in_the_database_is_the_contract_s(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch("SELECT state, event, next, units FROM flash.lifecycle")
    table = {(s.value, e.value): (m.state.value, m.units) for s, moves in TRANSITIONS.items() for e, m in moves.items()}
    assert {(row["state"], row["event"]): (row["next"], row["units"]) for row in rows} == table
    check = await owner.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'purchase_state_check'"
    )
    assert all(f"'{state}'" in check for state in State)
    assert check.count("::text") == len(State)


async def test_every_verdict_of_the_sql_is_the_contract_s(owner: asyncpg.Connection) -> None:
    source = await owner.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'reserve_batch'")
    named = {verdict for verdict in Verdict if f"'{verdict}'" in source}
    assert named == DECIDED


@pytest.mark.parametrize(
    "table", ["stock", "ledger", "purchase", "line", "quota", "attempt", "sale", "item", "outbox", "operation"]
)
@pytest.mark.parametrize("role", ["app_url", "auditor_url", "operator_url"])
async def test_nobody_but_the_functions_writes(database: Database, table: str, role: str) -> None:
    connection = await asyncpg.connect(getattr(database, role))
    try:
        await connection.fetch(f"SELECT * FROM flash.{table}")
        for statement in (
            f"DELETE FROM flash.{table}",
            f"TRUNCATE flash.{table}",
            f"INSERT INTO flash.{table} DEFAULT VALUES",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        if role != "app_url":
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("SELECT flash.expire_due(1)")
        for internal in ("flash.return_units('{}', 'x', now())", "flash.move_purchases('{}', 'cancel', now())"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SELECT {internal}")
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("corruption", "constraint"),
    [
        ("UPDATE flash.stock SET available = -1", "stock_available_check"),
        ("UPDATE flash.stock SET available = total + 1", "stock_check"),
        ("UPDATE flash.quota SET active = -1", "quota_active_check"),
        (
            """INSERT INTO flash.ledger SELECT sku, seq + 100, kind, reason, delta, purchase_id, generation, epoch, at
               FROM flash.ledger WHERE kind = 'hold'""",
            "ledger_purchase_id_sku_kind_generation_key",
        ),
        ("UPDATE flash.ledger SET delta = 1 WHERE kind = 'hold'", "ledger_check"),
        ("UPDATE flash.ledger SET purchase_id = NULL WHERE kind = 'hold'", "ledger_check1"),
        ("UPDATE flash.purchase SET state = 'SOLD'", "purchase_state_check"),
        ("UPDATE flash.purchase SET key = 'k1'", "purchase_buyer_key_key"),
    ],
)
async def test_the_second_guard_holds_even_against_the_owner(
    shop: TwinShop, owner: asyncpg.Connection, corruption: str, constraint: str
) -> None:
    await shop.add_sale("s", {"a": 5})
    await shop.reserve(shop.attempt("ana", "k1", {"a": 1}), shop.attempt("ana", "k2", {"a": 1}))
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
        await owner.execute(corruption)
    assert caught.value.constraint_name == constraint


BUYERS, KEYS, SKUS = ["ana", "ben", "cyd"], ["k1", "k2", "k3"], ["a", "b", "z", "nothing"]
carts = st.dictionaries(st.sampled_from(SKUS), st.integers(1, 3), min_size=1, max_size=2)
one_attempt = st.tuples(
    st.sampled_from(BUYERS),
    st.sampled_from(KEYS),
    carts,
    st.sampled_from(["", "", "", "r1", "r2"]),
    st.sampled_from([False, False, False, True]),
)
steps = st.one_of(
    st.lists(one_attempt, min_size=1, max_size=8),
    st.tuples(st.just("cancel"), st.sampled_from(BUYERS), st.sampled_from(KEYS)),
    st.tuples(st.just("lapse"), st.sampled_from(BUYERS), st.sampled_from(KEYS)),
    st.tuples(st.just("restock"), st.sampled_from(["a", "b", "z"]), st.integers(1, 2)),
    st.tuples(st.just("change"), st.sampled_from(["s", "other"]), st.sampled_from(["PAUSED", "OPEN"])),
    st.tuples(st.just("expire")),
)


def test_random_histories_equal_the_model(template: str) -> None:
    loop = asyncio.new_event_loop()
    database = loop.run_until_complete(make_database(template))
    authority = loop.run_until_complete(patient(database, 1))
    owner = loop.run_until_complete(asyncpg.connect(database.owner_url))

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(steps, min_size=1, max_size=8), st.integers(0, 4), st.integers(1, 4))
    def check(
        history: list[list[tuple[str, str, dict[str, int], str, bool]] | tuple[str, ...]], units: int, limit: int
    ) -> None:
        loop.run_until_complete(run(TwinShop(authority, owner), history, units, limit))

    try:
        check()
    finally:
        loop.run_until_complete(authority.close())
        loop.run_until_complete(owner.close())
        loop.run_until_complete(drop_database(database))
        loop.close()


async def run(
    shop: TwinShop,
    history: list[list[tuple[str, str, dict[str, int], str, bool]] | tuple[str, ...]],
    units: int,
    limit: int,
) -> None:
    await shop.add_sale("s", {"a": units, "b": 2}, buyer_limit=limit)
    await shop.add_sale("other", {"z": 1})
    for step in history:
        if isinstance(step, list):
            await shop.reserve(*(shop.attempt(b, k, cart, rid=rid, late=late) for b, k, cart, rid, late in step))
        else:
            await getattr(shop, step[0])(*step[1:])
