"""Smooth weighted round robin: exact shares, and no burst for the heavy one.

At every choice each candidate gains its weight, the richest is chosen and pays what all of them gained. Over any W
consecutive choices, W the sum of the weights, each is chosen exactly its weight.
"""

from collections.abc import Sequence

from loadbalancer.policies.base import C, Candidate


class RoundRobin:
    """In turn, by weight."""

    spilled = 0

    def __init__(self, servers: Sequence[Candidate]) -> None:
        self._credit = {server.name: 0 for server in servers}

    def choose(self, candidates: Sequence[C], key: bytes) -> C:  # noqa: ARG002 - who asks does not matter here
        """The one whose turn it is."""
        credit = self._credit
        gained = 0
        for server in candidates:
            credit[server.name] += server.weight
            gained += server.weight
        chosen = max(candidates, key=lambda server: credit[server.name])
        credit[chosen.name] -= gained
        return chosen
