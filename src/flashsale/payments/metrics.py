"""What a payment worker tells Prometheus. One process, one port, one registry."""

import contextlib
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """Every series of this role."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.settled = Counter("flash_payments_settled", "Messages brought to their end.", registry=self.registry)
        self.retries = Counter(
            "flash_payments_retried", "Messages sent to wait for another try.", registry=self.registry
        )
        self.dead = Counter("flash_payments_dead", "Messages set aside for a person.", registry=self.registry)
        self.webhooks = Counter("flash_webhooks", "Webhooks answered, by effect.", ["effect"], registry=self.registry)
        self.in_hand = Gauge("flash_payments_in_hand", "Messages being worked on.", registry=self.registry)
        self.seconds = Histogram(
            "flash_payment_seconds", "Seconds one message took.", buckets=SECONDS_BUCKETS, registry=self.registry
        )

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Around the work on one message."""
        began = time.perf_counter()
        self.in_hand.inc()
        try:
            yield
        finally:
            self.in_hand.dec()
            self.seconds.observe(time.perf_counter() - began)
