"""Books that were broken are put right by a plan that an operator applies: once, and only while it still fits."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flashsale.authority.client import Authority
from flashsale.proof import auditor, repair, stores
from flashsale.proof.auditor import audit
from flashsale.proof.repair import RepairError, apply, digest_of, propose
from flashsale.settings import Settings
from tests.contract.test_auditor import MOVED, UNCHECKED, Sold, sell
from tests.contract.test_payments import PayingShop
from tests.contract.test_reserve_batch import until_somebody_waits
from tests.databases import Database, execute
from tests.patience import PATIENCE_SECONDS

OVER = ("UPDATE flash.sale SET state = 'ENDED'", "UPDATE flash.stock SET state = 'ENDED'")
BY_HAND = "SET session_replication_role = replica"  # no trigger: what is done by hand tells nobody
SENT = "UPDATE outbox SET sent_at = now()"  # as the relay does with the events of the repair itself
WHO, WHY = "olga", "found by the auditor"


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "CONNECT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(repair, "CONNECT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(auditor, "SETTLE_S_MAX", 0.0)
    monkeypatch.setattr(auditor, "PASS_PAUSE_S", 0.01)


@pytest.fixture
async def sold(database: Database) -> Sold:
    """A sale that is over, so that it needs no gate."""
    made = await sell(database)
    await execute(database.owner_url, BY_HAND, *OVER)
    return made


async def spoil(sold: Sold, *statements: str) -> None:
    await execute(
        sold.database.owner_url, BY_HAND, "SET search_path = flash", *(s.format(**sold.names) for s in statements)
    )


def settings(sold: Sold, redis_url: str) -> Settings:
    return Settings.load({"FLASH_POSTGRES_URL": sold.database.operator_url, "FLASH_REDIS_URL": redis_url})


async def found(sold: Sold, redis_url: str) -> dict[str, int]:
    report = await audit(sold.database.auditor_url, redis_url)
    return {tally.rule: tally.number for tally in report.look.tallies}


async def rows(sold: Sold, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(sold.database.auditor_url, server_settings={"search_path": "flash"})
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


LATEST = "SELECT kind, delta, reason FROM ledger WHERE reason = 'repaired' ORDER BY seq"
BROKEN = {
    "a count below the ledger": (["UPDATE stock SET available = 1"], [("correction", 0, "repaired")]),
    "a count above the ledger": ([UNCHECKED, "UPDATE stock SET available = 5"], [("correction", 0, "repaired")]),
    "a total that nobody put on sale": (["UPDATE stock SET total = 9, available = 7"], [("correction", 0, "repaired")]),
    # The units of Cem's hold are gone from the ledger's sum and from the shelf, and Cem has none.
    "a hold that ended and was not returned": (
        [MOVED.format("EXPIRED") + " WHERE id = '{cem}'"],
        [("return", 1, "repaired"), ("correction", 0, "repaired")],
    ),
    "a row that took units for nobody": (
        ["INSERT INTO ledger (sku, seq, kind, reason, delta, at) VALUES ('{sku}', 6, 'correction', 'by hand', -2, now())",
         "UPDATE stock SET available = 1, seq = 6"],
        [("correction", 2, "repaired")],
    ),
    "quotas out of step": (
        ["UPDATE quota SET active = 2 WHERE buyer = 'ben'", "DELETE FROM quota WHERE buyer = 'cem'"], []),
    "a copy that is not its sale's": (["UPDATE stock SET hold_seconds = 1"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_broken_is_proposed_applied_and_clean(sold: Sold, redis_url: str, name: str) -> None:
    statements, written = BROKEN[name]
    await spoil(sold, *statements)
    before = await found(sold, redis_url)
    assert before
    plan = json.loads(json.dumps(await propose(settings(sold, redis_url))))
    assert plan["left"] == []
    assert await found(sold, redis_url) == before, "a proposal changes nothing"
    assert await apply(settings(sold, redis_url), plan, WHO, WHY)
    await spoil(sold, SENT)
    assert await found(sold, redis_url) == {}
    assert await rows(sold, LATEST) == written
    assert await rows(sold, "SELECT operator, action, reason FROM operation") == [(WHO, "audit.repair", WHY)]
    # once more changes nothing, and neither does a proposal for what is right
    assert not await apply(settings(sold, redis_url), plan, WHO, WHY)
    assert await rows(sold, LATEST) == written
    with pytest.raises(RepairError, match="does nothing"):
        await apply(settings(sold, redis_url), await propose(settings(sold, redis_url)), WHO, WHY)


async def test_a_gate_that_drifts_gets_a_new_epoch(database: Database, redis_url: str) -> None:
    sold = await sell(database)  # open, and without a gate
    plan = await propose(settings(sold, redis_url))
    assert plan["sales"] == [{"sale": sold.sale, "epoch": 1}]
    assert await apply(settings(sold, redis_url), plan, WHO, WHY)
    assert await rows(sold, "SELECT s.epoch, k.epoch FROM sale s JOIN stock k ON k.sale_id = s.id") == [(2, 2)]


async def test_a_stale_plan_is_refused_before_and_under_the_locks(sold: Sold, redis_url: str) -> None:
    await spoil(sold, "UPDATE stock SET available = 1", "UPDATE quota SET active = 2 WHERE buyer = 'ben'")
    plan = await propose(settings(sold, redis_url))
    # what the plan says still fits, and is no longer all there is to do
    await spoil(sold, "UPDATE quota SET active = 2 WHERE buyer = 'ana'")
    with pytest.raises(RepairError, match="stale: the books lead to another"):
        await apply(settings(sold, redis_url), plan, WHO, WHY)
    await spoil(sold, "UPDATE quota SET active = 1 WHERE buyer IN ('ana', 'ben')")
    with pytest.raises(RepairError, match="stale: the books lead to another"):
        await apply(settings(sold, redis_url), plan, WHO, WHY)
    # each part of the state, changed after the last look and before the locks
    connection = await asyncpg.connect(sold.database.operator_url, server_settings={"search_path": "flash"})
    try:
        for part, name, value in (
            ("stock", "seq", 4), ("stock", "available", 2), ("stock", "total", 6), ("stock", "to_available", 4),
            ("stock", "to_total", 6), ("stock", "delta", 1), ("quota", "active", 2), ("quota", "to_active", 1),
        ):  # fmt: skip
            fresh = await propose(settings(sold, redis_url))
            fresh[part][0][name] = value
            with pytest.raises(asyncpg.InvalidParameterValueError, match="stale"):
                await connection.fetchval(
                    "SELECT repair_books($1, $2, $3, $4::jsonb)", "k" * 16, WHO, WHY, json.dumps(fresh)
                )
        for part, row in (
            ("sales", {"sale": sold.sale, "epoch": 7}),
            ("returns", {"purchase": str(sold.bought["cem"].id), "sku": sold.sku, "generation": 1, "units": 1}),
            ("returns", {"purchase": str(sold.bought["ben"].id), "sku": sold.sku, "generation": 1, "units": 2}),
        ):
            fresh = await propose(settings(sold, redis_url)) | {part: [row]}
            fresh["stock"][0]["delta"] -= 1 if part == "returns" else 0  # so that the sums add up all the same
            with pytest.raises(asyncpg.InvalidParameterValueError, match="stale"):
                await connection.fetchval(
                    "SELECT repair_books($1, $2, $3, $4::jsonb)", "k" * 16, WHO, WHY, json.dumps(fresh)
                )
    finally:
        await connection.close()
    assert await rows(sold, "SELECT count(*) FROM operation") == [(0,)]
    assert await rows(sold, LATEST) == []


async def test_a_plan_that_was_changed_or_is_none_is_refused(sold: Sold, redis_url: str) -> None:
    await spoil(sold, "UPDATE stock SET available = 1")
    plan = await propose(settings(sold, redis_url))
    others: list[Any] = [plan | {"quota": [{}]}, {}, [], plan | {"digest": "x"}]
    for other in others:
        with pytest.raises(RepairError, match=r"changed|no plan"):
            await apply(settings(sold, redis_url), other, WHO, WHY)
    with pytest.raises(RepairError, match="operator"):
        await apply(settings(sold, redis_url), plan, "no name of an operator", WHY)
    assert digest_of(plan | {"left": ["x"]}) == plan["digest"]


async def test_what_needs_a_person_is_left(sold: Sold, redis_url: str) -> None:
    await spoil(
        sold,
        "UPDATE line SET quantity = 2, unit_price_minor = 50 WHERE purchase_id = '{cem}'",  # units that no row gave
        "UPDATE payment SET state = 'DECLINED'",
        "UPDATE ledger SET seq = 9 WHERE seq = 5",
    )
    plan = await propose(settings(sold, redis_url))
    assert (plan["returns"], plan["stock"], plan["sales"]) == ([], [], [])
    assert [row["buyer"] for row in plan["quota"]] == ["cem"]
    left = "\n".join(plan["left"])
    for words in ("has 0 captured payments", "the ledger gave it 1", "a gap in its ledger"):
        assert words in left


async def test_two_at_once_do_it_once(sold: Sold, redis_url: str) -> None:
    await spoil(sold, "UPDATE stock SET available = 1")
    plan = await propose(settings(sold, redis_url))
    outcomes = await asyncio.gather(
        *(apply(settings(sold, redis_url), plan, WHO, WHY) for _ in range(3)), return_exceptions=True
    )
    assert outcomes.count(True) == 1
    assert len(await rows(sold, LATEST)) == 1


async def test_only_an_operator_may(sold: Sold, redis_url: str) -> None:
    await spoil(sold, "UPDATE stock SET available = 1")
    plan = await propose(settings(sold, redis_url))
    for url in (sold.database.auditor_url, sold.database.app_url):
        connection = await asyncpg.connect(url, server_settings={"search_path": "flash"})
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval("SELECT repair_books('k', 'o', 'r', $1::jsonb)", json.dumps(plan))
        await connection.close()


async def test_the_command_says_what_it_did_as_json(sold: Sold, redis_url: str, tmp_path: Path) -> None:
    await spoil(sold, "UPDATE stock SET available = 1")
    plan = tmp_path / "plan.json"
    environment = {
        "PYTHONPATH": "src:.",
        "FLASH_POSTGRES_URL": sold.database.operator_url,
        "FLASH_REDIS_URL": redis_url,
    }

    def command(*words: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "flashsale.proof.repair", *words, "--json"],
            env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout)

    code, proposed = command("--out", str(plan))
    assert (code, proposed["plan"], proposed["stock"], proposed["left"]) == (1, str(plan), 1, 0)
    assert proposed["digest"] == json.loads(plan.read_text())["digest"]
    for applied in (True, False):
        assert command("--apply", str(plan), "--operator", WHO, "--reason", WHY) == (0, {"applied": applied})


# --- what a plan may touch: two sales, three buyers, and plans by hand


Plan = dict[str, list[dict[str, Any]]]
HELD_AGAIN = """
    UPDATE purchase SET state = 'HELD', generation = 2 WHERE id = '{cem}';
    UPDATE stock SET available = available - 1, seq = seq + 1 WHERE sku = '{a}';
    UPDATE stock SET available = available - 2, seq = seq + 1 WHERE sku = '{b}';
    INSERT INTO ledger (sku, seq, kind, reason, delta, purchase_id, generation, at)
    VALUES ('{a}', 7, 'hold', 'late_money', -1, '{cem}', 2, now()), ('{b}', 5, 'hold', 'late_money', -2, '{cem}', 2, now())"""


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        database.owner_url, server_settings={"search_path": "flash", "lock_timeout": "5s"}
    )
    yield connection
    await connection.close()


@pytest.fixture
async def shop(authority: Authority, owner: asyncpg.Connection) -> PayingShop:
    """Cem's hold ended and nothing was returned; a count and two quotas are wrong as well. All else is right."""
    made = PayingShop(authority, owner)
    await made.add_sale("s", {"a": 9, "b": 9}, buyer_limit=6)
    await made.add_sale("other", {"z": 9}, buyer_limit=6)
    await made.reserve(
        made.attempt("ana", "k", {"a": 2, "b": 1}),
        made.attempt("ben", "k", {"a": 1}),
        made.attempt("cem", "k", {"a": 1, "b": 2}),
        made.attempt("ana", "gone", {"a": 1}),
        made.attempt("ana", "z", {"z": 1}),
    )
    await made.cancel("ana", "gone")
    await made.restock("b", 2)
    await authority.raise_epoch(made._own("other"), 5)
    await by_hand(
        made,
        "UPDATE purchase SET state = 'EXPIRED' WHERE id = '{cem}'",
        "UPDATE stock SET available = 4 WHERE sku = '{a}'",
        "UPDATE quota SET active = 5 WHERE sale_id = '{s}' AND buyer = '{ana}'",
    )
    return made


