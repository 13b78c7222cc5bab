"""What this process tells Prometheus. One process, one port, one registry."""

from prometheus_client import CollectorRegistry, Gauge

from flashsale.contract.verdict import Verdict
from flashsale.counts import Histogram, Tally
from flashsale.life import Life
from flashsale.stream.metrics import StreamMetrics

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
OUTCOMES = ("confirmed", "nacked", "returned", "lost", "late", "refused")

registry = CollectorRegistry()
Life(registry)
attempts = Tally(registry, "flashsale_attempts", "Purchase attempts answered, by verdict.", "verdict", Verdict)
seconds = Histogram(
    registry, "flashsale_attempt_seconds", "Seconds from a parsed attempt to its answer.", SECONDS_BUCKETS
)
in_flight = Gauge("flashsale_in_flight", "Purchase attempts being worked on.", registry=registry)
in_flight_limit = Gauge("flashsale_in_flight_limit", "How many may be, so that answers are in time.", registry=registry)
refused_at_once = Tally(
    registry, "flashsale_refused_at_once", "Of those attempts, refused without queueing them.", "verdict", Verdict
)
confirms = Tally(registry, "flashsale_confirms", "What became of published attempts, by outcome.", "outcome", OUTCOMES)
confirm_seconds = Histogram(
    registry, "flashsale_confirm_seconds", "Seconds until the broker answered for an attempt in time.", SECONDS_BUCKETS
)
unconfirmed = Gauge("flashsale_unconfirmed", "Attempts that the broker has not answered for.", registry=registry)
queue_depth = Gauge(
    "flashsale_queue_depth",
    "Attempts that wait in a shard and are in no worker's hand; NaN while the broker does not say.",
    ["queue"],
    registry=registry,
)
queue_up = Gauge("flashsale_queue_up", "1 while RabbitMQ takes attempts of this process.", registry=registry)
stream = StreamMetrics(registry)
