"""Least connections: the server with the least work for its weight, counted exactly; among equals in turn.

Equals are the usual case at low load. Taking the first of them would send everything to one server.
"""

from collections.abc import Sequence

from loadbalancer.policies.base import C, Candidate
from loadbalancer.policies.round_robin import RoundRobin


class LeastConnections:
    """The least busy."""

    spilled = 0

    def __init__(self, servers: Sequence[Candidate]) -> None:
        self._among_equals = RoundRobin(servers)

    def choose(self, candidates: Sequence[C], key: bytes) -> C:
        """The one with the fewest active requests per weight."""
        least: list[C] = []
        for server in candidates:
            # a/w < b/v without a division: shares stay exact
            order = server.active * least[0].weight - least[0].active * server.weight if least else -1
            if order < 0:
                least = [server]
            elif order == 0:
                least.append(server)
        return least[0] if len(least) == 1 else self._among_equals.choose(least, key)
