"""All figures, in the order of the report."""

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.report.figures import latency, load, resources, style, verdict
from benchmarks.report.figures.style import Book, Drawing

FIGURES: tuple[Callable[[Book], Iterator[Drawing]], ...] = (
    verdict.forest,
    latency.over_time,
    latency.comparison,
    load.throughput,
    resources.usage,
    latency.histogram,
    latency.spectrum,
    resources.stock,
    load.in_flight,
    resources.cost,
    load.outcomes,
    verdict.fairness,
    verdict.oversell,
    load.generator_lag,
    load.run_order,
)


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
