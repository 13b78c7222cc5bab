"""Everything a page of statistics needs, of the workers' reports as one."""

from collections.abc import Mapping
from typing import Any

from loadbalancer.report import CLASSES, TIMERS, TOTAL_TIMERS, TOTALS, TOTALS_BY, Report, quantile
from loadbalancer.timer import BOUNDS

QUANTILES = (0.5, 0.9, 0.99)


def stats(merged: Report, rates: Mapping[str, float], since: Mapping[str, float]) -> dict[str, Any]:
    """The balancer's totals, and its servers: their answers per second, and for how many seconds each has been as it is.

    Counts of durations are those of the buckets that ``bounds`` ends, so that whoever looks twice can tell what was between.
    """
    servers = merged["servers"]
    return {
        "clients": merged["clients"],
        "queued": merged["queued"],
        "per_second": round(sum(rates.get(name, 0.0) for name in servers), 1),
        **{name: merged[name] for name in (*TOTALS, *TOTALS_BY)},
        **{name: _quantiles(merged[name]) for name in TOTAL_TIMERS},
        "bounds": BOUNDS,
        "servers": [described(name, server, rates, since) for name, server in servers.items()],
    }


def described(name: str, server: Report, rates: Mapping[str, float], since: Mapping[str, float]) -> dict[str, Any]:
    """One server."""
    return {
        "name": name,
        **{key: value for key, value in server.items() if key not in {*TIMERS, "answers"}},
        "answers": dict(zip(CLASSES, server["answers"], strict=True)),
        "per_second": round(rates.get(name, 0.0), 1),
        "since_seconds": round(since.get(name, 0.0), 3),
        **{key: _quantiles(server[key]) for key in TIMERS},
    }


def _quantiles(timer: Report) -> dict[str, Any]:
    found = {f"p{round(share * 100)}": quantile(timer, share) for share in QUANTILES}
    return {name: None if value is None else round(value, 6) for name, value in found.items()} | {
        "counts": timer["counts"]
    }
