"""Power of two choices: draw two servers, take the less busy.

Nearly as even as asking all of them, and better where many balancers choose by counts that are a little old: those who see
the same least busy server all run there, and those who draw do not. The two are never the same one twice: of two servers a
quarter of all requests would go to the busier.
"""

from collections.abc import Sequence

from loadbalancer.policies.base import C, Candidate, Chance, Policy


class PowerOfTwo(Policy):
    """The less busy of two."""

    def __init__(self, servers: Sequence[Candidate], chance: Chance) -> None:  # noqa: ARG002 - all are drawn alike
        self._chance = chance

    def choose(self, candidates: Sequence[C], key: bytes) -> C:  # noqa: ARG002 - who asks does not matter here
        """Of two, drawn by their shares, the one with the least load per share; of equals the one drawn first."""
        shares = 0
        for server in candidates:
            shares += server.share
        first = self._draw(candidates, shares, None)
        if len(candidates) == 1:
            return first
        second = self._draw(candidates, shares - first.share, first)
        # Not (a + 1)/w, as others have it: while all are idle the heaviest would get everything it is drawn for.
        return second if second.load * first.share < first.load * second.share else first

    def _draw(self, candidates: Sequence[C], shares: int, passed_over: C | None) -> C:
        left = int(self._chance() * shares)
        drawn = candidates[0]
        for server in candidates:
            if server is not passed_over:
                drawn = server
                left -= server.share
                if left < 0:
                    break
        return drawn
