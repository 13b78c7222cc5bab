"""Consistent hashing with bounded load: the same key to the same server, unless that one is overfull.

A Maglev table over *all* servers says who owns a key. It changes only when servers come, go for good or get another weight:
a key whose owner is away goes to the next in an order of its own, so exactly the keys of the absent move, evenly to all
others, and return with it. An owner at 30 per cent, because it warms up, keeps 30 per cent of its keys, always the same ones.
No server gets more than 1.25 times its fair share of the work being done; a key too popular spills over in the same order.
Sixteen requests at once are no load, whatever the share: with three requests on two servers the bound would be two, and the
third of one owner would leave its home for nothing. Hashes are BLAKE2b: Python's own differ from process to process.
"""

from collections.abc import Generator, Iterator, Sequence
from hashlib import blake2b

from loadbalancer.policies.base import REQUEST, C, Candidate, Chance, Policy

TABLE_SIZE = 65_537  # prime, and a hundred times more than servers: shares differ by less than 1 %
BOUND_NUMERATOR, BOUND_DENOMINATOR = 5, 4
LEAST = 16  # requests that any server may have before its share counts
SLICE = 2048  # slots filled in one go, in about a millisecond


class ConsistentHash(Policy):
    """By key."""

    def __init__(self, servers: Sequence[Candidate], chance: Chance) -> None:  # noqa: ARG002 - nothing here is chance
        self._servers = [(server.name, server.weight) for server in servers]
        self._table: list[str] = []

    def prepare(self) -> Iterator[None]:
        """Fill the table."""
        self._table = yield from maglev(self._servers, TABLE_SIZE)

    def choose(self, candidates: Sequence[C], key: bytes) -> C:
        """The owner of ``key``, or the first in the key's own order that has room."""
        load = REQUEST
        shares = 0
        for server in candidates:
            load += server.load
            shares += server.share
        place = _hash(key)
        owner = self._table[place % TABLE_SIZE]
        for server in candidates:
            if server.name == owner and place // TABLE_SIZE % 100 < server.percent and _has_room(server, load, shares):
                return server
        self.spilled += 1
        # The bounds add up to more than the work there is, so one of them has room.
        able = [server for server in candidates if _has_room(server, load, shares)]
        return min(able, key=lambda server: (server.name == owner, _hash(key + b"\0" + server.name.encode())))


def _has_room(server: Candidate, load: int, shares: int) -> bool:
    return server.load // REQUEST < load_bound(server.share, shares, load)


def load_bound(share: int, shares: int, load: int) -> int:
    """Of ``load``, a new request included, how many requests' worth a server may have: 1.25 of its share, or LEAST."""
    return max(LEAST, -(-load * share * BOUND_NUMERATOR // (shares * BOUND_DENOMINATOR * REQUEST)))


def maglev(servers: Sequence[tuple[str, int]], size: int) -> Generator[None, None, list[str]]:
    """A table of ``size`` slots (a prime), each owned by one of ``servers`` (name, weight) in proportion to its weight."""
    ordered = sorted(servers)  # the order they were configured in is not part of their identity
    heaviest = max(weight for _, weight in ordered)
    owners: list[str] = [""] * size
    walks = [_walk(name, size) for name, _ in ordered]
    due = [0] * len(ordered)
    filled = 0
    while True:
        for index, (name, weight) in enumerate(ordered):
            due[index] += weight
            if due[index] < heaviest:
                continue
            due[index] -= heaviest
            slot, skip = walks[index]
            while owners[slot]:
                slot = (slot + skip) % size
            owners[slot] = name
            walks[index] = ((slot + skip) % size, skip)
            filled += 1
            if filled == size:
                return owners
            if filled % SLICE == 0:
                yield


def _walk(name: str, size: int) -> tuple[int, int]:
    digest = blake2b(name.encode(), digest_size=16, person=b"maglev").digest()
    return int.from_bytes(digest[:8], "big") % size, int.from_bytes(digest[8:], "big") % (size - 1) + 1


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
