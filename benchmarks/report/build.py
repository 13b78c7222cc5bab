"""From a run's folder to everything under reports/, and what the assignment calls by names of its own."""

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import raw, repository, setting, tables, words
from benchmarks.report.figures.every import KINDS, draw_all
from benchmarks.report.figures.style import Book
from benchmarks.report.measures import METRICS
from benchmarks.report.narrative import Block, Given, compose
from benchmarks.report.reading import read
from benchmarks.report.results import assemble

# The assignment's names, and the figure that each is.
ASKED_FOR = {
    "latency-comparison.png": "latency_comparison",
    "throughput-comparison.png": "throughput_comparison",
    "resource-usage.png": "resource_usage",
}


@dataclass(frozen=True)
class Places:
    """Where things go."""

    reports: Path
    benchmarks: Path
    tests: Path

    @property
    def narrative(self) -> Path:
        return self.reports / "narrative.md"


def places_in(root: Path) -> Places:
    """Of the repository, or of a folder like it."""
    return Places(root / "reports", root / "benchmarks", root / "tests" / "results")


def build(
    folder: Path, places: Places, say: Callable[[str], None] = lambda _: None, lab_file: Path | None = None
) -> Mapping[str, Any]:
    """
    Everything, from one run; returns results.json's document. Raises UnreadableError or NarrativeError before anything is written: a
    narrative that cannot be filled is found out before a quarter of an hour of drawing.
    """
    run = read(folder, lab_file)
    text = places.narrative.read_text(encoding="utf-8")
    say(f"{len(run.trials)} trials of {run.name}")
    results = assemble(run, repository.code(), say)
    document = results.document
    _compose(text, document)
    places.reports.mkdir(parents=True, exist_ok=True)
    figures = places.reports / "figures"
    document["figures"] = draw_all(Book(run, results), figures, say)
    (places.reports / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    blocks = _compose(text, document)
    setting.set_pdf(blocks, document, figures, places.reports / "ANALYSIS_REPORT.pdf")
    setting.set_html(blocks, document, figures, places.reports / "report.html")
    say("set: ANALYSIS_REPORT.pdf, report.html")
    archives = places.reports / "results"
    archives.mkdir(exist_ok=True)
    for old in archives.glob("*.tar"):
        old.unlink()
    left_out = raw.pack(run, archives / f"{run.name}.tar")
    say(
        f"packed: results/{run.name}.tar"
        + (f", without {len(left_out)} files for which there is no room" if left_out else "")
    )
    _asked_for(document, figures, places)
    summaries(document, places.tests)
    return document


def _compose(text: str, document: Mapping[str, Any]) -> list[Block]:
    return compose(
        text,
        Given(
            words.words(document),
            words.lists(document),
            tables.all_tables(document),
            document.get("figures", []),
            KINDS,
        ),
    )


def _asked_for(document: Mapping[str, Any], figures: Path, places: Places) -> None:
    busiest = max(document["cases"], key=lambda case: case["in_flight_peak"])
    for name, kind in ASKED_FOR.items():
        drawn = [figure["name"] for figure in document["figures"] if figure["kind"] == kind]
        drawn.sort(key=lambda figure: not figure.endswith(f"-{busiest['slug']}"))
        if drawn:
            shutil.copy(figures / f"{drawn[0]}.png", places.benchmarks / name)


def summaries(document: Mapping[str, Any], folder: Path) -> None:
    """Per compared scenario a CSV of what both came to and who is better, and one JSON of all. What was there before goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.csv"), *folder.glob("*.json")]:
        old.unlink()
    slugs = {case["name"]: case["slug"] for case in document["cases"]}
    units = {metric.key: metric.factor for metric in METRICS}
    header = [
        "metric",
        "unit",
        "A",
        "A_low",
        "A_high",
        "B",
        "B_low",
        "B_high",
        "B_to_A",
        "low",
        "high",
        "p_holm",
        "winner",
        "reason",
    ]
    for case in document["compared"]:
        with (folder / f"{slugs[case]}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for row in document["verdicts"]:
                if row["case"] != case:
                    continue
                sides: list[Any] = []
                for label in ("A", "B"):
                    level = tables.level_of(document, case, row["metric"], label)
                    factor = units.get(row["metric"], 1.0)
                    sides += [level[key] * factor for key in ("median", "low", "high")] if level else [None] * 3
                writer.writerow(
                    [
                        row["title"],
                        row["unit"],
                        *sides,
                        row["estimate"],
                        row["low"],
                        row["high"],
                        row["p_holm"],
                        row["winner"],
                        row["reason"],
                    ]
                )
    summary = {key: document[key] for key in ("run", "labels", "compared", "verdicts", "correctness", "wrong")}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
