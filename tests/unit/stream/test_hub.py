"""The hub on a made-up clock: rate, conflation, resume, eviction, bounds, drain; and a search that nobody goes backwards."""

import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from flashsale.contract.stock import Reading, Watched
from flashsale.stream import hub, wire
from flashsale.stream.hub import Hub, Limits, Standing, Viewer

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
CLOSES = EPOCH + timedelta(days=1)
HERTZ = 5
GAP = 1 / HERTZ


@dataclass
class Event:
    name: str
    id: str
    data: dict[str, Any]


def parse(raw: bytes) -> list[Event]:
    """Events as a browser reads them."""
    events = []
    for block in raw.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "data" in fields:
            events.append(Event(fields["event"], fields.get("id", ""), json.loads(fields["data"])))
    return events


@dataclass
class Socket:
    """A viewer's end: takes frames while it is asked to, and remembers the end."""

    raw: bytes = b""
    is_ready: bool = True
    is_gone: bool = False
    ended: str = ""
    frames: list[bytes] = field(default_factory=list)

    def send(self, frame: bytes) -> None:
        assert self.is_ready
        assert not self.ended
        assert frame
        self.frames.append(frame)
        self.raw += frame

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"

    @property
    def events(self) -> list[Event]:
        return parse(self.raw)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


class World:
    """A hub, PostgreSQL's rows and a clock."""

    def __init__(self, *skus: str, viewers: int = 100, per_address: int = 100, seed: int = 1) -> None:
        self.hub = Hub(Limits(HERTZ, viewers, per_address), random.Random(seed))
        self.rows = {sku: Watched(sku, 10, 1, "s", "OPEN", EPOCH, CLOSES) for sku in skus or ("a", "b")}
        self.now = 1000.0
        self.is_up = True

    def change(self, sku: str, **changes: Any) -> None:
        row = self.rows[sku]
        self.rows[sku] = row._replace(**{"seq": row.seq + 1, **changes})

    def read(self) -> None:
        skus = self.hub.begin_reading(self.now)
        if self.is_up:
            as_of = EPOCH + timedelta(seconds=self.now - 1000)
            self.hub.confirm(skus, Reading(as_of, {sku: self.rows[sku] for sku in skus if sku in self.rows}), self.now)

    def tell(self) -> float | None:
        """Turns until nobody is due."""
        while (wait_s := self.hub.turn(self.now)) == 0.0:
            pass
        return wait_s

    def step(self) -> None:
        """Read and tell, as the edges do when something moved."""
        self.read()
        self.tell()

    def hurry(self) -> None:
        """Two changes of everything, told at once: the next has to wait for its turn."""
        for _ in range(2):
            for sku in self.rows:
                self.change(sku)
            self.step()
            self.now += 0.06

    def run(self, seconds: float, step: float = 0.01) -> None:
        """Let time pass, reading and telling whenever that is due."""
        until = self.now + seconds
        while self.now < until:
            if self.hub.read_in(self.now) == 0.0:
                self.read()
            self.tell()
            self.now = round(self.now + step, 6)

    def join(self, *skus: str, last_id: str = "", address: str = "here") -> tuple[Viewer, Socket]:
        viewer = self.hub.register(wire.Watch(skus or ("a", "b"), last_id), address)
        assert viewer is not None
        if self.hub.standing(viewer) is Standing.UNREAD:
            self.read()
        assert self.hub.standing(viewer) is Standing.LIVE
        socket = Socket()
        socket.raw += self.hub.start(viewer, socket, self.now)
        return viewer, socket


def stock(socket: Socket) -> list[tuple[str, int]]:
    return [(event.data["sku"], event.data["available"]) for event in socket.events if event.name == "stock"]


