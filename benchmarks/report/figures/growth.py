"""How waits grow: with the rate, past the limit and back, and with what serves."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.report import measures
from benchmarks.report.figures import style
from benchmarks.report.figures.style import COLOURS, DASHES, GREY, INK, MARKS, PAIR, Book, Drawing
from benchmarks.report.reading import Case
from benchmarks.report.results import OBJECTIVE_P99_MS, RATE_SETTING
from benchmarks.report.statistics import INTERVALS, TAIL_MIN

CLOCKS = (("accepted", "until accepted"), ("response", "until decided"))
SLOTS = 32  # of a ramp's time
RAMP = "ramp"  # as a load model says it


def hockey_stick(book: Book) -> Iterator[Drawing]:
    """The median and p99 by the rate that was offered: flat, and then not."""
    for scenario in dict.fromkeys(row["scenario"] for row in book.document["series"]):
        rows = [row for row in book.document["series"] if row["scenario"] == scenario]
        figure = style.canvas(4.2, f"At which rate do waits begin to grow? ({scenario})")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, (clock, words) in zip(panels, CLOCKS, strict=True):
            for label in dict.fromkeys(row["label"] for row in rows):
                mine = sorted((row for row in rows if row["label"] == label), key=lambda row: row["offered_per_s"])
                for quantile, fill, width in (("p99", COLOURS[label], 1.8), ("p50", "white", 1.0)):
                    _whiskers(
                        axes, label,
                        [(row["offered_per_s"], book.level(row["case"], f"{clock}_{quantile}", label)) for row in mine],
                        label=f"{label}: {book.name_of(label)}, {quantile}", linewidth=width, markerfacecolor=fill,
                    )  # fmt: skip
            axes.axhline(OBJECTIVE_P99_MS, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
            axes.set_xlabel("offered per second")
            axes.set_title(words, loc="left", fontsize=9)
            style.log_ticks(axes, "y")
            style.tidy(axes, grid="both")
            axes.set_xlim(left=0)
        panels[0].annotate(
            "objective of p99, once decided", (0.02, OBJECTIVE_P99_MS), xycoords=("axes fraction", "data"), fontsize=7, va="bottom",
        )  # fmt: skip
        panels[0].set_ylabel("since the intended arrival, ms")
        style.legend_on_top(figure, panels[0])
        about = next(row for row in book.document["cases"] if row["scenario"] == scenario)
        caption = (
            f"{scenario}, {about['load_model']}: median (hollow) and p99 (full) from the intended arrival until accepted, and until decided, by the rate that was offered; nobody who comes waits for anybody, "
            f"so a rate that is not kept up with makes waits that grow for as long as it lasts. Medians of {book.trials_of(rows)} each with {INTERVALS}."
        )
        style.small_print(figure, book.small_print(caption))
        yield Drawing(
            "hockey_stick", f"hockey_stick-{scenario}", "Waits by offered rate", caption,
            "Median and p99 until accepted and until decided against the offered rate, for both backends.", figure,
        )  # fmt: skip


def up_and_down(book: Book) -> Iterator[Drawing]:
    """Past the limit and back: a wait that is longer on the way down than it was at the same rate on the way up is a backlog."""
    for case in book.judged_cases():
        if RAMP not in book.about(case)["load_model"]:
            continue
        figure = style.canvas(4.4, f"What happens past the limit, and on the way back? ({case.name})")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for label in PAIR:
            slots = [measures.by_rate(frame, SLOTS) for frame in book.frames(case, label)]
            if not slots:
                continue
            rates = np.median([rate for rate, _, _ in slots], axis=0)
            for axes, place in zip(panels, (1, 2), strict=True):
                together = [np.concatenate([of[place][slot] for of in slots]) for slot in range(SLOTS)]
                waits = np.array([np.median(took) if len(took) >= TAIL_MIN else np.nan for took in together])
                _there_and_back(axes, label, rates, waits, f"{label}: {book.name_of(label)}")
        for axes, (_, words) in zip(panels, CLOCKS, strict=True):
            axes.set_xlabel("offered per second, when they came")
            axes.set_title(words, loc="left", fontsize=9)
            style.log_ticks(axes, "y")
            style.tidy(axes, grid="both")
            axes.set_xlim(left=0)
        panels[0].set_ylabel("median since the intended arrival, ms")
        style.legend_on_top(figure, panels[0])
        caption = (
            f"{case.name}, {book.about(case)['load_model']}: the time of arrivals in {SLOTS} equal slots, and of each the rate that was offered in it and the median wait of who came in it, until accepted and until decided. "
            "Full with marks: while the rate rises; dashed: while it falls again. Between the two lies the backlog. Who has no verdict is not in a median. "
            f"{book.sample(case)}"
        )
        style.small_print(figure, book.small_print(caption))
        yield Drawing(
            "up_and_down", f"up_and_down-{case.slug}", f"Up and down: {case.name}", caption,
            f"Loops of the median wait against the offered rate in {case.name}, until accepted and until decided.", figure,
        )  # fmt: skip


def _there_and_back(axes: Axes, label: str, rates: np.ndarray, waits: np.ndarray, name: str) -> None:
    top = SLOTS // 2
    axes.plot(
        rates[:top], waits[:top], color=COLOURS[label], marker=MARKS[label], markersize=3.5, linewidth=1.5, label=f"{name}, rising",
    )  # fmt: skip
    axes.plot(
        rates[top - 1 :], waits[top - 1 :], color=COLOURS[label], linestyle=(0, (4, 2)), linewidth=1.5, label=f"{name}, falling",
    )  # fmt: skip


def scaling(book: Book) -> Iterator[Drawing]:
    """With more of what serves, or of what is sold: a series whose setting is a number and no rate."""
    scenarios: dict[str, list[tuple[float, Case]]] = {}
    for case in book.run.cases:
        setting, _, value = case.variant.partition("=")
        if value.isdecimal() and f"{setting}=" != RATE_SETTING and any(book.of(case, label) for label in PAIR):
            scenarios.setdefault(case.scenario, []).append((float(value), case))
    for scenario, steps in scenarios.items():
        yield _scaling(book, scenario, sorted(steps, key=lambda step: step[0]))


def _scaling(book: Book, scenario: str, steps: Sequence[tuple[float, Case]]) -> Drawing:
    setting = steps[0][1].variant.partition("=")[0].replace("sku", "SKU")
    figure = style.canvas(3.8, f"What do more {setting} bring? ({scenario})")
    panels = figure.subplots(1, 3, sharex=True)
    about = book.about(steps[0][1])
    for label in PAIR:
        for axes, keys in zip(panels, (("throughput",), ("response_p99", "response_p50"), ("cpu",)), strict=True):
            for key in keys:
                half = key == "response_p50"
                _whiskers(
                    axes, label, [(value, book.level(case.name, key, label)) for value, case in steps],
                    label=f"{label}: {book.name_of(label)}{', p50' if half else ''}",
                    markerfacecolor="white" if half else COLOURS[label], linewidth=1.0 if half else 1.8,
                )  # fmt: skip
    panels[0].axhline(about["offered_per_s"], color=GREY, linestyle=":", label="all that is offered")
    for axes, words in zip(
        panels, ("decided per second", "until decided, ms: p99 and p50", "CPU ms per decided attempt"), strict=True
    ):
        style.tidy(axes)
        axes.set_title(words, loc="left", fontsize=8.5)
        axes.set_xlabel(setting)
        axes.set_xticks([value for value, _ in steps], [f"{value:g}" for value, _ in steps])
    for axes in (panels[0], panels[2]):
        axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    if steps[-1][0] > 10 * steps[0][0]:
        panels[0].set_xscale("log")
        panels[0].set_xticks([value for value, _ in steps], [f"{value:g}" for value, _ in steps])
        panels[0].minorticks_off()
    style.log_ticks(panels[1], "y")
    style.legend_on_top(figure, panels[1], panels[0])
    caption = (
        f"{scenario}, {about['load_model']}, {about['offered_per_s']:,.0f} per second: decided per second, wait from the intended arrival until decided, and CPU of everything that serves, by {setting}. "
        f"Medians of valid trials with {INTERVALS}. An open loop is decided at the rate at which it comes, once that is kept up with: more can show in waits and CPU alone. "
        f"All processes share {book.document['run']['machine'].get('cores', '?')} cores, and so few points of an open loop determine no law of scaling: none is fitted, and nothing is said beyond them."
    )
    style.small_print(figure, book.small_print(caption))
    return Drawing(
        "scaling", f"scaling-{scenario}", f"Scaling: {scenario}", caption,
        f"Decided per second, waits and CPU per attempt against {setting}, for both backends.", figure,
    )  # fmt: skip


def _whiskers(axes: Axes, backend: str, points: Sequence[tuple[float, dict[str, Any] | None]], **how: Any) -> None:
    known = [(x, level) for x, level in points if level is not None]
    if not known:
        return
    reach = [[max(0.0, abs(level["median"] - level[side])) for _, level in known] for side in ("low", "high")]
    axes.errorbar(
        [x for x, _ in known], [level["median"] for _, level in known], yerr=reach, color=COLOURS[backend], marker=MARKS[backend],
        linestyle=DASHES[backend], markersize=5, capsize=2, **how,
    )  # fmt: skip
