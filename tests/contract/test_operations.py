"""What is done by hand is done once per key, by nobody but whom it names, and stays on record."""

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from flashsale.operate import operations
from flashsale.operate.context import AwayError, Context, OperationError
from flashsale.operate.database import REHEARSAL_LOCK_MS, REHEARSAL_STATEMENT_MS, connected, rehearsed
from tests.databases import Database
from tests.patience import PATIENCE_SECONDS

KEY = "operator-key-0001"
RECORD = "SELECT flash.record_operation($1, $2, $3, $4, $5, '{}'::jsonb)"
RECORD_ELSEWHERE = "SELECT flash.record_elsewhere($1, $2, $3, $4, $5, '{}'::jsonb)"


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


def context(database: Database) -> Context:
    return Context(database.operator_url, database.auditor_url, redis="", rabbitmq="", gateways={}, json=True)


async def test_an_operation_is_recorded_once_per_key(owner: asyncpg.Connection) -> None:
    assert await owner.fetchval(RECORD, KEY, "ana", "sale.pause", "s", "a fire drill") is True
    assert await owner.fetchval(RECORD, KEY, "ana", "sale.pause", "s", "a fire drill") is False
    assert await owner.fetchval("SELECT count(*) FROM flash.operation") == 1


@pytest.mark.parametrize("other", [("sale.end", "s"), ("sale.pause", "t")])
async def test_a_key_that_did_something_else_is_refused(owner: asyncpg.Connection, other: tuple[str, str]) -> None:
    await owner.fetchval(RECORD, KEY, "ana", "sale.pause", "s", "a fire drill")
    with pytest.raises(asyncpg.InvalidParameterValueError, match=r"was used for sale\.pause of s"):
        await owner.fetchval(RECORD, KEY, "ana", *other, "a fire drill")


async def test_what_is_done_elsewhere_is_recorded_and_nothing_else_is(
    owner: asyncpg.Connection, database: Database
) -> None:
    deeds = ["dlq.requeue", "dlq.drop", "balancer.drain", "balancer.undrain", "balancer.weight", "balancer.algorithm"]
    for number, url in enumerate((database.operator_url, database.admin_url)):
        async with connected(url) as connection:
            for place, deed in enumerate(deeds):
                await connection.execute(RECORD_ELSEWHERE, f"{KEY}-{number}-{place}", "ana", deed, "a", "why")
    assert [row["action"] for row in await owner.fetch("SELECT action FROM flash.operation ORDER BY id")] == 2 * deeds
    for deed in ("sale.pause", "balancer.remove", "dlq"):
        with pytest.raises(OperationError, match="is recorded where it is done"):
            async with connected(database.admin_url) as connection:
                await connection.execute(RECORD_ELSEWHERE, f"{KEY}-x", "ana", deed, "a", "why")


@pytest.mark.parametrize(
    "wrong",
    [("short", "ana", "why"), (KEY, "", "why"), (KEY, "a b", "why"), (KEY, "ana", "   "), (KEY, "ana", "x" * 501)],
)
async def test_a_deed_without_a_key_a_name_or_a_reason_is_refused(
    owner: asyncpg.Connection, wrong: tuple[str, str, str]
) -> None:
    key, operator, reason = wrong
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.fetchval(RECORD, key, operator, "sale.pause", "s", reason)


async def test_the_list_shows_the_latest_of_a_subject_in_order(
    owner: asyncpg.Connection, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, subject in enumerate(("s", "t", "s", "s")):
        await owner.fetchval(RECORD, f"{KEY}{number}", "ana", "sale.pause", subject, f"reason {number}")
    await operations.run(argparse.Namespace(subject="s", last=2), context(database))
    rows = json.loads(capsys.readouterr().out)
    assert [(row["reason"], row["detail"]) for row in rows] == [("reason 2", {}), ("reason 3", {})]


async def test_a_refusal_of_the_database_is_an_operation_error_in_words(database: Database) -> None:
    with pytest.raises(OperationError, match="permission denied"):
        async with connected(database.operator_url) as connection:
            await connection.execute("SELECT record_operation('k', 'o', 'a', 's', 'r', '{}')")
    with pytest.raises(OperationError, match="does not answer"):
        async with connected("postgresql://nobody:x@127.0.0.1:1/none"):
            pass


async def test_what_is_rehearsed_is_taken_back_and_gives_way(database: Database, owner: asyncpg.Connection) -> None:
    async with connected(database.owner_url) as connection, rehearsed(connection):
        assert await connection.fetchval(RECORD, KEY, "ana", "sale.pause", "s", "a fire drill") is True
        assert await connection.fetchval("SHOW lock_timeout") == f"{REHEARSAL_LOCK_MS // 1000}s"
        assert await connection.fetchval("SHOW statement_timeout") == f"{REHEARSAL_STATEMENT_MS // 1000}s"
    assert await owner.fetchval("SELECT count(*) FROM flash.operation") == 0


async def test_who_stands_still_in_a_rehearsal_loses_its_locks(database: Database, owner: asyncpg.Connection) -> None:
    is_cut = False
    with contextlib.suppress(AwayError):  # which ends it, now that the connection is gone
        async with connected(database.owner_url) as connection, rehearsed(connection):
            await connection.fetchval(RECORD, KEY, "ana", "sale.pause", "s", "a fire drill")
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not connection.is_closed():
                    await asyncio.sleep(0.02)
            is_cut = True
    assert is_cut
    assert await owner.fetchval("SELECT count(*) FROM flash.operation") == 0


async def test_a_lock_that_is_held_is_no_refusal(database: Database, owner: asyncpg.Connection) -> None:
    async with owner.transaction():
        await owner.execute("LOCK TABLE flash.operation")
        with pytest.raises(AwayError, match="lock timeout"):
            async with connected(database.owner_url) as connection, rehearsed(connection):
                await connection.fetchval(RECORD, KEY, "ana", "sale.pause", "s", "a fire drill")
