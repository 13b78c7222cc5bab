"""Waiting for news: a request registers, then reads, then sleeps until the verdict feed or a poll wakes it.

In that order, or the news that comes between reading and registering is missed. The feed wakes at once; one poll per process
asks for all who wait and heals whatever the feed lost. Answers are read from PostgreSQL after waking, never from the feed, so
no status ever goes backwards.
"""

import contextlib
import uuid
from collections import defaultdict
from collections.abc import Iterator

import gevent
import structlog
from gevent.event import Event
from pika.channel import Channel
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from flashsale.authority.green import AuthorityUnavailable, GreenAuthority
from flashsale.queued import feed, topology
from flashsale.queued.link import Link

POLL_SECONDS = 0.5  # how late a waiter may learn what the feed lost; one query per process, however many wait
WAITERS_MAX = 2_000  # past this a request is answered at once with what is known, which the preference allows

log = structlog.get_logger()


class Watch:
    """Tells who waits when something happened to an attempt, or to a purchase."""

    def __init__(self, authority: GreenAuthority, rabbitmq_url: str, claim: topology.Queue) -> None:
        self._authority = authority
        self._purchases: defaultdict[uuid.UUID, set[Event]] = defaultdict(set)
        self._rids: defaultdict[uuid.UUID, set[Event]] = defaultdict(set)
        self._versions: dict[Event, int] = {}  # what each waiter knows; also counts them
        self._is_closing = False
        self.poller = gevent.spawn(self._poll)
        # a connection of its own: a broker with an alarm stops reading from the one that publishes
        self.link = Link(rabbitmq_url, claim, "feed", self._opened, lambda: None)

    @contextlib.contextmanager
    def waiting(self, purchase: uuid.UUID, rid: uuid.UUID | None = None) -> Iterator["Waiter"]:
        """Registered while inside. ``rid``: also told when this attempt is decided."""
        waiter = Waiter(self, Event())
        if self._is_closing or len(self._versions) >= WAITERS_MAX:
            yield waiter
            return
        self._versions[waiter.told] = 0
        self._purchases[purchase].add(waiter.told)
        if rid is not None:
            self._rids[rid].add(waiter.told)
        try:
            yield waiter
        finally:
            del self._versions[waiter.told]
            _discard(self._purchases, purchase, waiter.told)
            if rid is not None:
                _discard(self._rids, rid, waiter.told)

    def sleep(self, told: Event, known_version: int, timeout_s: float) -> bool:
        """Sleep until there is news beyond ``known_version``; False when there was none, or too many wait."""
        if told not in self._versions or self._is_closing:
            return False
        self._versions[told] = known_version
        heard = bool(told.wait(timeout_s)) and not self._is_closing
        told.clear()
        return heard

    def close(self) -> None:
        """Answer everybody who waits, so that a stopping process does not hold its clients."""
        self._is_closing = True
        self.poller.kill()
        self.link.close()
        for told in self._versions:
            told.set()

    def _opened(self, channel: Channel) -> None:
        def bind(declared: Method) -> None:
            name = declared.method.queue
            channel.queue_bind(
                name, topology.VERDICTS, callback=lambda _: channel.basic_consume(name, self._hear, auto_ack=True)
            )

        channel.add_on_cancel_callback(lambda _: channel.close())  # its queue was deleted; a new link makes another
        channel.queue_declare("", exclusive=True, auto_delete=True, arguments=topology.FEED_ARGUMENTS, callback=bind)

    def _hear(self, _: Channel, __: Basic.Deliver, ___: BasicProperties, body: bytes) -> None:
        try:
            batch = feed.decode(body)
        except ValueError:
            log.warning("feed.unreadable", bytes=len(body))
            return
        for told in batch:
            self._tell_decided(told.rid)
            self._tell_version(told.purchase, told.version)

    def _tell_decided(self, rid: uuid.UUID) -> None:
        for told in self._rids.get(rid, ()):
            told.set()

    def _tell_version(self, purchase: uuid.UUID, version: int) -> None:
        for told in self._purchases.get(purchase, ()):
            if version > self._versions[told]:
                told.set()

    def _poll(self) -> None:
        while True:
            # asked even when nobody waits: the answer also says what time it is
            with contextlib.suppress(AuthorityUnavailable):  # they go on waiting; their own time-out bounds it
                versions, verdicts = self._authority.news(list(self._purchases), list(self._rids))
                for purchase, version in versions.items():
                    self._tell_version(purchase, version)
                for rid in verdicts:
                    self._tell_decided(rid)
            gevent.sleep(POLL_SECONDS)


class Waiter:
    """One registered request."""

    def __init__(self, watch: Watch, told: Event) -> None:
        self._watch = watch
        self.told = told

    def sleep(self, known_version: int, timeout_s: float) -> bool:
        """Sleep until there is news beyond ``known_version``; False when none came within ``timeout_s`` seconds."""
        return self._watch.sleep(self.told, known_version, timeout_s)


def _discard(waiters: defaultdict[uuid.UUID, set[Event]], of: uuid.UUID, told: Event) -> None:
    waiters[of].discard(told)
    if not waiters[of]:
        del waiters[of]
