"""What lives in RabbitMQ for payments, declared alike by whoever comes first.

    flash.events (topic) ──payment.*──► payments ──► worker ──► payments.retry.<ms> ──after its delay──► payments
                                           └── delivery limit ──► payments.dead ◄── out of tries

Quorum queues throughout: only those confirm after their log is on disk, and survive kill -9 of the broker. A full queue
refuses its publisher (reject-publish), who keeps the message; nothing is ever dropped to make room.

Whoever consumes or publishes here first claims all this for its database, as the checkout queues are claimed: two shops on one
virtual host would ask each other's gateways, in vain.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage, AbstractQueue

EVENTS = "flash.events"
PAYMENTS = "payments"
PAYMENT_TOPICS = "payment.*"
DEAD = "payments.dead"
REASON_HEADER = "reason"  # why a message is in payments.dead
REQUEUED_HEADER = "requeued"  # a person asked for another try, and is to see what becomes of it
CLAIM = "payments.claim"
CLAIM_SECONDS = 30  # after which a claim lapses whose maker died before it could hold on to it
CLAIM_REFUSED = (
    "another shop's processes, with another PostgreSQL, use this virtual host of RabbitMQ: "
    "give each its own in FLASH_RABBITMQ_URL (rabbitmqctl add_vhost), or all of one shop the same FLASH_POSTGRES_URL"
)

# Between two tries of one message. One queue per delay, because a queue lets its messages go in order: behind a long delay a
# short one would wait. Half a minute in all; the authority sends a new message when a try is still open after a minute.
RETRY_MS = (500, 1_000, 2_000, 4_000, 8_000, 15_000)
MESSAGES_MAX = 100_000  # the largest sale's payments all at once; past it the outbox keeps them
# A dying connection counts one for each message it had in hand, so a worker that is killed again and again with a full
# prefetch must not lose any; a message that kills its worker is still set aside.
DELIVERY_LIMIT = 20
CONNECT_SECONDS = 10.0  # nobody waits for it, and a machine under load takes seconds
CLOSE_SECONDS = 2.0  # a broker that hangs does not say goodbye
HEARTBEAT_SECONDS = 10  # a broker that hangs is noticed within two of these
PUBLISH_SECONDS = 5.0  # a quorum queue confirms in milliseconds; a blocked connection never does

# The driver calls every refused connection an error. Whoever owns the connection says once that the broker is away.
for _name in ("aio_pika", "aiormq"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


# What the driver raises when the broker, the connection or the channel is gone; a channel that is closed says RuntimeError.
BROKEN = (OSError, TimeoutError, aio_pika.exceptions.AMQPError, RuntimeError)


class BrokerUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """RabbitMQ does not answer or does not take a message. Doing it again is safe; it may happen twice."""


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Whatever the driver raises in the body because the connection is lost becomes ``BrokerUnavailable``."""
    try:
        yield
    except BROKEN as error:
        raise BrokerUnavailable(str(error) or type(error).__name__) from error
    except Exception as error:
        # The driver ends what still waits to be written or confirmed with a bare Exception; nothing else raises that.
        if type(error) is not Exception:
            raise
        raise BrokerUnavailable("the connection was lost") from error


def retry_queue(tries: int) -> str | None:
    """Where a message waits after ``tries`` tries (1 and up); None when it has had all of them."""
    return f"{PAYMENTS}.retry.{RETRY_MS[tries - 1]}" if tries <= len(RETRY_MS) else None


async def connect(url: str) -> AbstractConnection:
    """A connection that does not mend itself: its owner must know when it broke. Raises ``BrokerUnavailable``."""
    try:
        return await aio_pika.connect(url, timeout=CONNECT_SECONDS, heartbeat=HEARTBEAT_SECONDS)
    except BROKEN as error:
        raise BrokerUnavailable(str(error) or type(error).__name__) from error


async def close(connection: AbstractConnection) -> None:
    """Give a connection up, broken or not; the broker hands everything unacknowledged to somebody else."""
    with contextlib.suppress(*BROKEN):
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.close()


async def claim(connection: AbstractConnection, database: str) -> None:
    """Claim all these queues for a database, for as long as the connection lives. Raises ``BrokerUnavailable`` when refused.

    ``database`` is what PostgreSQL itself says it is, for it may have several addresses. The broker refuses a queue that exists
    with other arguments, and this one's name the database. It is not durable: after a broker's crash whoever is back first
    claims anew.
    """
    arguments: dict[str, Any] = {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": database,
        "x-expires": CLAIM_SECONDS * 1000,
    }
    with asking():
        channel = await connection.channel()
        try:
            claimed = await channel.declare_queue(CLAIM, durable=False, auto_delete=True, arguments=arguments)
        except aio_pika.exceptions.ChannelPreconditionFailed as error:
            raise BrokerUnavailable(CLAIM_REFUSED) from error
        await claimed.consume(_hear_nothing)  # it stands while somebody listens, and there is never anything to hear


async def _hear_nothing(_: AbstractIncomingMessage) -> None:
    """Of a queue that nobody publishes to."""


async def declare(channel: AbstractChannel) -> tuple[AbstractExchange, AbstractQueue]:
    """The exchange of all events, and the queue of payments, with everything around it."""
    events = await channel.declare_exchange(EVENTS, aio_pika.ExchangeType.TOPIC, durable=True)
    await channel.declare_queue(DEAD, durable=True, arguments=_bounded())
    payments = await channel.declare_queue(
        PAYMENTS, durable=True, arguments=_bounded(leads_to=DEAD) | {"x-delivery-limit": DELIVERY_LIMIT}
    )
    await payments.bind(events, PAYMENT_TOPICS)
    for delay_ms in RETRY_MS:
        await channel.declare_queue(
            f"{PAYMENTS}.retry.{delay_ms}",
            durable=True,
            arguments=_bounded(leads_to=PAYMENTS) | {"x-message-ttl": delay_ms},
        )
    return events, payments


def _bounded(leads_to: str | None = None) -> dict[str, Any]:
    arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": MESSAGES_MAX}
    if leads_to is not None:
        arguments |= {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": leads_to,
            "x-dead-letter-strategy": "at-least-once",  # the default forgets a message the next queue did not take
        }
    return arguments
