"""A sale while its workers are killed at random: short, and what a longer one (`./flash soak`) would report."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from flashsale.authority.client import Attempt, Authority
from flashsale.contract import wire
from flashsale.payments import queues as payments
from flashsale.queued import topology
from flashsale.queued.message import Message, encode
from flashsale.settings import REPOSITORY
from flashsale.stack import soak
from flashsale.stack.options import KILLABLE, WORKERS
from flashsale.stack.running import Urls
from tests.contract.test_payments import opened
from tests.databases import Database, given
from tests.queues import broker, drop_queues, empty_payments, put

WITHIN_S = 1200  # of hangs: on a machine of its own it takes half a minute
SECONDS = 15
KEY = "0123456789abcdef"
VICTIMS = [(KILLABLE[name], number) for name in WORKERS for number in range(2)]


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(WITHIN_S + 20)
def test_whoever_is_killed_whenever_the_books_are_right() -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FLASH_") or name == "FLASH_HOME"
    }
    storm = subprocess.run(
        [sys.executable, str(REPOSITORY / "flash"), "soak", "--json", "--seconds", str(SECONDS), "--seed", "1"],
        env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert storm.returncode == 0, storm.stderr[-6000:]
    document: dict[str, Any] = json.loads(storm.stdout)
    sale = document["sale"]
    assert document["ok"]
    assert sale["ok"]
    planned = soak.schedule(1, SECONDS, sorted(VICTIMS))
    assert [(kill["role"], kill["number"]) for kill in sale["killed"]] == [kill[1:] for kill in planned]
    killed = [kill for kill in sale["killed"] if kill["pid"] is not None]
    assert len(killed) >= len(planned) // 3, "on however slow a machine some come back before they are due again"
    assert sum(document["restarts"].values()) >= len(killed)
    assert {name: finding["count"] for name, finding in sale["audit"]["findings"].items() if finding["count"]} == {}
    assert sale["ledger"]["paid"] > 0
    assert sale["audit"]["scope"]["journal_entries"] > 0
    assert {name: letters["unexplained"] for name, letters in document["dead_letters"].items()} == {
        payments.DEAD: [],
        topology.DEAD: [],
    }


def test_a_seed_means_the_same_kills_and_another_seed_means_others() -> None:
    kills = soak.schedule(7, 120, VICTIMS)
    assert kills == soak.schedule(7, 120, VICTIMS) != soak.schedule(8, 120, VICTIMS)
    assert 80 <= len(kills) <= 240
    assert all(soak.FIRST_S <= kill.at_s < 120 for kill in kills)
    assert {kill[1:] for kill in kills} == set(VICTIMS)


async def test_a_dead_letter_is_explained_by_the_books_and_by_nothing_else(
    database: Database, authority: Authority, owner: asyncpg.Connection
) -> None:
    urls = Urls("", "", "", database.auditor_url, "", "", given("FLASH_TEST_RABBITMQ_URL"))
    await empty_payments()
    await drop_queues()
    async with broker() as channel:
        for queue in topology.QUEUES:
            await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))
    assert [letters.messages for letters in (await soak.dead_letters(urls)).values()] == [0, 0]

    shop = await opened(authority, owner, units=9)
    await shop.pay("ana", "k")
    errand = json.dumps({"subject": str(shop.id("ana", "k")), "data": {"try": 1}}).encode()
    cart = wire.Cart((wire.Line(f"{shop.prefix}-a", 1),))
    attempt = Attempt(uuid.uuid4(), wire.purchase_id("ben", KEY), "ben", KEY, cart)
    letter = encode(Message(attempt.rid, attempt.purchase, "ben", KEY, cart, datetime.now(UTC)))
    await put(payments.DEAD, errand, b"no errand")
    await put(topology.DEAD, letter, b"no attempt")

    found = await soak.dead_letters(urls)
    assert {name: (letters.messages, len(letters.unexplained)) for name, letters in found.items()} == {
        payments.DEAD: (2, 2),
        topology.DEAD: (2, 2),
    }
    await shop.settle("ana", "k", 1, "declined")
    await authority.reserve_batch([attempt])
    found = await soak.dead_letters(urls)
    assert [letters.messages for letters in found.values()] == [2, 2], "who looks takes nothing away"
    assert [letters.unexplained for letters in found.values()] == [["b'no errand'"], ["b'no attempt'"]]
    await empty_payments()
    await drop_queues()