def test_a_viewer_is_told_how_to_come_back_and_then_everything() -> None:
    _, socket = World().join()
    first, rest = socket.raw.split(b"\n\n", 1)
    match = re.fullmatch(rb"retry: (\d+)", first)
    assert match
    assert 1000 <= int(match[1]) <= 3000
    (event,) = parse(rest)
    assert (event.name, event.id) == ("snapshot", "a:1,b:1")
    assert [item["available"] for item in event.data["stock"]] == [10, 10]
    assert [sale["sale"] for sale in event.data["sales"]] == ["s"]


def test_browsers_are_told_different_times_to_come_back() -> None:
    world = World()
    assert len({world.join()[1].raw.split(b"\n", 1)[0] for _ in range(20)}) > 10


def test_the_first_change_after_quiet_is_told_at_once_and_then_at_the_rate() -> None:
    world = World("a")
    _, socket = world.join("a")
    world.run(0.5)
    told = []
    for _ in range(300):  # three seconds of a change every 10 ms
        world.change("a", available=world.rows["a"].available + 1)
        before = len(socket.raw)
        world.step()
        if len(socket.raw) > before:
            told.append(world.now)
        world.now = round(world.now + 0.01, 6)
    assert told[0] == 1000.5
    assert all(sum(at <= other < at + 1 for other in told) <= HERTZ + 1 for at in told)
    assert all(later - earlier >= GAP - 1e-6 for earlier, later in pairwise(told[2:]))
    assert len(told) == pytest.approx(3 * HERTZ + 1, abs=1)
    # the last change is not lost when nothing follows it
    world.run(1)
    assert stock(socket)[-1] == ("a", world.rows["a"].available)


def test_changes_at_the_rate_itself_are_told_when_they_come_though_none_comes_quite_in_time() -> None:
    world = World("a")
    _, socket = world.join("a")
    world.run(0.5)
    dice = random.Random(7)
    for number in range(1, 200):
        world.now = 1000.5 + number * GAP + dice.uniform(0, 0.95 * GAP)
        world.change("a", available=number)
        world.step()
        assert stock(socket)[-1] == ("a", number)


def test_a_beat_resets_no_rate_and_comes_only_when_it_is_quiet() -> None:
    world = World("a")
    _, socket = world.join("a")
    world.run(3.5)
    assert socket.names == ["snapshot", "beat", "beat", "beat"]
    beats = [event.data["as_of"] for event in socket.events[1:]]
    assert beats == sorted(set(beats))
    world.change("a", available=9)
    world.step()
    assert socket.names[-1] == "stock"


def test_only_what_changed_is_told_with_an_id_that_is_true_after_each_event() -> None:
    world = World("a", "b", "c")
    _, socket = world.join("a", "b", "c")
    world.change("c", available=7)
    world.change("a", available=8)
    world.step()
    assert [(event.name, event.id) for event in socket.events] == [
        ("snapshot", "a:1,b:1,c:1"),
        ("stock", "a:2,b:1,c:1"),
        ("stock", "a:2,b:1,c:2"),
    ]


def test_a_sale_that_changes_is_told_once_however_many_of_its_items_are_watched() -> None:
    world = World()
    _, socket = world.join()
    for sku in world.rows:
        world.change(sku, state="PAUSED")
    world.step()
    assert socket.names == ["snapshot", "stock", "sale", "stock"]
    (sale,) = [event.data for event in socket.events if event.name == "sale"]
    assert (sale["sale"], sale["state"]) == ("s", "PAUSED")


def test_the_clock_alone_changes_a_sale_and_no_stock() -> None:
    world = World("a")
    world.rows["a"] = world.rows["a"]._replace(state="SCHEDULED")
    _, socket = world.join("a")
    world.rows["a"] = world.rows["a"]._replace(state="OPEN")
    world.step()
    assert socket.names == ["snapshot", "sale"]


