"""What a wait is made of, whom it leaves over, and how much of it a closed loop would have told."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes

from benchmarks.report import measures
from benchmarks.report.figures import style
from benchmarks.report.figures.style import COLOURS, INK, PAIR, Book, Drawing
from benchmarks.report.measures import PARTS, Waits
from benchmarks.report.reading import Case
from benchmarks.report.results import USERS
from benchmarks.report.statistics import TAIL_MIN

CLOCKS = (("decided_ns", "decided", 2.0, "-"), ("accepted_ns", "accepted", 1.2, (0, (1, 1.5))))
PART_LOOKS = (("#BBBBBB", ""), ("#56B4E9", ""), ("#E69F00", "///"))
# Who is near a percentile: of these ranks, so that what is shown is of several, and still of that wait.
NEAR = (("p50", 0.45, 0.55), ("p99", 0.985, 0.995))
POINTS = 200


def distribution(book: Book) -> Iterator[Drawing]:
    """Everybody, until accepted and until decided; and once more by who is left over, on an axis on which few can be seen."""
    cases = book.judged_cases()
    if not cases:
        return
    figure = style.canvas(1.3 + 1.9 * len(cases), "How many are still waiting, after how long?")
    panels = figure.subplots(len(cases), 2, squeeze=False, sharex="row")
    for (left, right), case in zip(panels, cases, strict=True):
        for label in PAIR:
            for end, clock, width, dash in CLOCKS:
                waits = style.together([measures.waits(frame, end) for frame in book.frames(case, label)])
                if not len(waits.times):
                    continue
                name = f"{label}: {book.name_of(label)}, {clock}"
                look = {"color": COLOURS[label], "linewidth": width, "linestyle": dash}
                xs = np.geomspace(max(waits.times[0], 1e-3), waits.times[-1], POINTS)
                left.plot(xs, np.searchsorted(waits.times, xs, "right") * 100 / waits.count, label=name, **look)
                _left_over(right, waits, **look)
        for axes in (left, right):
            style.log_ticks(axes, "x")
            style.tidy(axes, grid="both")
        left.set_ylim(0, 102)
        left.set_ylabel("answered, %")
        right.set_yscale("log")
        right.yaxis.set_major_formatter(style.plain_number)
        right.set_ylabel("still waiting, %")
        left.set_title(f"{case.name}: {book.about(case)['load_model']}", loc="left", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("since the intended arrival, ms")
    style.legend_on_top(figure, panels[0][0])
    caption = (
        "Share of all attempts that were answered within a time, and of those still waiting after it; from the intended arrival until accepted (dotted) and until decided (full), "
        "all valid trials as one. Where dotted and full lie on each other, what is accepted is decided. Attempts without a verdict are answered never. "
        f"On the right a line ends where fewer than {TAIL_MIN} attempts are left. "
        + " ".join(book.sample(case) for case in cases)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "distribution", "distribution", "Distribution of waits", caption,
        "For each scenario the share answered within a time, and the share still waiting, of both backends until accepted and until decided.", figure,
    )  # fmt: skip


def _left_over(axes: Axes, waits: Waits, **look: object) -> None:
    beyond = np.geomspace(waits.count, TAIL_MIN, POINTS)  # attempts
    ranks = np.minimum(waits.count - np.floor(beyond), waits.count - TAIL_MIN).astype(int)
    is_known = (ranks >= 1) & (ranks <= len(waits.times))
    at = ranks[is_known]
    axes.plot(waits.times[at - 1], (waits.count - at) * 100 / waits.count, **look)  # type: ignore[arg-type] # looks of a line, of several types


def parts(book: Book) -> Iterator[Drawing]:
    """What the middle wait and a long one are made of."""
    found = {
        case: {label: rows for label in PAIR if len(rows := _parts_of(book, case, label)) >= 2 * TAIL_MIN}
        for case in book.judged_cases()
    }
    found = {case: of for case, of in found.items() if of}
    if not found:
        return
    figure = style.canvas(1.5 + 0.95 * len(found), "What is a wait made of?")
    panels = figure.subplots(len(found), len(NEAR), squeeze=False)
    for row, (case, of) in zip(panels, found.items(), strict=True):
        for axes, (quantile, low, high) in zip(row, NEAR, strict=True):
            for place, rows in enumerate(of.values()):
                near = rows[int(low * len(rows)) : max(int(high * len(rows)), int(low * len(rows)) + 1)].mean(axis=0)
                start = 0.0
                for size, name, (colour, hatch) in zip(near, PARTS, PART_LOOKS, strict=True):
                    axes.barh(
                        place, size, left=start, color=colour, hatch=hatch, edgecolor="white", linewidth=0.3, height=0.7, label=name,
                    )  # fmt: skip
                    start += size
                axes.annotate(f" {style.plain_number(start)}", (start, place), fontsize=7, va="center", color=INK)
            axes.set_yticks(
                range(len(of)), [f"{label}: {book.name_of(label)}" if axes is row[0] else label for label in of]
            )
            axes.invert_yaxis()
            axes.set_xlim(0, axes.get_xlim()[1] * 1.12)
            axes.xaxis.set_major_formatter(style.plain_number)
            style.tidy(axes, grid="x")
            axes.set_title(f"{case.name}, near {quantile}", loc="left", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("ms")
    style.legend_on_top(figure, panels[0][0])
    caption = (
        "Attempts whose wait ranks within 5 % of the median, or within 0.5 % of p99, of all valid trials as one: on average how long until the generator had sent them, from there "
        "until accepted, and from there until decided. The first part is no backend's, and is in every response all the same. Scales differ. "
        + " ".join(book.sample(case) for case in found)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "latency_parts", "latency_parts", "Parts of a wait", caption,
        "Bars of three parts each for both backends near the median and near p99 in each scenario.", figure,
    )  # fmt: skip


def _parts_of(book: Book, case: Case, label: str) -> np.ndarray:
    rows = np.concatenate([*(measures.parts(frame) for frame in book.frames(case, label)), np.empty((0, len(PARTS)))])
    return rows[np.argsort(rows.sum(axis=1), kind="stable")]


def loops(book: Book) -> Iterator[Drawing]:
    """The same trials, told by an open loop and by closed ones."""
    rows = book.document["loops"]
    if not rows:
        return
    case = next(case for case in book.run.cases if case.name == rows[0]["case"])
    figure = style.canvas(3.9, f"What would a closed loop have told of the same trials? ({case.name})")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    looks = dict(zip((0, *USERS), (("-", 2.2), ((0, (5, 2)), 1.5), ((0, (1, 1.5)), 1.5)), strict=True))
    for axes, label in zip(panels, PAIR, strict=True):
        frames = book.frames(case, label)
        for users, (dash, width) in looks.items():
            told = style.together(
                [measures.closed_loop(frame, users) if users else measures.waits(frame) for frame in frames]
            )
            share = next((row["share"] for row in rows if (row["label"], row["users"]) == (label, users)), 0.0)
            name = f"closed, {users} users: {share * 100:.2g} % of them" if users else "open: all attempts"
            style.percentiles(axes, told, color=COLOURS[label], linestyle=dash, linewidth=width, label=name)
        style.percentile_ticks(axes)
        style.log_ticks(axes, "y")
        style.tidy(axes, grid="both")
        axes.set_title(f"{label}: {book.name_of(label)}", loc="left", fontsize=9, color=COLOURS[label])
        style.legend(axes, fontsize=7, loc="best")
    panels[0].set_ylabel("told wait until decided, ms")
    caption = (
        f"{case.name}, {book.about(case)['load_model']}: every percentile until decided as the open loop measured it, from the intended arrival, and as closed loops of {USERS[0]} and {USERS[1]} users "
        "would have told of these very trials: each user takes the next attempt that is due once it was answered, and counts from its sending. What comes meanwhile is never asked. "
        "A closed loop would have spared the backend as well, so this is the least that it leaves out. "
        f"{book.sample(case)}"
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "closed_loop", "closed_loop", "What a closed loop leaves out", caption,
        f"Waits at every percentile of {case.name} for both backends, by an open loop and by two closed ones.", figure,
    )  # fmt: skip
