"""What the load was, what was made of it, and whether the instrument may be believed."""

from collections.abc import Iterator

import numpy as np

from benchmarks.comparison.contract import OUTCOMES
from benchmarks.report import measures
from benchmarks.report.figures import style
from benchmarks.report.figures.style import COLOURS, DASHES, GREY, INK, LIGHT, MARKS, PAIR, Book, Drawing
from benchmarks.report.results import OBJECTIVE_P99_MS
from benchmarks.report.statistics import INTERVALS

PARTS_LEAST = 1e-3  # of a gate's limit: less is at the edge of a logarithmic axis
CEILING_SHARE = 0.7  # of what the generator can do at all: above it a figure may be the generator's
OUTCOME_LOOKS = {
    "SOLD": ("#0072B2", ""),
    "SOLD_OUT": ("#56B4E9", ""),
    "REFUSED": ("#F0E442", "///"),
    "ERROR": ("#D55E00", "xxx"),
    "TIMEOUT": ("#CC79A7", "--"),
    "UNSENT": ("#000000", ""),
}


def throughput(book: Book) -> Iterator[Drawing]:
    """Under increasing load where a series was run, else per scenario."""
    scenarios = list(dict.fromkeys(row["scenario"] for row in book.document["series"]))
    yield from (_steps(book, scenario) for scenario in scenarios) if scenarios else _by_case(book)


