"""Takes attempts off the queue, lets PostgreSQL decide them in batches, and only then acknowledges.

RabbitMQ delivers again whatever was not acknowledged, and PostgreSQL decides a rid once. Therefore: decide, commit,
acknowledge. The price is a batch decided twice per crash; the other order would lose accepted attempts. Anything that goes
wrong with either store ends the session: the connection closes, which hands every unacknowledged attempt back in order, and
nothing is consumed again until PostgreSQL answers.
"""

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, ChannelPreconditionFailed

from flashsale import crash
from flashsale.authority.batch import decide
from flashsale.authority.client import Attempt, Authority, AuthorityUnavailable, BadBatch, Decision
from flashsale.contract.lifecycle import State
from flashsale.contract.verdict import Verdict
from flashsale.heed import apart, heed
from flashsale.queued import feed, message, metrics, topology
from flashsale.queued.deliveries import Delivery, Tap, Tapping
from flashsale.queued.teller import Teller

DECIDE_SECONDS = 5.0  # for one batch, retries included; then the outage is one to wait out without messages in hand
CONNECT_SECONDS = 10.0  # nobody waits for it, and a machine under load takes seconds
CLOSE_SECONDS = 2.0
ACK_SECONDS = 5.0  # to hand an acknowledgement to the socket; a broker that takes longer does not read
BACKOFF_FIRST_S = 0.1  # a restarting store is back in tenths of a second
BACKOFF_MAX_S = 2.0  # so that service returns soon after it does, without knocking all day
BATCH_MAX = topology.PREFETCH // 2  # while one is decided the next gathers
PAYMENTS_MAX = 4  # started side by side; leaves connections of the pool to the other shards

