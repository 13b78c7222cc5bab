"""The hub of live stock: who watches what, what each was told last, and who is due. No I/O, no clock, no threads.

Law 1: a viewer is never told less than it knows: per SKU the seq of one connection only grows. Law 2: nothing queues for a
viewer. One that cannot take a frame is skipped, and gets the latest state as one snapshot when it can. Law 3: viewers of the
same SKUs are told in the same bytes, encoded once. Law 4: one ``turn`` does a bounded amount of work, however many watch, so
that purchases on the same process wait a millisecond and not a broadcast.

All times are seconds of one monotonic clock; those that viewers see are PostgreSQL's, so that the age they work out is no
difference of two clocks.
"""

import heapq
import itertools
import random
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple, Protocol

from flashsale.contract.stock import Reading, Watched
from flashsale.stream import wire

BEAT_SECONDS = 1.0  # a page that hears nothing for three of these says "stale"
POLL_SECONDS = 0.2  # between two readings while anybody watches: how old numbers may get when no wake-up comes
READ_GAP_SECONDS = (
    0.05  # between two readings that wake-ups ask for, and less where more is told than ten times a second
)
# With sockets kept small (SEND_BYTES), what a reader has not taken for this long is no news to it any more.
EVICT_SECONDS = 5.0
WATCHED_MAX = 1024  # SKUs of one process: bounds the one query, made-up SKUs included
TURN_MAX = 64  # deliveries of one turn, at some 10 us each
SNAPSHOT_SECONDS = 0.1  # how long one encoded snapshot serves newcomers: its "now" may be so far behind

# Of a viewer's socket, for the edges: the kernel would else keep minutes of old stock for a slow reader. It takes twice that, and
# with it a viewer who reads nothing costs less than 32 KiB, whatever it watches.
SEND_BYTES = 4_096
DEAD_MS = 20_000  # a peer that has acknowledged nothing for so long is gone (TCP_USER_TIMEOUT), for the edges

NEVER = float("-inf")
BEHIND = -2  # not even one before a group's first, which is 0: the next word is a snapshot


class Sink(Protocol):
    """The way to one viewer. None of these waits or raises."""

    @property
    def is_gone(self) -> bool:
        """The viewer has left."""

    @property
    def is_ready(self) -> bool:
        """Has everything sent before been taken by the operating system?"""

    def send(self, frame: bytes) -> None:
        """Hand one frame over; only when ready."""

    def close(self) -> None:
        """End the stream after what was sent."""

    def abort(self) -> None:
        """Drop the connection now, and what was sent with it."""


class Standing(Enum):
    """What can be said to a viewer who has not been told anything yet."""

    UNREAD = auto()  # nobody has read its SKUs yet, or not since it came, and it knows more than was read before
    UNKNOWN = auto()  # some SKU is no item
    OVER = auto()  # every sale it watches has ended
    LIVE = auto()


class Counts(NamedTuple):
    """What happened since the last count."""

    frames: int
    conflated: int
    evicted: int


class Limits(NamedTuple):
    """Changes told per second and viewer; viewers of the process, and of one address."""

    hertz: int
    viewers: int
    per_address: int


@dataclass(eq=False, slots=True)
class Viewer:
    """One connection, from before its first frame to its end."""

    watch: wire.Watch
    address: str
    begun: int  # readings, when it came
    sink: Sink | None = None
    version: int = BEHIND  # of its group, as last told
    blocked_since: float | None = None
    is_over: bool = False


@dataclass(eq=False)
class _Group:
    # All viewers of the same SKUs.
    skus: tuple[str, ...]
    told: dict[str, Watched]
    viewers: dict[Viewer, None] = field(default_factory=dict)  # a set that keeps its order
    version: int = 0
    step: bytes = b""  # from the version before to this one
    next_at: float = NEVER  # when the next change is due to be told
    told_at: float = NEVER
    due_at: float = float("inf")
    snapshot: tuple[int, float, bytes] = (0, NEVER, b"")  # of which reading, made when


@dataclass(eq=False)
class _Pass:
    # One round over a group's viewers; ``quiet`` for those who know everything.
    group: _Group
    quiet: bytes
    left: deque[Viewer]


