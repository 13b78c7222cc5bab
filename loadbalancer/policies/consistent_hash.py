"""Consistent hashing with bounded load: the same key to the same server, unless that one is overfull.

A Maglev table over *all* servers says who owns a key. It never changes while the process lives: a key whose owner is away
goes to the next in an order of its own, so exactly the keys of the absent move, evenly to all others, and return with it.
No server gets more than 1.25 times its fair share of the requests being worked on; a key too popular spills over in the
same order. Sixteen at once are no load, whatever the share: with three requests on two servers the bound would be two, and
the third of one owner would leave its home for nothing. Hashes are BLAKE2b: Python's own differ from process to process.
"""

from collections.abc import Sequence
from hashlib import blake2b

from loadbalancer.policies.base import C, Candidate

TABLE_SIZE = 65_537  # prime, and a hundred times more than servers: shares differ by less than 1 %
BOUND_NUMERATOR, BOUND_DENOMINATOR = 5, 4
LEAST = 16  # requests that any server may have before its share counts


class ConsistentHash:
    """By key."""

    def __init__(self, servers: Sequence[Candidate]) -> None:
        self.spilled = 0
        self._table = maglev([(server.name, server.weight) for server in servers], TABLE_SIZE)

    def choose(self, candidates: Sequence[C], key: bytes) -> C:
        """The owner of ``key``, or the first in the key's own order that has room."""
        working = 1 + sum(server.active for server in candidates)
        weights = sum(server.weight for server in candidates)
        owner = self._table[_hash(key) % TABLE_SIZE]
        for server in candidates:
            if server.name == owner and server.active < load_bound(server.weight, weights, working):
                return server
        self.spilled += 1
        # The bounds add up to more than the work there is, so one of them has room.
        others = sorted(candidates, key=lambda server: _hash(key + b"\0" + server.name.encode()))
        return next(s for s in others if s.active < load_bound(s.weight, weights, working))


def load_bound(weight: int, weights: int, working: int) -> int:
    """How many of ``working`` requests, this one included, a server may have: 1.25 of its share, rounded up, or LEAST."""
    return max(LEAST, -(-working * weight * BOUND_NUMERATOR // (weights * BOUND_DENOMINATOR)))


def maglev(servers: Sequence[tuple[str, int]], size: int) -> list[str]:
    """A table of ``size`` slots (a prime), each owned by one of ``servers`` (name, weight) in proportion to its weight."""
    ordered = sorted(servers)  # the order they were configured in is not part of their identity
    heaviest = max(weight for _, weight in ordered)
    owners: list[str | None] = [None] * size
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
            while owners[slot] is not None:
                slot = (slot + skip) % size
            owners[slot] = name
            walks[index] = ((slot + skip) % size, skip)
            filled += 1
            if filled == size:
                return [owner for owner in owners if owner is not None]


def _walk(name: str, size: int) -> tuple[int, int]:
    digest = blake2b(name.encode(), digest_size=16, person=b"maglev").digest()
    return int.from_bytes(digest[:8], "big") % size, int.from_bytes(digest[8:], "big") % (size - 1) + 1


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
