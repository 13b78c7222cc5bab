"""What each function of the authority leaves alone, and what it asks before it acts: small scenes for single predicates."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from flashsale.authority.client import Attempt, Authority, BadBatch
from flashsale.contract.lifecycle import TRANSITIONS, Event, State
from flashsale.contract.model import PAYMENT_MOVES, Payment, next_step
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Cart, Line, purchase_id
from tests.contract.test_payments import AT_ONCE, NEVER, PRICE, PayingShop
from tests.databases import Database

HELD = Verdict.HELD
HOUR = timedelta(hours=1)


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    yield connection
    await connection.close()


@pytest.fixture
async def shop(authority: Authority, owner: asyncpg.Connection) -> PayingShop:
    """Two sales; ana, ben and zed have bought in both."""
    made = PayingShop(authority, owner)
    await made.add_sale("s", {"a": 9, "b": 9}, buyer_limit=4)
    await made.add_sale("other", {"y": 9, "z": 9}, buyer_limit=4)
    await made.reserve(*(made.attempt(who, f"{sku}1", {sku: 1}) for who in ("ana", "ben", "zed") for sku in "abz"))
    return made


async def terms(owner: asyncpg.Connection, sale: str) -> list[asyncpg.Record]:
    return await owner.fetch(
        """SELECT s.*, k.* FROM sale s JOIN stock k ON k.sale_id = s.id WHERE s.id = $1 ORDER BY k.sku""", sale
    )


async def standing(owner: asyncpg.Connection, *purchases: uuid.UUID) -> list[asyncpg.Record]:
    return await owner.fetch("SELECT * FROM payment WHERE purchase_id = ANY ($1) ORDER BY purchase_id, try", purchases)


# --- purchases


@pytest.mark.parametrize("state", State)
async def test_a_purchase_moves_by_the_table_alone(shop: PayingShop, owner: asyncpg.Connection, state: State) -> None:
    one, two, alone = (shop.id(who, "a1") for who in ("ana", "ben", "zed"))
    for event in Event:
        await owner.execute("UPDATE purchase SET state = $2, version = 1 WHERE id = ANY ($1)", [one, two, alone], state)
        moved = await owner.fetchval("SELECT move_purchases($1, $2, now())", [two, one], event)
        move = TRANSITIONS[state].get(event)
        is_moved = move is not None and move.state is not state
        assert moved == ([two, one] if is_moved else []), event
        states = await owner.fetch(
            "SELECT state, version FROM purchase WHERE id = ANY ($1) ORDER BY id = $2", [one, alone], alone
        )
        after = move.state if move else state
        assert [tuple(row) for row in states] == [(after, 1 + is_moved), (state, 1)], event


async def test_a_cancel_is_of_this_purchase_and_by_its_buyer(shop: PayingShop) -> None:
    await shop.reserve(*(shop.attempt("ana", key, {"a": 1}) for key in ("k1", "k2")))
    ana, ben = shop._own("ana"), shop._own("ben")
    assert await shop.authority.cancel(shop.id("ana", "k2"), ben) is Verdict.UNKNOWN_PURCHASE
    assert await shop.authority.start_payment(shop.id("ana", "k2"), ben, "p", "card") is Verdict.UNKNOWN_PURCHASE
    assert await shop.authority.start_payment(uuid.uuid4(), ana, "p", "card") is Verdict.UNKNOWN_PURCHASE
    for over in ("a1", "k2"):  # an older one than the next, and a younger one
        await shop.lapse("ana", over)
        await shop.expire()
        assert await shop.cancel("ana", over) is Verdict.TOO_LATE
        await shop.cancel("ana", "b1")
        assert await shop.pay("ana", over) is Verdict.TOO_LATE
    assert await shop.pay("ana", "k1") is None


async def test_the_next_deadline_is_of_a_hold(shop: PayingShop, owner: asyncpg.Connection) -> None:
    soon = await owner.fetchval("SELECT now() + interval '1 hour'")
    later = soon + HOUR
    await owner.execute("UPDATE purchase SET deadline = $1", later)
    await owner.execute(
        "UPDATE purchase SET deadline = $2, state = 'AUTHORIZED' WHERE id = $1", shop.id("ana", "a1"), soon
    )
    assert await shop.authority.expire_due(9) == (0, later)
    await owner.execute("UPDATE purchase SET state = 'PAID'")
    assert await shop.authority.expire_due(9) == (0, None)


async def test_a_document_shows_its_own_lines_and_tries(shop: PayingShop) -> None:
    for who in ("ana", "ben"):
        await shop.pay(who, "a1")
    await shop.settle("ben", "a1", 1, "declined")
    found = await shop.authority.read_purchase(shop.id("ana", "a1"), shop._own("ana"))
    assert found is not None
    assert [line.sku for line in found.lines] == [shop._own("a")]
    assert found.payments == [{"try": 1, "method": "card", "state": "ASKED"}]


# --- reserve_batch


async def test_only_read_committed_is_served(shop: PayingShop) -> None:
    async with shop.authority.pool.acquire() as connection:
        with pytest.raises(asyncpg.RaiseError, match="READ COMMITTED"):
            async with connection.transaction(isolation="repeatable_read"):
                await connection.fetch(
                    "SELECT * FROM reserve_batch($1::uuid[], $1, '{ana}', '{k}', '{x}', '{null}', '{null}', '{1}', '{a}', '{1}')",
                    [uuid.uuid4()],
                )


async def test_due_holds_of_the_buyer_end_on_any_item_and_those_of_others_on_the_wanted_ones(shop: PayingShop) -> None:
    for who in ("ana", "ben", "zed"):
        await shop.lapse(who, "b1")
    await shop.lapse("zed", "a1")
    assert await shop.reserve(shop.attempt("ana", "k", {"a": 3})) == [HELD]  # her limit is 4, with one lapsed elsewhere
    states = [
        shop.model.purchases[shop._own(who), key].state for who, key in (("ana", "b1"), ("zed", "a1"), ("ben", "b1"))
    ]
    assert states == [State.EXPIRED, State.EXPIRED, State.HELD]


async def test_a_sale_that_has_closed_or_not_opened_sells_nothing(shop: PayingShop) -> None:
    now = datetime.now(UTC)
    for name, opens, closes in (("over", now - 2 * HOUR, now - HOUR), ("early", now + HOUR, now + 2 * HOUR)):
        sale, sku = shop._own(name), shop._own(f"of-{name}")
        await shop.authority.create_sale(
            sale, merchant="m", name=name, opens=opens, closes=closes, buyer_limit=1, hold_seconds=60, currency="EUR"
        )
        await shop.authority.add_item(sale, sku, name, PRICE, 1)
        attempt = Attempt(uuid.uuid4(), purchase_id("ana", "k"), "ana", "k", Cart((Line(sku, 1),)))
        (decision,) = await shop.authority.reserve_batch([attempt])
        assert decision.verdict is Verdict.SALE_NOT_OPEN


async def test_the_limit_is_of_a_buyer_in_a_sale(shop: PayingShop) -> None:
    verdicts = await shop.reserve(
        shop.attempt("ana", "k1", {"y": 3}),  # with z1 four of the other sale
        shop.attempt("ana", "k2", {"a": 2}),  # and four of this one
        shop.attempt("ana", "k3", {"y": 1}),
        shop.attempt("ana", "k4", {"a": 1}),
        shop.attempt("new", "k5", {"a": 4}),
    )
    assert verdicts == [HELD, HELD, Verdict.OVER_LIMIT, Verdict.OVER_LIMIT, HELD]


async def test_what_is_left_is_told_to_a_fresh_hold_alone(shop: PayingShop) -> None:
    batch = [shop.attempt("cyd", "k", {"a": 1, "b": 2}), shop.attempt("cyd", "k", {"a": 1, "b": 2})]
    sql = [
        Attempt(uuid.uuid4(), purchase_id(a.buyer, a.key), a.buyer, a.key, Cart(tuple(Line(*line) for line in a.wish)))
        for a in batch
    ]
    decisions = await shop.authority.reserve_batch(sql)
    assert [(d.verdict, d.remaining) for d in decisions] == [(HELD, (5, 4)), (Verdict.REPLAYED, None)]


async def test_a_verdict_is_kept_by_its_first_attempt(shop: PayingShop, owner: asyncpg.Connection) -> None:
    rid = uuid.uuid4()
    attempts = [
        Attempt(rid, purchase_id(who, "k"), who, "k", Cart((Line(shop._own("a"), 1),))) for who in ("cyd", "dee")
    ]
    decisions = await shop.authority.reserve_batch(attempts)
    assert [decision.verdict for decision in decisions] == [HELD, Verdict.MALFORMED]
    row = await owner.fetchrow("SELECT purchase_id, verdict FROM attempt WHERE rid = $1", rid)
    assert row is not None
    assert tuple(row) == (attempts[0].purchase, HELD)


# --- who waits for whom


async def test_nobody_waits_for_rows_that_are_not_its_own(
    shop: PayingShop, owner: asyncpg.Connection, database: Database
) -> None:
    """Somebody holds every row of another sale, of another buyer and of another item; the sale goes on all the same."""
    authority, ana, own = shop.authority, shop._own("ana"), shop._own
    for who, key in (("ana", "a1"), ("zed", "a1"), ("zed", "z1"), ("ben", "a1")):
        await shop.pay(who, key)
    for who, key in (("ben", "a1"), ("zed", "z1"), ("zed", "b1"), ("zed", "a1")):
        await shop.lapse(who, key)
    await shop.ask_voids()
    events = [
        event.id for event in await authority.lease_outbox(99, NEVER) if event.subject == str(shop.id("ben", "a1"))
    ]
    await shop.reserve(shop.attempt("ana", "k1", {"a": 1}), shop.attempt("ana", "k2", {"a": 1}))
    await shop.lapse("ana", "k2")

    def wish(key: str, **lines: int) -> Attempt:
        cart = Cart(tuple(sorted(Line(own(sku), quantity) for sku, quantity in lines.items())))
        return Attempt(uuid.uuid4(), purchase_id(ana, key), ana, key, cart)

    lost = wish("lost", z=99)
    await authority.reserve_batch([lost])
    other = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    try:
        taken = other.transaction()
        await taken.start()
        for statement in (
            "SELECT FROM purchase WHERE buyer = $1 OR sale_id = $2 FOR UPDATE",
            "SELECT FROM quota WHERE buyer = $1 OR sale_id = $2 FOR UPDATE",
            "SELECT FROM payment y WHERE y.purchase_id IN (SELECT id FROM purchase WHERE buyer = $1 OR sale_id = $2) FOR UPDATE",
            "SELECT FROM outbox WHERE subject IN (SELECT id::text FROM purchase WHERE buyer = $1 OR sale_id = $2) FOR UPDATE",
            "SELECT FROM stock WHERE sku = $1 OR sale_id = $2 FOR UPDATE",
            "SELECT FROM sale WHERE id = $2 AND $1::text IS NOT NULL FOR UPDATE",
        ):
            await other.execute(statement, own("b") if "stock" in statement else own("zed"), own("other"))
        replay = Attempt(uuid.uuid4(), shop.id("zed", "z1"), own("zed"), "z1", Cart((Line(own("z"), 1),)))
        fresh = wish("k3", a=1)
        batch = [replay, lost, wish("k4", a=1, z=1), wish("k5", nothing=1, z=1), fresh]
        decisions = await authority.reserve_batch(batch)  # which also ends ana's due hold
        verdicts = [Verdict.REPLAYED, Verdict.SOLD_OUT, Verdict.MIXED_SALES, Verdict.UNKNOWN_SKU, HELD]
        assert [decision.verdict for decision in decisions] == verdicts
        await authority.mark_sent(events)
        assert await authority.cancel(shop.id("ana", "k1"), ana) is None
        assert await authority.settle_payment(shop.told("ana", "a1", 1, "declined")) == "nothing"
        assert await authority.start_payment(shop.id("ana", "k3"), ana, "p1", "card") is None
        await authority.hear_payment("e", shop.told("ana", "k3", 1, "authorized"))
        await owner.execute(
            "UPDATE payment SET sent_at = now() - interval '1 minute' WHERE purchase_id = $1", shop.id("ben", "a1")
        )
        assert await authority.expire_payments(9, timedelta(seconds=30), timedelta(days=1)) == (0, 1)
        assert await authority.settle_payment(shop.told("ben", "a1", 1, "authorized")) == "capture", "late money"
        await authority.restock(own("a"), 1)
        await authority.expire_due(9)
        await taken.rollback()
        await taken_by(other, own("other"))
        await authority.change_sale(own("s"), state="PAUSED")
        await authority.change_sale(own("s"), state="OPEN")
        await authority.add_item(own("s"), own("new"), "new", PRICE, 1)
        await authority.raise_epoch(own("s"), 0)
    finally:
        await other.close()


async def taken_by(other: asyncpg.Connection, sale: str) -> None:
    await other.execute("BEGIN")
    await other.execute("SELECT FROM sale WHERE id = $1 FOR UPDATE", sale)
    await other.execute("SELECT FROM stock WHERE sale_id = $1 FOR UPDATE", sale)


# --- payments


async def test_what_is_next_is_the_model_s_for_every_standing(owner: asyncpg.Connection) -> None:
    states = sorted({state for state, _ in PAYMENT_MOVES} | set(PAYMENT_MOVES.values()))
    for state in states:
        for purchase in State:
            for is_voiding in (False, True):
                heard = await owner.fetchval("SELECT payment_next($1, $2, $3)", state, is_voiding, purchase)
                assert heard == next_step(Payment("k", state, is_voiding), purchase), (state, purchase, is_voiding)


async def test_a_try_is_numbered_and_told_by_its_purchase(shop: PayingShop, owner: asyncpg.Connection) -> None:
    for _ in range(2):
        await shop.pay("ana", "a1")
        await shop.settle("ana", "a1", len(shop.model.purchases[shop._own("ana"), "a1"].payments), "declined")
    assert await shop.pay("ben", "a1", "pay0") is None, "another purchase's key is another key"
    told = await owner.fetch("SELECT subject, version FROM outbox WHERE topic = 'payment.asked' ORDER BY id")
    assert [tuple(row) for row in told] == [
        (str(shop.id("ana", "a1")), 1), (str(shop.id("ana", "a1")), 2), (str(shop.id("ben", "a1")), 1)
    ]  # fmt: skip


async def overdue(shop: PayingShop, *who: str) -> None:
    for name in who:
        await shop.pay(name, "a1")
        await shop.lapse(name, "a1")


async def test_late_money_is_judged_by_its_own_sale_stock_and_buyer(
    shop: PayingShop, owner: asyncpg.Connection
) -> None:
    await overdue(shop, "ana")
    await shop.ask_voids()
    await shop.end_unanswered()
    await shop.reserve(shop.attempt("zed", "k", {"a": 2}))  # at the limit
    await shop.reserve(shop.attempt("ana", "k", {"y": 3}))  # at the limit of another sale
    await shop.change("other", "PAUSED")
    await owner.execute("UPDATE stock SET opens = now() + interval '1 day' WHERE sku = $1", shop._own("y"))
    await owner.execute("UPDATE stock SET closes = now() - interval '1 day' WHERE sku = $1", shop._own("z"))
    before = await owner.fetch("SELECT * FROM line WHERE purchase_id <> $1 ORDER BY 1, 2", shop.id("ana", "a1"))
    generations = await owner.fetch(
        "SELECT id, generation FROM purchase WHERE id <> $1 ORDER BY 1", shop.id("ana", "a1")
    )
    assert await shop.settle("ana", "a1", 1, "authorized") == "capture"
    assert await owner.fetch("SELECT * FROM line WHERE purchase_id <> $1 ORDER BY 1, 2", shop.id("ana", "a1")) == before
    assert generations == await owner.fetch(
        "SELECT id, generation FROM purchase WHERE id <> $1 ORDER BY 1", shop.id("ana", "a1")
    )


@pytest.mark.parametrize("times", ["opens = now() + interval '1 hour'", "closes = now() - interval '1 hour'"])
async def test_late_money_is_too_late_outside_the_sale_s_times(
    shop: PayingShop, owner: asyncpg.Connection, times: str
) -> None:
    await overdue(shop, "ana")
    await shop.ask_voids()
    await shop.end_unanswered()
    await owner.execute(f"UPDATE stock SET {times} WHERE sku = $1", shop._own("a"))
    assert await shop.authority.settle_payment(shop.told("ana", "a1", 1, "authorized")) == "void"


async def test_sweeps_of_payments_touch_no_more_than_they_were_asked_for(
    shop: PayingShop, owner: asyncpg.Connection
) -> None:
    ana, ben = shop.id("ana", "a1"), shop.id("ben", "a1")
    await overdue(shop, "ana", "ben")  # ana's hold was over first
    await shop.pay("zed", "a1")
    await shop.relay_in_time()
    assert await shop.authority.expire_payments(1, NEVER, timedelta(days=1)) == (1, 0)
    assert [row["void_at"] is None for row in await standing(owner, ana) + await standing(owner, ben)] == [False, True]
    await shop.relay()
    assert await shop.authority.expire_payments(9, NEVER, timedelta(days=1)) == (1, 0)
    await shop.relay()
    await owner.execute("UPDATE payment SET sent_at = sent_at - interval '1 minute'")
    assert await shop.authority.expire_payments(1, timedelta(seconds=30), timedelta(days=1)) == (0, 1)
    states = await owner.fetch("SELECT state FROM purchase WHERE id = ANY ($1) ORDER BY id = $2", [ana, ben], ben)
    assert [row["state"] for row in states] == ["EXPIRED", "AUTHORIZING"]


async def test_a_sweep_of_payments_leaves_out_what_has_no_open_try(shop: PayingShop, owner: asyncpg.Connection) -> None:
    await overdue(shop, "ana", "ben")
    await shop.relay()
    await owner.execute("UPDATE payment SET sent_at = sent_at - interval '1 minute'")
    # as nothing leaves it: on its way, and its only try is closed
    await owner.execute(
        "UPDATE payment SET state = 'DECLINED', void_at = now() WHERE purchase_id = $1", shop.id("ana", "a1")
    )
    assert await shop.authority.expire_payments(9, timedelta(seconds=30), timedelta(days=1)) == (1, 0)
    assert await shop.authority.expire_payments(9, timedelta(seconds=30), timedelta(days=1)) == (0, 0)


async def test_who_is_asked_again_is_one_try(shop: PayingShop, owner: asyncpg.Connection) -> None:
    for who in ("ana", "ben"):
        await shop.pay(who, "a1")
        await shop.settle(who, "a1", 1, "declined")
        await shop.pay(who, "a1")
    await shop.relay()
    assert await shop.authority.resume_payments(1, AT_ONCE) == 1
    rows = await standing(owner, shop.id("ana", "a1"), shop.id("ben", "a1"))
    assert sorted((row["try"], row["sent_at"] is None) for row in rows) == [
        (1, False),
        (1, False),
        (2, False),
        (2, True),
    ]


@pytest.mark.parametrize("state", ["ASKED", "AUTHORIZED", "REFUNDING", "DISPUTED"])
async def test_every_open_try_is_asked_about_again(shop: PayingShop, owner: asyncpg.Connection, state: str) -> None:
    await shop.pay("ana", "a1")
    await owner.execute("UPDATE payment SET state = $1, sent_at = now() - interval '1 minute'", state)
    assert await shop.authority.resume_payments(9, AT_ONCE) == 1


async def test_many_outcomes_at_once_hold_no_more_than_their_own(
    shop: PayingShop, owner: asyncpg.Connection, database: Database
) -> None:
    ana, ben = shop.id("ana", "a1"), shop.id("ben", "a1")
    for who in ("ana", "ben"):
        await shop.pay(who, "a1")
    other = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    try:
        async with owner.transaction():
            settle = "SELECT settle_payments(ARRAY[$1::uuid], '{1}', '{authorized}', ARRAY[$2::bigint], '{EUR}')"
            assert await owner.fetchval(settle, ana, PRICE) == ["capture"]
            assert await other.fetch("SELECT 1 FROM purchase WHERE id = $1 FOR UPDATE NOWAIT", ben)
            assert await other.fetch("SELECT 1 FROM payment WHERE purchase_id = $1 FOR UPDATE NOWAIT", ben)
    finally:
        await other.close()


async def test_money_for_what_was_given_up_goes_back(shop: PayingShop, owner: asyncpg.Connection) -> None:
    await shop.pay("ana", "a1")
    purchase = shop.id("ana", "a1")
    # as nothing leaves it: given up, and its try is open
    await owner.execute("UPDATE purchase SET state = 'CANCELLED' WHERE id = $1", purchase)
    await owner.execute("SELECT return_units(ARRAY[$1::uuid], 'cancelled', now())", purchase)
    assert await shop.authority.settle_payment(shop.told("ana", "a1", 1, "captured")) == "refund"
    assert await owner.fetchval("SELECT state FROM purchase WHERE id = $1", purchase) == "CANCELLED"


async def test_a_try_of_a_purchase_that_is_not_there_is_unknown(shop: PayingShop, owner: asyncpg.Connection) -> None:
    await shop.pay("ana", "a1")
    await owner.execute("DELETE FROM purchase WHERE id = $1", shop.id("ana", "a1"))  # as a damaged database has it
    assert await shop.authority.settle_payment(shop.told("ana", "a1", 1, "authorized")) == "unknown"


async def test_a_refund_is_of_one_purchase(shop: PayingShop) -> None:
    for who, number, outcome in (("ben", 1, "declined"), ("ben", 2, "captured"), ("ana", 1, "captured")):
        await shop.pay(who, "a1")
        await shop.settle(who, "a1", number, outcome)
    assert await shop.refund("ana", "a1")


async def test_the_ledger_says_why_an_operator_returned_units(shop: PayingShop, owner: asyncpg.Connection) -> None:
    await shop.pay("ana", "a1")
    await shop.settle("ana", "a1", 1, "captured")
    assert await shop.refund("ana", "a1")
    await shop.settle("ana", "a1", 1, "refunded")
    assert await shop.return_by_hand("ana", "a1", Event.RESTOCK)
    assert await shop.return_by_hand("ben", "a1", Event.CANCEL)
    rows = await owner.fetch("SELECT reason FROM ledger WHERE kind = 'return' ORDER BY seq")
    assert [row["reason"] for row in rows] == ["restocked", "cancelled"]


async def test_an_outcome_changes_its_own_try(shop: PayingShop, owner: asyncpg.Connection) -> None:
    for who in ("ana", "ben"):
        await shop.pay(who, "a1")
    await shop.settle("ana", "a1", 1, "declined")
    await shop.pay("ana", "a1")
    await shop.settle("ana", "a1", 2, "authorized")
    assert [row["state"] for row in await standing(owner, shop.id("ana", "a1"))] == ["DECLINED", "AUTHORIZED"]
    assert [row["state"] for row in await standing(owner, shop.id("ben", "a1"))] == ["ASKED"]
    assert await shop.authority.settle_payment(shop.told("ana", "a1", 3, "authorized")) == "unknown"


async def test_what_was_not_believed_is_forgotten_alone(shop: PayingShop, owner: asyncpg.Connection) -> None:
    await shop.pay("ana", "a1")
    await owner.execute("INSERT INTO inbox (consumer, event) VALUES ('somebody', 'e'), ('payments', 'older')")
    wrong = shop.told("ana", "a1", 1, "declined")._replace(currency="USD")
    assert await shop.authority.hear_payment("e", wrong) == "mismatch"
    rows = await owner.fetch("SELECT consumer, event FROM inbox ORDER BY 1")
    assert [tuple(row) for row in rows] == [("payments", "older"), ("somebody", "e")]
    nobodys = shop.told("ana", "a1", 1, "declined")._replace(purchase=uuid.uuid4())
    assert await shop.authority.hear_payment("e", nobodys) == "unknown"
    assert await owner.fetchval("SELECT count(*) FROM inbox") == 2


async def test_the_relay_marks_what_it_sent(shop: PayingShop, owner: asyncpg.Connection) -> None:
    await shop.relay()
    for who in ("ana", "ben"):
        await shop.pay(who, "a1")
    await shop.settle("ben", "a1", 1, "declined")
    await shop.pay("ben", "a1")
    await owner.execute(
        "INSERT INTO outbox (topic, subject, version, at) SELECT 'purchase.x', subject, 2, now() FROM outbox WHERE topic = 'payment.asked'"
    )
    events = {(e.topic, e.subject, e.version): e.id for e in await shop.authority.lease_outbox(99, HOUR)}
    ana, ben = shop.id("ana", "a1"), shop.id("ben", "a1")
    await shop.authority.mark_sent(
        [events["payment.asked", str(ben), 2], events["purchase.x", str(ana), 2]],
        [events["payment.asked", str(ben), 1]],
        [events["payment.asked", str(ana), 1]],
    )
    assert [(row["try"], row["sent_at"] is None) for row in await standing(owner, ben)] == [(1, True), (2, False)]
    assert [row["sent_at"] is None for row in await standing(owner, ana)] == [True]
    rows = {row["id"]: row for row in await owner.fetch("SELECT * FROM outbox")}
    sent = {number for number, row in rows.items() if row["sent_at"] is not None and number in events.values()}
    assert sent == {events["payment.asked", str(ben), 2], events["purchase.x", str(ana), 2]}
    assert rows[events["payment.asked", str(ben), 1]]["leased_until"] is None
    others = [row["leased_until"] for n, row in rows.items() if n in events.values() and n not in sent]
    now = await owner.fetchval("SELECT clock_timestamp()")
    assert sum(until is None for until in others) == 1
    assert sum(until is not None and until < now + HOUR / 2 for until in others) == 1, "what was refused, for seconds"


async def test_marking_what_is_no_errand_neither_waits_for_a_try_nor_marks_it(
    shop: PayingShop, owner: asyncpg.Connection, database: Database
) -> None:
    await shop.pay("ana", "a1")
    # an event of the purchase whose version is the number of the try
    event = await owner.fetchval(
        "INSERT INTO outbox (topic, subject, version, at) VALUES ('purchase.x', $1, 1, clock_timestamp()) RETURNING id",
        str(shop.id("ana", "a1")),
    )
    other = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    try:
        await other.execute("BEGIN")
        await other.execute("SELECT FROM payment FOR UPDATE")
        await owner.execute("SET lock_timeout = '5s'")
        await owner.execute("SELECT mark_sent(ARRAY[$1::bigint], '{}', '{}')", event)
        assert [row["sent_at"] for row in await standing(owner, shop.id("ana", "a1"))] == [None]
    finally:
        await other.close()


async def test_what_is_sent_stays_as_it_is(shop: PayingShop, owner: asyncpg.Connection) -> None:
    await shop.pay("ana", "a1")
    events = [event.id for event in await shop.authority.lease_outbox(99, HOUR)]
    await shop.authority.mark_sent(events)
    before = await owner.fetch("SELECT * FROM outbox ORDER BY id"), await standing(owner, shop.id("ana", "a1"))
    nothing: list[int] = []
    for told in ((events, nothing, nothing), (nothing, events, nothing), (nothing, nothing, events)):
        await shop.authority.mark_sent(*told)
        after = await owner.fetch("SELECT * FROM outbox ORDER BY id"), await standing(owner, shop.id("ana", "a1"))
        assert after == before


async def test_a_lease_and_an_end_of_memory_take_what_they_may(shop: PayingShop, owner: asyncpg.Connection) -> None:
    await shop.pay("ana", "a1")
    await shop.relay()
    await shop.pay("ben", "a1")
    (leased,) = await shop.authority.lease_outbox(1, HOUR)
    rows = await owner.fetch("SELECT id FROM outbox WHERE leased_until > now() + interval '1 minute'")
    assert [row["id"] for row in rows] == [leased.id]
    await owner.execute("UPDATE outbox SET at = at - interval '1 day', sent_at = sent_at - interval '1 day'")
    await owner.execute(
        "INSERT INTO inbox (consumer, event, at) SELECT 'payments', 'e' || n, now() - n * interval '1 day' FROM generate_series(0, 2) n"
    )
    await owner.execute(
        "INSERT INTO inbox (consumer, event) SELECT 'somebody', event FROM inbox"
    )  # who heard it lately
    before = await owner.fetchval("SELECT count(*) FROM outbox")
    assert await shop.authority.forget_events(1, HOUR) == 2, "one of each"
    assert await owner.fetchval("SELECT count(*) FROM outbox") == before - 1
    assert await owner.fetchval("SELECT count(*) FROM inbox") == 5


# --- sales


async def test_a_change_is_of_one_sale(shop: PayingShop, owner: asyncpg.Connection) -> None:
    s, other = shop._own("s"), shop._own("other")
    before = await terms(owner, other)
    await shop.authority.change_sale(s, state="PAUSED")
    await shop.authority.change_sale(s, buyer_limit=3)
    image = await shop.authority.raise_epoch(s, 6)
    assert await terms(owner, other) == before
    for row in await terms(owner, s):
        assert (row["state"], row["buyer_limit"], row["epoch"]) == ("PAUSED", 3, 7)
    assert [item.sku for item in image.items] == sorted((shop._own("a"), shop._own("b")))
    assert set(image.won) == {shop.id(who, key) for who in ("ana", "ben", "zed") for key in ("a1", "b1")}
    reasons = await owner.fetch("SELECT sku, reason FROM ledger WHERE kind = 'sale' ORDER BY sku, seq")
    assert [tuple(row) for row in reasons] == [
        (shop._own(sku), reason) for sku in "ab" for reason in ("paused", "changed")
    ]
    told = await owner.fetch(
        "SELECT topic, version FROM outbox WHERE subject = $1 AND topic LIKE 'sale.%' ORDER BY id", s
    )
    assert [tuple(row) for row in told] == [("sale.paused", 1), ("sale.changed", 2)]


async def test_an_ended_sale_stays_ended_and_an_unknown_one_unknown(shop: PayingShop) -> None:
    s = shop._own("s")
    await shop.authority.change_sale(s, state="ENDED")
    await shop.authority.change_sale(s, state="ENDED")
    for change in ({"state": "OPEN"}, {"buyer_limit": 3}):
        with pytest.raises(BadBatch, match="has ended"):
            await shop.authority.change_sale(s, **change)
    with pytest.raises(BadBatch, match="there is no sale"):
        await shop.authority.change_sale("nobody's", state="PAUSED")


async def test_a_restock_is_of_one_item_and_of_at_least_one_unit(shop: PayingShop, owner: asyncpg.Connection) -> None:
    before = await terms(owner, shop._own("s"))
    for sku, units, why in (("nothing", 1, "there is no item"), (shop._own("a"), 0, "at least one unit")):
        with pytest.raises(BadBatch, match=why):
            await shop.authority.restock(sku, units)
    assert await terms(owner, shop._own("s")) == before
    await shop.restock("b", 2)
    await shop.compare()


async def test_an_item_has_the_terms_of_its_sale_and_no_movement_without_units(
    shop: PayingShop, owner: asyncpg.Connection
) -> None:
    await shop.authority.change_sale(shop._own("other"), buyer_limit=3)
    await shop.authority.add_item(shop._own("s"), shop._own("none"), "none", PRICE, 0)
    row = await owner.fetchrow("SELECT buyer_limit, sale_id, seq FROM stock WHERE sku = $1", shop._own("none"))
    assert row is not None
    assert tuple(row) == (4, shop._own("s"), 0)
