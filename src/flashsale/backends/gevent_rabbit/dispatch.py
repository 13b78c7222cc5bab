"""Puts single attempts into the queue: many unconfirmed at once, each returned to its caller when the broker has it on disk.

Publisher confirms, pipelined: a caller waits for its own tag and nobody waits for anybody else's. What is nacked (the shard is
full), returned (no such queue), blocked (the broker has an alarm) or not confirmed in time was not accepted, and is never a 202.
What is published in one turn of the loop leaves in one write.
"""

import time
from itertools import takewhile
from typing import Any

import gevent
import pika
import structlog
from gevent.hub import Waiter
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from flashsale.backends.gevent_rabbit import metrics
from flashsale.queued import message, topology
from flashsale.queued.depth import Depth
from flashsale.queued.frames import Frames
from flashsale.queued.link import Link

CONFIRM_SECONDS = 0.9  # a quorum queue on a healthy disk confirms in milliseconds; a shopper hears 503 after this
LOOK_SECONDS = 0.1  # how much later than that: one look for all, since a timer each costs more than all of its waiting
# Outcomes by which an attempt is or is not in the queue.
CONFIRMED, NACKED, RETURNED, LOST, LATE, REFUSED = "confirmed", "nacked", "returned", "lost", "late", "refused"

log = structlog.get_logger()


class QueueUnavailable(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The attempt was not accepted, or nobody knows; it may be put in again under the same rid."""


class Dispatcher:
    """Owns the attempts that wait for their confirm, at most ``unconfirmed_max``."""

    def __init__(self, rabbitmq_url: str, claim: topology.Queue, unconfirmed_max: int) -> None:
        self._unconfirmed_max = unconfirmed_max
        # by tag, in the order of publishing: who waits, and since when; None once it has waited too long
        self._unconfirmed: dict[int, tuple[Any, float] | None] = {}
        self._returned: set[int] = set()  # tags; a return comes before its confirm, so never more than are unconfirmed
        self._channel: Channel | None = None
        self._frames = Frames(0, [])
        self._outgoing: list[bytes] = []  # published in this turn of the loop
        self._loop = gevent.get_hub().loop
        self._next_tag = 1
        self._is_blocked = False
        self.was_up = False  # once: a process that never reached its queue is not ready to serve
        self._clock = self._loop.timer(LOOK_SECONDS, LOOK_SECONDS)
        self._clock.start(self._give_up)
        metrics.unconfirmed.set_function(lambda: len(self._unconfirmed))
        self._depth = Depth(lambda queue, messages: metrics.queue_depth.labels(queue).set(messages))
        self.link = Link(rabbitmq_url, claim, "publish", self._opened, self._lost)

    @property
    def is_up(self) -> bool:
        """Would an attempt be put into the queue now?"""
        return self._channel is not None and self._channel.is_open and not self._is_blocked

    def submit(self, attempt: message.Message) -> None:
        """Return once the queue has the attempt on disk. Raises ``QueueUnavailable``, within a second."""
        outcome = self._submit(attempt)
        metrics.confirms[outcome] += 1
        if outcome != CONFIRMED:
            raise QueueUnavailable(outcome)

    def close(self) -> None:
        """Stop. Whoever still waits was left by a caller that stopped waiting first."""
        self._clock.close()
        self._depth.close()
        self.link.close()
        self._lost()

    def _submit(self, attempt: message.Message) -> str:
        if not self.is_up or len(self._unconfirmed) >= self._unconfirmed_max:
            return REFUSED
        waiter = Waiter()
        tag = self._next_tag
        self._unconfirmed[tag] = waiter, time.perf_counter()
        self._next_tag += 1
        if not self._outgoing:
            self._loop.run_callback(self._write)
        queue = topology.queue_of(attempt.cart.lines[0].sku)
        # the tag goes with it: a return names none; and one rid may be under way twice, once too late
        self._outgoing.append(
            self._frames.of(queue, message.encode(attempt), tag, str(attempt.rid), str(attempt.purchase))
        )
        outcome: str = waiter.get()
        return outcome

    def _write(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        # a channel that ended meanwhile takes its connection with it, and everybody hears that
        if outgoing and self._channel is not None and self._channel.is_open:
            self._channel.connection._output_marshaled_frames([b"".join(outgoing)])  # noqa: SLF001 - of a pinned version

    def _give_up(self) -> None:
        since = time.perf_counter() - CONFIRM_SECONDS
        for tag, waiting in self._unconfirmed.items():
            if waiting is None:
                continue  # its place stays taken until the broker answers or the connection ends, which bounds both
            if waiting[1] > since:
                break
            self._unconfirmed[tag] = None
            self._tell(waiting, LATE)

    def _opened(self, channel: Channel) -> None:
        channel.connection.add_on_connection_blocked_callback(lambda *_: self._block(is_so=True))
        channel.connection.add_on_connection_unblocked_callback(lambda *_: self._block(is_so=False))
        channel.add_on_return_callback(self._return)
        channel.confirm_delivery(self._confirm, callback=lambda _: self._ready(channel))

    def _ready(self, channel: Channel) -> None:
        self._channel = channel
        self._frames = Frames(channel.channel_number, [queue.name for queue in topology.SHARD_QUEUES])
        self._outgoing.clear()
        self._next_tag = 1
        self._block(is_so=False)
        self._depth.open(channel.connection)
        self.was_up = True

    def _lost(self) -> None:
        self._channel = None
        self._depth.lost()
        metrics.queue_up.set(0)
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        self._returned.clear()
        for waiting in unconfirmed.values():
            self._tell(waiting, LOST)

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
            covered = list(takewhile(lambda tag: tag <= last, self._unconfirmed))
        now = time.perf_counter()
        for tag in covered:
            waiting = self._unconfirmed.pop(tag)
            if waiting is not None:
                metrics.confirm_seconds.observe(now - waiting[1])
                self._tell(waiting, RETURNED if tag in self._returned else outcome)
            self._returned.discard(tag)

    def _tell(self, waiting: tuple[Any, float] | None, outcome: str) -> None:
        # soon and not now: this is the driver's callback, and who is woken answers a shopper first
        if waiting is not None:
            self._loop.run_callback(waiting[0].switch, outcome)
