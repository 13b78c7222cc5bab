"""From what was seen to a table. Medians, their spread, and ratios that are taken within a round. Pure."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from benchmarks.authority.ladder import BARE, EVERYTHING, RUNGS, TOP
from benchmarks.authority.measure import Seen

HEADER = ["WHAT", "MEDIAN", "SPREAD", "SERVER CPU US PER HOLD", "COMPARED", "MEDIAN", "SPREAD"]
HOLDS_PER_S, OF_BARE, GROWTH, LATE_MS = 15_000, 0.35, 1.3, 100.0  # what is wanted, on a machine that does nothing else
CLIENT, MIXED, SINGLE = "everything on, through the servers' client", "30 % replays, 30 % refusals", "one at a time"


class Bar(NamedTuple):
    """Something that is wanted, and what was found."""

    wanted: str
    found: float
    is_met: bool


class Found(NamedTuple):
    """Everything that was measured. ``scale`` is by what grows, then by its size; ``late_ms`` by percentile."""

    hot: Mapping[str, Sequence[Seen]]
    scale: Mapping[str, Mapping[int, Sequence[Seen]]]
    late_ms: Mapping[str, float]
    memory_mib: Mapping[str, float | None]


def report(found: Found) -> dict[str, Any]:
    """The table, its notes, the bars, and every round it comes from."""
    bare, everything = found.hot[BARE], found.hot[EVERYTHING]
    rows = [
        _rate(name, found.hot[name], _ratios(found.hot[name], bare) if name != BARE else None, "of bare")
        for name in (BARE, EVERYTHING, CLIENT, MIXED, SINGLE)
    ]
    rows += [_feature(feature, above, below) for feature, above, below in _ladder(found.hot)]
    growth = {}
    for what, sizes in found.scale.items():
        first = next(iter(sizes.values()))
        for size, seen in sizes.items():
            growth[what] = cpu = [here.cpu_us / there.cpu_us for here, there in zip(seen, first, strict=True)]
            rows.append(_rate(f"with {size:,} {what}", seen, cpu, "CPU, of the first"))
    rows.append(["a hold ends late, ms", *(f"{name} {ms}" for name, ms in found.late_ms.items()), "", "", ""])
    rows += [
        [f"memory of the server, {when}", "unknown" if mib is None else f"{mib:,.0f} MiB", "", "", "", "", ""]
        for when, mib in found.memory_mib.items()
    ]
    bars = _bars(everything, bare, growth, found.late_ms["max"])
    return {
        "table": {"header": HEADER, "rows": rows},
        "notes": [
            "Holds per second of wall time; a ratio is taken within a round, where everybody had the machine for a turn.",
            f"'{BARE}': {_BARE_IS}",
            "A feature costs what is saved without it and all features above it.",
            *(f"{'met' if bar.is_met else 'MISSED'}: {bar.wanted}, found {bar.found:,.2f}" for bar in bars),
        ],
        "bars": [bar._asdict() for bar in bars],
        "late_ms": dict(found.late_ms),
        "memory_mib": dict(found.memory_mib),
        "rounds": {
            "hot": {name: [one._asdict() for one in seen] for name, seen in found.hot.items()},
            "scale": {
                what: {size: [one._asdict() for one in seen] for size, seen in sizes.items()}
                for what, sizes in found.scale.items()
            },
        },
    }


_BARE_IS = "one statement inserts into copies of purchase and outbox, with their indexes, and updates the stock; nothing is checked."


def _bars(
    everything: Sequence[Seen], bare: Sequence[Seen], growth: Mapping[str, list[float]], late_ms: float
) -> list[Bar]:
    rate = statistics.median(one.holds_per_s for one in everything)
    share = statistics.median(_ratios(everything, bare))
    return [
        Bar(f"at least {HOLDS_PER_S:,} holds/s", rate, rate >= HOLDS_PER_S),
        Bar(f"at least {OF_BARE} of bare", share, share >= OF_BARE),
        *(
            Bar(f"at most {GROWTH} times the cost with most {what}", times, times <= GROWTH)
            for what, times in ((what, statistics.median(ratios)) for what, ratios in growth.items())
        ),
        Bar(f"no hold ends more than {LATE_MS:.0f} ms late", late_ms, late_ms <= LATE_MS),
    ]


def _ladder(hot: Mapping[str, Sequence[Seen]]) -> list[tuple[str, Sequence[Seen], Sequence[Seen]]]:
    names = [TOP, *(f"without {rung.feature}" for rung in RUNGS)]
    return [
        (rung.feature, hot[above], hot[below]) for rung, (above, below) in zip(RUNGS, pairwise(names), strict=True)
    ] + [("the decisions themselves", hot[names[-1]], [])]


def _feature(feature: str, above: Sequence[Seen], below: Sequence[Seen]) -> list[str]:
    saved = (
        [here.cpu_us - there.cpu_us for here, there in zip(above, below, strict=True)]
        if below
        else [a.cpu_us for a in above]
    )
    return [
        f"  costs: {feature}",
        "",
        "",
        f"{statistics.median(saved):.1f}",
        "",
        "",
        f"{min(saved):.1f} to {max(saved):.1f}",
    ]


def _rate(name: str, seen: Sequence[Seen], ratios: Sequence[float] | None, compared: str) -> list[str]:
    rates = [one.holds_per_s for one in seen]
    cpu = statistics.median(one.cpu_us for one in seen)
    row = [name, f"{statistics.median(rates):,.0f}/s", f"{min(rates):,.0f} to {max(rates):,.0f}", f"{cpu:.1f}"]
    if ratios is None:
        return [*row, "", "", ""]
    return [*row, compared, f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]


def _ratios(ours: Sequence[Seen], theirs: Sequence[Seen]) -> list[float]:
    return [one.holds_per_s / other.holds_per_s for one, other in zip(ours, theirs, strict=True)]
