"""What it took: cores, memory, and whose."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from benchmarks.report import measures
from benchmarks.report.figures import style
from benchmarks.report.figures.style import COLOURS, DASHES, GREY, INK, PAIR, Book, Drawing

# Who is drawn as one, in the order of the stack, with a hatch beside the colour.
GROUPS = {
    "balancer": (("lb",), "#0072B2", ""),
    "servers": (("backend",), "#D55E00", "///"),
    "checkout workers": (("worker",), "#CC79A7", "\\\\\\"),
    "upkeep, payments": (("upkeep", "payments"), "#F0E442", "--"),
    "PostgreSQL": (("postgres",), "#009E73", ""),
    "Redis": (("redis",), "#E69F00", "xxx"),
    "RabbitMQ": (("rabbitmq",), "#56B4E9", "+++"),
    "the instrument": (("gen", "monitor"), "#BBBBBB", ""),
}


def usage(book: Book) -> Iterator[Drawing]:
    """Of a typical pair of trials, on the time axis of the sale."""
    for case in book.cases():
        if not (typical := book.typical(case)):
            continue
        figure = style.canvas(7.0, f"What did it take? ({case.name})")
        panels = figure.subplots(3, 2, sharex=True, sharey="row", height_ratios=[3, 2, 1.2])
        for column, label in enumerate(PAIR):
            left = typical[label]
            resources = left.frame("resources")
            cores, memory, rss = (
                _grouped(table)
                for table in (
                    measures.cores_over_time(resources),
                    measures.memory_over_time(resources),
                    measures.memory_over_time(resources, "rss"),
                )
            )
            above, middle, below = panels[:, column]
            _stack(above, cores)
            until = float(cores.index.max()) if len(cores) else 1.0
            style.events(above, left, until, named=True)
            serving = [name for name in memory.columns if name != "the instrument"]
            middle.plot(
                memory.index,
                memory[serving].sum(axis=1),
                color=COLOURS[label],
                linewidth=1.6,
                label="PSS: shared pages counted once",
            )
            if set(serving) <= set(rss.columns):
                middle.plot(
                    rss.index,
                    rss[serving].sum(axis=1),
                    color=COLOURS[label],
                    linewidth=1.0,
                    linestyle=(0, (4, 2)),
                    label="RSS: shared pages counted each time",
                )
            delays = _grouped(measures.run_delay_over_time(resources))
            waiting = [name for name in delays.columns if name != "the instrument"]
            below.fill_between(delays.index, delays[waiting].sum(axis=1), color=COLOURS[label], alpha=0.6, step="mid")
            above.set_title(f"{label}: {book.name_of(label)}", loc="left", fontsize=9, color=COLOURS[label])
            below.set_xlabel("seconds since the release")
            for axes in (above, middle, below):
                style.tidy(axes)
            above.set_xlim(max(float(cores.index.min()), -2.0) if len(cores) else 0, until)
            style.legend(middle, fontsize=6.5, loc="lower right")
        for axes in panels[:, 0]:
            axes.set_ylim(bottom=0)  # of both at once, and only now, because it ends the scaling
        panels[0, 0].set_ylabel("cores in use")
        panels[1, 0].set_ylabel("MiB of what serves")
        panels[2, 0].set_ylabel("ready, without\na core")
        style.legend_on_top(figure, *panels[0])
        cores_there = book.document["run"]["machine"].get("cores", "?")
        caption = (
            f"{case.name}, {book.about(case)['load_model']}, one trial each, of {cores_there} cores: cores in use by role, memory of everything that serves, and its processes that were ready "
            "and had no core, per half second or per hundredth of the time. Nothing here is accepted or decided: it is what the machine did meanwhile. Kernel work is with the process that caused it."
        )
        style.small_print(figure, book.small_print(caption))
        yield Drawing(
            "resource_usage", f"resource_usage-{case.slug}", f"Resources: {case.name}", caption,
            f"Cores by role, memory and run-queue delay over time for both backends in {case.name}.", figure,
        )  # fmt: skip


def _grouped(table: pd.DataFrame) -> pd.DataFrame:
    found = {
        name: table[here].sum(axis=1)
        for name, (roles, _, _) in GROUPS.items()
        if (here := [role for role in roles if role in table.columns])
    }
    return pd.DataFrame(found, index=table.index)


def _stack(axes: Axes, cores: pd.DataFrame) -> None:
    bottom = np.zeros(len(cores))
    for name in cores.columns:
        _, colour, hatch = GROUPS[name]
        top = bottom + cores[name].fillna(0.0).to_numpy()
        axes.fill_between(
            cores.index,
            bottom,
            top,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.2,
            step="mid",
            label=name,
        )
        bottom = top


def cost(book: Book) -> Iterator[Drawing]:
    """The efficiency answer on a shared machine: CPU per decided attempt, by role."""
    cases = book.judged_cases()
    rows = [
        row for row in book.document["roles"] if row["case"] in {case.name for case in cases} and row["label"] in PAIR
    ]
    if not rows:
        return
    figure = style.canvas(1.6 + 0.75 * len(cases), "What does one decided attempt cost?")
    axes = figure.subplots()
    ticks = []
    for place, (case, label) in enumerate((case, label) for case in cases for label in PAIR):
        start = 0.0
        for name, (roles, colour, hatch) in GROUPS.items():
            cost_ms = sum(
                row["cpu_ms"]
                for row in rows
                if (row["case"], row["label"]) == (case.name, label) and row["role"] in roles and row["serves"]
            )
            if cost_ms:
                axes.barh(
                    place,
                    cost_ms,
                    left=start,
                    color=colour,
                    hatch=hatch,
                    edgecolor="white",
                    linewidth=0.3,
                    height=0.7,
                    label=name,
                )
                start += cost_ms
        axes.annotate(f"  {start:.2f}", (start, place), fontsize=8, va="center", color=INK)
        ticks.append(f"{case.name}, {label}")
    axes.set_yticks(range(len(ticks)), ticks)
    axes.invert_yaxis()
    style.legend_on_top(figure, axes)
    axes.set_xlabel("CPU milliseconds per decided attempt")
    axes.set_xlim(right=axes.get_xlim()[1] * 1.08)
    style.tidy(axes, grid="x")
    caption = (
        "CPU time of everything that serves, per attempt that was decided; medians over valid trials, role by role, so a bar's length may differ a little from the median of the whole. "
        + " ".join(book.sample(case) for case in cases)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "cost",
        "cost",
        "Cost of an attempt",
        caption,
        "CPU milliseconds per decided attempt by role, a bar per backend and scenario.",
        figure,
    )


def stock(book: Book) -> Iterator[Drawing]:
    """Units left, by who says so: the books, the gate, and what viewers were shown."""
    cases = book.cases()
    if not cases:
        return
    looks = {
        "postgres": ("books", "-", 1.8),
        "gate": ("gate", (0, (4, 2)), 1.2),
        "viewer": ("viewers", (0, (1, 1.5)), 1.2),
    }
    figure = style.canvas(0.9 + 2.2 * len(cases), "How does the stock go, and does anybody see it below zero?")
    panels = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        for label, left in book.typical(case).items():
            frame = left.frame("stock")
            for source, (name, dash, width) in looks.items():
                rows = frame[frame["source"] == source]
                if rows.empty:
                    continue
                total = (
                    rows.assign(slot=(rows["t_ns"] / 1e8).round())
                    .pivot_table(index="slot", columns="sku", values="available", aggfunc="last")
                    .ffill()
                    .sum(axis=1)
                )
                axes.plot(
                    total.index / 10,
                    total,
                    color=COLOURS[label],
                    linestyle=dash,
                    linewidth=width,
                    drawstyle="steps-post",
                    label=f"{label}: {name}",
                )
            gone = measures.values(left.trial, left.frame("requests"), {}, 0.0)["sellout"]
            if gone is not None:
                axes.axvline(gone.number, color=COLOURS[label], linewidth=0.8, linestyle=DASHES[label])
                axes.annotate(
                    f"{label} sold out\nafter {gone.number:.2f} s", (gone.number, 0.55 if label == "A" else 0.8), xycoords=("data", "axes fraction"), xytext=(3, 0),
                    textcoords="offset points", fontsize=7, color=COLOURS[label],
                )  # fmt: skip
        low = min(-0.04 * book.about(case)["stock"], axes.get_ylim()[0])
        axes.axhspan(low, 0, color="#D55E00", alpha=0.15)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.set_ylim(bottom=low)
        axes.yaxis.set_major_formatter(style.plain_number)
        style.tidy(axes)
        axes.set_ylabel("units left")
        axes.set_title(case.name, loc="left", fontsize=9)
    style.legend(panels[0], fontsize=7, ncols=6, loc="lower right", bbox_to_anchor=(1, 1), columnspacing=1)
    panels[-1].set_xlabel("seconds since the release")
    caption = (
        "Units left over all items: by PostgreSQL's books, by the gate's copy in Redis, and as viewers of the live stock were shown them; one trial each, and the moment at which the "
        "last buyer had the verdict (decided). The shaded part must stay empty. "
        + " ".join(f"{case.name}: {book.about(case)['load_model']}." for case in cases)
    )
    style.small_print(figure, book.small_print(caption))
    yield Drawing(
        "stock_depletion",
        "stock_depletion",
        "Stock",
        caption,
        "Units left over time by source for both backends.",
        figure,
    )
