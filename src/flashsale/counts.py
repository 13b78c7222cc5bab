"""Counters and histograms for what every request counts, in plain integers: one thread writes and reads them.

The library's own take a lock each and walk their buckets in Python: a tenth of what a refusal costs in all.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tally(dict[str, int], Collector):
    """A counter by word at the cost of an integer: ``tally[word] += 1``."""

    def __init__(self, registry: CollectorRegistry, name: str, help_: str, label: str, words: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(words, 0))
        self._family = name, help_, label
        registry.register(self)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)  # the registry keeps its collectors in a dict, which would refuse one of these

    def collect(self) -> Iterable[Metric]:
        """For the registry."""
        name, help_, label = self._family
        family = CounterMetricFamily(name, help_, labels=[label])
        for word, count in self.items():
            family.add_metric([str(word)], count)
        yield family


class Histogram(Collector):
    """A histogram at the cost of a search and two additions."""

    def __init__(self, registry: CollectorRegistry, name: str, help_: str, bounds: Sequence[float]) -> None:
        self._family = name, help_
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        """For the registry."""
        words = (*map(floatToGoString, self._bounds), "+Inf")
        buckets = list(zip(words, accumulate(map(float, self._counts)), strict=True))
        yield HistogramMetricFamily(*self._family, buckets=buckets, sum_value=self._sum)
