"""``python -m benchmarks.comparison.cells.asyncio_queue``: the server of ``asyncio_redis``, which queues an attempt instead of deciding it."""

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from flashsale import logs
from flashsale.authority.client import Attempt
from flashsale.backends.asyncio_redis import app, routes
from flashsale.backends.asyncio_redis.checkout import Checkout, Deciding, Outcome, Wish
from flashsale.backends.asyncio_redis.watch import Watch
from flashsale.contract import wire
from flashsale.contract.verdict import ANSWERS, DETAILS, Verdict
from flashsale.lane.answer import Answer
from flashsale.queued import feed, message, topology
from flashsale.queued.receipt import Receipt, Receipts
from flashsale.settings import Settings

CONFIRM_SECONDS = 0.9  # as long as the other backend waits for its broker
CONNECT_SECONDS = 10.0

_answer = routes._answer  # noqa: SLF001 - of the backend whose twin this is


class Queue:
    """RabbitMQ, as the front of ``gevent_rabbit`` uses it: confirms for what is published, the feed for what was decided."""

    def __init__(self, settings: Settings) -> None:
        self.receipts = Receipts(settings.jwt_secret, *settings.receipt_secrets)
        self._url = settings.rabbitmq_url
        self._exchange: Any = None
        self._watches: list[Watch] = []

    async def open(self) -> None:
        connection = await aio_pika.connect(self._url, timeout=CONNECT_SECONDS)
        channel = await connection.channel(publisher_confirms=True)
        self._exchange = channel.default_exchange
        hearing = await (await aio_pika.connect(self._url, timeout=CONNECT_SECONDS)).channel()
        await hearing.declare_exchange(topology.VERDICTS, aio_pika.ExchangeType.FANOUT, durable=True)
        bounds: Any = topology.FEED_ARGUMENTS  # the driver's own type for it is wider than it says
        heard = await hearing.declare_queue(exclusive=True, arguments=bounds)
        await heard.bind(topology.VERDICTS)
        await heard.consume(self._hear, no_ack=True)

    def tells(self, watch: Watch) -> None:
        """Whoever waits there hears at once what was decided."""
        self._watches.append(watch)

    async def put(self, attempt: Attempt) -> Outcome:
        """202, once the broker has it on disk."""
        queued_until = datetime.now(UTC) + timedelta(seconds=message.QUEUED_SECONDS_MAX)
        body = message.encode(
            message.Message(attempt.rid, attempt.purchase, attempt.buyer, attempt.key, attempt.cart, queued_until)
        )
        published = aio_pika.Message(
            body,
            message_id=str(attempt.rid),
            headers={topology.PURCHASE_HEADER: str(attempt.purchase)},
            delivery_mode=topology.PERSISTENT,
        )
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                await self._exchange.publish(published, topology.queue_of(attempt.cart.lines[0].sku), mandatory=True)
        except (TimeoutError, OSError, RuntimeError, aio_pika.exceptions.AMQPError):
            return Outcome(Verdict.TRY_LATER, None, DETAILS[Verdict.TRY_LATER])
        receipt = self.receipts.issue(
            attempt.rid, attempt.purchase, attempt.cart.fingerprint, attempt.buyer, time.time()
        )
        return Outcome(Verdict.QUEUED, None, receipt)

    async def _hear(self, told: AbstractIncomingMessage) -> None:
        for verdict in feed.decode(told.body):
            for watch in self._watches:
                for decided in watch._attempts.get(verdict.rid, ()):  # noqa: SLF001 - as above
                    decided.set()


class QueueingCheckout(Checkout):
    """Single flight and bound are the backend's; what would go to the gate and to PostgreSQL goes into the queue."""

    queue: Queue

    def begin(
        self,
        wish: Wish,
        hear: Callable[[Outcome | Deciding], None],
        *,
        is_retry: bool,
        receipt: Receipt | None = None,
    ) -> None:
        hear(self.purchase(wish, is_retry=is_retry, receipt=receipt))

    async def _decide(self, attempt: Attempt, *, is_retry: bool) -> Outcome:
        # What PostgreSQL already knows is found there by the worker: the key decides, whoever brings it again.
        del is_retry
        return await self.queue.put(attempt)

    async def _again(self, attempt: Attempt) -> Outcome:
        return await self.queue.put(attempt)


def answer(outcome: Outcome, path: str) -> Answer:
    """As the backend answers, and 202 for what is queued; its receipt is the outcome's detail."""
    if outcome.verdict is not Verdict.QUEUED:
        return _answer(outcome, path)
    fields = {"Content-Type": wire.JSON_TYPE, "Cache-Control": "no-store", "Location": path}
    body = wire.queued_body(uuid.UUID(path.rpartition("/")[2]), outcome.detail)
    return Answer(ANSWERS[Verdict.QUEUED].status, fields, body)


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    queue = QueueingCheckout.queue = Queue(settings)
    await queue.open()

    class ToldWatch(Watch):
        """A watch that the feed tells."""

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            queue.tells(self)

    vars(app).update(Checkout=QueueingCheckout, Watch=ToldWatch)  # the parts in others' places
    vars(routes).update(_answer=answer)
    await app.serve(settings)


if __name__ == "__main__":
    given = Settings.load(os.environ)
    logs.configure("asyncio_queue", given.log_level)
    uvloop.run(serve(given))
