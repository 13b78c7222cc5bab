"""What this process tells Prometheus. The hot path adds to plain numbers; families are made of them when somebody asks."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from loadbalancer.servers import Farm
from loadbalancer.timer import BOUNDS, Timer

CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")


class Totals:
    """What happened so far, the balancer's own part; each server carries its own."""

    def __init__(self) -> None:
        self.clients_refused = 0
        self.refused: dict[int, int] = {}  # by status: what never got as far as a server
        self.failed: dict[int, int] = {}  # by status: what no server answered
        self.clients_gone = 0
        self.unasked = 0
        self.budget_empty = 0
        self.request_seconds = Timer()

    def refuse(self, status: int) -> None:
        """A client was told that its request is not taken."""
        self.refused[status] = self.refused.get(status, 0) + 1

    def fail(self, status: int) -> None:
        """A client was told that no server answered."""
        self.failed[status] = self.failed.get(status, 0) + 1


class Collector:
    """Families for one scrape."""

    def __init__(self, totals: Totals, clients: int, farm: Farm) -> None:
        self._totals = totals
        self._clients = clients
        self._farm = farm

    def collect(self) -> Iterator[Metric]:
        """Everything."""
        yield from self._of_servers()
        totals = self._totals
        yield GaugeMetricFamily("loadbalancer_clients", "Client connections now.", value=self._clients)
        for name, help_text, by_status in (
            ("loadbalancer_refused", "Requests not taken, by the status the client heard.", totals.refused),
            ("loadbalancer_failed", "Requests no server answered, by the status the client heard.", totals.failed),
        ):
            family = CounterMetricFamily(name, help_text, labels=["status"])
            for status, count in sorted(by_status.items()):
                family.add_metric([str(status)], count)
            yield family
        for name, help_text, count in (
            ("loadbalancer_clients_refused", "Connections past the limit.", totals.clients_refused),
            ("loadbalancer_clients_gone", "Clients that left before their answer was complete.", totals.clients_gone),
            (
                "loadbalancer_unasked",
                "Idle server connections closed because the server said something.",
                totals.unasked,
            ),
            (
                "loadbalancer_spilled",
                "Requests that did not get the server their key belongs to, for it was full or away.",
                self._farm.spilled,
            ),
            ("loadbalancer_retry_budget_empty", "Retries not made because the budget was spent.", totals.budget_empty),
        ):
            yield CounterMetricFamily(name, help_text, value=count)
        yield _histogram(
            "loadbalancer_request_seconds",
            "From a request's head to the end of its answer.",
            [([], totals.request_seconds)],
            [],
        )

    def _of_servers(self) -> Iterator[Metric]:
        servers = self._farm.servers
        up = GaugeMetricFamily("loadbalancer_server_up", "1 while the server is believed alive.", labels=["server"])
        drained = GaugeMetricFamily("loadbalancer_server_draining", "1 while it gets nothing new.", labels=["server"])
        active = GaugeMetricFamily("loadbalancer_server_active", "Requests it is working on.", labels=["server"])
        streams = GaugeMetricFamily("loadbalancer_server_streams", "Event streams from it.", labels=["server"])
        peak = GaugeMetricFamily("loadbalancer_server_peak", "The most of them at once.", labels=["server"])
        idle = GaugeMetricFamily(
            "loadbalancer_server_idle_connections", "Kept for the next request.", labels=["server"]
        )
        answers = CounterMetricFamily(
            "loadbalancer_requests", "Answers of servers, by class.", labels=["server", "class"]
        )
        retries = CounterMetricFamily(
            "loadbalancer_retries", "Requests tried again after this server.", labels=["server"]
        )
        lost = CounterMetricFamily("loadbalancer_lost", "Requests whose answer this server lost.", labels=["server"])
        ejections = CounterMetricFamily("loadbalancer_ejections", "Times it was taken out.", labels=["server"])
        linked = CounterMetricFamily("loadbalancer_link_requests", "Requests sent on shared links.", labels=["server"])
        broken = CounterMetricFamily("loadbalancer_link_breaks", "Links ended for a wrong answer.", labels=["server"])
        for server in servers:
            if server.links is not None:
                linked.add_metric([server.name], server.links.requests)
                broken.add_metric([server.name], server.links.breaks)
            up.add_metric([server.name], server.health.is_up)
            drained.add_metric([server.name], server.is_draining)
            active.add_metric([server.name], server.active)
            streams.add_metric([server.name], server.streams)
            peak.add_metric([server.name], server.peak)
            idle.add_metric([server.name], len(server.pool))
            for label, count in zip(CLASSES, server.answers, strict=True):
                answers.add_metric([server.name, label], count)
            retries.add_metric([server.name], server.retries)
            lost.add_metric([server.name], server.lost)
            ejections.add_metric([server.name], server.ejections)
        yield from (up, drained, active, streams, peak, idle, answers, retries, lost, ejections, linked, broken)
        yield _histogram(
            "loadbalancer_connect_seconds",
            "To make a connection.",
            [([s.name], s.connect_seconds) for s in servers],
            ["server"],
        )
        yield _histogram(
            "loadbalancer_response_seconds",
            "From a request sent to the head of its answer.",
            [([s.name], s.response_seconds) for s in servers],
            ["server"],
        )


def exposition(totals: Totals, clients: int, farm: Farm) -> bytes:
    """The text Prometheus reads; ``clients`` are connected now."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(totals, clients, farm))
    return generate_latest(registry)


def _histogram(
    name: str, help_text: str, timers: Iterable[tuple[list[str], Timer]], labels: list[str]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, help_text, labels=labels)
    for values, timer in timers:
        buckets = []
        seen = 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), timer.counts, strict=True):
            seen += count
            buckets.append((bound, seen))
        family.add_metric(values, buckets=buckets, sum_value=timer.total)
    return family