def names(shop: PayingShop) -> dict[str, str]:
    return {name: shop._own(name) for name in ("s", "other", "a", "b", "z", "ana", "ben")} | {
        "cem": str(shop.id("cem", "k"))
    }


async def by_hand(shop: PayingShop, *statements: str) -> None:
    for statement in statements:
        await shop.owner.execute(statement.format(**names(shop)))


def plan_of(shop: PayingShop) -> Plan:
    cem = str(shop.id("cem", "k"))

    def stock(name: str, seq: int, available: int, total: int, to_available: int) -> dict[str, Any]:
        return {"sku": shop._own(name), "seq": seq, "available": available, "total": total,
                "to_available": to_available, "to_total": total, "delta": 0}  # fmt: skip

    def quota(buyer: str, active: int, to_active: int) -> dict[str, Any]:
        return {"sale": shop._own("s"), "buyer": shop._own(buyer), "active": active, "to_active": to_active}

    return {
        "returns": [
            {"purchase": cem, "sku": shop._own("a"), "generation": 1, "units": 1},
            {"purchase": cem, "sku": shop._own("b"), "generation": 1, "units": 2},
        ],
        "stock": [stock("a", 6, 4, 9, 6), stock("b", 4, 8, 11, 10)],
        "quota": [quota("ana", 5, 3), quota("cem", 3, 0)],
        "sales": [{"sale": shop._own("s"), "epoch": 1}],
    }


