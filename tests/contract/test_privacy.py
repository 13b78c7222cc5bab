"""A buyer who is forgotten is nowhere, the books are still right, and a late retry neither buys nor shows."""

import argparse
import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from flashsale.authority.client import Attempt, Authority
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import BUYER_PATTERN, Cart, Line, purchase_id
from flashsale.operate import buyer
from flashsale.operate.context import Context, Deed, OperationError
from flashsale.proof.invariants import RULES
from flashsale.proof.stores import read_books, reading
from tests.contract.test_events import BUYER, Scene
from tests.contract.test_reserve_batch import until_somebody_waits
from tests.databases import Database
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS

CONTINUOUS = [rule for rule in RULES if not rule.at_rest]  # events may still wait to be told

DEED = Deed("ops", "asked by letter", "forgetting-key-01")
# Two minutes pass for everything that has happened so far.
AGE = """
    UPDATE attempt SET at = at - interval '2 minutes';
    UPDATE purchase p SET history = (
        SELECT jsonb_agg(e || jsonb_build_object('at', iso((e ->> 'at')::timestamptz - interval '2 minutes')) ORDER BY n)
        FROM jsonb_array_elements(p.history) WITH ORDINALITY h (e, n))"""

EXPIRE = "SELECT return_units(move_purchases(ARRAY[$1::uuid], 'expire', now()), 'expired', now())"


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    yield connection
    await connection.close()


@pytest.fixture
async def scene(authority: Authority, owner: asyncpg.Connection) -> Scene:
    return Scene(authority, owner)