class Hub:
    """All viewers of one process."""

    def __init__(self, limits: Limits, chance: random.Random | None = None) -> None:
        self._limits = limits
        self._gap = 1.0 / limits.hertz
        # What comes as often as it may be told comes a little early or late. Kept apart by a whole gap each would be told as late as
        # the latest of all before; so one may come a whole gap early, and no second sees more than one frame more.
        self._slack = self._gap
        # Here too one may come a gap early: a change is often told of twice, by who made it and by the applier, and the second time
        # would else keep the next change waiting.
        self._read_gap = min(READ_GAP_SECONDS, self._gap / 2)
        self._chance = chance or random.Random()
        self._addresses: Counter[str] = Counter()
        self._interest: Counter[str] = Counter()  # viewers per SKU, unstarted ones included
        self._known: dict[str, Watched | None] = {}  # None: no such item
        self._groups: dict[tuple[str, ...], _Group] = {}
        self._showing: defaultdict[str, set[_Group]] = defaultdict(set)
        self._due: list[tuple[float, int, _Group]] = []  # a heap; an entry that differs from the group's due_at is void
        self._order = itertools.count()
        self._pass: _Pass | None = None
        self._leaving: list[tuple[float, int, Viewer]] = []  # a heap
        self._drains: tuple[float, float] | None = None  # from when, for how long
        self._begun = 0  # readings
        self._taken = 0  # the number of the one taken last
        self._read_at = NEVER  # when the last reading was begun
        self._read_next = NEVER  # when one more would keep to the gap
        self._is_woken = False
        self._as_of: datetime | None = None
        self._as_of_at = NEVER  # when the reading that says so was begun
        self._frames = self._conflated = self._evicted = 0

    # --- viewers come and go

    def register(self, watch: wire.Watch, address: str) -> Viewer | None:
        """A place for a viewer, and a reading soon of what it watches; None when there is no place.

        The place is taken until ``leave``. Registered first and read afterwards: what commits in between is seen.
        """
        fresh = sum(sku not in self._interest for sku in watch.skus)
        if (
            self._drains is not None
            or self.viewers >= self._limits.viewers
            or self._addresses[address] >= self._limits.per_address
            or len(self._interest) + fresh > WATCHED_MAX
        ):
            return None
        self._addresses[address] += 1
        self._interest.update(watch.skus)
        self._is_woken |= any(sku not in self._known for sku in watch.skus) or self._is_behind(watch)
        return Viewer(watch, address, self._begun)

    def standing(self, viewer: Viewer) -> Standing:
        """What the readings so far say of a registered viewer's wish."""
        if not all(sku in self._known for sku in viewer.watch.skus):
            return Standing.UNREAD
        items = [self._known[sku] for sku in viewer.watch.skus]
        if None in items:
            return Standing.UNKNOWN
        if all(item and item.state == "ENDED" for item in items):
            return Standing.OVER
        # Another process told it more. One reading begun since it came has that too, or PostgreSQL has it no more, or it was made up.
        return Standing.UNREAD if self._taken <= viewer.begun and self._is_behind(viewer.watch) else Standing.LIVE

    def start(self, viewer: Viewer, sink: Sink, now: float) -> bytes:
        """The first words to a LIVE viewer, to be sent before anything else; from here on its sink is used."""
        group = self._groups.get(viewer.watch.skus)
        if group is None:
            group = _Group(viewer.watch.skus, self._latest(viewer.watch.skus))
            self._groups[group.skus] = group
            for sku in group.skus:
                self._showing[sku].add(group)
            group.told_at = now
            self._plan(group, now)
        viewer.sink = sink
        group.viewers[viewer] = None
        self._frames += 1
        if self._drains is not None:
            self._part(viewer, *self._drains)
        first = wire.retry(self._chance.randint(*wire.RETRY_MS))
        latest = self._latest(group.skus).values()
        if viewer.watch.last_id == wire.event_id((item.sku, item.seq) for item in latest):
            viewer.version = self._level(group)
            # the clock may have opened or closed a sale, which no id tells
            sales = {item.sale: item for item in latest}
            return first + b"".join(wire.sale(sales[name]) for name in sorted(sales)) + self._beat(now)
        return first + self._snapshot(viewer, group, now)

    def leave(self, viewer: Viewer) -> None:
        """Give the place back; once or often."""
        if viewer.is_over:
            return
        viewer.is_over = True
        self._addresses[viewer.address] -= 1
        if not self._addresses[viewer.address]:
            del self._addresses[viewer.address]
        group = self._groups.get(viewer.watch.skus)
        if group is not None:
            group.viewers.pop(viewer, None)
            if not group.viewers:
                del self._groups[group.skus]
                group.due_at = float("inf")
                for sku in group.skus:
                    self._showing[sku].discard(group)
        for sku in viewer.watch.skus:
            self._interest[sku] -= 1
            if not self._interest[sku]:
                # what nobody reads grows old: the next who asks waits for a reading
                del self._interest[sku]
                self._known.pop(sku, None)
                self._showing.pop(sku, None)

    def refused(self) -> bytes:
        """The words to one who got no place. A status other than 200 would end a browser's stream for good.

        Who meets a server that stops comes back soon: its neighbours have places, and show the numbers meanwhile missed.
        """
        return wire.retry(self._chance.randint(*(wire.LATER_MS if self._drains is None else wire.RETRY_MS)))

    def drain(self, now: float, within_s: float) -> None:
        """No new viewers; say good-bye to each at a random moment of the next ``within_s`` seconds."""
        self._drains = (now, within_s)
        for group in self._groups.values():
            for viewer in group.viewers:
                self._part(viewer, now, within_s)

    # --- readings

    def wake(self, skus: Collection[str] | None) -> bool:
        """Something moved (None: anything may have). True when somebody here watches it and a reading is due sooner."""
        if skus is None or any(sku in self._interest for sku in skus):
            self._is_woken = bool(self._interest)
            return self._is_woken
        return False

    def read_in(self, now: float) -> float | None:
        """Seconds until the next reading is due; None while nobody watches."""
        if not self._interest:
            return None
        return max((self._read_next - self._read_gap if self._is_woken else self._read_at + POLL_SECONDS) - now, 0.0)

    def begin_reading(self, now: float) -> tuple[str, ...]:
        """The SKUs to read now. What wakes from here on is not in this reading and asks for another."""
        self._begun += 1
        self._read_at = now
        self._read_next = max(self._read_next, now) + self._read_gap
        self._is_woken = False
        return tuple(self._interest)

    def confirm(self, asked: Iterable[str], reading: Reading, now: float) -> None:
        """Take the reading begun last."""
        self._taken = self._begun
        self._as_of, self._as_of_at = reading.as_of, self._read_at
        changed: dict[_Group, None] = {}
        for sku in asked:
            if sku not in self._interest:
                continue
            item, known = reading.items.get(sku), self._known.get(sku)
            self._known[sku] = item
            if known is not None and (item is None or item.seq < known.seq):
                # A PostgreSQL restored from an older copy. No connection may see that, so those that would are ended, and
                # begin again with what is true now.
                for viewer in [viewer for group in self._showing[sku] for viewer in group.viewers]:
                    self._end(viewer)
            elif item != known and sku in self._showing:
                changed.update(dict.fromkeys(self._showing[sku]))
        for group in changed:
            if group.viewers:
                self._plan(group, now)

    # --- deliveries

    def turn(self, now: float) -> float | None:
        """Tell those who are due, up to a bound; seconds until the next turn, None when nobody is waited for."""
        left = TURN_MAX
        while left > 0:
            left -= 1
            if self._leaving and self._leaving[0][0] <= now:
                self._say_bye(heapq.heappop(self._leaving)[2])
            elif self._pass is not None:
                left -= self._go_on(self._pass, now, left)
            elif self._due and self._due[0][0] <= now:
                at, _, group = heapq.heappop(self._due)
                if at == group.due_at:
                    self._begin(group, now)
            else:
                upcoming = [heap[0][0] for heap in (self._due, self._leaving) if heap]
                return min(upcoming) - now if upcoming else None
        return 0.0

    # --- what metrics show

    @property
    def viewers(self) -> int:
        """Places taken."""
        return self._addresses.total()

    def age(self, now: float) -> float:
        """Seconds since the numbers shown were known to be right; 0 while nobody watches."""
        return now - self._as_of_at if self._interest and self._as_of is not None else 0.0

    def take_counts(self) -> Counts:
        """What happened since this was last asked."""
        counts = Counts(self._frames, self._conflated, self._evicted)
        self._frames = self._conflated = self._evicted = 0
        return counts

    # --- inside

    def _is_behind(self, watch: wire.Watch) -> bool:
        # Does who comes back know more than was read here?
        seqs = wire.seqs(watch.last_id)
        return any(item and seqs.get(item.sku, 0) > item.seq for item in map(self._known.get, watch.skus))

    def _latest(self, skus: Iterable[str]) -> dict[str, Watched]:
        return {sku: item for sku in skus if (item := self._known[sku]) is not None}

    def _level(self, group: _Group) -> int:
        # Who was just told the latest is level with its group, unless the group has yet to be told of a change. The step to
        # come would then repeat what this one knows, under ids that it has left behind.
        return group.version if group.told == self._latest(group.skus) else BEHIND

    def _plan(self, group: _Group, now: float) -> None:
        # when its viewers are due: a change at once after a quiet time, else at the rate; a beat when there is none
        at = group.told_at + BEAT_SECONDS
        if self._level(group) == BEHIND:
            at = min(at, max(group.next_at - self._slack, now))
        if at != group.due_at:
            group.due_at = at
            heapq.heappush(self._due, (at, next(self._order), group))

    def _begin(self, group: _Group, now: float) -> None:
        group.told_at = now
        quiet = b""
        if self._level(group) == BEHIND:
            group.step = self._step(group)
            group.version += 1
            group.next_at = max(group.next_at, now) + self._gap
        else:
            quiet = self._beat(now)
        self._plan(group, now)  # while this round lasts nothing else is begun, however early it is due
        self._pass = _Pass(group, quiet, deque(group.viewers))

    def _step(self, group: _Group) -> bytes:
        # Each event's id tells what is known with it: a connection that breaks between two events says the truth later.
        events = []
        for sku, item in self._latest(group.skus).items():
            was = group.told[sku]
            group.told[sku] = item
            if (item.seq, item.available) != (was.seq, was.available):
                known = wire.event_id((each.sku, each.seq) for each in group.told.values())
                events.append(wire.stock(item, self._now(), known))
            if item[3:] != was[3:]:
                events.append(wire.sale(item))
        # several items of one sale say the same of it
        return b"".join(dict.fromkeys(events))

    def _go_on(self, going: _Pass, now: float, most: int) -> int:
        # How many were looked at. The one loop in which a delivery's time is spent, but for the system call.
        group, left, quiet, step = going.group, going.left, going.quiet, going.group.step
        version, before = group.version, group.version - 1
        count = min(most, len(left))
        for _ in range(count):
            viewer = left.popleft()
            sink = viewer.sink
            if viewer.is_over or sink is None:
                continue
            if sink.is_gone:
                self._end(viewer)
            elif sink.is_ready:
                viewer.blocked_since = None
                if viewer.version == before:
                    viewer.version, frame = version, step
                else:
                    frame = quiet if viewer.version == version else self._snapshot(viewer, group, now)
                if frame:
                    self._frames += 1
                    sink.send(frame)
            else:
                self._conflated += not quiet
                self._wait_for(viewer, sink, now)
        if not left:
            self._pass = None
        return count

    def _wait_for(self, viewer: Viewer, sink: Sink, now: float) -> None:
        if viewer.blocked_since is None:
            viewer.blocked_since = now
        elif now - viewer.blocked_since >= EVICT_SECONDS:
            self._evicted += 1
            sink.abort()
            self.leave(viewer)

    def _snapshot(self, viewer: Viewer, group: _Group, now: float) -> bytes:
        viewer.version = self._level(group)
        reading, at, frame = group.snapshot
        if reading != self._taken or now - at >= SNAPSHOT_SECONDS:
            frame = wire.snapshot(self._latest(group.skus).values(), self._now(now), self._now())
            group.snapshot = (self._taken, now, frame)
        return frame

    def _beat(self, now: float) -> bytes:
        return wire.beat(self._now(now), self._now())

    def _now(self, now: float | None = None) -> datetime:
        # PostgreSQL's time: when the numbers were confirmed, or at ``now``, too late by the reading's duration at most, so
        # that an age is never told too small.
        assert self._as_of is not None, "nobody is told anything before the first reading"
        return self._as_of + timedelta(seconds=now - self._as_of_at if now is not None else 0.0)

    def _part(self, viewer: Viewer, now: float, within_s: float) -> None:
        heapq.heappush(self._leaving, (now + self._chance.uniform(0, within_s), next(self._order), viewer))

    def _say_bye(self, viewer: Viewer) -> None:
        if viewer.is_over or viewer.sink is None:
            return
        if viewer.sink.is_ready and not viewer.sink.is_gone:
            self._frames += 1
            viewer.sink.send(wire.BYE)
            viewer.sink.close()
            self.leave(viewer)
        else:
            self._end(viewer)

    def _end(self, viewer: Viewer) -> None:
        # who does not take what was sent would not take an end either, and would keep a stopping process waiting
        if viewer.sink is not None and viewer.sink.is_ready:
            viewer.sink.close()
        elif viewer.sink is not None:
            viewer.sink.abort()
        self.leave(viewer)
