"""
How figures look. Colours are Okabe and Ito's; who cannot see them has a mark and a dash beside each. A figure is read without its page,
so its small print says load model, clock, trials, attempts and run. Law: a caption says open or closed, accepted or decided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from PIL import Image

from benchmarks.report.measures import Attempts, Waits
from benchmarks.report.reading import Case, Left, RunLeft
from benchmarks.report.results import Measured, Results, drawn, valid
from benchmarks.report.statistics import TAIL_MIN

GREY, LIGHT, INK = "#666666", "#dddddd", "#222222"
COLOURS = {"A": "#0072B2", "B": "#D55E00", "C": "#009E73", "D": "#CC79A7"}
MARKS = {"A": "o", "B": "s", "C": "^", "D": "D"}
DASHES: Mapping[str, Any] = {"A": "-", "B": (0, (5, 2)), "C": (0, (1, 1.5)), "D": (0, (5, 1.5, 1, 1.5))}
WIDTH_INCHES = 8.0
DPI = 200
FINE = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)  # ticks where there is less than a decade
PAIR = ("A", "B")
MOMENTS = ["intended_ns", "sent_ns", "accepted_ns", "decided_ns", "outcome"]


@dataclass(frozen=True)
class Drawing:
    """A figure with what is said below it. `kind` is what the narrative asks for; there may be several, of a case each."""

    kind: str
    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Book:
    """All a figure may look at."""

    run: RunLeft
    results: Results
    _kept: dict[tuple[Case, str], list[Attempts]] = field(default_factory=dict, compare=False)

    @property
    def document(self) -> Mapping[str, Any]:
        return self.results.document

    def name_of(self, label: str) -> str:
        return str(self.document["labels"].get(label, label))

    def cases(self) -> list[Case]:
        """Those that compare the two backends and are no step of a series."""
        named = {case.name: case for case in self.run.cases}
        return [named[name] for name in drawn(self.document)]

    def judged_cases(self) -> list[Case]:
        """Those of them that have a valid trial."""
        return [case for case in self.cases() if any(self.of(case, label) for label in PAIR)]

    def about(self, case: Case) -> Mapping[str, Any]:
        return next(row for row in self.document["cases"] if row["name"] == case.name)

    def of(self, case: Case, label: str) -> list[Measured]:
        return valid(self.results.measured, case, label)

    def frames(self, case: Case, label: str) -> list[Attempts]:
        """Moments and outcomes of its valid trials' attempts. They are kept, since half a dozen figures ask for the same; whole tables would be too many."""
        if (case, label) not in self._kept:
            self._kept[case, label] = [
                one.left.frame("requests")[MOMENTS].astype({"outcome": "category"}) for one in self.of(case, label)
            ]
        return self._kept[case, label]

    def level(self, case: str, metric: str, label: str) -> dict[str, Any] | None:
        """A median over trials, with its interval."""
        return next(
            (
                row
                for row in self.document["levels"]
                if (row["case"], row["metric"], row["label"]) == (case, metric, label)
            ),
            None,
        )

    def typical(self, case: Case) -> dict[str, Left]:
        """
        The pair of one block whose ratio of medians is the middle one, so that what is shown is neither the best nor the worst; of void
        trials only where there are no others.
        """
        found: dict[int, dict[str, Measured]] = {}
        for one in self.results.measured:
            if one.left.case == case and one.trial.label in PAIR:
                found.setdefault(one.trial.block, {})[one.trial.label] = one
        both = [of for of in found.values() if set(of) == set(PAIR)]
        both = [of for of in both if not any(one.trial.is_void for one in of.values())] or both
        both.sort(key=lambda of: _ratio(of["A"], of["B"]))
        return {label: both[(len(both) - 1) // 2][label].left for label in PAIR} if both else {}

    def small_print(self, *said: str) -> str:
        run = self.document["run"]
        return " ".join([*said, f"Run {run['name']}, seed {run['seed']}, commit {run['commit'][:10]}."])

    def trials_of(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """How many are behind each of a series' points."""
        counts = sorted({row["trials"] for row in rows})
        return (
            f"{counts[0]} to {counts[-1]} valid trials"
            if len(counts) > 1
            else f"{counts[0]} valid trials"
            if counts[0] > 1
            else "one valid trial"
        )

    def sample(self, case: Case) -> str:
        """Trials and attempts behind a figure of a case."""
        counts = [len(self.of(case, label)) for label in PAIR]
        attempts = sum(sum(one.trial.counts.values()) for label in PAIR for one in self.of(case, label))
        return f"{case.name}: {self.about(case)['load_model']}; {counts[0]} and {counts[1]} valid trials, {attempts:,} attempts."


def _ratio(a: Measured, b: Measured) -> float:
    first, second = a.values["response_p50"], b.values["response_p50"]
    return second.number / first.number if first and second and first.number else 1.0


def canvas(height: float, title: str) -> Figure:
    """An empty page of the common width."""
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, color=INK)
    return figure


def tidy(axes: Axes, *, grid: str = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=LIGHT, linewidth=0.6)  # type: ignore[arg-type] # "x", "y" or "both"
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def plain_number(value: float, _: object = None) -> str:
    """1, 20, 1,000, 0.05."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def log_ticks(axes: Axes, which: str) -> None:
    """1, 2, 5, as people count."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    span = high / max(low, 1e-12)
    axis.set_major_locator(LogLocator(subs=FINE if span < 4 else (1, 2, 5) if span < 1000 else (1,)))
    axis.set_major_formatter(FuncFormatter(plain_number))
    axis.set_minor_locator(LogLocator(subs=(2, 5)) if span >= 1000 else NullLocator())
    axis.set_minor_formatter(NullFormatter())


def together(each: Sequence[Waits]) -> Waits:
    """All trials as one."""
    return Waits(np.sort(np.concatenate([*(one.times for one in each), np.array([])])), sum(one.never for one in each))


def percentiles(axes: Axes, waits: Waits, **how: Any) -> None:
    """A line of all of them, up to where too few lie beyond."""
    if waits.count < 2 * TAIL_MIN:
        return
    inverse = np.geomspace(1.02, waits.count / TAIL_MIN, 150)  # of 1 - q
    ranks = np.ceil((1 - 1 / inverse) * waits.count - 1e-9).astype(int)
    is_known = (ranks >= 1) & (ranks <= len(waits.times))
    axes.plot(inverse[is_known], waits.times[ranks[is_known] - 1], **how)


def percentile_ticks(axes: Axes) -> None:
    """For its x axis."""
    axes.set_xscale("log")
    ticks = {2: "50", 10: "90", 100: "99", 1000: "99.9", 10_000: "99.99"}
    axes.set_xticks(list(ticks), [f"p{name}" for name in ticks.values()])
    axes.minorticks_off()
    axes.set_xlim(1, max(axes.get_xlim()[1], 110))


def events(axes: Axes, left: Left, until_s: float, *, named: bool) -> None:
    """What happened when: an upright line each."""
    words = {
        "first_sold_out": "first sold out",
        "last_sold": "last sold",
        "kill": "kill",
        "recover": "recovered",
        "load_end": "load ends",
    }
    for place, event in enumerate(event for event in left.events if event.kind in words):
        at = event.t_ns / 1e9
        if not -1 <= at <= until_s:
            continue
        axes.axvline(at, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        if named:
            axes.annotate(
                words[event.kind], (at, 1.0), xycoords=("data", "axes fraction"), xytext=(2, -8 - 9 * (place % 3)),
                textcoords="offset points", fontsize=7, color=GREY,
            )  # fmt: skip


def legend(axes: Axes, **how: Any) -> None:
    """Where there is something to name: of a case whose trials are all void nothing is drawn."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, **how)


def legend_on_top(figure: Figure, *of: Axes) -> None:
    """Each name once, in two lines below the title; the layout is told of the room, because it knows legends of axes alone."""
    named: dict[str, Any] = {}
    for axes in of:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    if not named:
        return
    height = figure.get_figheight()
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, 1 - 0.75 / height))
    figure.suptitle(figure.get_suptitle(), fontsize=12, color=INK, y=1 - 0.12 / height)
    figure.legend(
        named.values(),
        named.keys(),
        frameon=False,
        fontsize=7,
        ncols=4,
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - 0.3 / height),
    )


def small_print(figure: Figure, text: str) -> None:
    """Below everything else, wrapped by hand, because a figure does not wrap what lies outside its axes."""
    words, lines = text.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 145:
            lines.append("")
        lines[-1] += f"{word} "
    figure.text(0.01, -0.01, "\n".join(lines), fontsize=7, color=GREY, va="top")


def save(drawing: Drawing, folder: Path) -> list[Path]:
    """PNG and SVG; equal figures, equal files. Text becomes outlines, because who reads it may have other fonts."""
    paths = []
    # Laid out and measured once: each file would do both again, which is half of the work.
    figure = drawing.figure
    figure.set_dpi(DPI)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    figure.set_layout_engine(None)
    box = figure.get_tightbbox().padded(0.1)
    with mpl.rc_context({"svg.hashsalt": drawing.name, "svg.fonttype": "path"}):
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            path = folder / f"{drawing.name}.{ending}"
            figure.savefig(path, dpi=DPI, bbox_inches=box, metadata=metadata)
            paths.append(path)
    with Image.open(paths[0]) as picture:  # a palette is a third of the size, and lines have few colours
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(paths[0], optimize=True)
    return paths


def bins_of(values: Sequence[float] | np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Equally wide on a logarithmic axis."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known) & (known > 0)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 10.0)
    return np.geomspace(low * 0.95, max(high, low * 1.5) * 1.05, count)
