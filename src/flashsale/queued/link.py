"""One RabbitMQ connection of a gevent process, kept up: opened, declared, lost, opened again.

pika calls back from gevent's hub, so nothing here and nothing called from here may block or switch.
"""

import logging
import random
from collections.abc import Callable
from typing import Any

import gevent
import pika
import structlog
from gevent.event import Event
from pika.adapters.gevent_connection import GeventConnection, _GeventSelectorIOLoop, _GeventSelectorIOServicesAdapter
from pika.channel import Channel

from flashsale.queued import topology

CONNECT_SECONDS = 5.0  # socket and handshake, for which no shopper waits: a machine under load takes seconds
SETUP_SECONDS = 10.0  # from a connection to declared queues; a broker whose queues have no leader keeps a link waiting
BACKOFF_FIRST_S = 0.1  # a restarting broker is back in seconds; the first tries cost nothing
BACKOFF_MAX_S = 1.0  # so that service returns within a second of the broker

PRECONDITION_FAILED = 406  # AMQP's word for a queue that exists with other arguments

log = structlog.get_logger()
logging.getLogger("pika").setLevel(
    logging.CRITICAL
)  # it tells every lost connection four times; this file tells it once


class Link:
    """Calls ``on_open(channel)`` with each new channel, once the topology is declared, and ``on_lost()`` when it is gone.

    ``keeper`` never ends by itself; should it, there will be no other connection, and the process has no reason to go on.
    """

    def __init__(
        self,
        url: str,
        claim: topology.Queue,
        name: str,
        on_open: Callable[[Channel], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = topology.HEARTBEAT_SECONDS
        self._parameters.socket_timeout = CONNECT_SECONDS
        self._parameters.stack_timeout = CONNECT_SECONDS
        self._claim = claim
        self._name = name
        self._on_open = on_open
        self._on_lost = on_lost
        self._connection: GeventConnection | None = None
        self._lost = Event()
        self._settled = Event()  # declared, or lost before that
        self._is_closing = False
        self._backoff_s = BACKOFF_FIRST_S
        # pika's own loop object opens a pipe and never closes it, so a link that made one per try would run out of files
        self._io = _GeventSelectorIOServicesAdapter(_GeventSelectorIOLoop(gevent.get_hub()))
        self.keeper = gevent.spawn(self._keep)

    def close(self) -> None:
        """Give the connection up; the broker returns what was not acknowledged."""
        self._is_closing = True
        self.keeper.kill()
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _keep(self) -> None:
        while True:
            self._lost.clear()
            self._settled.clear()
            self._connection = GeventConnection(
                self._parameters,
                on_open_callback=self._opened,
                on_open_error_callback=self._failed,
                on_close_callback=self._failed,
                custom_ioloop=self._io,
            )
            if not self._settled.wait(CONNECT_SECONDS + SETUP_SECONDS) and self._connection.is_open:
                log.warning("queue.slow", link=self._name, seconds=SETUP_SECONDS)
                self._connection.close()
            self._lost.wait()  # a broker that does not even say goodbye is noticed by its missing heartbeats
            gevent.sleep(self._backoff_s * random.uniform(0.5, 1.0))
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)

    def _opened(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._declare)

    def _failed(self, _: Any, reason: object) -> None:
        if not self._is_closing:
            log.warning("queue.lost", link=self._name, reason=str(reason) or type(reason).__name__)
        self._on_lost()
        self._lost.set()
        self._settled.set()

    def _declare(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._channel_closed)
        waiting = list(topology.QUEUES)

        def hold(_: object) -> None:
            # the claim stands while somebody listens, and there is never anything to hear
            channel.basic_consume(self._claim.name, lambda *_: None, auto_ack=True, callback=declare_feed)

        def declare_feed(_: object) -> None:
            channel.exchange_declare(topology.VERDICTS, "fanout", durable=True, callback=declare_next)

        def declare_next(_: object) -> None:
            if waiting:
                queue = waiting.pop(0)
                channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments), callback=declare_next)
                return
            self._backoff_s = BACKOFF_FIRST_S
            self._settled.set()
            log.info("queue.linked", link=self._name)
            self._on_open(channel)

        # before anything else, so that a refusal is about the claim and about nothing behind it
        channel.queue_declare(
            self._claim.name, durable=False, auto_delete=True, arguments=dict(self._claim.arguments), callback=hold
        )

    def _channel_closed(self, channel: Channel, reason: object) -> None:
        # a channel dies alone only of something the broker does not allow; a new connection is the one clean start
        if channel.connection.is_open:
            is_claim = (
                f"'{self._claim.name}'" in str(reason) and getattr(reason, "reply_code", 0) == PRECONDITION_FAILED
            )
            why = topology.CLAIM_REFUSED if is_claim else str(reason)
            log.warning("queue.channel_closed", link=self._name, reason=why)
            channel.connection.close()
