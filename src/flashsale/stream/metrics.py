"""What a process tells Prometheus of its viewers."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from flashsale.stream.hub import Counts


class StreamMetrics:
    """The series of one hub."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._viewers = Gauge("flashsale_stream_viewers", "Viewers of live stock on this process.", registry=registry)
        self._frames = Counter("flashsale_stream_frames", "Frames handed to viewers.", registry=registry)
        self._conflated = Counter(
            "flashsale_stream_conflated",
            "Frames a slow viewer was spared, for one with the latest state.",
            registry=registry,
        )
        self._evicted = Counter(
            "flashsale_stream_evicted", "Viewers dropped because they did not read.", registry=registry
        )
        self._age = Gauge(
            "flashsale_stream_age_seconds",
            "Since the stock shown was confirmed; 0 while nobody watches.",
            registry=registry,
        )

    def follow(self, viewers: Callable[[], int], age: Callable[[], float]) -> None:
        """Ask these two whenever somebody looks."""
        self._viewers.set_function(viewers)
        self._age.set_function(age)

    def count(self, happened: Counts) -> None:
        """Add what happened since the last time."""
        self._frames.inc(happened.frames)
        self._conflated.inc(happened.conflated)
        self._evicted.inc(happened.evicted)
