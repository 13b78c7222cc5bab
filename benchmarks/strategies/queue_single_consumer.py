"""Attempts go to a durable queue in RabbitMQ, and one consumer takes one after the other: reads, writes, commits, answers, acknowledges.

Why nobody oversells: nobody else writes. What breaks it: a broker delivers at least once, and one consumer is no key. ::

    consumer   takes A's attempt, commits: sold
    consumer   is killed before the acknowledgement
    broker     delivers A's attempt again
    consumer   commits: sold, a second unit for A

And two consumers, by a second deployment or an autoscaler, are read-then-write again. The mend: the attempt has an id, recorded in
the same transaction; whoever finds it there answers what was answered before. That is what `gevent_rabbit` does, for batches.
"""

import asyncio
import json
from typing import Self

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.strategies.oracle import Kind
from benchmarks.strategies.sql import Sql
from benchmarks.strategies.strategy import Moment, Moments, breaks

QUEUE = "lab.attempts"
ENDS_MS = 600_000  # after the last use: the broker may be anybody's
REPLIES = "amq.rabbitmq.reply-to"  # the broker's own, which takes answers back to who asked


class SingleConsumer(Sql):
    """Order instead of locks."""

    title = "RabbitMQ: one consumer"
    stores = ("rabbitmq", "postgres")
    claims = breaks(again=(Kind.DUPLICATE,))
    serves = True

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._connection = await aio_pika.connect(self.at.rabbitmq)
        self._channel = await self._connection.channel()
        await self._channel.set_qos(prefetch_count=1)
        self._queue = await self._channel.declare_queue(QUEUE, durable=True, arguments={"x-expires": ENDS_MS})
        replies = await self._channel.get_queue(REPLIES, ensure=False)
        await replies.consume(self._hear, no_ack=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()
        await super().__aexit__()

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        waiting = self._waiting.get(message.correlation_id or "")
        if waiting is not None and not waiting.done():
            waiting.set_result(message.body == b"sold")

    async def buy(self, item: str, attempt: str, moment: Moment) -> bool:
        self._waiting[attempt] = asyncio.get_running_loop().create_future()
        body = json.dumps({"item": item, "attempt": attempt}).encode()
        message = aio_pika.Message(body, delivery_mode=2, correlation_id=attempt, reply_to=REPLIES)
        await self._channel.default_exchange.publish(message, QUEUE)
        moment.note("queued")
        return await self._waiting[attempt]

    async def serve(self, moments: Moments) -> None:
        async with self._queue.iterator() as messages:
            async for message in messages:
                asked = json.loads(message.body)
                is_sold = await self._decide(asked["item"], asked["attempt"], moments.of(asked["attempt"]))
                if message.reply_to:
                    answer = aio_pika.Message(b"sold" if is_sold else b"refused", correlation_id=message.correlation_id)
                    await self._channel.default_exchange.publish(answer, message.reply_to)
                await message.ack()

    async def _decide(self, item: str, attempt: str, moment: Moment) -> bool:
        left = await self.pool.fetchval("SELECT available FROM shelf WHERE item = $1", item)
        if left < 1:
            moment.note(f"consumer read {left}: refused")
            return False
        await moment.checked(f"consumer read {left}")
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("UPDATE shelf SET available = $2 WHERE item = $1", item, left - 1)
            await connection.execute("INSERT INTO sold VALUES ($1, $2)", item, attempt)
        moment.note(f"consumer wrote {left - 1}: sold")
        await moment.acted()
        return True
