"""From the queue to the receiver. A message is acknowledged when it was delivered, or when its copy in ``webhooks.dead`` is confirmed.

    flash.events ──chosen topics──► webhooks ──► POST ──2xx──► done
                                       └── out of tries, or the oldest of a queue that is full ──► webhooks.dead, which loses its oldest

A message waits for its next try in hand: with one receiver, what is behind it would fail as well.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from flashsale.contract import events
from flashsale.heed import apart, heed
from flashsale.payments import queues
from flashsale.webhooks.sender import Sender, Undelivered

QUEUE, DEAD = "webhooks", "webhooks.dead"
MESSAGES_MAX = 100_000
DEAD_MAX = 10_000
DELIVERY_LIMIT = 20  # a message that kills this process so often is set aside by the broker
IN_HAND_MAX = 8
RETRY_SECONDS = (0.5, 2.0, 8.0, 30.0, 60.0)  # between tries, so six in about two minutes
RECONNECT_SECONDS_MAX = 5.0

log = structlog.get_logger()


def patterns() -> dict[str, bool]:
    """What may be asked for: every topic and every family; and whether it is by default. The worker's errands are nobody's news."""
    listed = (each["const"] for kind in events.schema()["oneOf"] for each in kind["properties"]["type"]["oneOf"])
    topics = [topic for topic in listed if not topic.startswith("payment.")]
    return dict.fromkeys(sorted({f"{topic.partition('.')[0]}.*" for topic in topics}), True) | dict.fromkeys(
        topics, False
    )


async def declare(
    channel: AbstractChannel, topics: Iterable[str], messages_max: int = MESSAGES_MAX
) -> aio_pika.abc.AbstractQueue:
    """The queue, bound to exactly these topics: what an earlier start asked for and this one does not is unbound."""
    exchange = await channel.declare_exchange(queues.EVENTS, aio_pika.ExchangeType.TOPIC, durable=True)
    # drop-head: a full queue that refused would refuse to the relay, and the relay carries the payments. What is dropped is
    # dead-lettered, as what is given up is.
    kept: dict[str, Any] = {"x-queue-type": "quorum", "x-overflow": "drop-head"}
    await channel.declare_queue(DEAD, durable=True, arguments=kept | {"x-max-length": DEAD_MAX})
    aside = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD, "x-delivery-limit": DELIVERY_LIMIT}
    queue = await channel.declare_queue(QUEUE, durable=True, arguments=kept | aside | {"x-max-length": messages_max})
    wanted = set(topics)
    for topic in patterns():
        if topic in wanted:
            await queue.bind(exchange, topic)
        else:
            await queue.unbind(exchange, topic)
    return queue


class Consumer:
    """Consumes until cancelled; lives through outages of RabbitMQ and of the receiver."""

    def __init__(
        self, url: str, sender: Sender, topics: Sequence[str], retry_seconds: Sequence[float] = RETRY_SECONDS
    ) -> None:
        self._url = url
        self._sender = sender
        self._topics = topics
        self._retry_seconds = retry_seconds

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """For ever: a session, and another when the broker was lost. ``on_ready`` is called whenever one has begun."""
        failures = 0

        def began() -> None:
            nonlocal failures
            failures = 0
            on_ready()

        while True:
            heed()
            try:
                await apart(self._session(began))
            except* (queues.BrokerUnavailable, *queues.BROKEN) as group:
                failures += 1
                if failures == 1:
                    log.warning("webhooks.waits_for_broker", reason=str(group.exceptions[0]))
            await asyncio.sleep(min(0.1 * 2 ** min(failures, 10), RECONNECT_SECONDS_MAX) * random.uniform(0.5, 1.0))

    async def _session(self, began: Callable[[], None]) -> None:
        connection = await queues.connect(self._url)
        try:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.set_qos(prefetch_count=IN_HAND_MAX)
            queue = await declare(channel, self._topics)
            arrived: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()  # the prefetch bounds it
            channel.close_callbacks.add(lambda *_: arrived.put_nowait(None))
            await queue.consume(arrived.put)
            began()
            heed()
            async with asyncio.TaskGroup() as in_hand:
                while (message := await arrived.get()) is not None:
                    in_hand.create_task(self._handle(channel, message))
                raise queues.BrokerUnavailable("the channel was closed")
        finally:
            await queues.close(connection)

    async def _handle(self, channel: AbstractChannel, message: AbstractIncomingMessage) -> None:
        why = await self._deliver(message.body)
        with queues.asking():
            if why is not None:
                log.warning("webhook.set_aside", message=message.message_id, reason=why)
                copy = aio_pika.Message(
                    message.body,
                    headers={"reason": why[:500]},
                    content_type=message.content_type,
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                )
                await channel.default_exchange.publish(copy, DEAD, mandatory=True, timeout=queues.PUBLISH_SECONDS)
            await message.ack()

    async def _deliver(self, body: bytes) -> str | None:
        # None: the receiver has it. Otherwise why not, after the last try.
        try:
            event = json.loads(body)["id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return "no event"
        if not isinstance(event, str) or not event.isascii() or not event.isprintable():
            return "no event"
        for pause in (*self._retry_seconds, None):
            try:
                await self._sender.deliver(event, body)
            except Undelivered as error:
                if pause is None:
                    return str(error)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            else:
                break
        return None
