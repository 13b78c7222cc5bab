# Who waits for a place at a server: in which order, how long, and that nobody is forgotten.
from collections.abc import Collection
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadbalancer.config import ALGORITHMS, Config
from loadbalancer.queue import Queue
from loadbalancer.servers import Farm, Server


def anybody(_: str) -> bool:
    return True


def test_first_come_first_served_and_who_left_is_passed_over() -> None:
    queue: Queue[str] = Queue(9, 10)
    assert all(queue.join(name, 0) for name in "abcd")
    queue.leave("a")
    queue.leave("c")
    queue.leave("unknown")
    assert [queue.take(anybody, 0) for _ in range(3)] == ["b", "d", None]


def test_who_may_not_go_does_not_hold_up_those_behind() -> None:
    queue: Queue[str] = Queue(9, 10)
    for name in "abc":
        queue.join(name, 0)
    assert queue.take(lambda name: name != "a", 0) == "b"
    assert [queue.take(anybody, 0) for _ in range(2)] == ["a", "c"]


def test_so_many_wait_and_no_more() -> None:
    queue: Queue[str] = Queue(2, 10)
    assert [queue.join(name, 0) for name in "abc"] == [True, True, False]
    assert not Queue[str](0, 10).join("a", 0)


def test_nobody_waits_longer_than_the_deadline() -> None:
    queue: Queue[str] = Queue(9, 10)
    for name, now in (("a", 0.0), ("b", 5.0), ("c", 6.0)):
        queue.join(name, now)
    assert (queue.take_late(9.9), queue.take_late(15.5), len(queue)) == ([], ["a", "b"], 1)


def test_who_would_wait_in_vain_is_refused_at_the_door() -> None:
    queue: Queue[int] = Queue(1000, 10)
    now = 0.0
    for number in range(5):
        queue.join(number, now)
    for number in range(5, 100):  # a place a second
        now += 1
        assert queue.take(lambda _: True, now) is not None
        queue.join(number, now)
    joined = sum(queue.join(number, now) for number in range(100, 200))
    assert 9 <= joined + 5 <= 11, "as many as there are seconds"
    while queue.take(lambda _: True, now) is not None:  # and when it goes fast again
        pass
    assert sum(queue.join(number, now) for number in range(100)) > 20


def test_with_nobody_ahead_one_may_always_wait() -> None:
    queue: Queue[str] = Queue(9, 10)
    for _ in range(50):
        assert queue.join("a", 0)
        queue.take(anybody, 1000)  # the worst that ever was
    assert queue.join("a", 0)


# The farm and its queue, as one.


class Request:
    """Somebody who wants a server."""

    def __init__(self, number: int, world: "World") -> None:
        self.number = number
        self.key = b"%d" % number
        self.tried: Collection[Server] = ()
        self.path = ""
        self.server: Server | None = None
        self.is_stream = False
        self._world = world

    def admitted(self, server: Server) -> None:
        self._world.admit(self, server)

    def late(self) -> None:
        raise AssertionError("told by whoever sweeps")


