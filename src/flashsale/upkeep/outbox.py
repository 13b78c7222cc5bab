"""Brings events from PostgreSQL to RabbitMQ: lease some, publish them outside any transaction, mark what was confirmed.
An event that the broker refuses waits by itself; those behind it go on.

An event is published at least once: a relay that dies between the confirm and the mark leaves it to be leased and published
again, so whoever consumes must bear it twice, and knows it by its id. No cursor over ids: a smaller id may commit after a larger one.
"""

import asyncio
from datetime import timedelta

import structlog
from aio_pika.abc import AbstractConnection

from flashsale import crash
from flashsale.authority.client import Authority, OutboxEvent
from flashsale.contract import events
from flashsale.payments import queues
from flashsale.upkeep.metrics import Metrics
from flashsale.upkeep.publisher import Publication, Publisher, Refused

EVENTS_PER_ROUND_MAX = 200  # published together; their confirms share the broker's fsync
LEASE = timedelta(seconds=10)  # twice as long as publishing may take; what a dead relay had in hand waits this long
MOVING_PAUSE_SECONDS = 0.0
IDLE_PAUSE_SECONDS = 0.05  # how long an event waits for a relay that had nothing to do
RETRY_SECONDS_FIRST = 0.1
RETRY_SECONDS_MAX = (
    2.0  # a broker that is away is asked this often; a buyer who pays waits about as long once it is back
)

log = structlog.get_logger()


class Outbox:
    """One relay. Several may run: each leases its own rows."""

    def __init__(self, authority: Authority, rabbitmq_url: str, metrics: Metrics) -> None:
        self._authority = authority
        self._url = rabbitmq_url
        self._metrics = metrics
        self._connection: AbstractConnection | None = None
        self._events: Publisher | None = None
        self._failures = 0
        self._published = crash.point("upkeep.published")

    async def round(self) -> float:
        """Relay what waits; returns the seconds until the next round. Raises ``AuthorityUnavailable``.

        RabbitMQ being away is nobody else's trouble: it is logged once, and tried again after a bounded pause.
        """
        try:
            leased = await self._relay()
        except queues.BrokerUnavailable as error:
            await self.close()
            self._failures += 1
            self._metrics.broker_up.set(0)
            if self._failures == 1:
                log.warning("outbox.waits_for_broker", reason=str(error))
            return float(min(RETRY_SECONDS_FIRST * 2 ** min(self._failures, 10), RETRY_SECONDS_MAX))
        if self._failures:
            log.info("outbox.resumed", failures=self._failures)
        self._failures = 0
        self._metrics.broker_up.set(1)
        return MOVING_PAUSE_SECONDS if leased == EVENTS_PER_ROUND_MAX else IDLE_PAUSE_SECONDS

    async def close(self) -> None:
        """Drop the connection; the next round makes another."""
        connection, self._connection, self._events = self._connection, None, None
        if connection is not None:
            await queues.close(connection)

    async def _relay(self) -> int:
        publisher = await self._publisher()  # before the lease: nothing is leased that could not be published
        leased = await self._authority.lease_outbox(EVENTS_PER_ROUND_MAX, LEASE)
        if not leased:
            return 0
        results = await publisher.publish([_publication(event) for event in leased], queues.PUBLISH_SECONDS)
        fates = list(zip((event.id for event in leased), results, strict=True))
        sent = [number for number, result in fates if result is None]
        refused = [number for number, result in fates if isinstance(result, Refused)]
        lost = {number: error for number, error in fates if error is not None and not isinstance(error, Refused)}
        if sent:
            self._published()
        await self._authority.mark_sent(sent, list(lost), refused)
        self._metrics.relayed.inc(len(sent))
        self._metrics.refused.inc(len(refused))
        for error in lost.values():
            raise error
        return len(leased)

    async def _publisher(self) -> Publisher:
        if self._events is None:
            self._connection = await queues.connect(self._url)
            try:
                async with asyncio.timeout(queues.CONNECT_SECONDS):
                    channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
                    exchange, _ = await queues.declare(channel)
                    self._events = await Publisher.on(channel, exchange.name, events.CONTENT_TYPE)
            except queues.BROKEN as error:
                raise queues.BrokerUnavailable(str(error) or type(error).__name__) from error
        return self._events


def _publication(event: OutboxEvent) -> Publication:
    told = told_as(event)
    # Payments must reach their queue; nobody need listen to the rest.
    return Publication(event.topic, told["id"], events.encode(told), event.topic.startswith("payment."))


def told_as(event: OutboxEvent) -> events.Document:
    """The event as it travels; the same however often it is published."""
    return events.document(
        number=event.id,
        topic=event.topic,
        subject=event.subject,
        version=event.version,
        at=event.at,
        sale=event.sale,
        data=event.data,
    )


class Forgetting:
    """Deletes events that were sent or heard long ago, a few at a time."""

    KEPT = timedelta(hours=1)  # far beyond any retry of a webhook and any question about a message
    EVENTS_PER_ROUND_MAX = 2_000
    PAUSE_SECONDS = 10.0

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def round(self) -> float:
        """Delete some; returns the seconds until the next round. Raises ``AuthorityUnavailable``."""
        forgotten = await self._authority.forget_events(self.EVENTS_PER_ROUND_MAX, self.KEPT)
        return 0.1 if forgotten >= self.EVENTS_PER_ROUND_MAX else self.PAUSE_SECONDS
