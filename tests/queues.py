"""The test run's RabbitMQ, behind the scenes: what is in a queue, and how to put something into it or take it all away."""

import contextlib
from collections.abc import AsyncIterator

import aio_pika
from aio_pika.abc import AbstractChannel

from flashsale.payments import queues as payments
from flashsale.queued import topology
from tests.databases import given


@contextlib.asynccontextmanager
async def broker(url: str = "", *, confirms: bool = True) -> AsyncIterator[AbstractChannel]:
    """A channel of the test's own, to the test run's broker or to another."""
    connection = await aio_pika.connect(url or given("FLASH_TEST_RABBITMQ_URL"))
    async with connection:
        yield await connection.channel(publisher_confirms=confirms)


async def drop_queues() -> None:
    """Remove every queue of the topology: what an earlier test left is not this one's."""
    async with broker() as channel:
        for queue in topology.QUEUES:
            await channel.queue_delete(queue.name)


async def ready_messages(queue: str, url: str = "") -> int:
    """How many messages wait in it, those in a worker's hand not counted."""
    async with broker(url) as channel:
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


async def put(queue: str, *bodies: bytes, rid: str | None = None, purchase: str = "") -> None:
    """Publish raw messages, as a front would."""
    async with broker() as channel:
        for body in bodies:
            headers = {topology.PURCHASE_HEADER: purchase} if purchase else {}
            message = aio_pika.Message(body, message_id=rid, headers=dict(headers), delivery_mode=topology.PERSISTENT)
            await channel.default_exchange.publish(message, queue)


async def empty_payments() -> None:
    """Take every message out of the payments' queues."""
    async with broker() as channel:
        await payments.declare(channel)
        # The way that a message goes, or one whose delay is over meanwhile would come to a queue that was emptied.
        delayed = [f"{payments.PAYMENTS}.retry.{delay_ms}" for delay_ms in payments.RETRY_MS]
        for name in [*delayed, payments.PAYMENTS, payments.DEAD]:
            await (await channel.declare_queue(name, passive=True)).purge()


async def empty_all() -> None:
    """For who looks at every queue: what an earlier test left is not this one's."""
    await drop_queues()
    await empty_payments()