def test_viewers_of_the_same_items_get_the_same_bytes() -> None:
    world = World()
    made = [world.join() for _ in range(5)]
    made[0][1].is_ready = made[1][1].is_ready = False
    for left in (3, 2):
        world.change("a", available=left)
        world.run(0.3)
    made[0][1].is_ready = made[1][1].is_ready = True
    world.change("a", available=1)
    world.run(0.3)
    by_name = [{id(socket.frames[-1]) for _, socket in some} for some in (made[:2], made[2:])]
    assert [len(frames) for frames in by_name] == [1, 1], "encoded more than once"
    assert [made[0][1].names[-1], made[2][1].names[-1]] == ["snapshot", "stock"]


def test_a_slow_viewer_is_spared_what_is_old_and_gets_the_latest_in_one_frame() -> None:
    world = World()
    _, slow = world.join()
    _, quick = world.join()
    slow.is_ready = False
    for left in range(9, 0, -1):
        world.change("a", available=left)
        world.run(GAP + 0.02)
    assert len(stock(quick)) == 9
    assert slow.names == ["snapshot"]
    assert world.hub.take_counts().conflated == 9
    slow.is_ready = True
    world.run(1.2)
    assert slow.names == ["snapshot", "snapshot", "beat"][: len(slow.names)]
    assert slow.events[1].data["stock"][0]["available"] == 1
    world.change("a", available=0)
    world.run(0.3)
    assert stock(slow) == [("a", 0)]


@pytest.mark.parametrize("moves", [True, False])
def test_a_viewer_that_takes_nothing_is_dropped_and_the_others_go_on(moves: bool) -> None:  # noqa: FBT001
    world = World("a")
    _, stuck = world.join("a")
    _, quick = world.join("a")
    stuck.is_ready = False
    began = world.now
    while not stuck.ended and world.now < began + 30:
        if moves:
            world.change("a")
        world.run(0.1)
    assert stuck.ended == "aborted"
    assert hub.EVICT_SECONDS <= world.now - began < hub.EVICT_SECONDS + 2.5
    assert world.hub.viewers == 1
    assert world.hub.take_counts().evicted == 1
    heard = len(quick.raw)
    world.run(2)
    assert len(quick.raw) > heard
    assert not quick.ended


def test_a_viewer_that_reads_now_and_then_stays() -> None:
    world = World("a")
    _, socket = world.join("a")
    for _ in range(5):
        socket.is_ready = False
        world.run(hub.EVICT_SECONDS - 1.5)
        socket.is_ready = True
        world.run(1.5)
    assert not socket.ended


def test_a_viewer_that_left_gives_its_place_back() -> None:
    world = World("a", viewers=1)
    _, socket = world.join("a")
    assert world.hub.register(wire.Watch(("a",), ""), "x") is None
    socket.is_gone = True
    world.run(hub.BEAT_SECONDS + 0.1)
    assert socket.ended
    assert world.hub.register(wire.Watch(("a",), ""), "x") is not None


@pytest.mark.parametrize(
    "last_id",
    [
        "",
        "nonsense",
        "a:1",  # other SKUs
        "a:1,b:1,c:1",
        "b:1,a:1",  # nobody of ours writes it so
        "a:0,b:1",
        "a:2,b:1",  # from a life of PostgreSQL that did not last
        "a:01,b:1",
        "a:1,b:1 ",
        "a:1,b:1\x00",
        "a:\u0661,b:1",
        "a:-1,b:1",
        "a:1,b:1," * 1000,
        "a:" + "9" * 10_000,
    ],
)
def test_an_id_that_is_not_of_now_gets_a_snapshot(last_id: str) -> None:
    _, socket = World().join(last_id=last_id)
    assert socket.names == ["snapshot"]


def test_who_knows_the_latest_hears_no_numbers_again_but_how_the_sales_stand() -> None:
    world = World()
    _, socket = world.join(last_id="a:1,b:1")
    assert socket.names == ["sale", "beat"]
    world.change("b", available=9)
    world.step()
    assert stock(socket) == [("b", 9)]


