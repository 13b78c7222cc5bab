"""What a checkout worker tells Prometheus. One process, one port, one registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from flashsale.contract.verdict import Verdict
from flashsale.counts import Histogram, Tally

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
SIZE_BUCKETS = tuple(2.0**power for power in range(10))  # to half of what a worker may have in hand of a shard

registry = CollectorRegistry()
decided = Tally(registry, "flashsale_checkout_decided", "Attempts decided, by verdict.", "verdict", Verdict)
decided_seconds = Histogram(
    registry, "flashsale_checkout_decided_seconds", "Seconds from a queued attempt to its verdict.", SECONDS_BUCKETS
)
batch_sizes = Histogram(
    registry, "flashsale_checkout_batch_attempts", "Attempts in a batch that was decided.", SIZE_BUCKETS
)
batch_seconds = Histogram(
    registry,
    "flashsale_checkout_batch_seconds",
    "Seconds from a collected batch to its acknowledgement.",
    SECONDS_BUCKETS,
)
oldest_age = Gauge(
    "flashsale_checkout_oldest_age_seconds",
    "Since the oldest attempt was queued that this worker has taken and not acknowledged; 0 without any.",
    registry=registry,
)
redelivered = Counter("flashsale_checkout_redelivered", "Messages that came again.", registry=registry)
poison = Counter("flashsale_checkout_poison", "Messages set aside, by reason.", ["reason"], registry=registry)
consuming = Gauge("flashsale_checkout_consuming", "1 while this worker takes attempts.", registry=registry)
