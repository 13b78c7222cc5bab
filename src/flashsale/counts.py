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


class Tally(Collector):
    """A counter by word at the cost of an integer: ``tally[word] += 1``."""

    def __init__(self, registry: CollectorRegistry, name: str, help_: str, label: str, words: Iterable[str]) -> None:
        self._family = name, help_, label
        self._counts = dict.fromkeys(words, 0)
        registry.register(self)

    def __getitem__(self, word: str) -> int:
        return self._counts[word]

    def __setitem__(self, word: str, count: int) -> None:
        self._counts[word] = count

    def collect(self) -> Iterable[Metric]:
        """For the registry."""
        name, help_, label = self._family
        family = CounterMetricFamily(name, help_, labels=[label])
        for word, count in self._counts.items():
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
