"""What a checkout worker tells Prometheus. One process, one port, one registry."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

registry = CollectorRegistry()
decided = Counter("flashsale_checkout_decided", "Attempts decided, by verdict.", ["verdict"], registry=registry)
batches = Counter("flashsale_checkout_batches", "Batches decided.", registry=registry)
batch_seconds = Histogram(
    "flashsale_checkout_batch_seconds",
    "Seconds from a collected batch to its acknowledgement.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0),
    registry=registry,
)
redelivered = Counter("flashsale_checkout_redelivered", "Messages that came again.", registry=registry)
poison = Counter("flashsale_checkout_poison", "Messages set aside, by reason.", ["reason"], registry=registry)
consuming = Gauge("flashsale_checkout_consuming", "1 while this worker takes attempts.", registry=registry)
