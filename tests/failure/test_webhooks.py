"""The example consumer and a receiver that does what a receiver should: check the signature, know repetitions by their id."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aiohttp import web

from flashsale.contract import events
from flashsale.payments import queues
from flashsale.settings import REPOSITORY
from flashsale.webhooks import consumer
from flashsale.webhooks.consumer import DEAD, QUEUE, Consumer, declare, patterns
from flashsale.webhooks.sender import Sender
from tests.databases import given
from tests.patience import PATIENCE_SECONDS
from tests.queues import broker, ready_messages
from tests.servers import free_port

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
CLOCKS_APART_S = 300
AT_ONCE = (0.0, 0.0)


class Receiver:
    """Takes each event once, however often it comes. ``answers`` are the next statuses; then 200."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_port()}/hook"
        self.deliveries: list[str] = []
        self.taken: dict[str, dict[str, Any]] = {}
        self.answers: list[int] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        event, at = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
        signed = base64.b64encode(hmac.new(KEY, f"{event}.{at}.".encode() + body, hashlib.sha256).digest()).decode()
        assert hmac.compare_digest(request.headers["webhook-signature"], f"v1,{signed}")
        assert abs(time.time() - at) < CLOCKS_APART_S
        assert request.content_type == events.CONTENT_TYPE
        self.deliveries.append(event)
        await self.hold.wait()
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.taken.setdefault(event, json.loads(body))
        return web.Response(status=status)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(made.url.rpartition(":")[2].removesuffix("/hook"))).start()
    yield made
    made.hold.set()
    await runner.cleanup()


@pytest.fixture(autouse=True)
async def empty() -> None:
    async with broker() as channel:
        for name in (QUEUE, DEAD):
            await channel.queue_delete(name)
        await queues.declare(channel)


