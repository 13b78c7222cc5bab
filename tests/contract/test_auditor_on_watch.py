"""The auditor that runs all the time: what was ever wrong for good stays in its report, and a store that is away is no finding."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import generate_latest

from flashsale.proof import stores
from flashsale.proof.auditor import Sources
from flashsale.proof.invariants import RULE
from flashsale.proof.stores import Journal
from flashsale.proof.watch import PAUSE_S_MIN, WATCHED_RULES, Watch
from flashsale.stack.processes import free_port
from tests.contract.test_auditor import Sold, sell
from tests.databases import Database, execute
from tests.patience import PATIENCE_SECONDS


@pytest.fixture
async def sold(database: Database, monkeypatch: pytest.MonkeyPatch) -> Sold:
    """A sale that is over, so that it needs no gate."""
    monkeypatch.setattr(stores, "CONNECT_SECONDS", PATIENCE_SECONDS)
    made = await sell(database)
    await execute(database.owner_url, "UPDATE flash.sale SET state = 'ENDED'", "UPDATE flash.stock SET state = 'ENDED'")
    return made


def series(watch: Watch) -> dict[str, float]:
    lines = generate_latest(watch.metrics.registry).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


async def test_a_violation_stays_in_the_report_after_somebody_put_it_right(sold: Sold, redis_url: str) -> None:
    watch = Watch(Sources(sold.database.auditor_url, redis_url))
    assert not watch.ready
    assert await watch.round() >= PAUSE_S_MIN
    assert watch.ready
    assert watch.report()["clean"]
    await execute(sold.database.owner_url, "UPDATE flash.quota SET active = 2 WHERE buyer = 'cem'")
    await watch.round()
    assert series(watch)['flash_audit_findings{finding="leaked"}'] == 1
    await execute(sold.database.owner_url, "UPDATE flash.quota SET active = 1 WHERE buyer = 'cem'")
    await watch.round()
    report = watch.report()
    assert (report["clean"], sum(report["findings"].values()), report["passes"]) == (False, 0, 3)
    (violation,) = report["violations"]
    assert (violation["rule"], violation["invariant"], violation["count"]) == ("quota-differs", "I7", 1)
    assert violation["witnesses"] == [f"cem keeps 1 units of sale {sold.sale}, the quota says 2"]
    assert series(watch)["flash_audit_violations"] == 1


async def test_what_may_settle_counts_when_it_has_lasted(
    sold: Sold, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(
        sold.database.owner_url, "UPDATE flash.purchase SET deadline = now() - interval '1 hour' WHERE buyer = 'cem'"
    )
    watch = Watch(Sources(sold.database.auditor_url, redis_url))
    await watch.round()
    assert watch.report()["clean"]
    assert series(watch)['flash_audit_settling{finding="leaked"}'] == 1
    monkeypatch.setitem(RULE, "hold-overdue", RULE["hold-overdue"]._replace(settles_s=0))
    await watch.round()
    assert [violation["rule"] for violation in watch.report()["violations"]] == ["hold-overdue"]


@pytest.mark.parametrize("away", ["redis", "postgres", "journal"])
async def test_a_store_that_is_away_fails_the_pass_and_is_no_finding(
    sold: Sold, redis_url: str, away: str, tmp_path: Path
) -> None:
    sources = Sources(sold.database.auditor_url, redis_url)
    match away:
        case "redis":
            sources = sources._replace(redis="redis://127.0.0.1:1/0")
        case "postgres":
            sources = sources._replace(postgres="postgresql://nobody@127.0.0.1:1/none")
        case _:
            sources = sources._replace(journals=[Journal(tmp_path / "none")])
    watch = Watch(sources)
    await watch.round()
    report = watch.report()
    assert (report["clean"], report["ready"], report["passes"], report["failed_passes"]) == (True, False, 0, 1)


def test_what_means_something_only_at_rest_is_not_watched() -> None:
    assert {rule.invariant for rule in RULE.values()} - {rule.invariant for rule in WATCHED_RULES} == {"I11"}


@contextlib.asynccontextmanager
async def on_watch(sold: Sold, redis_url: str, **more: str) -> AsyncIterator[aiohttp.ClientSession]:
    """The process, ready, and told to end afterwards."""
    port = free_port()
    environment = {
        "PYTHONPATH": "src:.",
        "FLASH_POSTGRES_URL": sold.database.auditor_url,
        "FLASH_REDIS_URL": redis_url,
        "FLASH_OPS_PORT": str(port),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "flashsale.proof", env=environment | more)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session, asyncio.timeout(PATIENCE_SECONDS):
            while not await _is_ready(session):
                await asyncio.sleep(0.1)
            yield session
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0


async def _is_ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def report_with(session: aiohttp.ClientSession, number: str) -> dict[str, Any]:
    """The first report in which this number is not 0."""
    while True:
        async with session.get("/report") as answer:
            report: dict[str, Any] = await answer.json()
        if report[number]:
            return report
        await asyncio.sleep(0.1)


async def test_the_process_answers_on_its_operations_port_and_ends_when_told(sold: Sold, redis_url: str) -> None:
    async with on_watch(sold, redis_url) as session:
        report = await report_with(session, "passes")
        assert (report["clean"], report["ready"], report["scope"]["purchases"]) == (True, True, 3)
        async with session.get("/metrics") as answer:
            assert "flash_audit_age_seconds" in await answer.text()


async def test_a_bank_that_is_away_keeps_no_shop_from_starting(sold: Sold, redis_url: str) -> None:
    async with on_watch(sold, redis_url, FLASH_GATEWAY_CARD_URL="http://127.0.0.1:1") as session:
        report = await report_with(session, "failed_passes")
        assert (report["passes"], report["ready"]) == (0, False)
        assert await _is_ready(session)