def _steps(book: Book, scenario: str) -> Drawing:
    figure = style.canvas(8.2, "What is decided, as more is offered?")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1.1, 1.8])
    rows = [row for row in book.document["series"] if row["scenario"] == scenario]
    offered = sorted({row["offered_per_s"] for row in rows})
    above.plot([0, offered[-1] * 1.05], [0, offered[-1] * 1.05], color=GREY, linestyle=":", label="all that is offered")
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = sorted((row for row in rows if row["label"] == label), key=lambda row: row["offered_per_s"])
        for axes, metric, factor in (
            (above, "throughput", 1.0),
            (middle, "errors", 100.0),
            (below, "response_p99", 1.0),
        ):
            points = [
                (row["offered_per_s"], level)
                for row in mine
                if (level := book.level(row["case"], metric, label)) is not None
            ]
            if not points:
                continue
            xs = [x for x, _ in points]
            ys = [level["median"] * factor for _, level in points]
            whiskers = [
                [max(0.0, (level["median"] - level["low"]) * factor) for _, level in points],
                [max(0.0, (level["high"] - level["median"]) * factor) for _, level in points],
            ]
            axes.errorbar(
                xs, ys, yerr=whiskers, color=COLOURS[label], marker=MARKS[label], linestyle=DASHES[label], markersize=5, capsize=2,
                label=f"{label}: {book.name_of(label)}",
            )  # fmt: skip
        kept = [row["offered_per_s"] for row in mine if row["kept_up"] * 2 > row["trials"]]
        if kept:
            above.annotate(
                f"{label} keeps up\nto {max(kept):,.0f}/s", (max(kept), max(kept)), xytext=(-8, 14) if label == "A" else (10, -34), fontsize=7,
                textcoords="offset points", ha="right", color=COLOURS[label], arrowprops={"arrowstyle": "-", "color": COLOURS[label]},
            )  # fmt: skip
    ceiling = book.document["run"]["ceiling_per_s"]
    if ceiling and ceiling * CEILING_SHARE < offered[-1] * 1.05:
        for axes in (above, middle, below):
            axes.axvspan(ceiling * CEILING_SHARE, offered[-1] * 1.05, color=LIGHT, alpha=0.5)
    below.axhline(OBJECTIVE_P99_MS, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
    below.annotate("objective", (0.01, OBJECTIVE_P99_MS), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
    above.set_ylabel("decided per second")
    middle.set_ylabel("without a\nverdict, %")
    middle.set_ylim(bottom=0)
    below.set_ylabel("p99 response, ms")
    below.set_xlabel("offered per second")
    style.log_ticks(below, "y")
    for axes in (above, middle, below):
        style.tidy(axes)
    above.set_ylim(bottom=0)
    above.set_xlim(0, offered[-1] * 1.05)
    style.legend(above, fontsize=8, loc="upper left")
    about = next(row for row in book.document["cases"] if row["scenario"] == scenario)
    caption = (
        f"{scenario}, {about['load_model']}: attempts decided per second, share without a verdict, and p99 from the intended arrival until decided, by the rate offered. "
        f"Medians of {book.trials_of(rows)} each with {INTERVALS}. A step is kept up with "
        "when 99 % of what is offered is decided within a second of its intended arrival, and at most 0.1 % have no verdict. Shaded: above 70 % of what the generator can do at all."
    )
    style.small_print(figure, book.small_print(caption))
    return Drawing(
        "throughput_comparison", f"throughput_comparison-{scenario}", "Throughput under increasing load", caption,
        "Decided per second, share without a verdict and p99 against the offered rate, a line per backend.", figure,
    )  # fmt: skip


def _by_case(book: Book) -> Iterator[Drawing]:
    cases = book.judged_cases()
    if not cases:
        return
    figure = style.canvas(1.2 + 0.75 * len(cases), "How many attempts are decided per second?")
    axes = figure.subplots()
    for place, case in enumerate(cases):
        for label, offset in zip(PAIR, (-0.15, 0.15), strict=True):
            known = [value.number for one in book.of(case, label) if (value := one.values["throughput"]) is not None]
            axes.plot(
                known, [place + offset] * len(known), MARKS[label], color=COLOURS[label], alpha=0.35, markersize=5
            )
            if (level := book.level(case.name, "throughput", label)) is not None:
                name = f"{label}: {book.name_of(label)}" if place == 0 else None
                axes.plot(
                    [level["median"]], [place + offset], MARKS[label], color=COLOURS[label], markersize=9, label=name
                )
                axes.annotate(f"  {level['median']:,.0f}", (max(known), place + offset), fontsize=8, va="center")
    axes.set_yticks(range(len(cases)), [f"{case.name}\n{book.about(case)['load_model']}" for case in cases])
    axes.invert_yaxis()
    axes.set_xlim(left=0, right=axes.get_xlim()[1] * 1.08)
    axes.xaxis.set_major_formatter(style.plain_number)
    axes.set_xlabel("decided per second, from the first arrival to the last verdict")
    style.tidy(axes, grid="x")
    style.legend(axes, fontsize=8, loc="lower right")
    caption = (
        "Attempts decided per second, from the first intended arrival to the last verdict. Pale: a trial each; full: their median. An open load that is kept up "
        "with is decided at the rate at which it comes. " + " ".join(book.sample(case) for case in cases)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "throughput_comparison", "throughput_comparison", "Throughput", caption, "Decided per second for both backends in each scenario.", figure
    )  # fmt: skip


def in_flight(book: Book) -> Iterator[Drawing]:
    """Proof of what was at once, from the raw intervals."""
    cases = book.cases()
    if not cases:
        return
    case = max(cases, key=lambda case: book.about(case)["in_flight_peak"])
    figure = style.canvas(3.4, f"How many were waiting at once? ({case.name})")
    axes = figure.subplots()
    for label, left in book.typical(case).items():
        moments, count = measures.in_flight(left.frame("requests"))
        axes.step(
            moments,
            count,
            where="post",
            color=COLOURS[label],
            linestyle=DASHES[label],
            linewidth=1.4,
            label=f"{label}: {book.name_of(label)}, {max(count, default=0):,.0f} at most",
            rasterized=len(moments) > 5000,
        )
    style.tidy(axes)
    axes.yaxis.set_major_formatter(style.plain_number)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds since the release")
    axes.set_ylabel("sent and not decided")
    style.legend(axes, fontsize=8, loc="upper right")
    caption = (
        f"{case.name}, {book.about(case)['load_model']}: attempts sent and not yet decided, counted from the raw intervals of one trial each; the number is the "
        "most at one moment. Configured shoppers are not concurrency; this is."
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "in_flight",
        "in_flight",
        "In flight",
        caption,
        f"Attempts in flight over time for both backends in {case.name}.",
        figure,
    )


def generator_lag(book: Book) -> Iterator[Drawing]:
    """The licence to believe the rest."""
    rows = [row for row in book.document["gates_of_run"] if row["median"] is not None]
    if not rows:
        return
    figure = style.canvas(1.0 + 0.22 * len(rows), "Was the instrument within its limits?")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        median, worst = (max(row[key], PARTS_LEAST) for key in ("median", "worst"))
        colour, mark = (COLOURS["B"], "s") if row["failed"] else (COLOURS["A"], "o")
        axes.plot([median, worst], [place, place], color=colour, linewidth=1.5)
        axes.plot([median], [place], mark, color=colour, markersize=5, markerfacecolor="white")
        axes.plot([worst], [place], mark, color=colour, markersize=5)
        if row["failed"]:
            axes.annotate(
                f" {row['failed']} of {row['trials']} void", (1.0, place), xycoords=("axes fraction", "data"), fontsize=7, color=colour, va="center",
                annotation_clip=False,
            )  # fmt: skip
    axes.axvline(1.0, color=INK, linewidth=0.9)
    axes.set_yticks(range(len(rows)), [row["gate"] for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(style.plain_number)
    style.tidy(axes, grid="x")
    axes.set_xlabel("measured, in parts of the trial's own limit")
    caption = (
        "Every gate over the whole run: the median trial (hollow) and the worst (full), in parts of the trial's own limit; what is at the left edge is none, or next to it. Connections, shares and rows must come "
        "up to 1, all others may not exceed it; a square is a gate that some trial failed, which made that trial void. Open loops: lag is from the intended arrival to the sending."
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "generator_lag", "generator_lag", "Validity gates", caption, "Each validity gate relative to its limit.", figure
    )


def outcomes(book: Book) -> Iterator[Drawing]:
    """How every trial's attempts ended."""
    cases = book.cases()
    if not cases:
        return
    figure = style.canvas(1.2 + 1.7 * len(cases), "How did attempts end?")
    panels = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        of = [one for one in book.results.measured if one.left.case == case]
        of.sort(key=lambda one: (one.trial.label, one.trial.block))
        bottom = np.zeros(len(of))
        for outcome in OUTCOMES:
            colour, hatch = OUTCOME_LOOKS[outcome]
            share = np.array([measures.outcomes(one.trial).get(outcome, 0.0) * 100 for one in of])
            name = outcome.lower().replace("_", " ")
            axes.bar(
                range(len(of)),
                share,
                bottom=bottom,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.3,
                width=0.85,
                label=name,
            )
            bottom += share
        axes.set_xticks(
            range(len(of)),
            [f"{one.trial.label}{one.trial.block}{'*' if one.trial.is_void else ''}" for one in of],
            fontsize=6,
            rotation=90,
        )
        style.tidy(axes)
        axes.set_ylabel("%")
        axes.set_title(case.name, loc="left", fontsize=9)
    style.legend(panels[0], fontsize=7, ncols=6, loc="lower center", bbox_to_anchor=(0.6, 1.0))
    caption = (
        "Every trial by label and block, void ones with *: how its attempts ended, in per cent of all that were intended. "
        "Open loops: who comes next waits for nobody. " + " ".join(book.sample(case) for case in cases)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing("outcomes", "outcomes", "Outcomes", caption, "Stacked shares of outcomes per trial.", figure)


def run_order(book: Book) -> Iterator[Drawing]:
    """Did the machine drift?"""
    cases = book.cases()
    if not cases:
        return
    figure = style.canvas(1.0 + 1.6 * len(cases), "Did the machine change while it was measured?")
    panels = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        of = [one for one in book.results.measured if one.left.case == case]
        for place, one in enumerate(of, 1):
            value = one.values["response_p50"]
            if value is not None:
                label = one.trial.label[0]
                face = "white" if one.trial.is_void or len(one.trial.label) > 1 else COLOURS[label]
                axes.plot(
                    [place],
                    [value.number],
                    "x" if one.trial.is_void else MARKS[label],
                    color=COLOURS[label],
                    markerfacecolor=face,
                    markersize=5,
                )
        style.log_ticks(axes, "y")
        style.tidy(axes)
        axes.set_ylabel("p50, ms")
        axes.set_title(case.name, loc="left", fontsize=9)
    panels[-1].set_xlabel("trial, in the order in which they ran")
    caption = (
        "Median response until decided of every trial in the order of running: circles A, squares B, hollow the same backend under its second label, crosses void. "
        "Open loops. A slope is the machine's, and is everybody's within a block. "
        + " ".join(book.sample(case) for case in cases)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "run_order", "run_order", "Run order", caption, "Median response of every trial in order of running.", figure
    )
