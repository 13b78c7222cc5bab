"""Everything a page of statistics needs, of the workers' reports as one."""

from collections.abc import Mapping
from typing import Any

from loadbalancer.report import CLASSES, TIMERS, TOTAL_TIMERS, TOTALS, TOTALS_BY, Report, quantile

QUANTILES = (0.5, 0.9, 0.99)


def stats(merged: Report, rates: Mapping[str, float]) -> dict[str, Any]:
    """The balancer's totals, and its servers."""
    servers = merged["servers"]
    return {
        "clients": merged["clients"],
        "queued": merged["queued"],
        "per_second": round(sum(rates.get(name, 0.0) for name in servers), 1),
        **{name: merged[name] for name in (*TOTALS, *TOTALS_BY)},
        **{name: _quantiles(merged[name]) for name in TOTAL_TIMERS},
        "servers": [described(name, server, rates) for name, server in servers.items()],
    }


def described(name: str, server: Report, rates: Mapping[str, float]) -> dict[str, Any]:
    """One server."""
    return {
        "name": name,
        **{key: value for key, value in server.items() if key not in {*TIMERS, "answers"}},
        "answers": dict(zip(CLASSES, server["answers"], strict=True)),
        "per_second": round(rates.get(name, 0.0), 1),
        **{key: _quantiles(server[key]) for key in TIMERS},
    }


def _quantiles(timer: Report) -> dict[str, float | None]:
    found = {f"p{round(share * 100)}": quantile(timer, share) for share in QUANTILES}
    return {name: None if value is None else round(value, 6) for name, value in found.items()}
