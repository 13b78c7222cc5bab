"""From the queue to the worker and back: a message is acknowledged when its try is settled, or when its copy is confirmed.

A copy waits in a delay queue and comes back, a bounded number of times; then it is set aside in ``payments.dead``. No path
acknowledges a message that is nowhere else. PostgreSQL being away costs no message a try: nothing is consumed until it answers.
"""

import asyncio
import json
import random
import time
import uuid
from typing import NamedTuple

import aio_pika
import aiormq.abc
import structlog
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.message import IncomingMessage
from aiormq.abc import DeliveredMessage

from flashsale.authority.client import Authority, AuthorityUnavailable, BadBatch
from flashsale.contract import wire
from flashsale.heed import apart, heed
from flashsale.payments import queues
from flashsale.payments.client import GatewayRefused, GatewayUnavailable
from flashsale.payments.metrics import Metrics
from flashsale.payments.worker import Disputed, Worker

IN_HAND_MAX = 256  # messages worked on at once, each one call at a time: at 50 ms per call 5,000 calls a second
REASON_CHARS_MAX = 500
RECONNECT_SECONDS_FIRST = 0.1
RECONNECT_SECONDS_MAX = 5.0
TRIES_HEADER = "tries"  # how often the message was tried before

log = structlog.get_logger()


class Wish(NamedTuple):
    """What a message asks for: look after this try."""

    purchase: uuid.UUID
    number: int