class World:
    """A farm, and every request's fate, which is exactly one of: admitted, late, gone, refused."""

    def __init__(self, algorithm: str, seed: int, maxconn: int = 3, size: int = 8) -> None:
        self.random = Random(seed)
        self.now = 0.0
        servers = "a=127.0.0.1:1,b=127.0.0.1:2*2,c=127.0.0.1:3"
        config = Config.load(
            {
                "LB_SERVERS": servers,
                "LB_ALGORITHM": algorithm,
                "LB_MAXCONN": str(maxconn),
                "LB_QUEUE": str(size),
                "LB_QUEUE_TIMEOUT": "5",
                "LB_SLOW_START": "0",
                "LB_EJECT_TIME": "5",
                "LB_EJECT_MAX": "100",
            }
        )
        self.farm = Farm(config, chance=self.random.random, now=lambda: self.now)
        self.limit = dict.fromkeys(self.farm.servers, maxconn)
        self.at_work: list[Request] = []
        self.waiting: list[Request] = []  # as it has to be
        self.ended = 0
        self.came = 0

    def admit(self, request: Request, server: Server) -> None:
        able = [waiting for waiting in self.waiting if server not in waiting.tried]
        assert request is able[0], "somebody was overtaken"
        self.waiting.remove(request)
        self.start(request, server)

    def start(self, request: Request, server: Server) -> None:
        assert server.is_usable
        assert server.active <= self.limit[server]
        request.server = server
        self.at_work.append(request)

    def come(self) -> None:
        self.came += 1
        request = Request(self.came, self)
        if self.random.random() < 0.1:
            request.tried = self.random.sample(self.farm.servers, self.random.randint(1, 2))
        server = self.farm.choose(request.key, request.tried)
        if server is not None:
            server.assign()
            self.start(request, server)
        elif self.farm.wait(request):
            self.ended += 1
        else:
            self.waiting.append(request)

    def end(self) -> None:
        if self.at_work:
            request = self.at_work.pop(self.random.randrange(len(self.at_work)))
            assert request.server is not None
            self.ended += 1
            request.server.release(is_stream=request.is_stream)

    def stream(self) -> None:
        calm = [request for request in self.at_work if not request.is_stream]
        if calm:
            request = self.random.choice(calm)
            request.is_stream = True
            assert request.server is not None
            request.server.begin_stream()

    def leave(self) -> None:
        if self.waiting:
            request = self.waiting.pop(self.random.randrange(len(self.waiting)))
            self.farm.queue.leave(request)
            self.ended += 1

    def sweep(self) -> None:
        self.now += self.random.random()
        for late in self.farm.queue.take_late(self.now):
            assert late is self.waiting.pop(0)
            self.ended += 1

    def shake(self) -> None:
        server = self.random.choice(self.farm.servers)
        match self.random.randrange(4):
            case 0:
                self.farm.checked(server, "no answer" if self.random.random() < 0.6 else "")
            case 1:
                self.farm.set_draining(server, is_draining=self.random.random() < 0.3)
            case 2:
                if not server.outlier.is_ejected:
                    self.farm.eject(server, "answered 500")
            case 3:
                self.limit[server] = self.random.randint(1, 5)
                self.farm.set_maxconn(server, self.limit[server])

    def check(self) -> None:
        for server in self.farm.servers:
            working = [request for request in self.at_work if request.server is server]
            assert server.streams == sum(request.is_stream for request in working)
            assert server.active == len(working) - server.streams
            if server in self.farm._usable() and not server.is_full:
                assert all(server in request.tried for request in self.waiting), "a place, and somebody waits for it"
        assert len(self.farm.queue) == len(self.waiting) <= 8
        assert self.came == self.ended + len(self.at_work) + len(self.waiting), "somebody was forgotten"

    def run(self, events: int) -> None:
        steps = (self.come, self.end, self.stream, self.leave, self.sweep, self.shake)
        for step in self.random.choices(steps, (50, 35, 5, 4, 4, 2), k=events):
            step()
            self.check()
        self.now += 3600
        for server in self.farm.servers:
            self.farm.set_draining(server, is_draining=False)
            for _ in range(5):
                self.farm.checked(server, "")
        while self.at_work:
            self.end()
            self.check()
        assert not self.waiting
        assert [(server.active, server.streams, server.load) for server in self.farm.servers] == [(0, 0, 0)] * 3
        assert self.ended == self.came


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_whatever_happens_no_server_gets_too_many_nobody_is_overtaken_and_nobody_forgotten(algorithm: str) -> None:
    World(algorithm, seed=1).run(100_000)


@settings(deadline=None)
@given(st.sampled_from(ALGORITHMS), st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 8), st.integers(0, 300))
def test_the_same_from_any_beginning(algorithm: str, seed: int, maxconn: int, size: int, events: int) -> None:
    World(algorithm, seed, maxconn, size).run(events)
