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
# What a narrative may ask for, and what it takes to draw it: said in its place, where a run has none.
OF_PAIRS = "a scenario with valid trials of both backends"
KINDS = {
    "forest": "a scenario with two pairs of valid trials",
    "latency_over_time": "a block with trials of both backends",
    "latency_comparison": OF_PAIRS,
    "throughput_comparison": OF_PAIRS,
    "resource_usage": "a block with trials of both backends",
    "response_time_histogram": OF_PAIRS,
    "percentile_spectrum": OF_PAIRS,
    "distribution": OF_PAIRS,
    "latency_parts": OF_PAIRS,
    "closed_loop": "valid trials of a scenario whose shoppers do not all come at one moment",
    "hockey_stick": "valid trials of a series of rates, such as scale_shoppers",
    "up_and_down": "valid trials of a ramp, such as stress",
    "scaling": "valid trials of a series of servers or SKUs, such as scale_servers, which is part of `./flash bench full`",
    "stock_depletion": OF_PAIRS,
    "in_flight": OF_PAIRS,
    "cost": OF_PAIRS,
    "outcomes": OF_PAIRS,
    "fairness": "valid trials of a scenario with less stock than shoppers",
    "oversell": "what `./flash bench strategies` found",
    "generator_lag": "trials with gates",
    "run_order": OF_PAIRS,
}
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
