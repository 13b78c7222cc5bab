"""What was set aside, looked at and dealt with by hand: on a real broker, because how it hands messages back is the whole point."""

import argparse
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import asyncpg
import pytest

from flashsale.operate import dlq
from flashsale.operate.context import Context, OperationError
from flashsale.payments import queues
from flashsale.queued import topology
from tests.databases import Database, given
from tests.patience import PATIENCE_SECONDS
from tests.queues import broker, empty_payments

BODIES = [json.dumps({"subject": f"purchase {number}", "data": {"try": 1}}).encode() for number in range(6)]


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


class Desk:
    """An operator's commands, and what they print."""

    def __init__(self, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
        self._context = Context(
            database.operator_url,
            database.auditor_url,
            redis="",
            rabbitmq=given("FLASH_TEST_RABBITMQ_URL"),
            gateways={},
            json=True,
        )
        self._capsys = capsys

    async def __call__(self, *words: str) -> Any:
        parser = argparse.ArgumentParser()
        dlq.options(parser)
        await dlq.run(parser.parse_args(words), self._context)
        return json.loads(self._capsys.readouterr().out)

    async def listed(self, queue: str = "payments") -> list[str]:
        return [row["subject"] for row in await self("list", queue)]


@pytest.fixture
async def desk(database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    # An operator who is told in seconds that the broker is away, or shown what came until then, is no matter of these tests.
    for bound in ("CONNECT_SECONDS", "CALL_SECONDS", "QUIET_SECONDS", "BACK_SECONDS"):
        monkeypatch.setattr(f"flashsale.operate.broker.{bound}", PATIENCE_SECONDS)
    await empty_payments()
    async with broker() as channel:
        for number, body in enumerate(BODIES):
            message = aio_pika.Message(
                body, message_id=f"m{number}", headers={"reason": "refused", "tries": 7}, delivery_mode=2
            )
            await channel.default_exchange.publish(message, queues.DEAD)
    return Desk(database, capsys)


SUBJECTS = [f"purchase {number}" for number in range(6)]


async def waiting(queue: str) -> list[tuple[bytes, bool]]:
    """The bodies in a queue, in order, taken out; and whether a person asked for another try."""
    found: list[tuple[bytes, bool]] = []
    async with broker() as channel:
        declared = await channel.declare_queue(queue, passive=True)
        count = declared.declaration_result.message_count
        async with (
            declared.iterator() as messages
        ):  # a shard, with its single active consumer, cannot be asked one by one
            while len(found) < (count or 0):
                message = await anext(messages)
                found.append((message.body, bool(message.headers.get(queues.REQUEUED_HEADER))))
                await message.ack()
    return found


async def test_looking_loses_nothing_and_keeps_the_order_however_often(desk: Desk) -> None:
    for _ in range(queues.DELIVERY_LIMIT + 2):  # more often than the worker's own queue would let it be delivered
        assert await desk.listed() == SUBJECTS
    (row,) = await desk("list", "payments", "--last", "1")
    assert (row["id"], row["reason"], row["tries"]) == ("m5", "refused", 7)
    shown = await desk("show", "payments", "m3")
    assert shown["body"]["text"] == BODIES[3].decode()
    assert shown["headers"]["reason"] == "refused"
    assert await desk.listed() == SUBJECTS
    with pytest.raises(OperationError, match="no message m9"):
        await desk("show", "payments", "m9")


async def test_one_is_requeued_and_the_others_stay_as_they_were(desk: Desk, owner: asyncpg.Connection) -> None:
    assert (await desk("requeue", "payments", "m2", "--reason", "it is back", "--operator", "ana"))["done"] == 1
    assert await desk.listed() == [subject for subject in SUBJECTS if subject != "purchase 2"]
    assert await waiting(queues.PAYMENTS) == [(BODIES[2], True)]
    row = await owner.fetchrow("SELECT operator, action, subject, reason FROM flash.operation")
    assert tuple(row or ()) == ("ana", "dlq.requeue", "payments.dead:m2", "it is back")
    with pytest.raises(OperationError, match="no message m2"):
        await desk("requeue", "payments", "m2", "--reason", "once more")


async def test_all_are_requeued_in_order(desk: Desk) -> None:
    assert (await desk("requeue", "payments", "all", "--reason", "it is back"))["done"] == len(BODIES)
    assert [body for body, _ in await waiting(queues.PAYMENTS)] == BODIES
    assert await desk.listed() == []


async def test_what_cannot_be_put_back_stays_where_it_is(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dlq_origins(), queues.DEAD, "a-queue-that-is-not-there")
    with pytest.raises(OperationError, match="here or there"):
        await desk("requeue", "payments", "m0", "--reason", "a try")
    assert sorted(await desk.listed()) == SUBJECTS


def dlq_origins() -> dict[str, str]:
    from flashsale.operate import broker as operate_broker  # noqa: PLC0415 - another `broker` is at the top

    return operate_broker.DEAD_QUEUES


async def test_what_is_dropped_is_remembered(desk: Desk, owner: asyncpg.Connection) -> None:
    await desk("drop", "payments", "m4", "--reason", "not ours")
    assert await desk.listed() == [subject for subject in SUBJECTS if subject != "purchase 4"]
    assert await waiting(queues.PAYMENTS) == []
    detail = json.loads(await owner.fetchval("SELECT detail FROM flash.operation"))
    assert detail == {"body": {"text": BODIES[4].decode()}}


async def test_what_is_not_recorded_is_not_done(desk: Desk) -> None:
    with pytest.raises(OperationError):
        await desk("drop", "payments", "m4", "--reason", "x", "--key", "too short")
    assert await desk.listed() == SUBJECTS


async def test_an_unreadable_attempt_goes_back_to_the_shard_it_came_from(desk: Desk) -> None:
    shard = topology.SHARD_QUEUES[1]
    rid = uuid.uuid4()
    async with broker() as channel:
        for queue in topology.QUEUES:
            declared = await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))
            await declared.purge()
        message = aio_pika.Message(
            b"\xff", message_id=str(rid), headers={topology.PURCHASE_HEADER: "p"}, delivery_mode=2
        )
        await channel.default_exchange.publish(message, shard.name)
        source = await channel.get_queue(shard.name, ensure=False)
        async with source.iterator() as messages:
            await (await anext(messages)).reject(requeue=False)
    rows: list[Any] = []
    while not rows:  # at least once, which takes a moment
        rows = await desk("list", "checkout")
    assert [(row["id"], row["subject"]) for row in rows] == [(str(rid), "p")]
    assert (await desk("show", "checkout", str(rid)))["body"] == {"base64": "/w=="}
    await desk("requeue", "checkout", str(rid), "--reason", "the reader is mended")
    assert await waiting(shard.name) == [(b"\xff", True)]
    assert await desk("list", "checkout") == []