def test_who_comes_between_a_change_and_its_turn_hears_it_and_never_goes_back() -> None:
    world = World("a")
    _, old = world.join("a")
    world.hurry()
    world.change("a", available=8)
    world.read()  # known and not yet told: the rate forbids it
    world.tell()
    assert seqs(old, "a") == [1, 2, 3]
    _, new = world.join("a")
    assert new.events[0].data["stock"][0]["available"] == 8
    world.change("a", available=7)
    world.run(1)
    assert seqs(new, "a") == [4, 4, 5], "never back, and twice rather than not at all"
    assert seqs(old, "a") == [1, 2, 3, 4, 5]


def test_who_comes_between_a_change_and_its_way_back_is_not_left_with_the_change() -> None:
    world = World("a")
    world.join("a")
    for state in ("PAUSED", "OPEN"):
        world.rows["a"] = world.rows["a"]._replace(state=state)
        world.read()
        if state == "PAUSED":
            _, new = world.join("a")
    assert states(new) == ["PAUSED"]
    world.run(hub.BEAT_SECONDS + 0.1)  # its group, which has never been told of a change, has none to be told of
    assert states(new) == ["PAUSED", "OPEN"]


def test_who_knows_what_its_group_has_yet_to_be_told_is_not_led_back() -> None:
    world = World()
    world.join()
    world.hurry()
    for sku in world.rows:
        world.change(sku)
    world.read()
    _, socket = world.join(last_id="a:4,b:4")
    assert socket.names == ["sale", "beat"]
    world.run(0.5)
    assert {event.id for event in socket.events} <= {"", "a:4,b:4"}


def test_who_was_told_more_elsewhere_waits_for_a_reading_begun_since_it_came() -> None:
    world = World("a", "b")
    world.join()
    skus, before = world.hub.begin_reading(world.now), dict(world.rows)
    world.change("b", available=7)  # told by another process, to one that comes here
    viewer = world.hub.register(wire.Watch(("a", "b"), "a:1,b:2"), "here")
    assert viewer
    assert world.hub.standing(viewer) is Standing.UNREAD
    assert world.hub.read_in(world.now) == pytest.approx(hub.READ_GAP_SECONDS), "nobody woke this process"
    world.hub.confirm(skus, Reading(EPOCH, before), world.now)
    assert world.hub.standing(viewer) is Standing.UNREAD, "begun before it came"
    world.is_up = False
    world.read()
    assert world.hub.standing(viewer) is Standing.UNREAD, "the edge sends it on"
    world.is_up = True
    world.read()
    assert world.hub.standing(viewer) is Standing.LIVE
    assert [event.name for event in parse(world.hub.start(viewer, Socket(), world.now))] == ["sale", "beat"]


def test_what_one_claims_to_know_costs_one_reading() -> None:
    world = World("a", "b")
    world.join()
    viewer = world.hub.register(wire.Watch(("a", "b"), f"a:{10**17},b:1"), "here")
    assert viewer
    world.read()
    assert world.hub.standing(viewer) is Standing.LIVE


def test_a_slow_reading_makes_an_age_too_large_and_never_too_small() -> None:
    world = World("a")
    world.join("a")
    skus = world.hub.begin_reading(world.now)
    world.now += 1.4  # PostgreSQL looked at its clock somewhere in between, and nobody can say where
    world.hub.confirm(skus, Reading(EPOCH, world.rows), world.now)
    _, socket = world.join("a")
    told = socket.events[0].data
    assert moment(told["now"]) - moment(told["as_of"]) == pytest.approx(1.4)
    assert world.hub.age(world.now) == pytest.approx(1.4)


def test_age_is_told_by_one_clock_and_stands_while_postgresql_is_away() -> None:
    world = World("a")
    _, socket = world.join("a")
    world.run(2.5)
    world.is_up = False
    world.run(4)
    ages = [moment(event.data["now"]) - moment(event.data["as_of"]) for event in socket.events]
    assert ages[2] <= hub.POLL_SECONDS + 0.02
    assert ages[-1] > 2.5
    assert len({event.data["as_of"] for event in socket.events[-3:]}) == 1
    assert world.hub.age(world.now) > 2.5
    _, late = world.join("a")  # served with what is known, and with its age
    assert moment(late.events[0].data["now"]) - moment(late.events[0].data["as_of"]) > 2.5
    assert late.events[0].data["stock"][0]["as_of"] == late.events[0].data["as_of"]


