"""The answers: ratios with their intervals, who oversells, and who gets the units."""

from collections.abc import Iterator

from matplotlib.patches import Rectangle

from benchmarks.report import measures
from benchmarks.report.figures import style
from benchmarks.report.figures.style import COLOURS, DASHES, GREY, INK, MARKS, PAIR, Book, Drawing
from benchmarks.report.statistics import PAIRS_MIN

SHOWN = ("response_p50", "response_p99", "throughput", "sellout", "cpu", "memory", "capacity")

VERDICT_LOOKS = {
    "A": ("#0072B2", "o"),
    "B": ("#D55E00", "s"),
    "tie": ("#009E73", "D"),
    "inconclusive": ("#888888", "o"),
    "disqualified": ("#000000", "X"),
}


def forest(book: Book) -> Iterator[Drawing]:
    """The ratios that were asked for: the summary."""
    rows = [
        row
        for row in book.document["verdicts"]
        if row["is_ratio"] and row["estimate"] is not None and row["metric"] in SHOWN
    ]
    # Where nothing can be decided there is nothing to see; a run that decides nothing shows its estimates all the same.
    rows = [row for row in rows if row["pairs"] >= PAIRS_MIN] or rows
    if not rows:
        return
    figure = style.canvas(1.4 + 0.2 * len(rows), "Who is better in what, and is it more than noise?")
    axes = figure.subplots()
    ticks, before = [], ""
    for place, row in enumerate(rows):
        colour, mark = VERDICT_LOOKS[row["winner"]]
        if row["floor"] is not None:
            axes.add_patch(
                Rectangle(
                    (1 / row["floor"], place - 0.4), row["floor"] - 1 / row["floor"], 0.8, color="#e6e6e6", zorder=0
                )
            )
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.6)
        axes.plot(
            [row["estimate"]],
            [place],
            mark,
            color=colour,
            markersize=6,
            markerfacecolor="white" if row["winner"] == "inconclusive" else colour,
        )
        sign = f"{row['bound']} " if row["bound"] else ""
        axes.annotate(
            f"{sign}{row['estimate']:.2f}  ({row['low']:.2f} to {row['high']:.2f})  {row['winner']}", (1.02, place), xycoords=("axes fraction", "data"),
            fontsize=7, va="center", color=INK, fontweight="bold" if row["winner"] in PAIR else "normal", annotation_clip=False,
        )  # fmt: skip
        ticks.append(f"{row['case'] if row['case'] != before else ''}   {row['title']}")
        if row["case"] != before and place:
            axes.axhline(place - 0.5, color=GREY, linewidth=0.5)
        before = row["case"]
    axes.axvspan(1 / 1.05, 1.05, color="#009E73", alpha=0.12, zorder=0)
    axes.axvline(1, color=INK, linewidth=0.9)
    # Beyond these a point lies at the edge; its text says where it is.
    reach = min(50.0, max(1.5, *(max(row["high"], 1 / max(row["low"], 1e-9)) for row in rows)) * 1.1)
    axes.set_xlim(1 / reach, reach)
    axes.set_xscale("log")
    steps = (1.2, 1.5, 2, 3) if reach < 4 else (2, 5, 10) if reach < 20 else (3, 10, 30)
    marks = sorted([1.0, *(step for step in steps if step < reach), *(1 / step for step in steps if step < reach)])
    axes.set_xticks(marks, [f"{mark:.2g}" for mark in marks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), ticks, fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    style.tidy(axes, grid="x")
    axes.set_xlabel(f"B: {book.name_of('B')}, in times of A: {book.name_of('A')} (logarithmic)")
    run = book.document["run"]
    caption = (
        f"Ratio B to A of each metric and scenario: geometric mean of the blocks' ratios with its 95 % interval, from {run['trials'] - run['void']} valid trials and "
        f"{run['attempts']:,} attempts. Green: within 5 % of equality. Grey: the most that one backend differs by from itself, there or, where that was seen too seldom, anywhere in the run. Open loops; responses are from the intended arrival until decided, where not called "
        "accepted. Less is better but for throughput and capacity; the winner is computed."
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "forest",
        "forest",
        "Ratios",
        caption,
        "Forest plot of the ratio B to A for each metric and scenario with intervals and verdicts.",
        figure,
    )


def fairness(book: Book) -> Iterator[Drawing]:
    """Who came earlier: does it help?"""
    found = {
        case: {
            label: curve
            for label, left in book.typical(case).items()
            if (curve := measures.fairness(left.frame("requests"))) is not None
        }
        for case in book.cases()
    }
    found = {
        case: curves
        for case, curves in found.items()
        if curves and book.about(case)["stock"] < book.about(case)["shoppers"]
    }
    if not found:
        return
    figure = style.canvas(0.9 + 1.9 * len(found), "Does who comes earlier get a unit?")
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, (case, curves) in zip(panels, found.items(), strict=True):
        for label, (places, shares) in curves.items():
            axes.plot(
                places,
                shares * 100,
                color=COLOURS[label],
                linestyle=DASHES[label],
                marker=MARKS[label],
                markersize=4,
                label=f"{label}: {book.name_of(label)}",
            )
        about = book.about(case)
        fair = 100 * about["stock"] / about["shoppers"]
        axes.axvline(fair, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.annotate(
            "stock, if first come were first served",
            (fair, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -8),
            textcoords="offset points",
            fontsize=7,
            color=GREY,
        )
        style.tidy(axes)
        axes.set_ylabel("got a unit, %")
        axes.set_title(case.name, loc="left", fontsize=9)
    style.legend(panels[0], fontsize=7, loc="center right")
    panels[-1].set_xlabel("place in the order of intended arrivals, % of all")
    caption = (
        "Twentieths of all attempts in the order of their intended arrival, and which share of each was sold a unit (decided); one trial each. "
        + " ".join(f"{case.name}: {book.about(case)['load_model']}." for case in found)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "fairness", "fairness", "Fairness", caption, "Share of attempts that got a unit by place of arrival.", figure
    )


def oversell(book: Book) -> Iterator[Drawing]:
    """The strategy lab: who oversells as the race is widened."""
    lab = book.document["lab"]
    if not lab:
        return
    # Races alone: a rush, in which everybody comes at once, has a delay of 0 as well, and is another question.
    races = {
        row["title"]: {storm["delay_ms"]: storm for storm in row["storms"] if storm["spread_ms"]}
        for row in lab["strategies"]
    }
    rows = [row for row in lab["strategies"] if races[row["title"]]]
    if not rows:
        return
    delays = sorted({delay for of in races.values() for delay in of})
    figure = style.canvas(1.4 + 0.32 * len(rows), "Which pattern prevents overselling?")
    axes = figure.subplots()
    shades, marks = ("#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b"), "osD^v"  # as many as the lab has delays
    for place, row in enumerate(rows):
        for step, delay in enumerate(delays):
            storm = races[row["title"]].get(delay)
            if storm is None:
                continue
            share = storm["oversold_trials"] / max(1, storm["trials"])
            y = place + (step - (len(delays) - 1) / 2) * 0.7 / max(1, len(delays))
            colour, mark = shades[step % len(shades)], marks[step % len(marks)]
            axes.plot([storm["low"] * 100, storm["high"] * 100], [y, y], color=colour, linewidth=1.2)
            axes.plot(
                [share * 100],
                [y],
                mark,
                color=colour,
                markersize=5,
                label=f"{delay} ms between check and act" if place == 0 else None,
            )
        text = row["verdict"] if row["as_claimed"] else f"{row['verdict']}, not as claimed"
        axes.annotate(
            text, (1.02, place), xycoords=("axes fraction", "data"), fontsize=7.5, va="center", annotation_clip=False
        )
    axes.set_yticks(range(len(rows)), [row["title"] for row in rows], fontsize=7.5)
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    axes.set_xlabel("trials that oversold, %")
    style.legend(axes, fontsize=7, loc="lower right")
    style.tidy(axes, grid="x")
    trials = sum(storm["trials"] for of in races.values() for storm in of.values())
    caption = (
        f"Share of trials in which more than the stock was recorded (decided), with Clopper-Pearson 95 % intervals, as the time between check and act grows; {trials:,} races for one unit in all, open: buyers come at drawn moments, the same for every pattern. "
        "A strategy that is known to oversell must be caught, or the detector proves nothing."
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "oversell",
        "oversell",
        "Overselling by pattern",
        caption,
        "Share of trials that oversold, per strategy and injected delay.",
        figure,
    )