@pytest.fixture
def context(database: Database, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setattr("flashsale.operate.database.LOCK_MS", PATIENCE_MS)  # what a test holds it may hold long
    return Context(database.operator_url, database.auditor_url, redis="", rabbitmq="", gateways={}, json=True)


async def audit(database: Database) -> dict[str, tuple[str, ...]]:
    async with reading(database.auditor_url) as connection:
        books = await read_books(connection, None, CONTINUOUS)
    return {tally.rule: tally.texts for tally in books.tallies if tally.number}


async def places(owner: asyncpg.Connection, text: str) -> dict[str, int]:
    """In how many rows of which table the text stands."""
    tables = [
        row["tablename"] for row in await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'flash'")
    ]
    counts = {
        name: await owner.fetchval(f"SELECT count(*) FROM {name} t WHERE strpos(t::text, $1) > 0", text)
        for name in tables
    }
    return {name: count for name, count in counts.items() if count}


async def decide(
    authority: Authority, key: str, rid: uuid.UUID | None = None, sku: str = "a"
) -> tuple[Verdict | None, Any]:
    attempt = Attempt(rid or uuid.uuid4(), purchase_id(BUYER, key), BUYER, key, Cart((Line(sku, 1),)))
    (decision,) = await authority.reserve_batch([attempt])
    return decision.verdict, decision.purchase


async def test_a_forgotten_buyer_is_nowhere_and_the_books_are_right(
    scene: Scene, owner: asyncpg.Connection, database: Database, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    await scene.play_everything()
    await owner.execute(AGE)
    before = await owner.fetch("SELECT id, state, version, total_minor FROM purchase ORDER BY id")
    assert set(await places(owner, BUYER)) == {"purchase", "quota"}
    assert await audit(database) == {}
    await buyer.forget(BUYER, DEED, context)
    told = json.loads(capsys.readouterr().out)
    assert told["purchases"] == len(before)
    assert not BUYER_PATTERN.fullmatch(told["pseudonym"]), "no buyer can ever call themselves so"
    assert await places(owner, BUYER) == {}
    assert await owner.fetchval("SELECT bool_and(key = id::text) FROM purchase"), "nor what the client chose"
    assert await owner.fetchval("SELECT bool_and(key = 'forgotten-' || try) FROM payment")
    assert set(await places(owner, told["pseudonym"])) == {"purchase", "quota", "operation"}
    assert await audit(database) == {}
    assert await owner.fetch("SELECT id, state, version, total_minor FROM purchase ORDER BY id") == before
    await scene.relay()
    assert BUYER not in repr(scene.told)


async def test_a_late_retry_neither_buys_nor_shows(scene: Scene, owner: asyncpg.Connection, context: Context) -> None:
    await scene.open()
    purchase, rid = purchase_id(BUYER, "k"), uuid.uuid4()
    assert (await decide(scene.authority, "k", rid))[0] is Verdict.HELD
    await scene.pay(purchase, "authorized", "captured")
    await scene.authority.change_sale("s", state="ENDED")
    await owner.execute(AGE)
    await buyer.forget(BUYER, DEED, context)
    # as if the sale went on: nothing but the id stands between this buyer and a second purchase
    await owner.execute("UPDATE sale SET state = 'OPEN'")
    await owner.execute("UPDATE stock SET state = 'OPEN'")
    for again in (rid, None):
        assert await decide(scene.authority, "k", again) == (Verdict.KEY_REUSED, None)
    assert await decide(scene.authority, "k", sku="b") == (Verdict.KEY_REUSED, None)
    standing = await scene.authority.read_standing(rid, purchase, BUYER)
    assert standing.answer(Cart((Line("a", 1),)).fingerprint) is Verdict.KEY_REUSED
    assert await scene.authority.read_purchase(purchase, BUYER) is None
    assert await scene.authority.start_payment(purchase, BUYER, "pay-1", "card") is Verdict.UNKNOWN_PURCHASE
    assert await owner.fetchval("SELECT count(*) FROM purchase") == 1


async def end(scene: Scene) -> None:
    await scene.authority.change_sale("s", state="ENDED")


async def age(scene: Scene) -> None:
    await scene.owner.execute(AGE)


REFUSED: dict[str, tuple[str, list[Any]]] = {
    "the sale goes on": ("a sale in which they bought is not over", [age]),
    "a hold": ("a hold is open", [end, age]),
    "a payment on its way": ("a hold is open", ["pay", end, age]),
    "money on its way back": ("a payment is open", ["pay", "captured late", end, age]),
    "money that may be taken": ("a hold is open", ["pay", "authorized", end, age]),
    "a try that nobody answered": ("a payment is open", ["pay", "expire", end, age]),
    "late money on its way back": ("a payment is open", ["pay", "expire", end, "authorized", age]),
    "a dispute": ("a payment is open", ["pay", "captured", "disputed", end, age]),
    "ended just now": ("something happened within the last minute", [age, "cancel", end]),
    "asked again just now": ("something happened within the last minute", ["cancel", age, "ask again", end]),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_nobody_is_forgotten_while_something_can_still_move(
    scene: Scene, owner: asyncpg.Connection, context: Context, case: str
) -> None:
    why, steps = REFUSED[case]
    await scene.open()
    purchase = await scene.buy("k")
    for step in steps:
        if step == "pay":
            await scene.pay(purchase)
        elif step == "cancel":
            await scene.authority.cancel(purchase, BUYER)
        elif step == "ask again":
            assert (await decide(scene.authority, "k"))[0] is Verdict.REPLAYED
        elif step in {"authorized", "captured", "disputed"}:
            await scene.tell(purchase, step)
        elif step == "expire":
            await owner.execute(EXPIRE, purchase)
        elif step == "captured late":
            await owner.execute(EXPIRE, purchase)
            await owner.execute("UPDATE sale SET state = 'PAUSED'")
            await owner.execute("UPDATE stock SET state = 'PAUSED'")
            await scene.tell(purchase, "captured")
        else:
            assert callable(step)
            await step(scene)
    before = await places(owner, BUYER)
    with pytest.raises(OperationError, match=f"not now: {why}"):
        await buyer.forget(BUYER, DEED, context)
    assert await places(owner, BUYER) == before
    assert await owner.fetchval("SELECT count(*) FROM operation") == 0


# --- beside others


STRANGER = "ben"
OF_THE_STRANGER = {
    "purchase": "SELECT * FROM purchase WHERE buyer = $1 ORDER BY id",
    "quota": "SELECT * FROM quota WHERE buyer = $1 ORDER BY sale_id",
    "attempt": "SELECT a.* FROM attempt a JOIN purchase p ON p.id = a.purchase_id WHERE p.buyer = $1 ORDER BY rid",
    "payment": "SELECT y.* FROM payment y JOIN purchase p ON p.id = y.purchase_id WHERE p.buyer = $1 ORDER BY 1, 2",
}


@pytest.fixture
async def beside(scene: Scene, owner: asyncpg.Connection) -> Scene:
    """Two sales are over, one by its time. A third goes on, and in it and in the first a stranger has bought just now."""
    await scene.open()
    now = datetime.now(UTC)
    for sale, sku in (("late", "y"), ("goes on", "z")):
        await scene.authority.create_sale(
            sale.replace(" ", "-"), merchant="m", name=sale, opens=now - timedelta(hours=1), closes=now + timedelta(hours=1),
            buyer_limit=9, hold_seconds=600, currency="EUR",
        )  # fmt: skip
        await scene.authority.add_item(sale.replace(" ", "-"), sku, sku, 1, 9)
    rid = uuid.uuid4()
    assert (await decide(scene.authority, "k", rid, sku="none"))[0] is Verdict.UNKNOWN_SKU
    paid = await scene.buy("k", "a")
    assert (await decide(scene.authority, "k"))[0] is Verdict.REPLAYED
    await scene.pay(paid, "authorized", "captured")
    await scene.authority.cancel(await scene.buy("gone", "y"), BUYER)
    await owner.execute(AGE)
    for key, sku in (("k1", "a"), ("k2", "z"), ("k3", "z")):
        purchase = purchase_id(STRANGER, key)
        (decision,) = await scene.authority.reserve_batch(
            [Attempt(uuid.uuid4(), purchase, STRANGER, key, Cart((Line(sku, 1),)))]
        )
        assert decision.verdict is Verdict.HELD
        if key != "k3":
            assert await scene.authority.start_payment(purchase, STRANGER, "pay", "card") is None
    await scene.authority.change_sale("s", state="ENDED")
    await owner.execute("UPDATE sale SET closes = now() - interval '1 second' WHERE id = 'late'")
    return scene


@pytest.mark.usefixtures("beside")
async def test_who_is_forgotten_takes_nobody_along(
    owner: asyncpg.Connection, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: await owner.fetch(query, STRANGER) for name, query in OF_THE_STRANGER.items()}
    assert all(before.values())
    verdicts = "SELECT verdict FROM attempt WHERE purchase_id = ANY ($1) ORDER BY verdict"
    mine = [purchase_id(BUYER, key) for key in ("k", "gone")]
    assert [row[0] for row in await owner.fetch(verdicts, mine)] == ["held", "held", "replayed", "unknown_sku"]
    await buyer.forget(BUYER, DEED, context)
    told = json.loads(capsys.readouterr().out)
    assert told["purchases"] == 2
    assert await places(owner, BUYER) == {}
    assert [row[0] for row in await owner.fetch(verdicts, mine)] == [*["key_reused"] * 3, "unknown_sku"]
    for name, query in OF_THE_STRANGER.items():
        assert await owner.fetch(query, STRANGER) == before[name], name


@pytest.mark.usefixtures("beside")
async def test_forgetting_waits_for_nobody_else(owner: asyncpg.Connection, database: Database) -> None:
    operator = await asyncpg.connect(
        database.operator_url, server_settings={"search_path": "flash", "lock_timeout": "5s"}
    )
    try:
        async with owner.transaction():
            await owner.execute("SELECT FROM sale WHERE id = 'goes-on' FOR UPDATE")
            for name in ("purchase", "quota", "attempt", "payment"):
                theirs = "SELECT id FROM purchase WHERE buyer = $1"
                where = "buyer = $1" if name in {"purchase", "quota"} else f"purchase_id IN ({theirs})"
                await owner.execute(f"SELECT FROM {name} WHERE {where} FOR UPDATE", STRANGER)
            await operator.execute("SELECT forget_buyer($1, 'ops', 'asked by letter', $2)", DEED.key, BUYER)
    finally:
        await operator.close()


@pytest.mark.usefixtures("beside")
async def test_one_is_forgotten_after_another(
    owner: asyncpg.Connection, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    await buyer.forget(BUYER, DEED, context)
    await owner.execute("INSERT INTO quota (sale_id, buyer, active) VALUES ('s', 'cem', 0)")
    await buyer.forget("cem", DEED._replace(key="forgetting-key-02"), context)
    first, second = (json.loads(line)["pseudonym"] for line in capsys.readouterr().out.splitlines())
    assert first != second
    # what another deed was done under is no answer
    await owner.execute("SELECT record_operation('operator-key-0001', 'ops', 'sale.end', 's', 'over', '{}')")
    with pytest.raises(OperationError, match="nothing is held about this buyer"):
        await buyer.forget("nobody", DEED._replace(key="operator-key-0001"), context)


async def test_what_they_buy_after_the_last_look_keeps_its_name(
    beside: Scene, owner: asyncpg.Connection, context: Context, database: Database
) -> None:
    """A quota in a sale that was not known of belongs to a purchase that is not known of either."""
    mine = purchase_id(BUYER, "k")
    first, second = [await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"}) for _ in "12"]
    try:
        await first.execute("BEGIN")
        await first.execute("SELECT FROM payment WHERE purchase_id = $1 FOR UPDATE", mine)
        forgetting = asyncio.ensure_future(buyer.forget(BUYER, DEED, context))
        await until_somebody_waits(owner, "forget_buyer", call=forgetting)
        # its looks are over when it comes to an attempt that somebody has in hand
        await owner.execute(
            "INSERT INTO attempt (rid, purchase_id, verdict, at) VALUES (gen_random_uuid(), $1, 'held', now() - interval '1 hour')",
            mine,
        )
        await second.execute("BEGIN")
        await second.execute(
            "SELECT FROM attempt WHERE purchase_id = $1 AND at < now() - interval '30 minutes' FOR UPDATE", mine
        )
        await first.execute("COMMIT")
        await until_waiting_for(owner, second)
        await beside.buy("another", "z")
        await second.execute("COMMIT")
        await forgetting
    finally:
        await first.close()
        await second.close()
    rows = await owner.fetch("SELECT sale_id, active FROM quota WHERE buyer = $1", BUYER)
    assert [tuple(row) for row in rows] == [("goes-on", 1)]


async def until_waiting_for(owner: asyncpg.Connection, holder: asyncpg.Connection) -> None:
    """Return once somebody waits for ``holder``."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await owner.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))",
            holder.get_server_pid(),
        ):
            await asyncio.sleep(0.01)


async def test_a_sale_that_is_being_prolonged_is_waited_for(
    scene: Scene, owner: asyncpg.Connection, context: Context, database: Database
) -> None:
    await scene.open()
    await scene.authority.cancel(await scene.buy("k"), BUYER)
    await owner.execute("UPDATE sale SET closes = now() - interval '1 second'")
    await owner.execute(AGE)
    other = await asyncpg.connect(database.owner_url)
    try:
        async with owner.transaction():
            await owner.execute("UPDATE sale SET closes = now() + interval '1 hour'")
            forgetting = asyncio.ensure_future(buyer.forget(BUYER, DEED, context))
            await until_somebody_waits(other, "forget_buyer")
    finally:
        await other.close()
    with pytest.raises(OperationError, match="a sale in which they bought is not over"):
        await forgetting


async def test_what_they_bought_while_it_waited_is_not_overlooked(
    scene: Scene, owner: asyncpg.Connection, context: Context, database: Database
) -> None:
    await scene.open()
    await scene.authority.cancel(await scene.buy("k"), BUYER)
    await owner.execute(AGE)
    other = await asyncpg.connect(database.owner_url)
    try:
        async with owner.transaction():
            await owner.execute("SELECT FROM sale FOR UPDATE")
            forgetting = asyncio.ensure_future(buyer.forget(BUYER, DEED, context))
            await until_somebody_waits(other, "forget_buyer")
            await scene.buy("another")
            await owner.execute("SELECT change_sale('s', 'ENDED')")
    finally:
        await other.close()
    with pytest.raises(OperationError, match="they are buying just now"):
        await forgetting
    assert await audit(database) == {}


async def test_two_who_forget_the_same_buyer_leave_one_pseudonym(
    scene: Scene, owner: asyncpg.Connection, context: Context, database: Database
) -> None:
    await scene.open()
    await scene.pay(await scene.buy("k"), "authorized", "captured")
    await scene.authority.change_sale("s", state="ENDED")
    await owner.execute(AGE)
    other = await asyncpg.connect(database.owner_url)
    try:
        async with owner.transaction():
            await owner.execute("SELECT FROM attempt FOR UPDATE")
            both = [
                asyncio.ensure_future(buyer.forget(BUYER, DEED._replace(key=f"forgetting-key-0{number}"), context))
                for number in range(2)
            ]
            await until_somebody_waits(other, "forget_buyer", callers=2)
    finally:
        await other.close()
    (refused,) = [done for done in await asyncio.gather(*both, return_exceptions=True) if done is not None]
    assert isinstance(refused, OperationError)
    assert "they were forgotten just now" in str(refused)
    assert await owner.fetchval("SELECT count(*) FROM operation") == 1
    assert await audit(database) == {}


async def test_it_is_done_once_per_key(
    scene: Scene, owner: asyncpg.Connection, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    await scene.open()
    await scene.authority.cancel(await scene.buy("k"), BUYER)
    await scene.authority.change_sale("s", state="ENDED")
    await owner.execute(AGE)
    for _ in range(2):
        await buyer.forget(BUYER, DEED, context)
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["pseudonym"] == second["pseudonym"]
    assert await owner.fetchval("SELECT count(*) FROM operation") == 1
    await owner.execute("INSERT INTO quota (sale_id, buyer, active) VALUES ('s', 'ben', 0)")
    with pytest.raises(OperationError, match="this key has forgotten somebody"):
        await buyer.forget("ben", DEED, context)
    with pytest.raises(OperationError, match="nothing is held about this buyer"):
        await buyer.forget(BUYER, DEED._replace(key="forgetting-key-02"), context)
    with pytest.raises(OperationError, match="pseudonym of a buyer"):
        await buyer.forget(first["pseudonym"], DEED._replace(key="forgetting-key-03"), context)


async def test_a_repair_that_named_them_names_the_pseudonym(
    scene: Scene, owner: asyncpg.Connection, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    await scene.open()
    purchase = await scene.buy("k")
    await scene.authority.cancel(purchase, BUYER)
    await scene.authority.change_sale("s", state="ENDED")
    await owner.execute(AGE)
    plan = {"stock": [], "quota": [{"sale": "s", "buyer": who, "active": 0} for who in ("ben", BUYER)]}
    record = "SELECT record_operation($1, 'ops', $2, $3, 'why', $4)"
    await owner.execute(record, "operator-key-0001", "audit.repair", "books", json.dumps(plan))
    await owner.execute(record, "operator-key-0002", "purchase.note", str(purchase), "{}")
    await owner.execute(record, "operator-key-0003", "sale.end", "s", "{}")
    await buyer.run(argparse.Namespace(action="export", buyer=BUYER), context)
    exported = json.loads(capsys.readouterr().out)
    assert [each["action"] for each in exported["operations"]] == ["audit.repair", "purchase.note"]
    assert "ben" not in json.dumps(exported)
    await buyer.forget(BUYER, DEED, context)
    pseudonym = json.loads(capsys.readouterr().out)["pseudonym"]
    assert await places(owner, BUYER) == {}
    detail = json.loads(await owner.fetchval("SELECT detail FROM operation WHERE action = 'audit.repair'"))
    assert [each["buyer"] for each in detail["quota"]] == ["ben", pseudonym]


async def test_a_reason_that_names_the_buyer_is_refused(context: Context) -> None:
    for who, reason in (
        ("ana", "letter of ana, 3 May"),
        ("ana", "asked by ana."),
        ("ana", "Ana's letter"),
        ("ana", "buyer:ana"),
        ("ana@shop.example", "letter of <ana@shop.example>"),
        ("a|b.c-", "a|b.c-"),
    ):
        with pytest.raises(OperationError, match="the reason names the buyer"):
            await buyer.forget(who, DEED._replace(reason=reason), context)
    for who, reason in (("ana", "letter of banana"), ("a.a", "letter of ana")):
        with pytest.raises(OperationError, match="nothing is held"):
            await buyer.forget(who, DEED._replace(reason=reason), context)


async def test_only_an_operator_forgets(database: Database, context: Context) -> None:
    for url in (database.app_url, database.auditor_url):
        with pytest.raises(OperationError, match="permission denied"):
            await buyer.forget("ana", DEED, context._replace(postgres=url))


async def test_an_export_holds_all_that_is_held(
    scene: Scene, owner: asyncpg.Connection, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    await scene.play_everything()
    await scene.authority.reserve_batch(
        [Attempt(uuid.uuid4(), purchase_id("ben", "k"), "ben", "k", Cart((Line("a", 1),)))]
    )
    await buyer.run(argparse.Namespace(action="export", buyer=BUYER), context)
    document = json.loads(capsys.readouterr().out)
    assert document["buyer"] == BUYER
    assert document["sales"] == [
        {"sale": "s", "units": await owner.fetchval("SELECT active FROM quota WHERE buyer = $1", BUYER)}
    ]
    rows = await owner.fetch("SELECT id::text, key, state FROM purchase WHERE buyer = $1 ORDER BY id", BUYER)
    assert [(each["id"], each["key"], each["state"]) for each in document["purchases"]] == [tuple(row) for row in rows]
    for table, name in (("payment", "payments"), ("ledger", "movements"), ("line", "items"), ("attempt", "attempts")):
        held = await owner.fetchval(
            f"SELECT count(*) FROM {table} WHERE purchase_id IN (SELECT id FROM purchase WHERE buyer = $1)", BUYER
        )
        assert sum(len(each[name]) for each in document["purchases"]) == held > 0, table
    await buyer.run(argparse.Namespace(action="export", buyer="nobody"), context)
    empty = json.loads(capsys.readouterr().out)
    assert (empty["sales"], empty["purchases"]) == ([], [])
