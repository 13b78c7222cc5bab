"""How long shoppers waited."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from benchmarks.comparison.contract import SOLD, SOLD_OUT
from benchmarks.report import measures
from benchmarks.report.figures import style
from benchmarks.report.figures.style import COLOURS, GREY, INK, MARKS, PAIR, Book, Drawing
from benchmarks.report.reading import Case
from benchmarks.report.statistics import INTERVALS, TAIL_MIN

NS = 1e9
BURST_S = 0.2  # arrivals within less have no order on a time axis
SYN_AGAIN_MS = (1000, 2000, 3000)  # when this kernel sends a SYN again that a full queue dropped


def over_time(book: Book) -> Iterator[Drawing]:
    """All attempts of a typical pair of trials, and their percentiles per tenth of a second."""
    for case in book.cases():
        if not (typical := book.typical(case)):
            continue
        frames = {label: left.frame("requests") for label, left in typical.items()}
        is_burst = all(np.ptp(frame["intended_ns"]) / NS < BURST_S for frame in frames.values())
        clock = "decided_ns" if is_burst else "intended_ns"
        figure = style.canvas(5.6, f"How long did shoppers wait, as the sale went on? ({case.name})")
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        everything = np.concatenate([measures.waits(frame).times for frame in frames.values()])
        edges = style.bins_of(everything, 60)
        until = max(float(frame[clock].max()) for frame in frames.values()) / NS
        for axes, label in zip(panels, PAIR, strict=True):
            everybody = frames[label]
            frame = everybody[~everybody["outcome"].isin(measures.WITHOUT_VERDICT)].dropna(subset=["decided_ns"])
            at = frame[clock].to_numpy() / NS
            took = (frame["decided_ns"] - frame["intended_ns"]).to_numpy() / 1e6
            axes.hist2d(
                at,
                took,
                bins=[np.linspace(0, max(until, 0.1), 120), edges],
                cmap="Greys",
                norm=LogNorm(0.5, None),
                rasterized=True,
            )
            _lines(axes, label, at, took, until)
            style.events(axes, typical[label], until, named=True)
            axes.set_ylim(edges[0], edges[-1])
            style.log_ticks(axes, "y")
            style.tidy(axes)
            axes.set_ylabel("response, ms")
            axes.set_title(f"{label}: {book.name_of(label)}", loc="left", fontsize=9, color=COLOURS[label])
        style.legend(panels[0], fontsize=7, ncols=3, loc="upper right")
        when = "decision" if is_burst else "intended arrival"
        panels[1].set_xlabel(f"seconds since the release, by {when}")
        block = typical["A"].trial.block
        caption = (
            f"{case.name}, {book.about(case)['load_model']}: response from the intended arrival until decided, by the moment of the {when}. "
            f"Grey: every attempt of one trial each that has a verdict, darker where there are more; lines: p50, p99 and the longest per tenth of a second; of a hundred attempts or fewer p99 is the longest or the next. "
            f"Block {block}, whose ratio of medians is the middle one."
        )
        style.small_print(figure, book.small_print(caption))
        yield Drawing(
            "latency_over_time", f"latency_over_time-{case.slug}", f"Latency over time: {case.name}", caption,
            f"Two panels of response times over the sale, A above B, for {case.name}.", figure,
        )  # fmt: skip


def _lines(axes: Axes, label: str, at: np.ndarray, took: np.ndarray, until: float) -> None:
    slots = np.floor(at / 0.1).astype(int)
    kinds = (("p50", 0.5, "-"), ("p99", 0.99, (0, (4, 1.5))), ("longest", 1.0, (0, (1, 1.5))))
    present = np.unique(slots)
    groups = [took[slots == slot] for slot in present]
    for name, q, dash in kinds:
        ys = [np.quantile(group, q, method="inverted_cdf") for group in groups]
        axes.plot(present * 0.1 + 0.05, ys, color=COLOURS[label], linestyle=dash, linewidth=1.3, label=name)
    axes.set_xlim(0, max(until, 0.1))


def comparison(book: Book) -> Iterator[Drawing]:
    """p50, p95, p99 of every case: a dot per trial, the median with its interval beside them."""
    cases = book.judged_cases()
    if not cases:
        return
    metrics = (("response_p50", "p50"), ("response_p95", "p95"), ("response_p99", "p99"))
    figure = style.canvas(1.2 + 2.1 * len(cases), "How long until a shopper has a verdict?")
    panels = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        for place, (key, _) in enumerate(metrics):
            for label, offset in zip(PAIR, (-0.17, 0.17), strict=True):
                known = [one.values[key] for one in book.of(case, label)]
                numbers = [value.number for value in known if value is not None]
                level = book.level(case.name, key, label)
                if level is None:
                    axes.annotate(
                        "too few\nattempts",
                        (place + offset, 0.5),
                        xycoords=("data", "axes fraction"),
                        fontsize=6,
                        ha="center",
                        color=GREY,
                    )
                    continue
                spread = np.linspace(-0.06, 0.06, len(numbers)) if len(numbers) > 1 else np.zeros(len(numbers))
                axes.plot(
                    place + offset + spread, numbers, MARKS[label], color=COLOURS[label], alpha=0.35, markersize=4
                )
                whiskers = [[max(0.0, level["median"] - level["low"])], [max(0.0, level["high"] - level["median"])]]
                axes.errorbar(
                    [place + offset + 0.1], [level["median"]], yerr=whiskers, color=COLOURS[label], marker=MARKS[label], markersize=7,
                    capsize=3, linestyle="", label=f"{label}: {book.name_of(label)}" if place == 0 else None,
                )  # fmt: skip
                text = f"{'≥ ' if level['is_bound'] else ''}{style.plain_number(level['median'])}"
                axes.annotate(text, (place + offset + 0.13, level["median"]), fontsize=7, color=INK, va="center")
        style.log_ticks(axes, "y")
        style.tidy(axes)
        axes.set_xticks(range(len(metrics)), [name for _, name in metrics])
        axes.set_xlim(-0.5, len(metrics) - 0.4)
        axes.set_ylabel("response, ms")
        axes.set_title(f"{case.name}: {book.about(case)['load_model']}", loc="left", fontsize=9)
    style.legend(panels[0], fontsize=8, loc="upper left")
    caption = (
        "Response from the intended arrival until decided. Pale: a trial each; full: their medians with "
        + INTERVALS
        + ". "
        "≥ where attempts without a verdict reach the percentile. " + " ".join(book.sample(case) for case in cases)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "latency_comparison", "latency_comparison", "Latency: p50, p95, p99", caption,
        "For each scenario the p50, p95 and p99 response of both backends with every trial as a dot.", figure,
    )  # fmt: skip


def histogram(book: Book) -> Iterator[Drawing]:
    """Of all valid trials, by how it ended."""
    for case in book.judged_cases():
        figure = style.canvas(4.6, f"How are response times spread? ({case.name})")
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        gathered = {label: _by_outcome(book.frames(case, label)) for label in PAIR}
        everything = [times for of in gathered.values() for times in of.values()]
        if not everything or not sum(map(len, everything)):
            continue
        edges = style.bins_of(np.concatenate(everything), 70)
        for axes, label in zip(panels, PAIR, strict=True):
            for outcome, hatch, alpha in ((SOLD, "", 0.75), (SOLD_OUT, "////", 0.25)):
                times = gathered[label].get(outcome, np.array([]))
                axes.hist(
                    times, bins=edges, color=COLOURS[label], alpha=alpha, hatch=hatch, edgecolor=COLOURS[label], linewidth=0.3,
                    label=f"{outcome.lower().replace('_', ' ')} ({len(times):,})",
                )  # fmt: skip
            whole = np.sort(np.concatenate([*gathered[label].values(), np.array([])]))
            for q in (0.5, 0.95, 0.99):
                if len(whole) * (1 - q) >= TAIL_MIN:
                    at = float(np.quantile(whole, q, method="inverted_cdf"))
                    axes.axvline(at, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
                    axes.annotate(
                        f"p{q * 100:.0f}",
                        (at, 0.96),
                        xycoords=("data", "axes fraction"),
                        fontsize=7,
                        ha="center",
                        backgroundcolor="white",
                    )
            for again in SYN_AGAIN_MS:
                if again < edges[-1]:
                    axes.axvline(again, color=GREY, linewidth=0.6, linestyle=":")
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(style.plain_number)
            style.log_ticks(axes, "x")
            style.tidy(axes)
            style.legend(axes, fontsize=7, loc="upper right")
            axes.set_ylabel("attempts")
            axes.set_title(f"{label}: {book.name_of(label)}", loc="left", fontsize=9, color=COLOURS[label])
        panels[0].set_ylim(bottom=0)
        panels[1].set_xlabel("response until decided, ms")
        caption = (
            f"All attempts with a verdict of all valid trials, from the intended arrival until decided, in equal bins of both. Dashed: percentiles of what is "
            f"shown. Dotted: 1, 2, 3 s, where a dropped SYN would be sent again. {book.sample(case)}"
        )
        style.small_print(figure, book.small_print(caption))
        yield Drawing(
            "response_time_histogram", f"response_time_histogram-{case.slug}", f"Response times: {case.name}", caption,
            f"Histograms of response times of both backends for {case.name}, sold and sold out apart.", figure,
        )  # fmt: skip


def _by_outcome(frames: list[measures.Attempts]) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {SOLD: [], SOLD_OUT: []}
    for requests in frames:
        for outcome, of in found.items():
            of.append(measures.waits(requests[requests["outcome"] == outcome]).times)
    return {outcome: np.concatenate([*of, np.array([])]) for outcome, of in found.items()}


def spectrum(book: Book) -> Iterator[Drawing]:
    """Every percentile, from the intended arrival and from the sending: what lies between is the generator's."""
    cases = book.judged_cases()
    if not cases:
        return
    figure = style.canvas(
        0.8 + 2.6 * ((len(cases) + 1) // 2),
        "Which percentile waits how long, and how much of it is the generator's?",
    )
    panels = figure.subplots((len(cases) + 1) // 2, 2 if len(cases) > 1 else 1, squeeze=False).ravel()
    for axes, case in zip(panels, cases, strict=False):
        _spectrum_of(axes, book, case)
    for axes in panels[len(cases) :]:
        axes.set_visible(False)
    style.legend(panels[0], fontsize=7, loc="lower right")
    caption = (
        "Thin: a trial each; thick: all of them. Full: response, from the intended arrival until decided. Dotted: service, from the moment of sending; what "
        "lies between the two is the generator's own lateness. A line ends where fewer than ten attempts lie beyond it, or where attempts without a verdict begin. "
        + " ".join(book.sample(case) for case in cases)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "percentile_spectrum", "percentile_spectrum", "Percentile spectrum", caption,
        "Response and service time at every percentile for both backends in each scenario.", figure,
    )  # fmt: skip


def _spectrum_of(axes: Axes, book: Book, case: Case) -> None:
    for label in PAIR:
        for begin, dash, width in (("intended_ns", "-", 2.0), ("sent_ns", (0, (1, 1.5)), 1.3)):
            each = [measures.waits(frame, begin=begin) for frame in book.frames(case, label)]
            if begin == "intended_ns":
                for waits in each:
                    style.percentiles(axes, waits, color=COLOURS[label], linewidth=0.5, alpha=0.4)
            name = f"{label}: {book.name_of(label)}, {'response' if begin == 'intended_ns' else 'service'}"
            style.percentiles(
                axes, style.together(each), color=COLOURS[label], linewidth=width, linestyle=dash, label=name
            )
    style.percentile_ticks(axes)
    style.log_ticks(axes, "y")
    style.tidy(axes, grid="both")
    axes.set_ylabel("ms")
    axes.set_title(case.name, loc="left", fontsize=9)