def parse(body: bytes) -> Wish:
    """Raises ``ValueError`` for a body that no relay of ours wrote."""
    try:
        event = json.loads(body)
        purchase, number = uuid.UUID(event["subject"]), event["data"]["try"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no payment event: {body!r:.200}") from error
    if type(number) is not int or not 1 <= number <= wire.TRIES_MAX:
        raise ValueError(f"no payment event: {body!r:.200}")
    return Wish(purchase, number)


class Acks:
    """Acknowledges what is done: once per loop turn, and as one where nothing is missing between."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self._channel = channel
        self._done: set[int] = set()
        self._upto = 0  # every tag up to here is acknowledged
        self._apart: set[int] = (
            set()
        )  # and these beyond it: kept until one that takes long is done, they would use up the prefetch
        self._are_some = asyncio.Event()

    def add(self, tag: int) -> None:
        """The message with this tag needs no other delivery."""
        self._done.add(tag)
        self._are_some.set()

    async def run(self) -> None:
        """Tell the broker, until cancelled. Raises ``BrokerUnavailable``."""
        while True:
            heed()
            await self._are_some.wait()
            self._are_some.clear()
            together, apart = self._take()
            with queues.asking():
                if together is not None:
                    await self._channel.basic_ack(together, multiple=True)
                for tag in apart:
                    await self._channel.basic_ack(tag)

    def _take(self) -> tuple[int | None, list[int]]:
        # The first is itself still to be acknowledged, or the broker would not know it.
        done, self._done = self._done, set()
        together = None
        while (tag := self._upto + 1) in done or tag in self._apart:
            self._upto = tag
            if tag in done:
                together = tag
        apart = sorted(tag for tag in done if tag > self._upto)
        self._apart = {tag for tag in self._apart if tag > self._upto} | set(apart)
        return together, apart


class Consumer:
    """Consumes until cancelled; lives through outages of RabbitMQ and of PostgreSQL."""

    def __init__(self, url: str, authority: Authority, worker: Worker, metrics: Metrics) -> None:
        self._url = url
        self._authority = authority
        self._worker = worker
        self._metrics = metrics
        self.is_consuming = False

    async def run(self) -> None:
        """For ever: a session, and another when a store it needs was lost. Raises what no outage explains, in a group."""
        failures = 0
        while True:
            heed()
            try:
                await self._authority.ping()  # nothing is taken that could not be worked on
                await apart(self._session())
            except* (queues.BrokerUnavailable, AuthorityUnavailable, *queues.BROKEN) as group:
                # a session that worked for a while broke; one that never did is waited for longer each time
                failures = 1 if self.is_consuming else failures + 1
                if failures == 1 or queues.CLAIM_REFUSED in _first(group):
                    log.warning("payments.waits", reason=_first(group))
            finally:
                self.is_consuming = False
            pause = min(RECONNECT_SECONDS_FIRST * 2 ** min(failures, 10), RECONNECT_SECONDS_MAX)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def _session(self) -> None:
        database = await self._authority.identity()
        connection = await queues.connect(self._url)
        try:
            await queues.claim(connection, database)
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.set_qos(prefetch_count=IN_HAND_MAX)
            await queues.declare(channel)
            arrived: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()  # the prefetch bounds it
            channel.close_callbacks.add(lambda *_: arrived.put_nowait(None))
            # Below aio-pika's own consumer, which would make two tasks more of every message.
            underlay = await channel.get_underlay_channel()

            async def arrive(message: DeliveredMessage) -> None:
                arrived.put_nowait(message)

            acks = Acks(underlay)
            await underlay.basic_consume(queues.PAYMENTS, arrive)
            self.is_consuming = True
            log.info("payments.consuming")
            # The first that fails ends the session for all: they come back unacknowledged, and every step may be repeated.
            async with asyncio.TaskGroup() as in_hand:
                in_hand.create_task(acks.run())
                heed()
                while (message := await arrived.get()) is not None:
                    in_hand.create_task(self._handle(channel, acks, IncomingMessage(message)))
                raise queues.BrokerUnavailable("the channel was closed")
        finally:
            await queues.close(connection)

    async def _handle(self, channel: AbstractChannel, acks: Acks, message: AbstractIncomingMessage) -> None:
        await self._work(channel, message)
        assert message.delivery_tag is not None
        acks.add(message.delivery_tag)

    async def _work(self, channel: AbstractChannel, message: AbstractIncomingMessage) -> None:
        tried = message.headers.get(TRIES_HEADER, 0)
        tries = (tried if isinstance(tried, int) else 0) + 1
        later = queues.retry_queue(tries)
        wish = None
        try:
            wish = parse(message.body)
            with self._metrics.working():
                await self._worker.drive(wish.purchase, wish.number, is_last=later is None)
        except (ValueError, BadBatch, GatewayRefused, Disputed) as error:
            await self._set_aside(channel, message, wish, tries, str(error))
        except (GatewayUnavailable, AuthorityUnavailable) as error:
            if isinstance(error, AuthorityUnavailable):
                # A row that is locked costs this message a try. PostgreSQL being away (raised) is no fault of any message.
                await self._authority.ping()
            if later is None:
                await self._set_aside(channel, message, wish, tries, str(error))
            else:
                self._metrics.retries.inc()
                await self._copy(channel, message, later, tries, delay_ms=queues.RETRY_MS[tries - 1])
        else:
            self._metrics.settled.inc()

    async def _set_aside(
        self, channel: AbstractChannel, message: AbstractIncomingMessage, wish: Wish | None, tries: int, reason: str
    ) -> None:
        log.warning("payment.set_aside", message=message.message_id, tries=tries, reason=reason)
        if wish is not None and not message.headers.get(queues.REQUEUED_HEADER):
            payment = await self._authority.read_payment(wish.purchase, wish.number)
            if payment is not None and payment.is_set_aside:
                return  # one message for a person is there; the authority asks about the try again, all the same
        self._metrics.dead.inc()
        await self._copy(channel, message, queues.DEAD, tries, reason=reason)
        if wish is not None:
            await self._authority.set_payment_aside(wish.purchase, wish.number)

    async def _copy(
        self,
        channel: AbstractChannel,
        message: AbstractIncomingMessage,
        queue: str,
        tries: int,
        *,
        delay_ms: int | None = None,
        reason: str | None = None,
    ) -> None:
        copy = aio_pika.Message(
            message.body,
            headers={
                TRIES_HEADER: tries,
                **({queues.REASON_HEADER: reason[:REASON_CHARS_MAX]} if reason else {}),
                **({queues.REQUEUED_HEADER: True} if message.headers.get(queues.REQUEUED_HEADER) else {}),
            },
            content_type=message.content_type,
            timestamp=time.time(),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=uuid.uuid4().hex,  # a returned message is matched by it, so two copies must not share one
            # sooner than the queue's own delay by a random half, so that what failed together does not return together
            expiration=None if delay_ms is None else delay_ms / 1000 * random.uniform(0.5, 1.0),
        )
        with queues.asking():
            await channel.default_exchange.publish(copy, queue, mandatory=True, timeout=queues.PUBLISH_SECONDS)


def _first(group: BaseException) -> str:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return str(group) or type(group).__name__
