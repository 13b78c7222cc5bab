"""What this process tells Prometheus. One process, one port, one registry."""

import asyncio
import time

from prometheus_client import CollectorRegistry, Gauge

from flashsale.contract.verdict import Verdict
from flashsale.counts import Histogram, Tally
from flashsale.gate.client import Outcome
from flashsale.life import Life
from flashsale.stream.metrics import StreamMetrics

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
GATE_BUCKETS = (0.0002, 0.0005, *SECONDS_BUCKETS[:9])  # Redis answers in less than a millisecond, or the loop was busy
SIZE_BUCKETS = tuple(2.0**power for power in range(11))  # to the largest batch that may be set
LAG_EVERY_SECONDS = 0.5

registry = CollectorRegistry()
Life(registry)
attempts = Tally(registry, "flashsale_attempts", "Purchase attempts answered, by verdict.", "verdict", Verdict)
seconds = Histogram(
    registry, "flashsale_attempt_seconds", "Seconds from a parsed attempt to its answer.", SECONDS_BUCKETS
)
in_flight = Gauge("flashsale_in_flight", "Purchase attempts being worked on.", registry=registry)
in_flight_limit = Gauge("flashsale_in_flight_limit", "How many may be, so that answers are in time.", registry=registry)
gate_answers = Tally(registry, "flashsale_gate_answers", "What the gate said, by answer.", "answer", Outcome)
refused_at_once = Tally(
    registry, "flashsale_refused_at_once", "Of those attempts, refused without asking the gate.", "verdict", Verdict
)
gate_seconds = Histogram(
    registry, "flashsale_gate_seconds", "Seconds until the gate answered an attempt.", GATE_BUCKETS
)
batch_sizes = Histogram(registry, "flashsale_batch_attempts", "Attempts in a batch that was decided.", SIZE_BUCKETS)
commit_seconds = Histogram(
    registry,
    "flashsale_commit_seconds",
    "Seconds from a batch's start to its commit, its repetitions included.",
    SECONDS_BUCKETS,
)
loop_lag = Histogram(
    registry, "flashsale_loop_lag_seconds", "How late the event loop was, twice a second.", SECONDS_BUCKETS
)
gate_up = Gauge("flashsale_gate_up", "1 while Redis answers this process.", registry=registry)
authority_up = Gauge("flashsale_authority_up", "1 while PostgreSQL answers this process.", registry=registry)
stream = StreamMetrics(registry)


async def sample_lag() -> None:
    """Look how late the loop is, for ever. A sample and not a count of every turn, which would cost each request its share."""
    while True:
        due = time.monotonic() + LAG_EVERY_SECONDS  # not the loop's clock, which stands still while the loop is busy
        await asyncio.sleep(LAG_EVERY_SECONDS)
        loop_lag.observe(max(time.monotonic() - due, 0.0))