def test_a_snapshot_for_a_later_comer_has_the_time_of_its_own() -> None:
    world = World("a")
    world.join("a")
    world.is_up = False
    world.now += 3
    _, late = world.join("a")
    assert moment(late.events[0].data["now"]) - moment(late.events[0].data["as_of"]) == pytest.approx(3)


def test_a_postgresql_that_counts_from_lower_ends_who_watches() -> None:
    world = World("a", "b")
    world.rows["a"] = world.rows["a"]._replace(seq=50)
    _, both = world.join("a", "b")
    _, other = world.join("b")
    world.rows["a"] = world.rows["a"]._replace(seq=40)
    world.step()
    assert both.ended == "closed"
    assert seqs(both, "a") == [50]
    assert not other.ended
    _, again = world.join("a", "b", last_id="a:50,b:1")
    assert seqs(again, "a") == [40]


def test_a_change_of_one_item_and_a_fall_of_another_in_one_reading_end_who_watches_both() -> None:
    for changed, fallen in ("ab", "ba"):
        world = World("a", "b")
        world.rows[fallen] = world.rows[fallen]._replace(seq=50)
        _, both = world.join("a", "b")
        _, one = world.join(changed)
        world.change(changed, available=3)
        world.rows[fallen] = world.rows[fallen]._replace(seq=40)
        world.step()
        assert both.ended
        assert stock(one) == [(changed, 3)]


def test_an_item_that_is_gone_ends_who_watches() -> None:
    world = World("a")
    _, socket = world.join("a")
    del world.rows["a"]
    world.step()
    assert socket.ended
    assert world.hub.viewers == 0


@pytest.mark.parametrize(
    ("states", "standing"),
    [
        ({"a": "ENDED", "b": "ENDED"}, Standing.OVER),
        ({"a": "ENDED", "b": "PAUSED"}, Standing.LIVE),
        ({"a": "ENDED"}, Standing.UNKNOWN),
        ({"a": "SCHEDULED", "b": "SCHEDULED"}, Standing.LIVE),
    ],
)
def test_where_a_wish_stands(states: dict[str, str], standing: Standing) -> None:
    world = World()
    world.rows = {sku: world.rows[sku]._replace(state=state) for sku, state in states.items()}
    viewer = world.hub.register(wire.Watch(("a", "b"), ""), "here")
    assert viewer
    assert world.hub.standing(viewer) is Standing.UNREAD
    world.read()
    assert world.hub.standing(viewer) is standing


def test_places_are_bounded_per_process_and_per_address() -> None:
    world = World("a", viewers=5, per_address=2)
    first, _ = world.join("a", address="x")
    world.join("a", address="x")
    assert world.hub.register(wire.Watch(("a",), ""), "x") is None
    for address in ("y", "y", "z"):
        world.join("a", address=address)
    assert world.hub.register(wire.Watch(("a",), ""), "w") is None
    world.hub.leave(first)
    world.hub.leave(first)  # twice is once
    assert world.hub.viewers == 4
    world.join("a", address="x")
    assert world.hub.register(wire.Watch(("a",), ""), "x") is None


def test_made_up_skus_are_bounded_and_forgotten() -> None:
    world = World("a", viewers=10_000, per_address=10_000)
    made: list[Viewer] = []
    while (viewer := world.hub.register(wire.Watch(tuple(f"{len(made)}-{n}" for n in range(16)), ""), "x")) is not None:
        made.append(viewer)
    assert len(made) * 16 == hub.WATCHED_MAX == len(world.hub.begin_reading(world.now))
    for viewer in made:
        world.hub.leave(viewer)
    assert world.hub.begin_reading(world.now) == ()
    viewer, _ = world.join("a")
    skus = world.hub.begin_reading(world.now)
    world.hub.leave(viewer)  # while it is being read
    world.hub.confirm(skus, Reading(EPOCH, world.rows), world.now)
    assert not world.hub._known
    assert not world.hub._showing
    assert not world.hub._groups


