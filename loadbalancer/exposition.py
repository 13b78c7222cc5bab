"""What Prometheus is told: families made of the workers' reports when somebody asks."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from loadbalancer.report import CLASSES, Report
from loadbalancer.timer import BOUNDS

OF_BALANCER = (
    ("clients_refused", "Connections past the limit."),
    ("address_refused", "Connections past the limit of their address."),
    ("queue_refused", "Requests for which to wait for a place would have been in vain."),
    ("queue_late", "Requests that waited for a place in vain."),
    ("clients_gone", "Clients that left before their answer was complete."),
    ("unasked", "Idle server connections closed because the server said something."),
    ("spilled", "Requests that did not get the server their key belongs to, for it was full or away."),
    ("retry_budget_empty", "Retries not made because the budget was spent."),
)
BY_LABEL = (
    ("refused", "status", "Requests not taken, by the status the client heard."),
    ("failed", "status", "Requests no server answered, by the status the client heard."),
    ("ended", "code", "Requests by who ended them and when; -- is their answer's own end."),
)
BALANCER_TIMERS = (
    ("request_seconds", "From a request's head to the end of its answer."),
    ("queue_seconds", "Waited for a place at a server, of those that waited and got one."),
)
GAUGES = (
    ("active", "Requests it is working on."),
    ("percent", "Of its weight, what counts now: less while it warms up, or says so of itself."),
    ("streams", "Event streams and long polls it serves."),
    ("peak", "The most of them at once; of several workers, the sum of what each had at most."),
    ("idle_connections", "Kept for the next request."),
)
COUNTERS = (
    ("retries", "Requests tried again after this server."),
    ("lost", "Requests whose answer this server lost."),
    ("ejections", "Times it was taken out: by its checks, by connections that failed, or ejected."),
    ("link_requests", "Requests sent on shared links."),
    ("link_breaks", "Shared links ended for an answer that was not right."),
)
TIMERS = (
    ("connect_seconds", "To make a connection."),
    ("response_seconds", "From a request sent to the head of its answer."),
)


def exposition(merged: Report, workers: int) -> bytes:
    """The text Prometheus reads, of all workers' reports as one; ``workers`` are at work."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(merged, workers))
    return generate_latest(registry)


class _Families:
    def __init__(self, merged: Report, workers: int) -> None:
        self._merged = merged
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        merged = self._merged
        yield from _of_servers(merged["servers"])
        yield GaugeMetricFamily("loadbalancer_workers", "Processes that accept connections.", value=self._workers)
        yield GaugeMetricFamily("loadbalancer_clients", "Client connections now.", value=merged["clients"])
        yield GaugeMetricFamily(
            "loadbalancer_queued", "Requests waiting for a place at a server.", value=merged["queued"]
        )
        for name, label, help_text in BY_LABEL:
            family = CounterMetricFamily(f"loadbalancer_{name}", help_text, labels=[label])
            for value, count in sorted(merged[name].items()):
                family.add_metric([value], count)
            yield family
        for name, help_text in OF_BALANCER:
            yield CounterMetricFamily(f"loadbalancer_{name}", help_text, value=merged[name])
        for name, help_text in BALANCER_TIMERS:
            yield _histogram(f"loadbalancer_{name}", help_text, [([], merged[name])], [])


def _of_servers(servers: Mapping[str, Report]) -> Iterator[Metric]:
    up = GaugeMetricFamily("loadbalancer_server_up", "1 while every worker believes it alive.", labels=["server"])
    draining = GaugeMetricFamily("loadbalancer_server_draining", "1 while it gets nothing new.", labels=["server"])
    ejected = GaugeMetricFamily("loadbalancer_server_ejected", "1 while a worker has it ejected.", labels=["server"])
    answers = CounterMetricFamily("loadbalancer_requests", "Answers of servers, by class.", labels=["server", "class"])
    for name, server in servers.items():
        up.add_metric([name], "down" not in server["state"])
        draining.add_metric([name], "draining" in server["state"])
        ejected.add_metric([name], "ejected" in server["state"])
        for label, count in zip(CLASSES, server["answers"], strict=True):
            answers.add_metric([name, label], count)
    yield from (up, draining, ejected, answers)
    for key, help_text in GAUGES:
        gauge = GaugeMetricFamily(f"loadbalancer_server_{key}", help_text, labels=["server"])
        for name, server in servers.items():
            gauge.add_metric([name], server[key])
        yield gauge
    for key, help_text in COUNTERS:
        counter = CounterMetricFamily(f"loadbalancer_{key}", help_text, labels=["server"])
        for name, server in servers.items():
            counter.add_metric([name], server[key])
        yield counter
    for key, help_text in TIMERS:
        timers = [([name], server[key]) for name, server in servers.items()]
        yield _histogram(f"loadbalancer_{key}", help_text, timers, ["server"])


def _histogram(
    name: str, help_text: str, timers: Iterable[tuple[list[str], Report]], labels: list[str]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, help_text, labels=labels)
    for values, timer in timers:
        buckets = []
        seen = 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), timer["counts"], strict=True):
            seen += count
            buckets.append((bound, seen))
        family.add_metric(values, buckets=buckets, sum_value=timer["total"])
    return family
