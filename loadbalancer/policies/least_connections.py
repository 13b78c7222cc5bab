"""Least connections: the server with the least work for its share, counted exactly; among equals in turn.

Equals are the usual case at low load. Taking the first of them would send everything to one server. A request counts from
the moment it is a server's, which is before it has a connection there. One that waits because all servers are full is
nobody's yet (``queue.py``): it will be the first to be free's, which is the best that counting it could come to.
"""

from collections.abc import Sequence

from loadbalancer.policies.base import C, Candidate, Chance, Policy
from loadbalancer.policies.round_robin import RoundRobin


class LeastConnections(Policy):
    """The least busy."""

    def __init__(self, servers: Sequence[Candidate], chance: Chance) -> None:
        self._among_equals = RoundRobin(servers, chance)

    def choose(self, candidates: Sequence[C], key: bytes) -> C:
        """The one with the least load per share."""
        others = iter(candidates)
        least = next(others)
        load, share = least.load, least.share
        equals: list[C] | None = None
        for server in others:
            # a/w < b/v without a division: shares stay exact
            order = server.load * share - load * server.share
            if order < 0:
                least, load, share, equals = server, server.load, server.share, None
            elif order == 0:
                if equals is None:
                    equals = [least]
                equals.append(server)
        return least if equals is None else self._among_equals.choose(equals, key)
