"""A whole sale, and one process killed in the middle of its opening rush: no unit and no money goes wrong."""

import asyncio
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from flashsale.authority.client import Authority
from flashsale.settings import ASYNCIO_REDIS, BACKENDS, GEVENT_RABBIT, REPOSITORY, Settings
from flashsale.stack import demo
from flashsale.stack.demo import INSTANCE
from flashsale.stack.options import KILLABLE, DemoOptions
from flashsale.stack.roles import AUDITOR, uses
from flashsale.stack.running import Stack
from flashsale.stack.services import OWNER_ROLE
from flashsale.stack.state import Instance
from tests.databases import execute
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.slow
WITHIN_S, STOP_S = 1200, 120  # of hangs: on a machine of its own a sale takes ten seconds
# Enough to be refused by the hundred, and few enough for a slow machine: what a crowd does to one is not what is tested.
SHOPPERS, STOCK, ARRIVAL_S, HOLD_S = 750, 60, 4, 3
SALE = (
    "--shoppers", str(SHOPPERS), "--stock", str(STOCK), "--arrival-seconds", str(ARRIVAL_S), "--hold-seconds", str(HOLD_S)
)  # fmt: skip


@contextlib.contextmanager
def started(*more: str) -> Iterator[subprocess.Popen[str]]:
    """A demonstration with the settings' defaults, whatever the test run itself was told. It ends with its test."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FLASH_") or name == "FLASH_HOME"
    }
    run = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "flash"), "demo", "--json", *SALE, *more],
        env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield run
    finally:
        run.terminate()  # or the next one would find the instance in use
        run.communicate(timeout=STOP_S)


def is_right(result: dict[str, Any], backend: str, victim: str | None) -> None:
    """What must be so after every sale, whoever was killed in it."""
    assert result["ok"], demo.summary(result)
    assert result["backend"] == backend
    counts = {name: finding["count"] for name, finding in result["audit"]["findings"].items()}
    assert not {name for name, count in counts.items() if count}
    assert counts.keys() >= {"oversold", "lost", "duplicated", "leaked", "gate_drift", "money"}
    assert [kill["role"] for kill in result["killed"]] == ([] if victim is None else [KILLABLE[victim]])
    shoppers = result["shoppers"]
    assert shoppers["unanswered"] == shoppers["error"] == 0
    assert shoppers["payments"]["unanswered"] == shoppers["payments"]["error"] == 0
    # Some of a mixed crowd are queued; of the others everybody who gets through, or nobody.
    assert (shoppers["queued"] > 0) == (backend != ASYNCIO_REDIS)
    assert shoppers["attempts"] == sum(shoppers[fate] for fate in ("held", "sold_out", "over_limit", "refused"))
    # An honest sale that sells nothing is not the sale we asked for.
    assert result["ledger"]["holds"] >= STOCK / 2
    assert result["ledger"]["paid"] >= shoppers["payments"]["paid"] > 0
    assert result["ledger"]["holds"] == result["ledger"]["returned"] + result["ledger"]["paid"]
    assert result["audit"]["scope"]["journal_entries"] > 0


@pytest.mark.timeout(WITHIN_S + STOP_S + 20)
def test_the_command_sells_on_each_backend_kills_whom_it_is_told_to_and_ends_with_0() -> None:
    with started("--backend", "all", "--kill", "server") as run:
        output, errors = run.communicate(timeout=WITHIN_S)
    assert run.returncode == 0, errors[-4000:]
    document: dict[str, Any] = json.loads(output)
    assert document["ok"]
    assert len(document["runs"]) == len(BACKENDS)
    for result, backend in zip(document["runs"], BACKENDS, strict=True):
        is_right(result, backend, "server" if uses(backend, KILLABLE["server"]) else None)


class House(NamedTuple):
    """What a demonstration starts, for sale after sale."""

    settings: Settings
    stack: Stack
    authority: Authority

    async def sell(self, backend: str, victim: str) -> dict[str, Any]:
        """A sale of its own, with its own crowd, kill and audit."""
        asked = replace(OPTIONS, kill=(KILLABLE[victim],))
        killing = functools.partial(demo._kill, self.stack, backend, asked, quiet)
        told = Instance(self.settings.home, INSTANCE).directory / "told.jsonl.gz"
        return await demo.run_sale(
            self.authority, self.stack, backend, options=asked, settings=self.settings, say=quiet,
            killing=killing, told=told,
        )  # fmt: skip


def quiet(_: str) -> None:
    pass


DEFAULTS = Settings.load({})
OPTIONS = DemoOptions(
    backends=(ASYNCIO_REDIS, GEVENT_RABBIT),
    shoppers=SHOPPERS,
    stock=STOCK,
    seed=DEFAULTS.seed,
    buyer_limit=DEFAULTS.buyer_limit,
    hold_seconds=HOLD_S,
    arrival_seconds=ARRIVAL_S,
    kill=(),
    viewers=DEFAULTS.viewers,
    target=None,
    json=True,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    # Not pytest's own directory, which is closed to the user PostgreSQL runs as.
    home = Path(tempfile.mkdtemp(prefix="flash-"))
    home.chmod(0o711)
    settings = Settings.load({"FLASH_HOME": str(home), "FLASH_AUTH": "off"})
    async with demo._stack(OPTIONS, settings, quiet) as stack:
        authority = await Authority.connect(stack.urls.postgres_app, 1, PATIENCE_SECONDS)
        yield House(settings, stack, authority)
        await authority.close()
    shutil.rmtree(home)


@pytest.mark.timeout(WITHIN_S + STOP_S + 20)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("backend", "victim"),
    [
        *((ASYNCIO_REDIS, victim) for victim in ("balancer", "upkeep", "redis", "postgres")),
        *((GEVENT_RABBIT, victim) for victim in ("edge", "checkout", "payments", "gateway", "upkeep", "rabbitmq")),
    ],
)
async def test_whoever_is_killed_the_sale_stays_right_and_everybody_is_answered(
    house: House, backend: str, victim: str
) -> None:
    is_right(await house.sell(backend, victim), backend, victim)


def test_what_no_chosen_sale_uses_cannot_be_killed() -> None:
    with started("--backend", ASYNCIO_REDIS, "--kill", "edge") as run:
        _, errors = run.communicate(timeout=WITHIN_S)
    assert run.returncode == 2
    assert "has no edge" in errors


async def seen_on_watch(instance: Instance) -> None:
    """Wait until the auditor that runs beside the sale has seen something wrong."""
    (auditor,) = (row for row in instance.read()["processes"] if row["role"] == AUDITOR)
    async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_SECONDS):
        while True:
            async with session.get(f"http://127.0.0.1:{auditor['ops_port']}/report") as answer:
                if not (await answer.json())["clean"]:
                    return
            await asyncio.sleep(0.1)


@pytest.mark.timeout(WITHIN_S + STOP_S + 20)
async def test_a_sale_that_lost_a_unit_ends_with_1() -> None:
    with started("--backend", ASYNCIO_REDIS) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "is open" in line:
                break
        instance = Instance(Settings.load(os.environ).home, INSTANCE)
        # Only the owner may do this; the engine's own roles cannot.
        url = instance.read()["urls"]["postgres_auditor"].rpartition("@")[2]
        run.send_signal(signal.SIGSTOP)  # or the sale might be over before the auditor on watch has looked again
        try:
            await execute(
                f"postgresql://{OWNER_ROLE}:{instance.passwords()['postgres_owner']}@{url}",
                "UPDATE flash.stock SET total = total + 1 WHERE state = 'OPEN'",
            )
            await seen_on_watch(instance)
        finally:
            run.send_signal(signal.SIGCONT)
        output, _ = run.communicate(timeout=WITHIN_S)
    assert run.returncode == 1
    (sale,) = json.loads(output)["runs"]
    findings = sale["audit"]["findings"]
    # nobody can have the unit, and no row of the ledger put it on sale
    wrong = {"leaked": 1, "disordered": 1}
    assert {name: finding["count"] for name, finding in findings.items() if finding["count"]} == wrong
    assert not sale["watched"]["clean"], "the auditor on watch saw it, too"
    assert "1 of 61 units are neither available nor held" in findings["leaked"]["witnesses"][0]