async def carry_out(shop: PayingShop, plan: Plan, key: str = "operator-key-0001") -> bool:
    done: bool = await shop.owner.fetchval("SELECT repair_books($1, $2, $3, $4)", key, WHO, WHY, json.dumps(plan))
    return done


async def table(shop: PayingShop, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await shop.owner.fetch(query.format(**names(shop)))]


async def test_a_plan_puts_right_what_it_names_and_leaves_the_rest(shop: PayingShop) -> None:
    await by_hand(shop, "UPDATE stock SET hold_seconds = 1 WHERE sku = '{z}'")  # a copy that nobody complained of
    strangers = await table(shop, "SELECT * FROM stock WHERE sku = '{z}'")
    plan = plan_of(shop)
    assert await carry_out(shop, plan)
    assert not await carry_out(shop, plan), "once per key"
    a, b, cem = shop._own("a"), shop._own("b"), shop.id("cem", "k")
    written = "SELECT sku, seq, kind, delta, purchase_id FROM ledger WHERE reason = 'repaired' ORDER BY sku, seq"
    assert await table(shop, written) == [
        (a, 7, "return", 1, cem), (a, 8, "correction", 0, None), (b, 5, "return", 2, cem), (b, 6, "correction", 0, None)
    ]  # fmt: skip
    counts = await table(shop, "SELECT sku, seq, available, total, epoch FROM stock WHERE sale_id = '{s}' ORDER BY sku")
    assert counts == [(a, 8, 6, 9, 2), (b, 6, 10, 11, 2)]
    quotas = await table(shop, "SELECT sale_id, buyer, active FROM quota ORDER BY sale_id DESC, buyer")
    s, other = shop._own("s"), shop._own("other")
    assert quotas == [(s, shop._own(who), units) for who, units in (("ana", 3), ("ben", 1), ("cem", 0))] + [
        (other, shop._own("ana"), 1)
    ]
    assert await table(shop, "SELECT epoch FROM sale ORDER BY epoch") == [(2,), (6,)]
    assert await table(shop, "SELECT * FROM stock WHERE sku = '{z}'") == strangers


