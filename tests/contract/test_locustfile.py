"""The shoppers for Locust buy, follow and decide at a real server of either backend, without a failure."""

import asyncio
import contextlib
import csv
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from flashsale.settings import REPOSITORY
from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
from tests.patience import PATIENCE_SECONDS
from tests.stages import Stage, staged

module = pytest.mark.asyncio(loop_scope="module")
STOCK = 10_000
ENOUGH = 12  # movements of stock: the restock, ana's, and some of people who came, bought, and gave it up


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(template: str, redis_url: str) -> AsyncIterator[Stage]:
    async with staged(template, redis_url, queued_servers=1) as made:
        yield made


@module
@pytest.mark.parametrize("backend", ["asyncio_redis", "gevent_rabbit"])
async def test_locusts_shoppers_come_and_go(stage: Stage, backend: str, tmp_path: Path) -> None:
    (server,) = stage.urls_of(backend)
    shop = HttpDriver(stage.authority, stage.owner, stage.session, [server])
    await shop.open("s", {"a": STOCK}, 2)
    assert await shop.reserve(Wish("ana", "ana", (("a", 1),)), is_retry=True) == "held"
    sku = shop.own("a")
    locust = await asyncio.create_subprocess_exec(
        *("sh", str(REPOSITORY / "scripts/load-test"), "--headless", "--only-summary"),
        *(
            "--host",
            server,
            "--sku",
            sku,
            "-u",
            "5",
            "-r",
            "5",
            "-t",
            f"{PATIENCE_SECONDS:.0f}s",
            "--stop-timeout",
            f"{PATIENCE_SECONDS:.0f}",
        ),
        *("--csv", str(tmp_path / "seen"), "--exit-code-on-error", "0"),
        cwd=REPOSITORY,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "FLASH_HOME": str(Path(sys.prefix).parent),
            "FLASH_AUTH": "off",
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    # enough, or its own time is up; what was done until then is looked at either way
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (await _seq(stage, sku)) < ENOUGH and locust.returncode is None:
                await asyncio.sleep(0.1)
    if locust.returncode is None:
        locust.terminate()
    _, said = await asyncio.wait_for(locust.communicate(), 2 * PATIENCE_SECONDS)  # it has its own to end in
    assert locust.returncode == 0, said.decode()
    with (tmp_path / "seen_stats.csv").open(encoding="utf-8", newline="") as file:
        names = {row["Name"] for row in csv.DictReader(file)}
    assert {"stock", "buy"} <= names
    assert ("follow" in names) == (backend == "gevent_rabbit")
    # a server that is slow for a moment may say 503; nothing else is a failure
    with (tmp_path / "seen_failures.csv").open(encoding="utf-8", newline="") as file:
        assert {row["Error"] for row in csv.DictReader(file)} <= {"CatchResponseError('status 503')"}


async def _seq(stage: Stage, sku: str) -> int:
    stock = await stage.authority.read_stock(sku)
    assert stock is not None
    return stock.seq
