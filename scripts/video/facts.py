"""
What a recording and a report found, as words for the holes of the storyboard. Pure: documents come in as the commands printed them. Numbers
are rounded here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]
Facts = dict[str, str]


def of_start(seconds: float, status: Document) -> Facts:
    """How long it took until everything was ready, and what that is."""
    return {"up.seconds": f"{seconds:.0f}", "up.processes": str(len(status["processes"]))}


def of_sale(name: str, units: int, crowd: Document, audit: Document, merchant: Document) -> Facts:
    """What a crowd was told in a sale, and what the books say of it."""
    return {
        f"{name}.units": f"{units:,}",
        f"{name}.paid": f"{merchant['funnel'][0]['paid']:,}",
        **of_crowd(name, crowd),
        **of_audit(name, audit),
    }


def of_crowd(name: str, crowd: Document) -> Facts:
    """What shoppers were told, and after how long; nothing is said of how long nobody waited."""
    told = {key: crowd[key] for key in ("shoppers", "attempts", "held", "sold_out", "unanswered")}
    waits = {
        f"{name}.{clock}_{share}": _wait(ms)
        for clock in ("accepted", "decided")
        for share, ms in crowd[f"{clock}_ms"].items()
    }
    return waits | {f"{name}.{key}": f"{value:,}" for key, value in told.items()}


def of_audit(name: str, audit: Document) -> Facts:
    """What an audit found."""
    return {
        f"{name}.invariants": str(len(audit["invariants"])),
        f"{name}.oversold": f"{audit['findings']['oversold']['count']:,}",
        f"{name}.violations": f"{sum(finding['count'] for finding in audit['findings'].values()):,}",
    }


def of_load(seconds: float, before: Document, after: Document) -> Facts:
    """What the balancer answered meanwhile."""
    whole = sum(_answers(after).values()) - sum(_answers(before).values())
    errors = _sum(after, "5xx") - _sum(before, "5xx")
    return {
        "load.answers": f"{whole:,}",
        "load.per_second": f"{whole / seconds:,.0f}",
        "load.errors": f"{errors:,}",
        "load.seconds": f"{seconds:.0f}",
    }


def of_kill(pid: int, seconds: float) -> Facts:
    """Who was killed, and how soon somebody was there again."""
    return {"kill.pid": str(pid), "kill.seconds": f"{seconds:.1f}"}


def of_choices(name: str, before: Document, after: Document) -> Facts:
    """How many requests of one buyer there were, and how many servers got some of them."""
    gained = [answers - _answers(before).get(server, 0) for server, answers in _answers(after).items()]
    return {
        f"{name}.requests": f"{sum(gained):,}",
        f"{name}.servers": str(sum(more > 0 for more in gained)),
    }


def of_report(words: Mapping[str, str | None], figures: Sequence[Mapping[str, str]]) -> Facts:
    """What a report says of its run, and of each kind of its figures the first."""
    told = {f"report.{name}": word for name, word in words.items() if word}
    for figure in reversed(figures):
        told |= {f"figure.{figure['kind']}.{key}": figure[key] for key in ("title", "name")}
    return told


def _wait(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def _answers(stats: Document) -> dict[str, int]:
    return {server["name"]: sum(server["answers"].values()) for server in stats["servers"]}


def _sum(stats: Document, kind: str) -> int:
    return sum(int(server["answers"][kind]) for server in stats["servers"])
