"""Books that were broken are put right by a plan that an operator applies: once, and only while it still fits."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from flashsale.proof import auditor
from flashsale.proof.auditor import audit
from flashsale.proof.repair import RepairError, apply, digest_of, propose
from flashsale.settings import Settings
from tests.contract.test_auditor import MOVED, UNCHECKED, Sold, sell
from tests.databases import Database, execute
from tests.patience import PATIENCE_SECONDS

OVER = ("UPDATE flash.sale SET state = 'ENDED'", "UPDATE flash.stock SET state = 'ENDED'")
BY_HAND = "SET session_replication_role = replica"  # no trigger: what is done by hand tells nobody
SENT = "UPDATE outbox SET sent_at = now()"  # as the relay does with the events of the repair itself
WHO, WHY = "olga", "found by the auditor"


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
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
