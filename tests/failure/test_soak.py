"""A sale while its workers are killed at random: short, and what a longer one (`./flash soak`) would report."""

import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from flashsale.authority.client import Attempt, Authority
from flashsale.contract import wire
from flashsale.payments import queues as payments
from flashsale.queued import topology
from flashsale.queued.message import Message, encode
from flashsale.settings import ASYNCIO_REDIS, GEVENT_RABBIT, MIXED, REPOSITORY, Settings
from flashsale.stack import soak
from flashsale.stack.options import KILLABLE, WORKERS
from flashsale.stack.running import Urls
from flashsale.stack.services import OWNER_ROLE
from flashsale.stack.state import Instance
from tests.contract.test_payments import opened
from tests.databases import Database, execute, given
from tests.queues import broker, drop_queues, empty_payments, put

WITHIN_S, STOP_S = 1200, 60  # of hangs: on a machine of its own each takes less than a minute
SECONDS = 15
COUNTED = {  # how often who is killed on which backend; `./flash soak` takes any count
    ASYNCIO_REDIS: {"server": 3, "redis": 2},
    GEVENT_RABBIT: {"edge": 2, "checkout": 2, "rabbitmq": 1},
}
KEY = "0123456789abcdef"
SERVICES = {"redis", "rabbitmq"}  # of which there is one
VICTIMS = [(KILLABLE[name], number) for name in WORKERS for number in range(2)]


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A storm with the settings' defaults, whatever the test run itself was told. It ends with its test."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FLASH_") or name == "FLASH_HOME"
    }
    storm = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "flash"), "soak", "--json", "--seed", "1", *words],
        env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield storm
    finally:
        storm.terminate()  # or the next one would find the instance in use
        storm.communicate(timeout=STOP_S)


def survived(*words: str) -> dict[str, Any]:
    """What a storm tells that ended with 0; what must be so after every one is asserted."""
    with started(*words) as storm:
        output, errors = storm.communicate(timeout=WITHIN_S)
    assert storm.returncode == 0, errors[-6000:]
    document: dict[str, Any] = json.loads(output)
    sale = document["sale"]
    assert document["ok"]
    assert sale["ok"]
    assert {name: finding["count"] for name, finding in sale["audit"]["findings"].items() if finding["count"]} == {}
    assert sale["shoppers"]["everybody_was_answered"]
    assert sale["ledger"]["paid"] > 0
    assert sale["audit"]["scope"]["journal_entries"] > 0
    assert not any(letters["unexplained"] for letters in document["dead_letters"].values())
    return document


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_S + STOP_S + 20)
def test_whoever_is_killed_whenever_the_books_are_right() -> None:
    document = survived("--seconds", str(SECONDS))
    sale = document["sale"]
    planned = soak.schedule(1, SECONDS, sorted(VICTIMS))
    assert [(kill["role"], kill["number"]) for kill in sale["killed"]] == [(kill.role, kill.number) for kill in planned]
    killed = [kill for kill in sale["killed"] if kill["pid"] is not None]
    assert len(killed) >= len(planned) // 3, "on however slow a machine some come back before they are due again"
    assert sum(document["restarts"].values()) >= len(killed)
    assert document["dead_letters"].keys() == {payments.DEAD, topology.DEAD}


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_S + STOP_S + 20)
@pytest.mark.parametrize("backend", COUNTED)
def test_so_many_kills_of_each_all_happen_and_the_books_are_right(backend: str) -> None:
    times = {KILLABLE[name]: times for name, times in COUNTED[backend].items()}
    kills = [word for name, times in COUNTED[backend].items() for word in ("--kill", f"{name}={times}")]
    document = survived("--backend", backend, *kills, "--seconds", "5", "--shoppers", "200")
    killed = document["sale"]["killed"]
    victims = sorted((role, number) for role in times for number in range(1 if role in SERVICES else soak.OF_EACH))
    planned = soak.counted(1, times, victims)
    assert [(kill["role"], kill["number"]) for kill in killed] == [(kill.role, kill.number) for kill in planned]
    assert all(kill["pid"] is not None for kill in killed)
    assert document["counted"] == {role: {"wanted": count, "killed": count} for role, count in times.items()}
    deaths = Counter(f"{kill.role}-{kill.number}" for kill in planned)
    assert all(document["restarts"][name] >= count for name, count in deaths.items())
    # the other backend's queue is not there, and nobody misses it
    assert (
        (document["sale"]["shoppers"]["queued"] > 0)
        == (topology.DEAD in document["dead_letters"])
        == (backend == GEVENT_RABBIT)
    )


