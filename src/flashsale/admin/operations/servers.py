"""The balancer's own figures as the page shows them. Pure: made of two answers of its ``/stats``, seconds apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flashsale.admin.operations.frame import Part, percentiles, process_row, rounded
from flashsale.admin.operations.window import Change
from flashsale.settings import BACKENDS, MIXED

Counter = tuple[str, str, str]
"""Of whom ("" is the balancer itself), which, and which part of it."""

ROLE = "loadbalancer"
CPU = "cpu"
RESPONSE = "response_seconds"
# By how bad it is: each worker looks for itself, and the worst that one of them sees is shown.
WORDS = {
    "down": "down",
    "ejected": "ejected for failed requests",
    "leaving": "removed, finishes what it has",
    "draining": "finishes what it has",
    "up": "serving",
}
DRAINED = "drained"
WHOLE = 100


def counters(stats: Mapping[str, Any]) -> dict[Counter, float]:
    """Everything in it that only grows."""
    return dict(_counters(stats))


def _counters(stats: Mapping[str, Any]) -> Iterator[tuple[Counter, float]]:
    for name in ("queue_refused", "queue_late"):
        yield ("", name, ""), stats[name]
    for server in stats["servers"]:
        name = server["name"]
        yield from (((name, "answers", word), count) for word, count in server["answers"].items())
        yield (name, "retries", ""), server["retries"]
        counts = server[RESPONSE]["counts"]
        yield from (((name, RESPONSE, str(place)), count) for place, count in enumerate(counts))


def lives(stats: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Its processes: the parent, then the workers, each by its pid."""
    yield stats["pid"], stats["process"]
    for worker in stats["workers"]:
        if worker["report"] is not None:
            yield worker["pid"], worker["report"]["process"]


def balancer(stats: Mapping[str, Any], change: Change[Counter] | None) -> Part:
    """The table of servers, and what stands above it."""
    return {
        "algorithm": stats["algorithm"],
        "algorithms": stats["algorithms"],
        "uptime_s": stats["uptime_seconds"],
        "queue": stats["queued"],
        "queue_refused_per_s": _rate(change, ("", "queue_refused", "")),
        "queue_late_per_s": _rate(change, ("", "queue_late", "")),
        "servers": [_server(server, stats, change) for server in stats["servers"]],
    }


def processes(stats: Mapping[str, Any], changes: Mapping[int, Change[str]], at: float) -> list[Part]:
    """Rows of the table of processes: the parent is the first."""
    return [
        process_row(
            ROLE if not index else f"{ROLE}_worker",
            max(index - 1, 0),
            pid,
            cores=changes[pid].per_s(CPU) if pid in changes else None,
            rss=process["rss_bytes"],
            up_s=at - process["started"],
        )
        for index, (pid, process) in enumerate(lives(stats))
    ]


def _server(server: Mapping[str, Any], stats: Mapping[str, Any], change: Change[Counter] | None) -> Part:
    name = server["name"]
    drained = name in stats["drained"]
    return {
        "name": name,
        "backend": next((backend for backend in BACKENDS[MIXED] if name.rpartition("-")[0] == backend), None),
        "state": state(server["state"], drained=drained),
        "word": word(server["state"], server["reason"], server["percent"], drained=drained),
        "since_s": server["since_seconds"],
        "weight": server["weight"],
        "drained": drained,
        "in_flight": server["active"],
        "requests_per_s": _rate(change, *((name, "answers", known) for known in server["answers"])),
        "errors_per_s": _rate(change, (name, "answers", "5xx")),
        "retries_per_s": _rate(change, (name, "retries", "")),
        "p99_ms": _percentiles(stats, change, name)["p99_ms"],
    }


def state(views: str, *, drained: bool) -> str:
    """One word for what ``views`` (several are joined by "or") come to."""
    worst = next((known for known in WORDS if known in views.split(" or ")), views)
    return DRAINED if drained and worst == "draining" else worst


def word(views: str, reason: str, percent: int, *, drained: bool) -> str:
    """How a server is, for people."""
    each = views.split(" or ")
    said = " or ".join(WORDS.get(view, view) for view in each)
    if len(each) > 1:
        said = f"workers disagree: {said}"
    if views == "up" and percent < WHOLE:
        said += f" {percent} % of its weight"
    if drained:
        said += ", drained by hand"
    return f"{said}: {reason}" if reason else said


def _rate(change: Change[Counter] | None, *keys: Counter) -> float | None:
    return None if change is None else rounded(change.per_s(*keys))


def _percentiles(stats: Mapping[str, Any], change: Change[Counter] | None, of: str) -> Part:
    bounds: Sequence[float] = stats["bounds"]
    counts = [0.0 if change is None else change.by.get((of, RESPONSE, str(i)), 0.0) for i in range(len(bounds) + 1)]
    return percentiles(bounds, counts)
