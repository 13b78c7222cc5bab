"""From what was seen to tables: medians, their spread, and ratios that are taken within a round. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.backend.load import SERVER, Seen

LOAD_HEADER = [
    *("WHAT", "AUTH", "SERVER", "PER SECOND", "SPREAD", "OURS IS x TIMES", "OUR CPU IS x TIMES"),
    *("P50 MS", "P99 MS", "BUSY", "CPU US PER ANSWER"),
]
BUSY_IS = "BUSY is the server's share of a core: far below 100% something else was the limit, and only CPU compares."


class Cell(NamedTuple):
    """One row of loads, by names."""

    what: str
    auth: str
    server: str


class Bar(NamedTuple):
    """Something that is wanted, what was found, and beside what in the same run. Missed, it fails nothing: it is the machine's as well."""

    wanted: str
    found: float
    beside: str
    is_met: bool

    def __str__(self) -> str:
        return f"{'met' if self.is_met else 'MISSED'}: {self.wanted}; found {self.found:,.2f} ({self.beside})"


class Section(NamedTuple):
    """What one part has to say. ``raw``: every round, for a result file."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    bars: Sequence[Bar]
    raw: Mapping[str, Any]


def at_least(wanted: float, of: Sequence[float], what: str, beside: str) -> Bar:
    """The median of rounds is no less."""
    return Bar(f"{what} at least {wanted:,g}", middle(of), f"{beside}; rounds {span(of)}", middle(of) >= wanted)


def at_most(wanted: float, of: Sequence[float], what: str, beside: str) -> Bar:
    """The median of rounds is no more."""
    return Bar(f"{what} at most {wanted:,g}", middle(of), f"{beside}; rounds {span(of)}", middle(of) <= wanted)


def middle(values: Sequence[float]) -> float:
    """The median; 0 of nothing."""
    return statistics.median(values) if values else 0.0


def span(values: Sequence[float]) -> str:
    """From the least to the most."""
    return f"{_short(min(values))}-{_short(max(values))}" if values else "none"


def spread(values: Sequence[float]) -> str:
    """The median, and between what."""
    return f"{_short(middle(values))} ({span(values)})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round. A clock of 10 ms may show no CPU in a very short one."""
    return [mine / max(other, 1e-9) for mine, other in zip(ours, theirs, strict=True)]


def rates(loads: Sequence[Seen]) -> list[float]:
    """Of the rounds."""
    return [one.rate for one in loads]


def per_core(loads: Sequence[Seen]) -> list[float]:
    """Answers per second of the server's CPU, of the rounds."""
    return [1e6 / cpu_us for cpu_us in _server_cpu(loads)]


def cpu_words(of: Sequence[Mapping[str, float]]) -> str:
    """Medians by process, without who took next to nothing."""
    used = {name: middle([one[name] for one in of]) for name in of[0]}
    return " ".join(f"{name} {cpu:.0f}" for name, cpu in used.items() if cpu >= 1)


def load_row(cell: Cell, loads: Sequence[Seen], mine: Sequence[Seen] | None = None) -> list[str]:
    """One row under LOAD_HEADER; compared with ``mine`` if they are not the same."""
    return [
        *cell,
        f"{middle(rates(loads)):,.0f}",
        span(rates(loads)),
        "" if mine is None else spread(ratios(rates(mine), rates(loads))),
        "" if mine is None else spread(ratios(_server_cpu(mine), _server_cpu(loads))),
        f"{middle([one.p50_ms for one in loads]):.2f}",
        f"{middle([one.p99_ms for one in loads]):.2f}",
        f"{middle([one.busy for one in loads]):.0%}",
        cpu_words([one.cpu_us for one in loads]),
    ]


def whole(sections: Mapping[str, Section]) -> dict[str, Any]:
    """What ``bench`` is told: tables, notes, bars, and every round of every part."""
    return {
        "tables": [
            {"title": section.title, "header": list(section.header), "rows": [list(row) for row in section.rows]}
            for section in sections.values()
        ],
        "notes": [
            *(note for section in sections.values() for note in section.notes),
            *(str(bar) for section in sections.values() for bar in section.bars),
        ],
        "bars": [bar._asdict() for section in sections.values() for bar in section.bars],
        "parts": {name: dict(section.raw) for name, section in sections.items()},
    }


def _server_cpu(loads: Sequence[Seen]) -> list[float]:
    return [max(one.cpu_us[SERVER], 0.1) for one in loads]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
