"""Puts single attempts into the queue: many unconfirmed at once, each returned to its caller when the broker has it on disk.

Publisher confirms, pipelined: a caller waits for its own tag and nobody waits for anybody else's. What is nacked (the shard is
full), returned (no such queue), blocked (the broker has an alarm) or not confirmed in time was not accepted, and is never a 202.
"""

import gevent
import pika
import structlog
from gevent.event import AsyncResult
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from flashsale.backends.gevent_rabbit import metrics
from flashsale.queued import message, topology
from flashsale.queued.link import Link

CONFIRM_SECONDS = 1.0  # a quorum queue on a healthy disk confirms in milliseconds; a shopper hears 503 after this
# Outcomes by which an attempt is or is not in the queue.
CONFIRMED, NACKED, RETURNED, LOST, LATE, REFUSED = "confirmed", "nacked", "returned", "lost", "late", "refused"

log = structlog.get_logger()


class QueueUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The attempt was not accepted, or nobody knows; it may be put in again under the same rid."""


class Dispatcher:
    """Owns the attempts that wait for their confirm, at most ``unconfirmed_max``."""

    def __init__(self, rabbitmq_url: str, claim: topology.Queue, unconfirmed_max: int) -> None:
        self._unconfirmed_max = unconfirmed_max
        self._unconfirmed: dict[int, AsyncResult[str]] = {}  # by tag, in the order of publishing
        self._returned: set[int] = set()  # tags; a return comes before its confirm, so never more than are unconfirmed
        self._channel: Channel | None = None
        self._next_tag = 1
        self._is_blocked = False
        self.was_up = False  # once: a process that never reached its queue is not ready to serve
        self.link = Link(rabbitmq_url, claim, "publish", self._opened, self._lost)

    @property
    def is_up(self) -> bool:
        """Would an attempt be put into the queue now?"""
        return self._channel is not None and self._channel.is_open and not self._is_blocked

    def submit(self, attempt: message.Message) -> None:
        """Return once the queue has the attempt on disk. Raises ``QueueUnavailable``, within ``CONFIRM_SECONDS``."""
        outcome = self._submit(attempt)
        metrics.confirms.labels(outcome).inc()
        if outcome != CONFIRMED:
            raise QueueUnavailable(outcome)

    def close(self) -> None:
        """Stop. Whoever still waits was left by a caller that stopped waiting first."""
        self.link.close()
        self._lost()

    def _submit(self, attempt: message.Message) -> str:
        if not self.is_up or len(self._unconfirmed) >= self._unconfirmed_max:
            return REFUSED
        assert self._channel is not None
        confirmed: AsyncResult[str] = AsyncResult()
        tag = self._next_tag
        self._unconfirmed[tag] = confirmed
        self._next_tag += 1
        self._channel.basic_publish(
            exchange="",
            routing_key=topology.queue_of(attempt.cart.lines[0].sku),
            body=message.encode(attempt),
            properties=BasicProperties(
                delivery_mode=topology.PERSISTENT,
                message_id=str(attempt.rid),
                correlation_id=str(tag),  # a return names no tag; and one rid may be under way twice, once too late
                headers={topology.PURCHASE_HEADER: str(attempt.purchase)},
            ),
            mandatory=True,
        )
        try:
            outcome: str = confirmed.get(timeout=CONFIRM_SECONDS)
        except gevent.Timeout:
            return LATE  # its place stays taken until the broker answers or the connection ends, which bounds both
        return outcome

    def _opened(self, channel: Channel) -> None:
        channel.connection.add_on_connection_blocked_callback(lambda *_: self._block(is_so=True))
        channel.connection.add_on_connection_unblocked_callback(lambda *_: self._block(is_so=False))
        channel.add_on_return_callback(self._return)
        channel.confirm_delivery(self._confirm, callback=lambda _: self._ready(channel))

    def _ready(self, channel: Channel) -> None:
        self._channel = channel
        self._next_tag = 1
        self._block(is_so=False)
        self.was_up = True

    def _lost(self) -> None:
        self._channel = None
        metrics.queue_up.set(0)
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        self._returned.clear()
        for confirmed in unconfirmed.values():
            confirmed.set(LOST)

    def _block(self, *, is_so: bool) -> None:
        if is_so != self._is_blocked:
            log.warning("queue.blocked" if is_so else "queue.unblocked")
        self._is_blocked = is_so
        metrics.queue_up.set(not is_so)

    def _return(self, _: Channel, __: Basic.Return, properties: BasicProperties, ___: bytes) -> None:
        assert properties.correlation_id is not None
        self._returned.add(int(properties.correlation_id))

    def _confirm(self, frame: Method) -> None:
        outcome = CONFIRMED if isinstance(frame.method, pika.spec.Basic.Ack) else NACKED
        last = frame.method.delivery_tag
        # tags stand in the order of publishing, so all that a multiple confirm covers stands at the front
        covered = [last]
        if frame.method.multiple:
            covered = []
            for tag in self._unconfirmed:
                if tag > last:
                    break
                covered.append(tag)
        for tag in covered:
            self._unconfirmed.pop(tag).set(RETURNED if tag in self._returned else outcome)
            self._returned.discard(tag)
