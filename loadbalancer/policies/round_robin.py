"""Smooth weighted round robin: exact shares, and no burst for the heavy one.

At every choice each candidate gains its share, the richest is chosen and pays what all of them gained. Over any W
consecutive choices, W the sum of the weights, each is chosen exactly its weight, and what all have together is nothing.
"""

from collections import defaultdict
from collections.abc import Sequence

from loadbalancer.policies.base import C, Candidate, Chance, Policy


class RoundRobin(Policy):
    """In turn, by weight."""

    def __init__(self, servers: Sequence[Candidate], chance: Chance) -> None:  # noqa: ARG002 - nothing here is chance
        self._credit: defaultdict[str, int] = defaultdict(int)  # also of those that came later

    def choose(self, candidates: Sequence[C], key: bytes) -> C:  # noqa: ARG002 - who asks does not matter here
        """The one whose turn it is."""
        credit = self._credit
        chosen = candidates[0]
        gained = most = 0
        for server in candidates:
            share = server.share
            gained += share
            now = credit[server.name] = credit[server.name] + share
            if now > most or server is chosen:
                most = now
                chosen = server
        credit[chosen.name] -= gained
        return chosen