async def test_a_count_is_put_right_without_its_sale(shop: PayingShop) -> None:
    await by_hand(shop, "UPDATE stock SET available = 7, hold_seconds = 1 WHERE sku = '{z}'")
    plan = plan_of(shop)
    right = {"sku": shop._own("z"), "seq": 2, "available": 7, "total": 9, "to_available": 8, "to_total": 9, "delta": 0}
    plan["stock"].append(right)
    assert await carry_out(shop, plan)
    assert await table(shop, "SELECT available, seq, hold_seconds, epoch FROM stock WHERE sku = '{z}'") == [
        (8, 3, 1, 6)
    ]


async def test_an_older_hold_of_who_holds_again_is_returned(shop: PayingShop) -> None:
    await by_hand(shop, HELD_AGAIN)
    plan = plan_of(shop)
    plan["stock"][0] |= {"seq": 7, "available": 3, "to_available": 5}
    plan["stock"][1] |= {"seq": 5, "available": 6, "to_available": 8}
    plan["quota"][1] |= {"to_active": 3}
    assert await carry_out(shop, plan)
    returned = "SELECT generation, delta FROM ledger WHERE purchase_id = '{cem}' AND kind = 'return' ORDER BY sku"
    assert await table(shop, returned) == [(1, 1), (1, 2)]


