"""From loads to rows and bars, each beside who stood in the same round. Pure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.backend.load import SERVER, Seen
from benchmarks.backend.report import Bar, Section, at_most, cpu_words, middle, rates, ratios, span, spread

HEADER = [
    *("WHAT", "BALANCER", "PER SECOND", "SPREAD", "CPU US", "SPREAD", "OURS IS x TIMES", "P50 MS", "P99 MS"),
    *("OUR P99 IS x TIMES", "BUSY", "CPU US OF ALL"),
]


class Cell(NamedTuple):
    """One row, by names."""

    what: str
    balancer: str


Loads = Mapping[Cell, Sequence[Seen]]


def row(cell: Cell, loads: Sequence[Seen], mine: Sequence[Seen] | None) -> list[str]:
    """Under HEADER; compared with ``mine`` if they are not the same."""
    return [
        *cell,
        f"{middle(rates(loads)):,.0f}",
        span(rates(loads)),
        f"{middle(cpu(loads)):.1f}",
        span(cpu(loads)),
        "" if mine is None else spread(ratios(cpu(mine), cpu(loads))),
        f"{middle(p99s(loads, 'p50_ms')):.2f}",
        f"{middle(p99s(loads)):.2f}",
        "" if mine is None else spread(ratios(p99s(mine), p99s(loads))),
        f"{middle([one.busy for one in loads]):.0%}",
        cpu_words([one.cpu_us for one in loads]),
    ]


def cpu(loads: Sequence[Seen]) -> list[float]:
    """The balancer's, in us per request, of the rounds."""
    return [max(one.cpu_us[SERVER], 0.1) for one in loads]


def p99s(loads: Sequence[Seen], which: str = "p99_ms") -> list[float]:
    """Or another latency, of the rounds."""
    return [getattr(one, which) for one in loads]


def compared(
    what: str, mine: Sequence[Seen], name: str, theirs: Sequence[Seen], most: Mapping[str, float]
) -> list[Bar]:
    """Of ``cpu`` and ``p99`` no more than so many times theirs, round by round."""
    figures = {"cpu": cpu, "p99": p99s}
    return [
        at_most(
            times,
            ratios(figures[figure](mine), figures[figure](theirs)),
            f"{what}: {figure}, times {name}'s",
            f"ours {middle(figures[figure](mine)):,.2f}, theirs {middle(figures[figure](theirs)):,.2f}",
        )
        for figure, times in most.items()
    ]


def raw(loads: Loads) -> dict[str, Any]:
    """Every round, for a result file."""
    return {"cells": [{**cell._asdict(), "rounds": [one._asdict() for one in of]} for cell, of in loads.items()]}


def with_pictures(section: Section, paths: Sequence[Path]) -> Section:
    """The same, and where it is drawn."""
    return section._replace(
        notes=[*section.notes, *(f"Drawn as {path}" for path in paths)],
        raw={**section.raw, "pictures": [str(path) for path in paths]},
    )
