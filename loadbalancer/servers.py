"""The servers behind the balancer, and which of them gets the next request."""

import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from loadbalancer import agent
from loadbalancer.config import SERVERS_MAX, Address, Config
from loadbalancer.health import Health
from loadbalancer.http1.head import RequestHead
from loadbalancer.http1.plain import PlainRequest
from loadbalancer.link import Links
from loadbalancer.outlier import Outlier
from loadbalancer.policies import POLICIES
from loadbalancer.policies.base import REQUEST, STREAM, Chance, Policy
from loadbalancer.pool import Pool
from loadbalancer.queue import Queue
from loadbalancer.shared import Shared, Sum
from loadbalancer.slow_start import warmth
from loadbalancer.timer import Timer

if TYPE_CHECKING:
    from loadbalancer.upstream import ServerConnection


LINKS_MAX = 8  # to one server; further requests take connections of their own


class Server:
    """One server: where it is, how it stands, what it is doing, what it did.

    ``active``, ``streams`` and ``load`` change in ``assign``, ``begin_stream`` and ``release`` and nowhere else. Who assigns
    releases, once, however the request ends; at rest all three are 0.
    """

    def __init__(self, address: Address, config: Config, changed: Callable[[], None]) -> None:
        self.name, self.host, self.port, self.weight, self.path = address
        self.place = (
            (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")
            if self.port
            else self.host
        )
        self.authority = self.place.encode() if self.port else b"localhost"  # for requests that came without a Host
        self.health = Health(config.check_rise, config.check_fall, config.connect_fall)
        self.outlier = Outlier(config.eject_errors, config.eject_time, config.eject_time_max)
        self.said = agent.NOTHING
        self.back_since: float | None = None  # while it warms up
        self.is_draining = False  # by hand
        self.is_leaving = False  # taken out of the farm; it finishes what it has
        self.maxconn = config.maxconn  # requests at once, at most, streams apart; 0 = any number
        self.limit = 0  # of these, this process's part
        self.percent = 100  # of its weight that counts now
        self.share = self.weight * self.percent
        self.pool: Pool[ServerConnection] = Pool(config.pool_size, config.pool_timeout)
        self.links = Links(self.host, self.port, LINKS_MAX, config.connect_timeout) if config.link else None
        self.active = 0  # requests assigned and not ended, those waiting for a connection included, streams not
        self.streams = 0
        self.load = 0  # of both, and of what the other workers have in hand here, as policies compare it
        self.others = 0  # the other workers' part of it, as far as it was heard
        self.cell: memoryview | None = None  # where the other workers read what this one has in hand here
        self.peak = 0  # the most active at once
        self.answers = [0] * 5  # by status class
        self.retries = 0
        self.lost = 0
        self.ejections = 0
        self.connect_seconds = Timer()
        self.response_seconds = Timer()
        self._changed = changed  # told whenever it may have become open, or is so no more

    def take(self) -> "ServerConnection | None":
        """An idle connection that still stands: between its end and our hearing of it, it looks like the others."""
        connection = self.pool.take()
        while connection is not None and connection.transport.is_closing():
            connection = self.pool.take()
        return connection

    def assign(self) -> None:
        """One request more to work on."""
        self.active += 1
        self.load += REQUEST
        if self.cell is not None:
            self.cell[0] = self.active
        if self.active > self.peak:  # noqa: PLR1730 - per request, and max() takes three times as long
            self.peak = self.active
        if self.active == self.limit:
            self._changed()

    def begin_stream(self) -> None:
        """One of its requests turned out to be a stream, which takes nobody's place."""
        self._end_request()
        self.streams += 1
        self.load += STREAM
        if self.cell is not None:
            self.cell[1] = self.streams

    def release(self, *, is_stream: bool) -> None:
        """One of its requests, or streams, has ended."""
        if is_stream:
            self.streams -= 1
            self.load -= STREAM
            if self.cell is not None:
                self.cell[1] = self.streams
        else:
            self._end_request()

    def hear(self, everyone: Sum) -> None:
        """What all workers have in hand here, this one included."""
        others = (everyone.active - self.active) * REQUEST + (everyone.streams - self.streams) * STREAM
        self.load += others - self.others
        self.others = others

    @property
    def is_usable(self) -> bool:
        """May it get requests, if it is neither full nor ejected?"""
        return self.health.is_up and not (self.is_draining or self.said.is_leaving or self.is_leaving)

    @property
    def is_full(self) -> bool:
        """Has it as many requests as it may have?"""
        return 0 < self.limit <= self.active

    @property
    def reason(self) -> str:
        """Why it is down or ejected."""
        return self.health.reason or self.outlier.reason

    @property
    def state(self) -> str:
        """One word for people."""
        if self.is_leaving:
            return "leaving"
        if not self.health.is_up:
            return "down"
        if self.is_draining or self.said.is_leaving:
            return "draining"
        return "ejected" if self.outlier.is_ejected else "up"

    def _end_request(self) -> None:
        self.active -= 1
        self.load -= REQUEST
        if self.cell is not None:
            self.cell[0] = self.active
        if self.active == self.limit - 1:
            self._changed()


class Waiter(Protocol):
    """A request that no server has room for."""

    @property
    def key(self) -> bytes:
        """What it is known by."""

    @property
    def tried(self) -> Collection[Server]:
        """Where it does not go any more."""

    @property
    def path(self) -> str:
        """The servers' path that it asks for something below; empty if none."""

    def admitted(self, server: Server) -> None:
        """There is room at ``server``, and it has been assigned."""

    def late(self) -> None:
        """There was none in time."""


class Farm:
    """All servers, and the policy that chooses among them. Both may be changed while requests are being worked on.

    Servers with a path get what is asked for below it and nothing else. While none of them can take it, those without a path
    do: they are somebody's relief, and not the only ones that know how.

    ``later`` is a loop's ``call_soon``: what a change needs done that would hold up the loop is done in slices, and the
    policy of before chooses meanwhile. Without it everything is done at once. ``number`` is this process's among those that
    share the work: they must not all begin with the same server.
    """

    def __init__(
        self,
        config: Config,
        chance: Chance = random.random,
        later: Callable[[Callable[[], None]], object] | None = None,
        number: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.algorithm = config.algorithm
        self.joined: Callable[[Server], None] = _ignore  # told of who was added
        self.left: Callable[[Server], None] = _ignore  # told of who was removed
        self._config = config
        self._chance = chance
        self._later = later
        self._number = number
        self._now = now
        self._sources = [_source(source) for source in config.hash]
        self.queue: Queue[Waiter] = Queue(-(-config.queue // config.workers), config.queue_timeout)
        self._is_admitting = False
        self.turned_away = 0  # for want of a place to wait in
        self._open: list[Server] | None = None  # who may be chosen now; None if that is to be found out anew
        self._spilled = 0  # under policies of before
        self.servers = tuple(map(self._made, config.servers))
        self._paths = self._find_paths()
        self._policies = self._new_policies()
        self._next: dict[str, Policy] | None = None  # once they are prepared
        self._shared: Shared | None = None
        self._has_heard = False  # what the others have in hand, in this loop turn
        self._columns: dict[Server, int] = {}
        self._making: Iterator[None] = _prepare(self._policies)
        for _ in self._making:
            pass  # there is nothing to hold up yet

    @property
    def spilled(self) -> int:
        """How many requests did not get the server that their key belongs to."""
        return self._spilled + _spilled(self._policies)

    def key_of(self, head: RequestHead | PlainRequest, address: bytes) -> bytes:
        """What the request is known by: the first of the configured sources that it has."""
        if self.algorithm == "consistent_hash":
            for field, search in self._sources:
                value = head.value(field) if field else address
                if value and search is not None:
                    found = search(value)
                    value = found and found[1]
                if value:
                    return value
        return address

    def path_of(self, target: bytes) -> str:
        """The servers' path that ``target`` is, or is below, the longest if several; empty if it is none's."""
        if not self._paths:
            return ""
        path = target.partition(b"?")[0].decode("latin-1")
        return next((own for own in self._paths if path == own or path.startswith(f"{own}/")), "")

    def choose(self, key: bytes, tried: Collection[Server], path: str = "") -> Server | None:
        """A usable server that is neither full nor among ``tried`` and may have what is asked for below ``path``, or None."""
        if self._shared is not None and not self._has_heard:
            self._hear()
        candidates = self._open
        if candidates is None:
            candidates = self._open = self._find_open()
        if tried or self._paths:
            candidates = _fit(candidates, tried, path)
        return self._policies[candidates[0].path].choose(candidates, key) if candidates else None

    def is_any_usable(self, tried: Collection[Server], path: str = "") -> bool:
        """Is there a server that is not among ``tried`` and could take such a request, were it not full?"""
        return bool(_fit(self._usable(), tried, path))

    def wait(self, waiter: Waiter) -> str:
        """
        Let it wait for the room that ``choose`` did not find; whoever comes later does not get it first. If it need not
        wait: why not.
        """
        if not self.is_any_usable(waiter.tried, waiter.path):
            return "every server is down or draining"
        if not self.queue.join(waiter, self._now()):
            self.turned_away += 1
            return "every server is full, and too many requests wait already"
        return ""

    def share(self, shared: Shared, row: int, columns: Mapping[str, int]) -> None:
        """Tell the other workers what this one has in hand, in ``row``, and go by what all of them have."""
        self._shared = shared
        self._columns = {server: columns[server.name] for server in self.servers}
        for server in self.servers:
            server.cell = shared.cell(columns[server.name], row)

    # What is found out about a server.

    def checked(self, server: Server, problem: str, said: agent.Said = agent.NOTHING) -> str:
        """
        A check ended; ``problem`` is empty if it went well, and then ``said`` is what the server said. In a word, what that
        changed: up, down, readmitted, or nothing.
        """
        now = self._now()
        has_turned = server.health.checked(problem)
        is_back = not problem and server.outlier.checked(now)
        if not has_turned and not is_back and (problem or said == server.said):
            return ""
        if not problem:
            server.said = said
        if has_turned and not problem:
            server.outlier.forgive()
        if is_back or (has_turned and not problem):
            server.back_since = now
        self._weigh(server, now)
        if has_turned:
            return "down" if problem else "up"
        return "readmitted" if is_back else ""

    def unreached(self, server: Server, problem: str) -> bool:
        """A request's connection could not be made. True if that took the server out."""
        has_turned = server.health.unreached(problem)
        if has_turned:
            self._changed()
        return has_turned

    def eject(self, server: Server, reason: str) -> bool:
        """It failed too often. False if it has to stay, because others of its path are out already, or none would be left."""
        peers = [other for other in self.servers if other.path == server.path]
        ejected = sum(other.outlier.is_ejected for other in peers)
        is_too_many = (ejected + 1) * 100 > self._config.eject_max * len(peers)
        others = [other for other in self._usable() if other.path == server.path and other is not server]
        if is_too_many or not server.is_usable or not others:
            return False
        server.outlier.eject(self._now(), reason)
        self._changed()
        return True

    def warm_up(self) -> None:
        """Some time has passed."""
        for server in self.servers:
            if server.back_since is not None:
                self._weigh(server, self._now())

    # Changes, which all take effect with the next request.

    def add(self, address: Address) -> Server:
        """One server more, used from its first good check on. Raises ValueError if its name is taken or there are too many."""
        if any(server.name == address.name for server in self.servers):
            raise ValueError(f"there is a server {address.name!r}")
        if len(self.servers) >= SERVERS_MAX:
            raise ValueError(f"there are {SERVERS_MAX} servers, which is the most")
        server = self._made(address)
        server.health.distrust()
        self._become((*self.servers, server))
        self.joined(server)
        return server

    def remove(self, server: Server) -> None:
        """It gets nothing new and finishes what it has. Raises ValueError if it is the last without a path, or not one of these."""
        if server not in self.servers:
            raise ValueError(f"there is no server {server.name!r}")
        if all(other.path for other in self.servers if other is not server):
            raise ValueError(f"{server.name!r} is the last server")
        server.is_leaving = True
        self._become(tuple(other for other in self.servers if other is not server))
        self.left(server)

    def set_weight(self, server: Server, weight: int) -> None:
        """Its part beside the others', 1 to 256 as in LB_SERVERS. With consistent_hash some keys move for good."""
        server.weight = weight
        self._weigh(server, self._now())
        self._renew()

    def set_maxconn(self, server: Server, maxconn: int) -> None:
        """So many requests at once, of all processes together, 0 for any number. If it has more they are finished first."""
        server.maxconn = maxconn
        self._weigh(server, self._now())

    def set_draining(self, server: Server, *, is_draining: bool) -> None:
        """Nothing new to it, or again."""
        server.is_draining = is_draining
        self._changed()

    def set_algorithm(self, algorithm: str) -> None:
        """One of ALGORITHMS. What a policy remembers, which is turns, begins anew."""
        self.algorithm = algorithm
        self._renew()

    # Own steps.

    def _made(self, address: Address) -> Server:
        server = Server(address, self._config, self._changed)
        self._weigh(server, self._now())
        return server

    def _weigh(self, server: Server, now: float) -> None:
        warm = 100
        if server.back_since is not None:
            warm = warmth(now - server.back_since, self._config.slow_start)
            if warm == 100:
                server.back_since = None
        server.percent = max(1, server.said.percent * warm // 100)
        server.share = server.weight * server.percent
        # Parts, and not a sum that all read: two workers that read the last free place would both take it. None has nothing.
        workers = self._config.workers
        part = server.maxconn // workers + (self._number < server.maxconn % workers)
        server.limit = max(1, part * warm // 100) if server.maxconn else 0
        self._changed()

    def _hear(self) -> None:
        assert self._shared is not None
        for server in self.servers:
            server.hear(self._shared.sum(self._columns[server]))
        # Once per loop turn: within one, nothing is heard of the others anyway but by chance.
        if self._later is not None:
            self._has_heard = True
            self._later(self._forget)

    def _forget(self) -> None:
        self._has_heard = False

    def _changed(self) -> None:
        self._open = None
        if self.queue and not self._is_admitting:  # which may fill a server, before its request has been told
            self._is_admitting = True
            self._admit()
            self._is_admitting = False

    def _admit(self) -> None:
        # Where there is room nobody waits who may go there. So whoever comes later and finds room overtakes nobody.
        while room := self._find_open():
            waiter = self.queue.take(lambda waiter: bool(_fit(room, waiter.tried, waiter.path)), self._now())
            if waiter is None:
                return
            server = self.choose(waiter.key, waiter.tried, waiter.path)
            assert server is not None
            server.assign()
            waiter.admitted(server)

    def _find_open(self) -> list[Server]:
        turn = self._number % len(self.servers)
        usable = [server for server in self._usable() if not server.is_full]
        return [*usable[turn:], *usable[:turn]]

    def _usable(self) -> list[Server]:
        able = [server for server in self.servers if server.is_usable]
        # With all of a path ejected something else is wrong, and any of them is better than none.
        served = {server.path for server in able if not server.outlier.is_ejected}
        return [server for server in able if not server.outlier.is_ejected or server.path not in served]

    def _become(self, servers: tuple[Server, ...]) -> None:
        self.servers = servers
        self._paths = self._find_paths()
        for path in self._paths:  # until those are prepared that know it
            self._policies.setdefault(path, self._policies[""])
        self._changed()
        self._renew()

    def _find_paths(self) -> list[str]:
        return sorted({server.path for server in self.servers} - {""}, key=len, reverse=True)

    def _new_policies(self) -> dict[str, Policy]:
        # One for each path: whoever cannot have a request has no part in whose turn it is, and owns no key of it.
        kind = POLICIES[self.algorithm]
        return {
            path: kind([server for server in self.servers if server.path == path], self._chance)
            for path in ("", *self._paths)
        }

    def _renew(self) -> None:
        self._next = self._new_policies()
        self._making = _prepare(self._next)
        self._make()

    def _make(self) -> None:
        for _ in self._making:
            if self._later is not None:
                self._later(self._make)
                return
        if self._next is not None:  # or one change overtook another, and it is done
            self._spilled += _spilled(self._policies)
            self._policies, self._next = self._next, None


def _fit(servers: Sequence[Server], tried: Collection[Server], path: str) -> list[Server]:
    """Those of ``path``, or else those of none, that are not among ``tried``."""
    left = [server for server in servers if server.path in {path, ""} and server not in tried]
    return [server for server in left if server.path == path] or left


def _prepare(policies: Mapping[str, Policy]) -> Iterator[None]:
    for policy in policies.values():
        yield from policy.prepare()


def _spilled(policies: Mapping[str, Policy]) -> int:
    return sum(policy.spilled for policy in set(policies.values()))


def _source(text: str) -> tuple[bytes, Callable[[bytes], re.Match[bytes] | None] | None]:
    """A field ('' for the address), and how the key is found in its value, unless it is the value."""
    kind, _, name = text.partition(":")
    if kind != "cookie":
        return name.encode(), None
    return b"cookie", re.compile(rb"(?:^|[;,])[ \t]*" + re.escape(name.encode()) + rb"=([^;,]+)").search


def _ignore(_: Server) -> None:
    """Nobody has asked to be told."""
