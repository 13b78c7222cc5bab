"""How many attempts wait in each shard, asked of the broker on a channel of its own.

Of its own because asking for a queue that is not there ends the channel, and nobody's publications may end with it. A front
asks, and not a worker: a worker without PostgreSQL takes nothing and is not connected, and that is when a queue grows.
"""

import math
from collections.abc import Callable
from typing import Any

import gevent
from pika.channel import Channel
from pika.frame import Method

from flashsale.queued import topology

LOOK_SECONDS = 1.0


class Depth:
    """Calls ``tell(queue, messages)`` after each look; NaN when nobody knows."""

    def __init__(self, tell: Callable[[str, float], None]) -> None:
        self._tell = tell
        self._channel: Channel | None = None
        self._unanswered = 0
        self._clock = gevent.get_hub().loop.timer(LOOK_SECONDS, LOOK_SECONDS)
        self._clock.start(self._look)
        self.lost()

    def open(self, connection: Any) -> None:
        """Look through this connection from now on."""
        connection.channel(on_open_callback=self._opened)

    def lost(self, *_: object) -> None:
        """The connection is gone, or the channel."""
        self._channel = None
        for queue in topology.SHARD_QUEUES:
            self._tell(queue.name, math.nan)

    def close(self) -> None:
        """Look no more."""
        self._clock.close()

    def _opened(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._closed)
        self._channel, self._unanswered = channel, 0

    def _closed(self, channel: Channel, _: object) -> None:
        self.lost()
        if channel.connection.is_open:
            self.open(channel.connection)

    def _look(self) -> None:
        # a broker with an alarm answers nothing until it is over; asked again meanwhile, it would answer all at once
        if self._channel is None or not self._channel.is_open or self._unanswered:
            return
        self._unanswered = len(topology.SHARD_QUEUES)
        for queue in topology.SHARD_QUEUES:
            self._channel.queue_declare(queue.name, passive=True, callback=self._heard)

    def _heard(self, declared: Method) -> None:
        self._unanswered -= 1
        self._tell(declared.method.queue, declared.method.message_count)
