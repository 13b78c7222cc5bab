"""What a worker tells of itself as plain data, and what many of them tell together.

Counters only grow: what a worker that has ended had counted is kept by the parent, so that no sum ever falls. Of one that was
killed that is what it told last, a second before.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loadbalancer.timer import BOUNDS, Timer

if TYPE_CHECKING:
    from loadbalancer.proxy import Proxy
    from loadbalancer.servers import Server

Report = dict[str, Any]
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
# Of a server: what adds up for ever, and what adds up now.
COUNTERS = ("retries", "lost", "ejections", "link_requests", "link_breaks")
GAUGES = ("active", "streams", "idle_connections")
TIMERS = ("connect_seconds", "response_seconds")
TOTALS = (
    "clients_refused",
    "address_refused",
    "queue_refused",
    "queue_late",
    "clients_gone",
    "unasked",
    "retry_budget_empty",
    "spilled",
)
TOTALS_BY = ("refused", "failed", "ended")
TOTAL_TIMERS = ("request_seconds", "queue_seconds")


def report(proxy: "Proxy") -> Report:
    """The worker as it is now."""
    totals = proxy.totals
    return {
        "clients": len(proxy.clients),
        "queued": len(proxy.farm.queue),
        "clients_refused": totals.clients_refused,
        "address_refused": totals.address_refused,
        "queue_refused": proxy.farm.turned_away,
        "queue_late": totals.queue_late,
        "clients_gone": totals.clients_gone,
        "unasked": totals.unasked,
        "retry_budget_empty": totals.budget_empty,
        "spilled": proxy.farm.spilled,
        "refused": {str(status): count for status, count in totals.refused.items()},
        "failed": {str(status): count for status, count in totals.failed.items()},
        "ended": dict(totals.ended),
        "request_seconds": _timer(totals.request_seconds),
        "queue_seconds": _timer(totals.queue_seconds),
        "servers": {server.name: _server(server) for server in proxy.farm.servers},
    }


def merged(serving: Sequence[Report], retiring: Sequence[Report], ended: Report | None) -> Report:
    """All of them as one. Servers are those of who is serving, and stand as they see it; of who has ended only counters count."""
    seen = serving or retiring
    names = dict.fromkeys(name for one in seen for name in one["servers"])
    found = _merged([*retiring, *serving], ended, names)
    for name, server in found["servers"].items():
        # Each worker checks for itself, and one may have seen what another has not yet.
        views = [one["servers"][name] for one in seen if name in one["servers"]]
        server["state"] = " or ".join(sorted({view["state"] for view in views}))
        server["reason"] = next((view["reason"] for view in views if view["reason"]), "")
    return found


def remembered(ended: Report | None, last: Report) -> Report:
    """The sum of those that have ended, and one more."""
    return _merged([last], ended, dict.fromkeys([*(ended["servers"] if ended else ()), *last["servers"]]))


def _merged(reports: list[Report], ended: Report | None, names: Iterable[str]) -> Report:
    everyone = [*reports, ended] if ended is not None else reports
    before = ended["servers"] if ended is not None else {}
    return {
        "clients": sum(one["clients"] for one in reports),
        "queued": sum(one["queued"] for one in reports),
        **{name: sum(one[name] for one in everyone) for name in TOTALS},
        **{name: _sums(one[name] for one in everyone) for name in TOTALS_BY},
        **{name: _timers(one[name] for one in everyone) for name in TOTAL_TIMERS},
        "servers": {
            name: _servers([one["servers"][name] for one in reports if name in one["servers"]], before.get(name))
            for name in names
        },
    }


def quantile(timer: Mapping[str, Any], share: float) -> float | None:
    """Seconds within which ``share`` of them stayed, read off the buckets; None if there were none, or it is past the last."""
    counts: list[int] = timer["counts"]
    wanted = share * sum(counts)
    seen, low = 0.0, 0.0
    for bound, count in zip(BOUNDS, counts[:-1], strict=True):
        if count and seen + count >= wanted:
            return low + (bound - low) * (wanted - seen) / count
        seen += count
        low = bound
    return None


def _server(server: "Server") -> Report:
    return {
        "address": f"{server.place}{server.path}",
        "weight": server.weight,
        "percent": server.percent,
        "state": server.state,
        "reason": server.reason,
        "maxconn": server.maxconn,
        "active": server.active,
        "streams": server.streams,
        "peak": server.peak,
        "idle_connections": len(server.pool),
        "answers": list(server.answers),
        "retries": server.retries,
        "lost": server.lost,
        "ejections": server.ejections,
        "link_requests": 0 if server.links is None else server.links.requests,
        "link_breaks": 0 if server.links is None else server.links.breaks,
        "connect_seconds": _timer(server.connect_seconds),
        "response_seconds": _timer(server.response_seconds),
    }


def _servers(living: list[Report], ended: Report | None) -> Report:
    everyone = [*living, ended] if ended is not None else living
    return {
        **(living[-1] if living else everyone[0]),
        **{name: sum(one[name] for one in living) for name in GAUGES},
        "peak": max(sum(one["peak"] for one in living), ended["peak"] if ended is not None else 0),
        **{name: sum(one[name] for one in everyone) for name in COUNTERS},
        **{name: _timers(one[name] for one in everyone) for name in TIMERS},
        "answers": [sum(counts) for counts in zip(*(one["answers"] for one in everyone), strict=True)],
    }


def _timer(timer: Timer) -> Report:
    return {"counts": list(timer.counts), "total": timer.total}


def _timers(timers: Iterable[Report]) -> Report:
    found = list(timers)
    if not found:
        return _timer(Timer())
    return {
        "counts": [sum(counts) for counts in zip(*(one["counts"] for one in found), strict=True)],
        "total": sum(one["total"] for one in found),
    }


def _sums(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for table in tables:
        for key, count in table.items():
            sums[key] = sums.get(key, 0) + count
    return sums
