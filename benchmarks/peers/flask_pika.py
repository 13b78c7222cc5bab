"""Flask and pika as people write it: a blocking channel in confirm mode, and a confirm waited for in each request; a pool of them."""

# isort: off
from benchmarks.peers import queueing  # first: it patches the world

# isort: on
import json
import os
from collections.abc import Callable
from queue import LifoQueue

import pika
from pika.adapters.blocking_connection import BlockingChannel

from flashsale.contract import wire

QUEUE = "peers.pika"
PROPERTIES = pika.BasicProperties(delivery_mode=2, content_type=wire.JSON_TYPE)


class Queue:
    """A pool of channels, made when needed and each on a connection of its own."""

    def __init__(self, url: str) -> None:
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = 0  # a blocking connection that nobody uses would miss its own
        self._idle: LifoQueue[BlockingChannel | None] = LifoQueue()
        for _ in range(queueing.CONNECTIONS):
            self._idle.put(None)
        channel = self._open()
        channel.queue_declare(QUEUE, durable=True, arguments=queueing.QUEUE_ARGUMENTS)
        channel.queue_purge(QUEUE)

    def put(self, arguments: list[str]) -> None:
        """Return once the broker has it."""
        channel = self._idle.get()
        try:
            channel = channel or self._open()
            channel.basic_publish("", QUEUE, json.dumps(arguments).encode(), PROPERTIES, mandatory=True)
        finally:
            self._idle.put(channel)

    def _open(self) -> BlockingChannel:
        channel = pika.BlockingConnection(self._parameters).channel()
        channel.confirm_delivery()
        return channel


def main() -> None:
    setup = queueing.Setup.read(os.environ)

    def open_queue() -> Callable[[list[str]], None]:
        return Queue(setup.rabbitmq_url).put

    queueing.serve(setup, open_queue)


if __name__ == "__main__":
    main()
