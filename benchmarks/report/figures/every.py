"""All figures, in the order of the report."""

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.report.figures import growth, latency, load, resources, style, verdict, waiting
from benchmarks.report.figures.style import Book, Drawing

FIGURES: tuple[Callable[[Book], Iterator[Drawing]], ...] = (
    verdict.forest,
    latency.over_time,
    latency.comparison,
    load.throughput,
    resources.usage,
    latency.histogram,
    latency.spectrum,
    waiting.distribution,
    waiting.parts,
    waiting.loops,
    growth.hockey_stick,
    growth.up_and_down,
    growth.scaling,
    resources.stock,
    load.in_flight,
    resources.cost,
    load.outcomes,
    verdict.fairness,
    verdict.oversell,
    load.generator_lag,
    load.run_order,
)
# What a narrative may ask for.
KINDS = frozenset(
    {
        "forest",
        "latency_over_time",
        "latency_comparison",
        "throughput_comparison",
        "resource_usage",
        "response_time_histogram",
        "percentile_spectrum",
        "distribution",
        "latency_parts",
        "closed_loop",
        "hockey_stick",
        "up_and_down",
        "scaling",
        "stock_depletion",
        "in_flight",
        "cost",
        "outcomes",
        "fairness",
        "oversell",
        "generator_lag",
        "run_order",
    }
)
assert len(KINDS) == len(FIGURES), "a kind per figure"


def draw_all(book: Book, folder: Path, say: Callable[[str], None] = lambda _: None) -> list[dict[str, str]]:
    """Write every figure there is something to show for; what is said of each, in order. What was in the folder before goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.png"), *folder.glob("*.svg")]:
        old.unlink()
    drawn = []
    for figure in FIGURES:
        for drawing in figure(book):
            style.save(drawing, folder)
            drawn.append(
                {
                    "kind": drawing.kind,
                    "name": drawing.name,
                    "title": drawing.title,
                    "caption": drawing.caption,
                    "alt": drawing.alt,
                }
            )
            say(f"drawn: {drawing.name}")
    return drawn