log = structlog.get_logger()
# The driver calls every refused connection an error, with frames. The worker says once per try that it waits.
for _name in ("aio_pika", "aiormq"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class SessionLost(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The broker closed or cancelled something; start over."""


class Worker:
    """Decides what is queued. Any number may run: one at a time is active per shard, and none is needed to be."""

    def __init__(self, authority: Authority, rabbitmq_url: str, claim: topology.Queue, batch_max: int) -> None:
        self._authority = authority
        self._url = rabbitmq_url
        self._claim = claim
        self._batch_max = batch_max
        self._backoff_s = BACKOFF_FIRST_S
        # by shard, when the oldest attempt in hand was queued; after a session as it was then, for that is still undecided
        self.oldest: dict[str, float] = {}
        metrics.oldest_age.set_function(self._oldest_age)
        self._taken = crash.point("checkout.taken")
        self._decided = crash.point("checkout.decided")
        self.is_consuming = False

    async def run(self) -> None:
        """Consume until cancelled."""
        while True:
            heed()
            try:
                await self._authority.ping()  # nothing is taken that cannot be decided
                await apart(self._session())
            except* (AuthorityUnavailable, SessionLost, AMQPError, ChannelInvalidStateError, OSError) as group:
                self._set_consuming(is_so=False)
                log.warning("checkout.waits", reason=str(_first(group)), seconds=round(self._backoff_s, 2))
            await asyncio.sleep(self._backoff_s * random.uniform(0.5, 1.0))
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)

    async def _session(self) -> None:
        tapping = Tapping()
        async with self._connected(tapping) as connection, self._connected() as feed_connection:
            await declare(await connection.channel(), self._claim)
            self.oldest.clear()  # another may have the shard by now
            teller = Teller()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(lasting("feed", teller.run(feed_connection)))
                    for queue in topology.SHARD_QUEUES:
                        shard = Shard(self, await connection.channel(), queue.name, teller)
                        group.create_task(lasting(queue.name, shard.run(tapping.tap)))
                    heed()
                    self._set_consuming(is_so=True)
            finally:
                self._set_consuming(is_so=False)

    @contextlib.asynccontextmanager
    async def _connected(self, tapping: Tapping | None = None) -> AsyncIterator[AbstractConnection]:
        connection = aio_pika.Connection(make_url(self._url, heartbeat=topology.HEARTBEAT_SECONDS))
        if tapping is not None:
            connection.kwargs["transport_factory"] = (
                tapping  # the driver below takes it, and the one above names no parameter
            )
        await connection.connect(CONNECT_SECONDS)
        try:
            yield connection
        finally:
            with contextlib.suppress(TimeoutError):  # a broker that hangs does not say goodbye
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()

    async def decide(self, batch: Sequence[message.Message]) -> list[feed.Told]:
        """Decide, start the payments asked for, and say what to tell. Raises ``AuthorityUnavailable``: nothing may be acked."""
        self._taken()
        attempts = [Attempt(m.rid, m.purchase, m.buyer, m.key, m.cart, queued_until=m.queued_until) for m in batch]
        told = []
        decisions: list[Decision] = []
        # two deliveries of one attempt may share a batch; PostgreSQL answers both from one row
        for start in range(0, len(attempts), self._batch_max):
            decisions += await decide(self._authority, attempts[start : start + self._batch_max], DECIDE_SECONDS)
        self._decided()
        poisoned = [
            attempt
            for attempt, decision in zip(attempts, decisions, strict=True)
            if decision.verdict is Verdict.MALFORMED
        ]
        if poisoned:
            # it broke a constraint when decided alone, so PostgreSQL has no verdict of it yet: fence it, durably
            await self._set_aside([(attempt.rid, attempt.purchase) for attempt in poisoned], "data")
        await self._start_payments(attempts, decisions)
        now = time.time()
        for attempt, decision, queued in zip(attempts, decisions, batch, strict=True):
            verdict = decision.verdict or Verdict.TRY_LATER
            metrics.decided[verdict] += 1
            metrics.decided_seconds.observe(max(now - message.queued_at(queued), 0.0))  # by a clock behind PostgreSQL's
            version = decision.purchase.version if decision.purchase else 0
            told.append(feed.Told(attempt.rid, verdict, attempt.purchase, version))
        metrics.batch_sizes.observe(len(batch))
        self._backoff_s = BACKOFF_FIRST_S
        return told

    async def set_aside(self, unreadable: Delivery, reason: str) -> None:
        """Record what is known of a message that no attempt can be read from: a front that waits for it must hear something."""
        log.warning("checkout.unreadable", reason=reason, tag=unreadable.tag)
        try:
            said = unreadable.properties
            rid = uuid.UUID(said.message_id or "")
            purchase = uuid.UUID(str((said.headers or {}).get(topology.PURCHASE_HEADER)))
        except ValueError:
            metrics.poison.labels("unnamed").inc()
            return
        await self._set_aside([(rid, purchase)], "unreadable")

    async def _set_aside(self, attempts: list[tuple[uuid.UUID, uuid.UUID]], reason: str) -> None:
        metrics.poison.labels(reason).inc(len(attempts))
        verdicts = await self._authority.void_attempts(attempts)
        log.warning("checkout.set_aside", reason=reason, verdicts={str(rid): word for rid, word in verdicts.items()})

    async def _start_payments(self, attempts: Sequence[Attempt], decisions: Sequence[Decision]) -> None:
        paying = asyncio.Semaphore(PAYMENTS_MAX)

        async def start(attempt: Attempt, method: str) -> None:
            async with paying:
                # the attempt's own key: delivered twice, it asks once; what is refused, the purchase shows as it stands
                try:
                    await self._authority.start_payment(attempt.purchase, attempt.buyer, attempt.key, method)
                except BadBatch as error:
                    log.warning("checkout.payment_refused", purchase=str(attempt.purchase), reason=str(error))

        async with asyncio.TaskGroup() as group:
            for attempt, decision in zip(attempts, decisions, strict=True):
                # only from HELD: a replay may find the payment long under way
                is_unpaid = decision.purchase is not None and decision.purchase.state == State.HELD
                if attempt.cart.pay_now and is_unpaid and decision.purchase and not decision.purchase.payments:
                    group.create_task(start(attempt, attempt.cart.pay_now))

    def _oldest_age(self) -> float:
        return max((time.time() - queued for queued in self.oldest.values()), default=0.0)

    def _set_consuming(self, *, is_so: bool) -> None:
        if is_so and not self.is_consuming:
            log.info("checkout.consuming", shards=topology.SHARDS)
        self.is_consuming = is_so
        metrics.consuming.set(is_so)


class Shard:
    """One queue on one channel: deliveries in, in order; one acknowledgement per committed batch out."""

    def __init__(self, worker: Worker, channel: AbstractChannel, queue: str, teller: Teller) -> None:
        self._worker = worker
        self._channel = channel
        self._queue = queue
        self._teller = teller
        # bounded by the broker: it sends no more than PREFETCH unacknowledged
        self._arrived: list[Delivery] = []
        self._more = asyncio.Event()
        self._is_over = False
        self._acked_tag = 0

    async def run(self, tap: Tap) -> None:
        """Decide until the channel or the queue is lost (``SessionLost``) or PostgreSQL is (``AuthorityUnavailable``)."""
        await self._channel.set_qos(prefetch_count=topology.PREFETCH)
        self._channel.close_callbacks.add(self._ended)
        underlay = await self._channel.get_underlay_channel()
        # a queue that is deleted, or loses its leader, ends its consumers and leaves their channels open
        underlay.on_consumer_cancel_callbacks.add(self._ended)
        tap.take(underlay.number, self._arrive)
        queue = await self._channel.get_queue(self._queue, ensure=False)
        try:
            # the driver has no part in what comes of it
            await queue.consume(_hear_nothing, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            # a queue without a leader is silent, and so would be its worker, for ever
            raise SessionLost(f"the broker does not let anybody consume {self._queue}") from error
        while True:
            heed()
            await self._decide(await self._collect())

    def _ended(self, *_: object) -> None:
        self._is_over = True
        self._more.set()

    def _arrive(self, arrived: Delivery) -> None:
        self._arrived.append(arrived)
        self._more.set()

    async def _collect(self) -> list[Delivery]:
        # What is there, without a timer: while one batch is decided the next one gathers by itself.
        while not self._arrived and not self._is_over:
            self._more.clear()
            await self._more.wait()
        if self._is_over:
            raise SessionLost(f"the broker sends no more of {self._queue}")
        batch, self._arrived = self._arrived[:BATCH_MAX], self._arrived[BATCH_MAX:]
        return batch

    async def _decide(self, batch: list[Delivery]) -> None:
        began = time.perf_counter()
        readable, kept = [], 0
        for arrived in batch:
            if arrived.is_redelivered:
                metrics.redelivered.inc()
            try:
                readable.append(message.decode(arrived.body))
            except message.Unreadable as reason:
                await self._worker.set_aside(arrived, str(reason))
                await self._reject(arrived.tag)
            else:
                kept = arrived.tag
        if readable:
            self._worker.oldest[self._queue] = message.queued_at(readable[0])
            self._teller.tell(await self._worker.decide(readable))
        await self._acknowledge([arrived.tag for arrived in batch], kept)
        self._worker.oldest.pop(self._queue, None)
        metrics.batch_seconds.observe(time.perf_counter() - began)

    async def _reject(self, tag: int) -> None:
        # to the dead-letter queue, for people to look at
        underlay = await self._channel.get_underlay_channel()
        async with asyncio.timeout(ACK_SECONDS):
            await underlay.basic_reject(tag, requeue=False)

    async def _acknowledge(self, tags: list[int], kept: int) -> None:
        # Up to the last that was not rejected, and that says: every one before. Which is true only if none is missing between.
        assert tags == list(range(self._acked_tag + 1, self._acked_tag + 1 + len(tags))), (self._acked_tag, tags)
        if kept:
            underlay = await self._channel.get_underlay_channel()
            async with asyncio.timeout(ACK_SECONDS):
                await underlay.basic_ack(kept, multiple=True)
        self._acked_tag = tags[-1]


async def declare(channel: AbstractChannel, claim: topology.Queue) -> None:
    """Claim the queues, then make them and the feed, or find them as they should be. Raises ``SessionLost`` when refused."""
    try:
        claimed = await channel.declare_queue(
            claim.name, durable=False, auto_delete=True, arguments=dict(claim.arguments)
        )
    except ChannelPreconditionFailed as error:
        raise SessionLost(topology.CLAIM_REFUSED) from error
    await claimed.consume(_hear_nothing)  # it stands while somebody listens, and there is never anything to hear
    for queue in topology.QUEUES:
        await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments), timeout=CONNECT_SECONDS)
    await channel.declare_exchange(topology.VERDICTS, aio_pika.ExchangeType.FANOUT, durable=True)


async def _hear_nothing(_: AbstractIncomingMessage) -> None:
    """Of a queue that nobody publishes to."""


async def lasting(name: str, work: Coroutine[Any, Any, None]) -> None:
    """Await ``work``, which must not end while its session lasts: however it does, the session is lost.

    The driver cancels what waits for a channel that it closes. A task that ends so would be gone without a word, and its
    queue without a worker.
    """
    try:
        await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
    except Exception as error:
        # It ends what still waits to be written or confirmed with a bare Exception; nothing else raises that.
        if type(error) is not Exception:
            raise
    raise SessionLost(f"{name} ended")


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
