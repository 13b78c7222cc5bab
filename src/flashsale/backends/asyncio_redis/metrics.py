"""What this process tells Prometheus. One process, one port, one registry.

What every attempt counts is counted in plain integers, since one thread writes and reads them: the library's own counters
take a lock each, a tenth of what a refusal costs in all.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from flashsale.contract.verdict import Verdict
from flashsale.gate.client import Outcome

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
GATE_BUCKETS = (0.0002, 0.0005, *SECONDS_BUCKETS[:9])  # Redis answers in less than a millisecond, or the loop was busy
SIZE_BUCKETS = tuple(2.0**power for power in range(11))  # to the largest batch that may be set
LAG_EVERY_SECONDS = 0.5


class _Tally(Collector):
    """A counter by word at the cost of an integer: ``tally[word] += 1``."""

    def __init__(self, name: str, help_: str, label: str, words: Iterable[str]) -> None:
        self._family = name, help_, label
        self._counts = dict.fromkeys(words, 0)

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


class _Histogram(Collector):
    """A histogram at the cost of a search and two additions."""

    def __init__(self, name: str, help_: str, bounds: Sequence[float]) -> None:
        self._family = name, help_
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """One more."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        """For the registry."""
        words = (*map(floatToGoString, self._bounds), "+Inf")
        buckets = list(zip(words, accumulate(map(float, self._counts)), strict=True))
        yield HistogramMetricFamily(*self._family, buckets=buckets, sum_value=self._sum)


registry = CollectorRegistry()
attempts = _Tally("flashsale_attempts", "Purchase attempts answered, by verdict.", "verdict", Verdict)
seconds = _Histogram("flashsale_attempt_seconds", "Seconds from a parsed attempt to its answer.", SECONDS_BUCKETS)
in_flight = Gauge("flashsale_in_flight", "Purchase attempts being worked on.", registry=registry)
in_flight_limit = Gauge("flashsale_in_flight_limit", "How many may be, so that answers are in time.", registry=registry)
gate_answers = _Tally("flashsale_gate_answers", "What the gate said, by answer.", "answer", Outcome)
refused_at_once = _Tally(
    "flashsale_refused_at_once", "Of those attempts, refused without asking the gate.", "verdict", Verdict
)
gate_seconds = _Histogram("flashsale_gate_seconds", "Seconds until the gate answered an attempt.", GATE_BUCKETS)
batch_sizes = _Histogram("flashsale_batch_attempts", "Attempts in a batch that was decided.", SIZE_BUCKETS)
commit_seconds = _Histogram(
    "flashsale_commit_seconds", "Seconds from a batch's start to its commit, its repetitions included.", SECONDS_BUCKETS
)
loop_lag = _Histogram("flashsale_loop_lag_seconds", "How late the event loop was, twice a second.", SECONDS_BUCKETS)
for collector in (
    attempts,
    seconds,
    gate_answers,
    refused_at_once,
    gate_seconds,
    batch_sizes,
    commit_seconds,
    loop_lag,
):
    registry.register(collector)
gate_up = Gauge("flashsale_gate_up", "1 while Redis answers this process.", registry=registry)
authority_up = Gauge("flashsale_authority_up", "1 while PostgreSQL answers this process.", registry=registry)
stream_viewers = Gauge("flashsale_stream_viewers", "Viewers of live stock on this process.", registry=registry)
stream_frames = Counter("flashsale_stream_frames", "Frames handed to viewers.", registry=registry)
stream_conflated = Counter(
    "flashsale_stream_conflated", "Frames a slow viewer was spared, for one with the latest state.", registry=registry
)
stream_evicted = Counter("flashsale_stream_evicted", "Viewers dropped because they did not read.", registry=registry)
stream_age = Gauge(
    "flashsale_stream_age_seconds", "Since the stock shown was confirmed; 0 while nobody watches.", registry=registry
)


async def sample_lag() -> None:
    """Look how late the loop is, for ever. A sample and not a count of every turn, which would cost each request its share."""
    while True:
        due = time.monotonic() + LAG_EVERY_SECONDS  # not the loop's clock, which stands still while the loop is busy
        await asyncio.sleep(LAG_EVERY_SECONDS)
        loop_lag.observe(max(time.monotonic() - due, 0.0))