@contextlib.asynccontextmanager
async def consuming(receiver: Receiver, *topics: str) -> AsyncIterator[None]:
    sender = Sender(receiver.url, KEY, connections=4)
    ready = asyncio.Event()
    task = asyncio.create_task(
        Consumer(given("FLASH_TEST_RABBITMQ_URL"), sender, topics or ("purchase.*",), AT_ONCE).run(ready.set)
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ready.wait()
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await sender.close()


def body(event: str) -> bytes:
    return json.dumps({"specversion": "1.0", "id": event, "data": {}}).encode()


async def tell(topic: str, *bodies: bytes) -> None:
    async with broker() as channel:
        exchange = await channel.get_exchange(queues.EVENTS)
        for each in bodies:
            message = aio_pika.Message(
                each, content_type=events.CONTENT_TYPE, delivery_mode=aio_pika.DeliveryMode.PERSISTENT
            )
            await exchange.publish(message, topic, mandatory=False, timeout=PATIENCE_SECONDS)


async def until(holds: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (await result if asyncio.iscoroutine(result := holds()) else result):
            await asyncio.sleep(0.02)


async def test_an_event_told_twice_is_delivered_twice_under_one_id_and_taken_once(receiver: Receiver) -> None:
    async with consuming(receiver):
        await tell("purchase.held", body("1"), body("1"), body("2"))
        await until(lambda: len(receiver.deliveries) == 3)
    assert set(receiver.taken) == {"1", "2"}
    assert receiver.taken["1"] == json.loads(body("1"))


async def test_a_failure_is_tried_again_with_the_same_id(receiver: Receiver) -> None:
    receiver.answers = [500, 503]
    async with consuming(receiver):
        await tell("purchase.held", body("1"))
        await until(lambda: "1" in receiver.taken)
    assert receiver.deliveries == ["1"] * 3


async def test_what_is_out_of_tries_is_set_aside_and_the_next_goes_on(receiver: Receiver) -> None:
    receiver.answers = [500, 302, 410]
    async with consuming(receiver):
        await tell("purchase.held", body("1"))
        await until(lambda: _is(DEAD, 1))
        await tell("purchase.held", b"no event", b'{"id":"a\\nb"}', b'{"id":7}', body("2"))
        await until(lambda: "2" in receiver.taken)
        await until(lambda: _is(DEAD, 4))
    assert receiver.deliveries == ["1"] * len((*AT_ONCE, None)) + ["2"]
    async with broker() as channel:
        dead = await (await channel.get_queue(DEAD)).get()
        assert (dead.body, dead.headers["reason"]) == (body("1"), "the receiver answered 410")
        await dead.nack()


async def _is(queue: str, count: int) -> bool:
    return await ready_messages(queue) == count


async def test_a_consumer_that_dies_leaves_what_it_had_in_hand_to_the_next(receiver: Receiver) -> None:
    receiver.hold.clear()
    async with consuming(receiver):
        await tell("purchase.held", body("1"))
        await until(lambda: receiver.deliveries == ["1"])
    receiver.hold.set()
    async with consuming(receiver):
        await until(lambda: len(receiver.deliveries) == 2)
        await until(lambda: "1" in receiver.taken)


async def test_a_full_queue_loses_its_oldest_and_refuses_nobody() -> None:
    # reject-publish here would have the relay's payments refused as well: they go through the same exchange
    async with broker() as channel:
        queue = await declare(channel, ["purchase.*"], messages_max=3)
        await tell("purchase.held", *(body(str(number)) for number in range(9)))
        await until(lambda: _is(QUEUE, 3))
        assert json.loads((await queue.get(no_ack=True)).body)["id"] == "6"
        await until(lambda: _is(DEAD, 6))


async def test_only_what_was_asked_for_is_kept_and_an_older_wish_ends() -> None:
    async with broker() as channel:
        await declare(channel, ["purchase.*", "sale.ended"])
        await declare(channel, ["purchase.paid", "stock.*"])
        for topic in ("purchase.held", "sale.ended", "money.refunded", "payment.asked"):
            await tell(topic, body("not this"))
        await tell("purchase.paid", body("1"))
        await tell("stock.changed", body("2"))
        await until(lambda: _is(QUEUE, 2))
        await queues.declare(channel)
        await (await channel.get_queue(queues.PAYMENTS)).purge()


def test_errands_are_not_for_others() -> None:
    assert not [topic for topic in patterns() if topic.startswith("payment")]
    assert {topic for topic, by_default in patterns().items() if by_default} == {
        f"{family}.*" for family in ("purchase", "money", "sale", "item", "stock", "operation")
    }


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n", encoding="ascii")
    return path


def program(secret: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "flashsale.webhooks", "--secret-file", str(secret), *arguments]


def environment() -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY / "src"),
        "FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL"),
    }


async def test_the_program_delivers_until_it_is_asked_to_stop(receiver: Receiver, secret: Path) -> None:
    arguments = program(secret, "--url", receiver.url, "--topic", "sale.*")
    child = await asyncio.create_subprocess_exec(*arguments, env=environment(), stdout=asyncio.subprocess.PIPE)
    try:
        assert child.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert b"webhooks.consuming" in await child.stdout.readline()
        await tell("sale.ended", body("1"))
        await until(lambda: "1" in receiver.taken)
        await until(lambda: _is(QUEUE, 0))
    finally:
        child.terminate()
    assert await child.wait() == 0


@pytest.mark.parametrize(
    ("url", "text", "told"),
    [
        ("http://shop.example/", SECRET, "only https leaves this machine"),
        ("http://127.0.0.1:1/", "whsec_c2hvcnQ=", "a secret is whsec_"),
    ],
)
def test_the_program_refuses_what_is_unsafe(secret: Path, url: str, text: str, told: str) -> None:
    secret.write_text(text, encoding="ascii")
    done = subprocess.run(
        program(secret, "--url", url),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert text not in done.stderr


def test_what_waits_for_its_next_try_waits_longer_each_time() -> None:
    assert list(consumer.RETRY_SECONDS) == sorted(consumer.RETRY_SECONDS)