def test_what_nobody_watched_for_a_while_is_read_again_before_it_is_shown() -> None:
    world = World("a")
    viewer, _ = world.join("a")
    world.hub.leave(viewer)
    world.change("a", available=1)
    again = world.hub.register(wire.Watch(("a",), ""), "here")
    assert again
    assert world.hub.standing(again) is Standing.UNREAD


def test_reading_is_steady_while_somebody_watches_and_bounded_when_woken() -> None:
    world = World("a")
    assert world.hub.read_in(world.now) is None
    assert not world.hub.wake({"a"})
    world.join("a")
    assert world.hub.read_in(world.now) == pytest.approx(hub.POLL_SECONDS)
    assert not world.hub.wake({"z"})
    assert world.hub.read_in(world.now) == pytest.approx(hub.POLL_SECONDS)
    for moved, wait_s in (({"z", "a"}, 0), (None, hub.READ_GAP_SECONDS), ({"a"}, 2 * hub.READ_GAP_SECONDS)):
        assert world.hub.wake(moved)
        assert world.hub.read_in(world.now) == pytest.approx(wait_s), "one may come early, and no more"
        assert world.hub.read_in(world.now + 1) == 0
        world.read()
    world.now += 1
    world.read()
    assert world.hub.register(wire.Watch(("z",), ""), "x")  # a newcomer does not wait for a beat
    assert world.hub.read_in(world.now) == 0
    # what commits while a reading is under way may not be in it
    skus = world.hub.begin_reading(world.now)
    world.hub.wake({"a"})
    world.hub.confirm(skus, Reading(EPOCH, dict(world.rows)), world.now)
    assert world.hub.read_in(world.now) == pytest.approx(hub.READ_GAP_SECONDS)


def test_one_turn_does_a_bounded_amount_of_work_and_nobody_is_forgotten() -> None:
    world = World("a", viewers=10_000, per_address=10_000)
    sockets = [world.join("a")[1] for _ in range(500)]
    world.change("a", available=1)
    world.read()
    turns = 0
    told = 0
    while world.hub.turn(world.now) == 0.0:
        turns += 1
        now_told = sum(bool(stock(socket)) for socket in sockets)
        assert now_told - told <= hub.TURN_MAX
        told = now_told
    assert turns >= 500 / hub.TURN_MAX - 1
    assert [stock(socket) for socket in sockets] == [[("a", 1)]] * 500


def test_a_drain_says_bye_to_everybody_spread_over_its_time() -> None:
    world = World("a", viewers=1000, per_address=1000)
    sockets = [world.join("a")[1] for _ in range(300)]
    sockets[0].is_ready = False
    world.hub.drain(world.now, 3.0)
    assert world.hub.register(wire.Watch(("a",), ""), "x") is None
    left = []
    for _ in range(6):
        world.run(0.5)
        left.append(sum(not socket.ended for socket in sockets))
    world.run(0.1)
    for before, after in pairwise([300, *left]):
        assert 25 <= before - after <= 75, left
    assert sockets[0].ended == "aborted", "it would keep the process waiting"
    assert all(socket.ended == "closed" for socket in sockets[1:])
    assert all(socket.names[-1] == "bye" for socket in sockets[1:])
    assert sockets[0].names == ["snapshot"]
    assert world.hub.viewers == 0


def test_who_was_being_let_in_when_the_drain_began_is_seen_off_too() -> None:
    world = World("a")
    viewer = world.hub.register(wire.Watch(("a",), ""), "x")
    assert viewer
    world.read()
    world.hub.drain(world.now, 3.0)
    socket = Socket()
    world.hub.start(viewer, socket, world.now)
    world.run(3.1)
    assert socket.ended


