"""Brings the verdict feed to the broker, beside the deciding and never in its way.

A broker with an alarm stops reading from a connection that publishes, acknowledgements included. So the feed has a connection
of its own, or a queue that is too long could never get shorter; and nobody waits for it.
"""

import asyncio
import contextlib
from collections.abc import Iterable

import aio_pika
from aio_pika.abc import AbstractConnection

from flashsale.heed import heed
from flashsale.queued import feed, topology

UNTOLD_MAX = 64  # batches; what is told later than this the fronts' poll has found out
PUBLISH_SECONDS = 1.0  # to hand a message to the socket; a broker that takes longer has it lost, which the poll heals


class Teller:
    """Tells every front what was decided. May lose any of it: the feed wakes and never proves."""

    def __init__(self) -> None:
        self._untold: asyncio.Queue[bytes] = asyncio.Queue(UNTOLD_MAX)

    def tell(self, told: Iterable[feed.Told]) -> None:
        """Tell a batch soon, or never."""
        with contextlib.suppress(asyncio.QueueFull):
            self._untold.put_nowait(feed.encode(told))

    async def run(self, connection: AbstractConnection) -> None:
        """Publish until the connection is lost, which raises what the driver raises."""
        channel = await connection.channel(publisher_confirms=False)
        verdicts = await channel.get_exchange(topology.VERDICTS, ensure=False)
        while True:
            heed()
            body = aio_pika.Message(await self._untold.get())
            with contextlib.suppress(TimeoutError):
                # not mandatory: when nobody listens, nobody waits
                await verdicts.publish(body, routing_key="", mandatory=False, timeout=PUBLISH_SECONDS)
