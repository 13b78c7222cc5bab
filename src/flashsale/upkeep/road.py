"""The road that payments' messages take: whose it is, and for how long it has been open from the relay to a worker."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from flashsale.authority.client import Authority
from flashsale.payments import queues

# A broker that takes longer for one question is not one to rely on. On a machine under load an honest one takes a second and
# more, and every gap that was none keeps the overdue holds of 20 s from their end.
LOOK_SECONDS = 5.0
WAIT_SECONDS = 0.5  # for a claim

log = structlog.get_logger()


class Road:
    """A connection of its own to RabbitMQ, which holds the claim to the payments' queues and asks whether somebody consumes them."""

    def __init__(self, url: str, authority: Authority) -> None:
        self._url = url
        self._authority = authority
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._open_since_s: float | None = None
        self._is_ours = False
        self._why = ""

    async def open_for(self) -> timedelta:
        """Since when every look found the broker there and a worker consuming; zero when this one does not.

        Raises ``AuthorityUnavailable``.
        """
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(LOOK_SECONDS if self._channel else queues.CONNECT_SECONDS):
                channel = self._channel or await self._connect()
                with queues.asking():
                    queue = await channel.declare_queue(queues.PAYMENTS, passive=True)
        except (queues.BrokerUnavailable, *queues.BROKEN) as error:
            await self.close()
            self._is_ours = self._is_ours and str(error) != queues.CLAIM_REFUSED
            if str(error) != self._why:
                log.warning("road.closed", reason=str(error) or type(error).__name__)
            self._why = str(error)
            return timedelta()
        self._why = ""
        if not queue.declaration_result.consumer_count:
            self._open_since_s = None
            return timedelta()
        if self._open_since_s is None:
            self._open_since_s = time.monotonic()
        return timedelta(seconds=max(0.0, began_s - self._open_since_s))

    def once_ours(self, round_: Callable[[], Awaitable[float]]) -> Callable[[], Coroutine[Any, Any, float]]:
        """The same round, which does nothing until the queues are claimed for this database, nor after they are another's."""

        async def guarded() -> float:
            return await round_() if self._is_ours else WAIT_SECONDS

        return guarded

    async def close(self) -> None:
        """Give the connection up, and the claim with it."""
        connection, self._connection, self._channel, self._open_since_s = self._connection, None, None, None
        if connection is not None:
            await queues.close(connection)

    async def _connect(self) -> AbstractChannel:
        database = await self._authority.identity()
        self._connection = await queues.connect(self._url)
        await queues.claim(self._connection, database)
        with queues.asking():
            channel = await self._connection.channel()
            await queues.declare(channel)
        self._channel = channel
        self._is_ours = True
        return channel