def test_who_cannot_be_served_is_asked_to_come_back_much_later() -> None:
    world = World()
    times = {int(world.hub.refused().split()[1]) for _ in range(50)}
    assert min(times) >= 5000
    assert len(times) > 25


def test_who_meets_a_server_that_stops_is_asked_to_come_back_soon() -> None:
    world = World()
    world.hub.drain(world.now, 3.0)
    times = {int(world.hub.refused().split()[1]) for _ in range(50)}
    assert min(times) >= 1000
    assert max(times) <= 3000
    assert len(times) > 25


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def seqs(socket: Socket, sku: str) -> list[int]:
    found = []
    for event in socket.events:
        items: Iterable[dict[str, Any]] = event.data["stock"] if event.name == "snapshot" else [event.data]
        found += [item["seq"] for item in items if item.get("sku") == sku]
    return found


class Search:
    """Viewers, readings, changes and turns in any order."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.world = World("a", "b", "c", viewers=40, per_address=40, seed=seed)
        self.made: list[tuple[Viewer, Socket]] = []
        self.ids = [""]
        self.moves = [self.come, self.go, self.block, self.sell, self.pause, self.world.read, self.turn, self.wait]

    def come(self) -> None:
        if len(self.made) < 30:
            skus = sorted(self.chance.sample("abc", self.chance.randint(1, 3)))
            self.made.append(self.world.join(*skus, last_id=self.chance.choice(self.ids)))

    def go(self) -> None:
        if self.made:
            _, socket = self.chance.choice(self.made)
            self.ids += [event.id for event in socket.events if event.id]
            socket.is_gone = True

    def block(self) -> None:
        if self.made:
            _, socket = self.chance.choice(self.made)
            socket.is_ready = not socket.is_ready

    def sell(self) -> None:
        self.world.change(self.chance.choice("abc"), available=self.chance.randrange(100))

    def pause(self) -> None:
        state = self.chance.choice(["OPEN", "PAUSED"])
        for sku in "abc":
            self.world.change(sku, state=state)

    def turn(self) -> None:
        self.world.hub.turn(self.world.now)  # one slice: readings and newcomers come between

    def wait(self) -> None:
        self.world.now += self.chance.choice([0.001, 0.06, 0.3])


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_nobody_goes_back_and_everybody_ends_at_the_truth(seed: int) -> None:
    search = Search(seed)
    for _ in range(400):
        search.chance.choice(search.moves)()
    for _, socket in search.made:
        socket.is_ready = True
    search.world.run(3)
    stayed = 0
    for viewer, socket in search.made:
        ids = [event.id for event in socket.events if event.id]
        known = [[int(pair.split(":")[1]) for pair in text.split(",")] for text in ids]
        for before, after in pairwise(known):
            assert all(x <= y for x, y in zip(before, after, strict=True)), (before, after)
        for sku in viewer.watch.skus:
            assert seqs(socket, sku) == sorted(seqs(socket, sku))
        if ids and not socket.ended:
            stayed += 1
            rows = [search.world.rows[sku] for sku in viewer.watch.skus]
            assert ids[-1] == wire.event_id((row.sku, row.seq) for row in rows)
            assert shown(socket) == {row.sku: row.available for row in rows}, "came with the latest id, or was told"
            assert states(socket)[-1] == rows[0].state
    assert stayed


def shown(socket: Socket) -> dict[str, int]:
    """What a page of this viewer shows."""
    page: dict[str, int] = {}
    for event in socket.events:
        items = event.data["stock"] if event.name == "snapshot" else [event.data]
        page |= {item["sku"]: item["available"] for item in items if "sku" in item}
    return page


def states(socket: Socket) -> list[str]:
    sales: list[dict[str, Any]] = []
    for event in socket.events:
        sales += event.data["sales"] if event.name == "snapshot" else [event.data]
    return [sale["state"] for sale in sales if "state" in sale]
