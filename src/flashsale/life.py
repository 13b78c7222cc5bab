"""What a process takes of the machine, beside whatever else it tells Prometheus, by the names that all of them have.

Not the library's own collector, which lists every open file each time it is asked: a server has twenty thousand, and shoppers wait.
"""

import functools
import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

PAGE_BYTES = resource.getpagesize()
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_FIELD = 19  # of /proc/PID/stat, counted behind the name, which may hold spaces


class Life(Collector):
    """CPU time, memory, start and number of whichever process is asked: a registry may be made before a fork."""

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing to be read for it."""
        return []

    def collect(self) -> Iterable[Metric]:
        """For the registry."""
        _, resident, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
        yield CounterMetricFamily("process_cpu_seconds", "User and system CPU time.", value=time.process_time())
        yield GaugeMetricFamily("process_resident_memory_bytes", "Memory in use.", value=int(resident) * PAGE_BYTES)
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "When it began, since 1970.",
            value=_started(os.getpid()),
        )
        yield InfoMetricFamily("flash_process", "Which it is.", value={"pid": str(os.getpid())})


@functools.cache
def _started(pid: int) -> float:
    # Once for each process: read again after somebody has set the clock it would be another, and look like a new life.
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    ticks = int(stat.rpartition(")")[2].split()[START_FIELD])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return round(booted + ticks / TICKS_PER_SECOND, 1)
