"""RabbitMQ as an operation meets it: the messages that were set aside, taken in hand together and handed back.

A quorum queue (RabbitMQ 3.10) shows a message only by delivering it. What is delivered and not acknowledged goes back when the
channel closes, in its order and behind what was not delivered; and each delivery is counted. So a look takes everything there is,
up to a bound, which leaves the order as it was; and the queues looked at have no delivery limit, which would drop what is looked
at often.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from flashsale.operate.context import AwayError, OperationError
from flashsale.operate.watching import Queues
from flashsale.payments import queues
from flashsale.queued import topology

CONNECT_SECONDS = 3.0
CALL_SECONDS = 10.0
BACK_SECONDS = 5.0  # how long a look waits until the broker has everything back in the queue
END_SECONDS = (
    5.0  # how long a farewell may take: a broker with an alarm reads no more from who has published, and says nothing
)
QUIET_SECONDS = 5.0  # a queue that has promised more and sends nothing for this long has given it to somebody else
BACK_POLL_SECONDS = 0.05
ABSENT_LOOKS = (
    15  # a shop without the queued backend has half of the queues, and each look for another is an error to the broker
)
TAKEN_MAX = 20_000  # messages in hand at once; more are looked at when these are gone

# Where what was set aside came from, when a message does not say so itself.
DEAD_QUEUES = {queues.DEAD: queues.PAYMENTS, topology.DEAD: ""}

# Those that somebody works on.
WORKED = (*(queue.name for queue in topology.SHARD_QUEUES), queues.PAYMENTS)


class Aside:
    """The messages of one dead-letter queue, in hand until the context ends."""

    def __init__(
        self, channel: AbstractChannel, queue: str, messages: list[AbstractIncomingMessage], left: int
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._messages = messages
        self.left = left  # that were not taken in hand
        self._settled = 0

    @property
    def in_hand(self) -> int:
        """Messages that were neither requeued nor dropped."""
        return len(self._messages) - self._settled

    def __iter__(self) -> Iterator[AbstractIncomingMessage]:
        return iter(self._messages)

    def origin(self, message: AbstractIncomingMessage) -> str:
        """The queue that it came from. Raises ``OperationError`` when nobody knows."""
        deaths: Any = message.headers.get("x-death")
        known = str(deaths[0].get("queue", "")) if isinstance(deaths, list) and deaths else ""
        origin = DEAD_QUEUES[self._queue] or known
        if not origin:
            raise OperationError(f"the message {message.message_id} does not say which queue it came from")
        return origin

    async def requeue(self, message: AbstractIncomingMessage) -> None:
        """Back to where it came from, for all its tries; gone from here once the broker has it there."""
        again = aio_pika.Message(
            message.body,
            headers={
                **{name: value for name, value in message.headers.items() if name == topology.PURCHASE_HEADER},
                queues.REQUEUED_HEADER: True,
            },
            content_type=message.content_type,
            message_id=message.message_id,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._channel.default_exchange.publish(again, self.origin(message), mandatory=True, timeout=CALL_SECONDS)
        await self.drop(message)

    async def drop(self, message: AbstractIncomingMessage) -> None:
        """Gone for good."""
        async with asyncio.timeout(CALL_SECONDS):
            await message.ack()
        self._settled += 1


@contextlib.asynccontextmanager
async def aside(url: str, queue: str) -> AsyncIterator[Aside]:
    """Everything in ``queue``; what is neither requeued nor dropped goes back. Raises ``OperationError``."""
    try:
        connection = await aio_pika.connect(url, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, aio_pika.exceptions.AMQPError) as error:
        raise AwayError(f"RabbitMQ does not answer: {str(error) or type(error).__name__}") from error
    try:
        async with asyncio.timeout(CALL_SECONDS):
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        try:
            declared = await channel.declare_queue(queue, passive=True, timeout=CALL_SECONDS)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            yield Aside(channel, queue, [], 0)  # nobody has declared it, so nothing was set aside
            return
        count = declared.declaration_result.message_count or 0
        messages = await _take(channel, queue, min(count, TAKEN_MAX))
        seen = Aside(channel, queue, messages, count - len(messages))
        try:
            yield seen
        finally:
            async with asyncio.timeout(CALL_SECONDS):
                await channel.close()  # answered once the broker has every acknowledgement before it
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BACK_SECONDS):
                    await _until_back(connection, queue, seen.in_hand)
    except (OSError, TimeoutError, aio_pika.exceptions.AMQPError, RuntimeError) as error:
        raise AwayError(
            f"RabbitMQ was lost or did not take it: {str(error) or type(error).__name__}. Look again: it is here or there"
        ) from error
    finally:
        await _end(connection)


async def counted(url: str, names: Sequence[str]) -> list[int]:
    """How many messages wait in each of these queues; 0 for one that nobody has declared. Raises ``AwayError``."""
    try:
        connection = await aio_pika.connect(url, timeout=CONNECT_SECONDS)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return [await _count(connection, queue) for queue in names]
        finally:
            await _end(connection)
    except (OSError, TimeoutError, aio_pika.exceptions.AMQPError, RuntimeError) as error:
        raise AwayError(f"RabbitMQ does not answer: {str(error) or type(error).__name__}") from error


async def looks(url: str) -> AsyncGenerator[Queues, None]:
    """How long the queues are, once whenever the next is asked for. Raises ``AwayError``."""
    try:
        connection = await aio_pika.connect(url, timeout=CONNECT_SECONDS)
        try:
            channel = None
            absent: dict[str, int] = {}  # for how many more looks a queue is taken not to be there
            while True:
                found: dict[str, tuple[int, int] | None] = dict.fromkeys((*WORKED, *DEAD_QUEUES))
                async with asyncio.timeout(CALL_SECONDS):
                    for name in found:
                        if absent.get(name):
                            absent[name] -= 1
                            continue
                        channel = channel or await connection.channel()
                        try:
                            declared = (await channel.declare_queue(name, passive=True)).declaration_result
                            found[name] = (declared.message_count or 0, declared.consumer_count or 0)
                        except aio_pika.exceptions.ChannelNotFoundEntity:
                            channel, absent[name] = None, ABSENT_LOOKS  # it has closed the channel, and told its log
                yield Queues({name: found[name] for name in WORKED}, {name: found[name] for name in DEAD_QUEUES})
        finally:
            await _end(connection)
    except (OSError, TimeoutError, aio_pika.exceptions.AMQPError, RuntimeError) as error:
        raise AwayError(f"RabbitMQ does not answer: {str(error) or type(error).__name__}") from error


async def _end(connection: AbstractConnection) -> None:
    # Without its answer the broker learns of it from the socket, or from the heartbeat that does not come.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            await connection.close()


async def _count(connection: AbstractConnection, queue: str) -> int:
    channel = await connection.channel()  # one for each: a queue that is not there closes it
    try:
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return 0


async def _until_back(connection: AbstractConnection, queue: str, count: int) -> None:
    # A quorum queue takes back what a closed channel had in a moment of its own; whoever looks sooner finds nothing.
    channel = await connection.channel()
    while True:
        declared = await channel.declare_queue(queue, passive=True)
        if (declared.declaration_result.message_count or 0) >= count:
            return
        await asyncio.sleep(BACK_POLL_SECONDS)


async def _take(channel: AbstractChannel, queue: str, count: int) -> list[AbstractIncomingMessage]:
    taken: list[AbstractIncomingMessage] = []
    if not count:
        return taken
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    async with asyncio.timeout(CALL_SECONDS):
        await channel.set_qos(prefetch_count=count)
        consumed = await channel.get_queue(queue, ensure=False)
        tag = await consumed.consume(arrived.put)
    with contextlib.suppress(TimeoutError):
        while len(taken) < count:
            async with asyncio.timeout(QUIET_SECONDS):
                taken.append(await arrived.get())
    async with asyncio.timeout(CALL_SECONDS):
        await consumed.cancel(tag)  # what it delivered stays in hand
    return taken
