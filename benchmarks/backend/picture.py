"""The overload curve, as PNG and SVG. Colours are Okabe and Ito's, and every line has a mark of its own beside its colour."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.backend.report import middle

if TYPE_CHECKING:
    from benchmarks.backend.overload import Point

BLUE, GREEN, ORANGE, PURPLE, GREY = "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#777777"
Kind = tuple[str, str, str, Callable[["Point"], float]]  # label, colour, mark, and what of a point
RATES: tuple[Kind, ...] = (
    ("decided: held and refused", BLUE, "o", lambda one: one.goodput),
    ("of these held", GREEN, "s", lambda one: one.held),
    ("told 503, try later", ORANGE, "^", lambda one: one.later),
)
LATENCIES: tuple[Kind, ...] = (
    ("p99 since it was due", PURPLE, "D", lambda one: one.p99_ms),
    ("p50 since it was due", BLUE, "o", lambda one: one.p50_ms),
    ("p99 since it was sent", GREY, "v", lambda one: one.sent_p99_ms),
)


def draw(
    points: Mapping[float, Sequence["Point"]], capacity: Sequence[float], ceiling: float, stem: Path
) -> list[Path]:
    """Write ``stem``.png and .svg: medians over rounds, with lines from the least to the most. Void points are hollow."""
    figure = Figure(figsize=(8, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    figure.suptitle("What one server decides when more comes than it can do", fontsize=13)
    offered = [middle([one.offered for one in of]) for of in points.values()]
    wide = [min(offered) * 0.85, max(*offered, middle(capacity)) * 1.2]
    equal = [
        wide[0] * (wide[1] / wide[0]) ** (step / 100) for step in range(101)
    ]  # bent, where one axis alone is logarithmic
    above.plot(equal, equal, color=GREY, linestyle=":", label="everything that is offered")
    for kind in RATES:
        _line(above, points, kind)
    for kind in LATENCIES:
        _line(below, points, kind)
    top = max(one.goodput + one.later for of in points.values() for one in of)
    above.set_ylim(0, max(top, middle(capacity)) * 1.15)
    above.set_ylabel("answers per second")
    below.set_ylabel("latency of decisions, ms")
    below.set_yscale("log")
    below.set_xlabel(
        f"attempts truly offered per second, with what was meant in times of capacity ({middle(capacity):,.0f}/s)"
    )
    below.set_xscale("log")
    below.set_xlim(*wide)
    below.set_xticks(
        offered, [f"{rate:,.0f}\n{times:g} times" for times, rate in zip(points, offered, strict=True)], fontsize=8
    )
    below.xaxis.set_minor_formatter(NullFormatter())
    for axes in (above, below):
        axes.axvline(middle(capacity), color=GREY, linewidth=0.8)
        if ceiling < wide[1]:
            label = "past the generator's ceiling" if axes is above else None
            axes.axvspan(ceiling, wide[1], color=GREY, alpha=0.15, label=label)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="best")
    rounds = max(len(of) for of in points.values())
    figure.text(
        0.01,
        -0.005,
        f"Open loop: seeded random arrivals that wait for no answer. Medians of {rounds} round{'s' if rounds > 1 else ''}, bars from least to"
        " most. Hollow: void, the generator did not keep up.\nThe upright line is the capacity, measured with a closed loop just before.",
        fontsize=7.5,
        color="#444444",
        va="top",
    )
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata=undated(path))
    return paths


def undated(path: Path) -> dict[str, str | None]:
    """What is written into a file: equal figures, equal files."""
    return {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}


def _line(axes: Axes, points: Mapping[float, Sequence["Point"]], kind: Kind) -> None:
    label, colour, mark, value = kind
    xs = [middle([one.offered for one in of]) for of in points.values()]
    ys = [middle([value(one) for one in of]) for of in points.values()]
    lows = [y - min(value(one) for one in of) for y, of in zip(ys, points.values(), strict=True)]
    highs = [max(value(one) for one in of) - y for y, of in zip(ys, points.values(), strict=True)]
    axes.errorbar(
        xs, ys, yerr=[lows, highs], color=colour, marker=mark, markersize=7, linewidth=1.5, capsize=3, label=label
    )
    for x, y, of in zip(xs, ys, points.values(), strict=True):
        if any(one.is_void for one in of):
            axes.plot([x], [y], mark, color=colour, markerfacecolor="white", markersize=7)
