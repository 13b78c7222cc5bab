"""From what was seen to a table: medians, their spread, and ratios that are taken within a round. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.backend.load import CONNECTIONS, SERVER, Seen

HEADER = [
    *("SCENARIO", "AUTH", "SERVER", "PER SECOND", "SPREAD", "OURS IS x TIMES", "OUR CPU IS x TIMES"),
    *("P50 MS", "P99 MS", "BUSY", "CPU US PER ANSWER"),
]


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: int
    warm_up_seconds: int


class Cell(NamedTuple):
    """One row of the table, by names."""

    scenario: str
    auth: str
    server: str


def report(seen: Mapping[Cell, Sequence[Seen]], ours: str, effort: Effort, left_out: Sequence[str]) -> dict[str, Any]:
    """The table, its notes, and every round it comes from. Each cell has one load per round; ``ours`` is compared."""
    rows, cells = [], []
    for cell, loads in seen.items():
        mine = seen[cell._replace(server=ours)]
        rate_ratios = [a.rate / b.rate for a, b in zip(mine, loads, strict=True)]
        cpu_ratios = [_server_cpu(a) / _server_cpu(b) for a, b in zip(mine, loads, strict=True)]
        is_ours = cell.server == ours
        rates = [one.rate for one in loads]
        cpu = {name: statistics.median(one.cpu_us[name] for one in loads) for name in loads[0].cpu_us}
        rows.append(
            [
                *cell,
                f"{statistics.median(rates):,.0f}",
                f"{min(rates):,.0f}-{max(rates):,.0f}",
                "" if is_ours else _spread(rate_ratios),
                "" if is_ours else _spread(cpu_ratios),
                f"{statistics.median(one.p50_ms for one in loads):.2f}",
                f"{statistics.median(one.p99_ms for one in loads):.2f}",
                f"{statistics.median(one.busy for one in loads):.0%}",
                " ".join(f"{name} {used:.0f}" for name, used in cpu.items() if used >= 1),
            ]
        )
        ratios = {"our_rate_to_its": rate_ratios, "our_cpu_to_its": cpu_ratios}
        cells.append({**cell._asdict(), **ratios, "rounds": [one._asdict() for one in loads]})
    notes = [
        f"{effort.rounds} rounds of {effort.seconds} s per row, after a warm-up; {CONNECTIONS} connections; medians.",
        "BUSY is the server's share of its core: far below 100% something else was the limit, and only CPU compares.",
        *left_out,
    ]
    return {"table": {"header": HEADER, "rows": rows}, "notes": notes, "cells": cells}


def _server_cpu(one: Seen) -> float:
    return max(one.cpu_us[SERVER], 0.1)  # a clock of 10 ms may show none in a very short round


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
