"""How often a race oversells by the delay between check and act, as PNG and SVG. Colours are Okabe and Ito's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.backend.picture import BLUE, GREEN, GREY, ORANGE, PURPLE, undated
from benchmarks.strategies.trials import bounds

SKY, YELLOW, BLACK = "#56B4E9", "#E69F00", "#000000"
STYLES = ((ORANGE, "o"), (BLUE, "s"), (PURPLE, "^"), (YELLOW, "D"), (SKY, "v"), (BLACK, "P"), (GREEN, "X"))
SPREAD = 0.012  # of the axis, between neighbours, so that bars do not lie on one another


def draw(strategies: Sequence[Mapping[str, Any]], stem: Path) -> list[Path]:
    """Write ``stem``.png and .svg: a line per strategy that ever oversold in a race, and one for all others together; nothing without races."""
    storms = {one["title"]: [of for of in one["storms"] if of["spread_ms"]] for one in strategies}
    storms = {title: of for title, of in storms.items() if of}
    if not storms:
        return []
    figure = Figure(figsize=(8, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    figure.suptitle("Who sells more than there is, by the delay between check and act", fontsize=13)
    naive = {one["title"]: storms[one["title"]] for one in strategies if one["title"] in storms and oversells(one)}
    held = [of for title, of in storms.items() if title not in naive]
    places = {one["delay_ms"]: place for place, one in enumerate(next(iter(storms.values())))}
    arranged = len(places)  # a place of its own behind them
    met = {one["title"]: _met(one["attacks"]["meet"]) for one in strategies}
    for number, (title, of) in enumerate(naive.items()):
        colour, mark = STYLES[number % len(STYLES)]
        shift = SPREAD * len(places) * (number - (len(naive) - 1) / 2) * 2
        xs = [places[one["delay_ms"]] + shift for one in of]
        _rates(above, of, xs, colour=colour, mark=mark, label=title)
        _rates(above, [met[title]], [arranged + shift], colour=colour, mark=mark)
        below.plot(xs, [sum(one["oversold"]) / one["trials"] for one in of], color=colour, marker=mark, markersize=6)
    if held:
        label = f"{len(held)} others, together"
        _rates(
            above,
            [together(one) for one in zip(*held, strict=True)],
            list(places.values()),
            colour=GREY,
            mark=".",
            label=label,
        )
        others = [one for title, one in met.items() if title not in naive]
        _rates(above, [together(others)], [arranged], colour=GREY, mark=".")
        below.plot(list(places.values()), [0] * len(places), color=GREY, marker=".")
    of = next(iter(storms.values()))
    above.set_ylim(-0.03, 1.03)
    above.set_ylabel("share of races that oversold")
    above.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    below.set_ylabel("units oversold per race")
    below.set_xlabel("delay between check and act, ms; last, all held there until everybody has checked")
    below.set_xticks([*places.values(), arranged], [*(f"{delay:g}" for delay in places), "arranged"])
    for axes in (above, below):
        axes.axvline(arranged - 0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.text(
        0.01,
        -0.005,
        f"{of[0]['trials']} races per point: {of[0]['stock']} unit, and {of[0]['buyers']} buyers in as many processes, who come within"
        f" {of[0]['spread_ms']} ms when chance will have it. Bars: Clopper and Pearson, 95%."
        "\nOurs have no hook there, and are delayed on the way from PostgreSQL, statement by statement.",
        fontsize=7.5,
        color="#444444",
        va="top",
    )
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata=undated(path))
    return paths


def oversells(one: Mapping[str, Any]) -> bool:
    """Did it, in a race or where it was arranged? Chance alone would leave out who was lucky."""
    raced = any(of["oversold_trials"] for of in one["storms"] if of["spread_ms"])
    return raced or bool(_met(one["attacks"]["meet"])["oversold_trials"])


def together(of: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The trials of several strategies, with the interval of all of them."""
    return _rate(sum(one["oversold_trials"] for one in of), sum(one["trials"] for one in of))


def _met(attack: Mapping[str, Any]) -> dict[str, Any]:
    return _rate(attack["found"].get("oversold", 0), attack["trials"])


def _rate(hits: int, trials: int) -> dict[str, Any]:
    low, high = bounds(hits, trials)
    return {"oversold_trials": hits, "trials": trials, "low": low, "high": high}


def _rates(
    axes: Axes,
    of: Sequence[Mapping[str, Any]],
    xs: Sequence[float],
    *,
    colour: str,
    mark: str,
    label: str | None = None,
) -> None:
    rates = [one["oversold_trials"] / one["trials"] for one in of]
    bars = [
        [rate - one["low"] for rate, one in zip(rates, of, strict=True)],
        [one["high"] - rate for rate, one in zip(rates, of, strict=True)],
    ]
    axes.errorbar(xs, rates, yerr=bars, color=colour, marker=mark, markersize=6, linewidth=1.2, capsize=3, label=label)
