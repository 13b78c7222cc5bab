"""Counters that only grow, seen again and again: what they did over the last seconds. Pure: the caller brings the time.

A process that begins anew counts from 0. What its predecessor had counted is added, so that nothing ever falls and a restart costs
what was counted between the last look and the end. One counter may begin anew alone, or go: a server that is taken from the balancer.
"""

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)

SECONDS = 10.0
GAP_SECONDS = 2 * SECONDS  # nobody looked for so long: what happened meanwhile is not of the last seconds


class Change(NamedTuple, Generic[K]):
    """By how much they grew, and over how long."""

    seconds: float
    by: Mapping[K, float]

    def per_s(self, *keys: K) -> float:
        """All of these together, per second."""
        return sum(self.by.get(key, 0.0) for key in keys) / self.seconds


class Window(Generic[K]):
    """The counters of one process, over ``SECONDS``. Bounded by them: a look a second is eleven."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Mapping[K, float]]] = deque()
        self._raw: Mapping[K, float] = {}
        self._before: dict[K, float] = {}  # counted by those that have ended
        self._life: object = None

    def hear(self, at: float, counters: Mapping[K, float], life: object) -> None:
        """One look. ``life`` is another for every new life of the process; what falls or is gone has begun anew whatever it says."""
        if self._looks:
            # Each for itself: if the fall of one were all's, what the others have counted in their lives would be added once more.
            for key, value in self._raw.items():
                if life != self._life or counters.get(key, 0.0) < value:
                    self._before[key] = self._before.get(key, 0.0) + value
        if self._looks and at - self._looks[-1][0] > GAP_SECONDS:
            self._looks.clear()
        self._raw, self._life = counters, life
        whole = {key: value + self._before.get(key, 0.0) for key, value in counters.items()}
        # what a new life has not counted yet is as it was
        self._looks.append((at, {**self._before, **whole}))
        while len(self._looks) > 2 and self._looks[1][0] <= at - SECONDS:
            self._looks.popleft()

    @property
    def change(self) -> Change[K] | None:
        """Over the last seconds, or as long as it has been looked at; None before the second look."""
        if len(self._looks) < 2:
            return None
        (since, before), (at, now) = self._looks[0], self._looks[-1]
        # what appears for the first time was 0: a counter with a label is there once it has counted
        return Change(at - since, {key: value - before.get(key, 0.0) for key, value in now.items()})


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """The value that ``share`` of all stayed within. ``counts``: of each bucket alone, one more than bounds; past the last, its bound."""
    wanted = share * sum(counts)
    if wanted <= 0:
        return None
    seen, low = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count > 0 and seen + count >= wanted:
            return low + (bound - low) * (wanted - seen) / count
        seen += count
        low = bound
    return low
