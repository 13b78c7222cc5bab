"""Bars with every round on them, as PNG and SVG. Ours stands out by its colour and by its place: it is always the first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.backend.picture import BLUE, GREY, undated
from benchmarks.backend.report import middle

BAR_INCHES, PANEL_INCHES, WIDTH_INCHES = 0.3, 0.9, 8


class Panel(NamedTuple):
    """One figure of everybody's, by round; less is better."""

    label: str
    values: Mapping[str, Sequence[float]]


def draw(title: str, panels: Sequence[Panel], note: str, stem: Path) -> list[Path]:
    """Write ``stem``.png and .svg."""
    heights = [PANEL_INCHES + BAR_INCHES * len(panel.values) for panel in panels]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + PANEL_INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    for axes, panel in zip(
        figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0], panels, strict=True
    ):
        names = list(panel.values)
        middles = [middle(panel.values[name]) for name in names]
        axes.barh(names, middles, color=[BLUE if name.startswith("ours") else GREY for name in names], height=0.6)
        for place, name in enumerate(names):
            axes.plot(panel.values[name], [place] * len(panel.values[name]), "|", color="black", markersize=9)
            axes.annotate(f" {middles[place]:,.1f}", (max(panel.values[name]), place), va="center", fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel(panel.label, fontsize=9)
        axes.set_xlim(0, max(max(of) for of in panel.values.values()) * 1.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    figure.text(
        0.01, -0.005, f"Medians; a stroke is a round. {note}", fontsize=7.5, color="#444444", va="top", wrap=True
    )
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata=undated(path))
    return paths
