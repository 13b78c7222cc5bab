"""The servers behind the balancer, and which of them gets the next request."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from loadbalancer.config import Config
from loadbalancer.health import Health
from loadbalancer.http1.head import RequestHead
from loadbalancer.http1.plain import PlainRequest
from loadbalancer.link import Links
from loadbalancer.policies import POLICIES
from loadbalancer.pool import Pool
from loadbalancer.timer import Timer

if TYPE_CHECKING:
    from loadbalancer.upstream import ServerConnection


LINKS_MAX = 8  # to one server; further requests take connections of their own


class Server:
    """One server: where it is, how it stands, what it is doing, what it did."""

    def __init__(self, name: str, host: str, port: int, weight: int, config: Config) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.weight = weight
        self.authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        self.health = Health(config.check_rise, config.check_fall, config.eject_after)
        self.is_draining = False
        self.pool: Pool[ServerConnection] = Pool(config.pool_size, config.pool_timeout)
        self.links = Links(host, port, LINKS_MAX, config.connect_timeout) if config.link else None
        self.active = 0  # requests assigned and not ended, those waiting for a connection included
        self.peak = 0  # the most of these at once
        self.answers = [0] * 5  # by status class
        self.retries = 0
        self.lost = 0
        self.ejections = 0
        self.connect_seconds = Timer()
        self.response_seconds = Timer()

    def take(self) -> "ServerConnection | None":
        """An idle connection that still stands: between its end and our hearing of it, it looks like the others."""
        connection = self.pool.take()
        while connection is not None and connection.transport.is_closing():
            connection = self.pool.take()
        return connection

    def assign(self) -> None:
        """One request more to work on."""
        self.active += 1
        self.peak = max(self.peak, self.active)

    @property
    def is_usable(self) -> bool:
        """May it get a request?"""
        return self.health.is_up and not self.is_draining

    @property
    def state(self) -> str:
        """One word for people."""
        if not self.health.is_up:
            return "down"
        return "draining" if self.is_draining else "up"


class Farm:
    """All servers, and the policy that chooses among them."""

    def __init__(self, config: Config) -> None:
        self.servers = tuple(Server(*address, config) for address in config.servers)
        self._policy = POLICIES[config.algorithm](self.servers)
        self._sources = [source.partition(":")[2].encode() for source in config.hash]  # '' is the address
        self._is_keyed = config.algorithm == "consistent_hash"

    @property
    def spilled(self) -> int:
        """How many requests did not get the server that their key belongs to."""
        return self._policy.spilled

    def key_of(self, head: RequestHead | PlainRequest, address: bytes) -> bytes:
        """What the request is known by: the first of the configured sources that it has."""
        if self._is_keyed:
            for source in self._sources:
                value = head.value(source) if source else address
                if value:
                    return value
        return address

    def choose(self, key: bytes, tried: Collection[Server]) -> Server | None:
        """A usable server that is not among ``tried``, or None."""
        candidates = [server for server in self.servers if server.is_usable and server not in tried]
        return self._policy.choose(candidates, key) if candidates else None