async def test_nothing_is_returned_twice(shop: PayingShop) -> None:
    assert await carry_out(shop, plan_of(shop))
    again = plan_of(shop) | {"quota": [], "sales": []}
    again["stock"][0] |= {"seq": 8, "available": 6, "delta": -1}
    again["stock"][1] |= {"seq": 6, "available": 10, "delta": -2}
    with pytest.raises(asyncpg.UniqueViolationError):
        await carry_out(shop, again, "operator-key-0002")


@pytest.mark.parametrize(
    ("part", "number", "change", "delta"),
    [
        ("stock", 1, {"available": 7}, 0),
        ("stock", 1, {"to_available": 9}, 0),
        ("quota", 0, {"active": 4}, 0),
        ("quota", 0, {"to_active": 4}, 0),
        ("sales", 0, {"epoch": 2}, 0),
        ("returns", 0, {"units": 2}, -1),  # more than was held, and the sums add up all the same
        ("returns", 0, {"generation": 2}, 0),  # that never was
        ("returns", 0, {"purchase": "ben"}, 0),  # who holds what he bought
        ("stock", 1, None, 0),  # units return to an item of which nothing is said
    ],
)
async def test_a_plan_that_does_not_fit_changes_nothing(
    shop: PayingShop, part: str, number: int, change: dict[str, Any] | None, delta: int
) -> None:
    plan = plan_of(shop)
    if change is None:
        del plan[part][number]
    else:
        plan[part][number] |= change | ({"purchase": str(shop.id("ben", "k"))} if "purchase" in change else {})
    plan["stock"][0]["delta"] += delta
    before = await table(shop, "SELECT * FROM ledger ORDER BY sku, seq")
    with pytest.raises(asyncpg.InvalidParameterValueError, match="stale"):
        await carry_out(shop, plan)
    assert await table(shop, "SELECT * FROM ledger ORDER BY sku, seq") == before


async def test_a_repair_waits_for_nobody_it_does_not_touch(shop: PayingShop, database: Database) -> None:
    other = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    try:
        await other.execute("BEGIN")
        for rows_of in (
            "sale WHERE id = '{other}'",
            "purchase WHERE sale_id = '{other}' OR buyer = '{ben}'",
            "quota WHERE sale_id = '{other}' OR buyer = '{ben}'",
            "stock WHERE sku = '{z}'",
        ):
            await other.execute(f"SELECT FROM {rows_of} FOR UPDATE".format(**names(shop)))
        assert await carry_out(shop, plan_of(shop))
    finally:
        await other.close()


async def test_an_item_that_is_being_added_gets_the_new_epoch(shop: PayingShop, database: Database) -> None:
    other = await asyncpg.connect(database.owner_url, server_settings={"search_path": "flash"})
    try:
        await shop.owner.execute("SET lock_timeout = 0")
        await other.execute("BEGIN")
        await other.execute("SELECT add_item($1, 'new', 'new', 1, 1)", shop._own("s"))
        repairing = asyncio.create_task(carry_out(shop, plan_of(shop)))
        await until_somebody_waits(other, "repair_books", call=repairing)
        await other.execute("COMMIT")
        assert await repairing
    finally:
        await other.close()
    assert await table(shop, "SELECT DISTINCT epoch FROM stock WHERE sale_id = '{s}'") == [(2,)]