@pytest.mark.slow
@pytest.mark.timeout(WITHIN_S + STOP_S + 20)
async def test_a_storm_in_which_a_unit_is_lost_ends_with_1() -> None:
    with started("--backend", ASYNCIO_REDIS, "--kill", "server=2", "--seconds", "5", "--shoppers", "100") as storm:
        assert storm.stderr is not None
        for line in storm.stderr:
            if "is open" in line:
                break
        instance = Instance(Settings.load(os.environ).home, soak.INSTANCE)
        # Only the owner may do this; the engine's own roles cannot.
        url = instance.read()["urls"]["postgres_auditor"].rpartition("@")[2]
        await execute(
            f"postgresql://{OWNER_ROLE}:{instance.passwords()['postgres_owner']}@{url}",
            "UPDATE flash.stock SET total = total + 1 WHERE state = 'OPEN'",
        )
        output, _ = storm.communicate(timeout=WITHIN_S)
    assert storm.returncode == 1
    document = json.loads(output)
    assert document["counted"] == {ASYNCIO_REDIS: {"wanted": 2, "killed": 2}}, (
        "every kill happened, and that is not enough"
    )
    findings = document["sale"]["audit"]["findings"]
    assert {name: finding["count"] for name, finding in findings.items() if finding["count"]} == {
        "leaked": 1,
        "disordered": 1,
    }


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--backend", ASYNCIO_REDIS, "--kill", "edge=3"), "has no edge"),
        (("--kill", "server", "--kill", "server=3"), "twice"),
        (("--kill", "server=0"), "ROLE=N"),
        (("--kill", "server="), "ROLE=N"),
        (("--kill", "clerk=3"), "ROLE=N"),
        (("--kill", "server=600", "--kill", "redis=401"), "outlast the sale"),
    ],
)
def test_kills_that_cannot_be_are_bad_usage(words: tuple[str, ...], problem: str) -> None:
    with started(*words) as storm:
        _, errors = storm.communicate(timeout=WITHIN_S)
    assert storm.returncode == 2
    assert problem in errors


def test_a_seed_means_the_same_kills_and_another_seed_means_others() -> None:
    kills = soak.schedule(7, 120, VICTIMS)
    assert kills == soak.schedule(7, 120, VICTIMS) != soak.schedule(8, 120, VICTIMS)
    assert 80 <= len(kills) <= 240
    assert all(soak.FIRST_S <= kill.at_s < 120 for kill in kills)
    assert {(kill.role, kill.number) for kill in kills} == set(VICTIMS)


async def test_a_dead_letter_is_explained_by_the_books_and_by_nothing_else(
    database: Database, authority: Authority, owner: asyncpg.Connection
) -> None:
    urls = Urls("", "", "", database.auditor_url, "", "", "", given("FLASH_TEST_RABBITMQ_URL"))
    await empty_payments()
    await drop_queues()
    async with broker() as channel:
        for queue in topology.QUEUES:
            await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))
    assert [letters.messages for letters in (await soak.dead_letters(urls, MIXED)).values()] == [0, 0]

    shop = await opened(authority, owner, units=9)
    await shop.pay("ana", "k")
    errand = json.dumps({"subject": str(shop.id("ana", "k")), "data": {"try": 1}}).encode()
    cart = wire.Cart((wire.Line(f"{shop.prefix}-a", 1),))
    attempt = Attempt(uuid.uuid4(), wire.purchase_id("ben", KEY), "ben", KEY, cart)
    letter = encode(Message(attempt.rid, attempt.purchase, "ben", KEY, cart, datetime.now(UTC)))
    await put(payments.DEAD, errand, b"no errand")
    await put(topology.DEAD, letter, b"no attempt")

    found = await soak.dead_letters(urls, MIXED)
    assert {name: (letters.messages, len(letters.unexplained)) for name, letters in found.items()} == {
        payments.DEAD: (2, 2),
        topology.DEAD: (2, 2),
    }
    await shop.settle("ana", "k", 1, "declined")
    await authority.reserve_batch([attempt])
    found = await soak.dead_letters(urls, MIXED)
    assert [letters.messages for letters in found.values()] == [2, 2], "who looks takes nothing away"
    assert [letters.unexplained for letters in found.values()] == [["b'no errand'"], ["b'no attempt'"]]
    await empty_payments()
    await drop_queues()
