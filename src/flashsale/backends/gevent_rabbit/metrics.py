"""What this process tells Prometheus. One process, one port, one registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from flashsale.contract.verdict import Verdict
from flashsale.tally import Histogram, Tally

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)

registry = CollectorRegistry()
attempts = Tally("flashsale_attempts", "Purchase attempts answered, by verdict.", "verdict", Verdict)
seconds = Histogram("flashsale_attempt_seconds", "Seconds from a parsed attempt to its answer.", SECONDS_BUCKETS)
in_flight = Gauge("flashsale_in_flight", "Purchase attempts being worked on.", registry=registry)
in_flight_limit = Gauge("flashsale_in_flight_limit", "How many may be, so that answers are in time.", registry=registry)
refused_at_once = Tally(
    "flashsale_refused_at_once", "Of those attempts, refused without queueing them.", "verdict", Verdict
)
for collector in (attempts, seconds, refused_at_once):
    registry.register(collector)
confirms = Counter(
    "flashsale_confirms", "What became of published attempts, by outcome.", ["outcome"], registry=registry
)
queue_up = Gauge("flashsale_queue_up", "1 while RabbitMQ takes attempts of this process.", registry=registry)
stream_viewers = Gauge("flashsale_stream_viewers", "Viewers of live stock on this process.", registry=registry)
stream_frames = Counter("flashsale_stream_frames", "Frames handed to viewers.", registry=registry)
stream_conflated = Counter(
    "flashsale_stream_conflated", "Frames a slow viewer was spared, for one with the latest state.", registry=registry
)
stream_evicted = Counter("flashsale_stream_evicted", "Viewers dropped because they did not read.", registry=registry)
stream_age = Gauge(
    "flashsale_stream_age_seconds", "Since the stock shown was confirmed; 0 while nobody watches.", registry=registry
)
