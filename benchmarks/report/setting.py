"""Blocks into pages: PDF by Typst, and one HTML file by Jinja. Both set the same blocks, and neither knows what they say."""

import base64
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import typst

from benchmarks.report.narrative import Block

TEMPLATES = Path(__file__).with_name("templates")
TITLE = "Two ways to sell out"
# The column that takes what room there is: the one with sentences in it.
WIDE = {"verdicts": 8, "environment": 1, "void": 3, "code": 2}
# On paper the first column of these stands once above the rows that it is the same for: what it says is as long as the page is wide, or its
# room is needed for sentences.
GROUPED = {"verdicts", "scenarios"}
# Of no more rows a table is kept on one page; a longer one would leave too much of the page before it empty.
WHOLE_ROWS_MAX = 30
# Of the page's width, so that two fit on a page where that can be read.
WIDTHS = {
    "latency_over_time": 0.88,
    "resource_usage": 0.76,
    "response_time_histogram": 0.9,
    "stock_depletion": 0.8,
    "outcomes": 0.8,
    "fairness": 0.75,
    "in_flight": 0.85,
    "run_order": 0.8,
    "latency_parts": 0.85,
    "closed_loop": 0.9,
    "hockey_stick": 0.9,
    "up_and_down": 0.9,
}


def set_pdf(blocks: Sequence[Block], document: Mapping[str, Any], figures: Path, path: Path) -> None:
    """The file's date is the run's, and fonts are Typst's own; the order of its objects is not always the same."""
    run = document["run"]
    winners = sorted({*document["labels"].values(), "disqualified"})
    laid = [laid_out(block, winners) for block in blocks]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shutil.copy(TEMPLATES / "report.typ", place)
        (place / "figures").mkdir()
        for block in blocks:
            if block["kind"] == "figure":
                shutil.copy(figures / f"{block['name']}.svg", place / "figures")
        (place / "document.json").write_text(
            json.dumps({"title": TITLE, "footer": footer(document), "blocks": laid}), encoding="utf-8"
        )
        typst.compile(
            str(place / "report.typ"),
            output=str(path),
            root=str(place),
            ignore_system_fonts=True,
            timestamp=int(_moment(run["ended_at"] or run["started_at"]).timestamp()),
        )


def set_html(blocks: Sequence[Block], document: Mapping[str, Any], figures: Path, path: Path) -> None:
    """Everything is in it, pictures as PNG: as SVG they are twice as large and look the same."""
    winners = sorted({*document["labels"].values(), "disqualified"})
    laid = [laid_out(block, winners) for block in blocks]
    for block in laid:
        if block["kind"] == "figure":
            block["png"] = base64.b64encode((figures / f"{block['name']}.png").read_bytes()).decode()
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).get_template("report.html.j2")
    path.write_text(template.render(title=TITLE, blocks=laid, footer=footer(document)), encoding="utf-8")


def footer(document: Mapping[str, Any]) -> str:
    """What every page says: which run this is of."""
    run = document["run"]
    return f"Run {run['name']} · commit {run['commit'][:10]} · seed {run['seed']} · {run['command']}"


def laid_out(block: Block, winners: Sequence[str]) -> Block:
    """With what is decided of its looks."""
    match block["kind"]:
        case "heading":
            anchor = re.sub(r"[^a-z0-9]+", "-", block["text"].lower()).strip("-")
            return {**block, "anchor": anchor, "breaks": anchor == "limits"}
        case "table":
            return {
                **block,
                "wide": WIDE.get(block["name"]),
                "grouped": block["name"] in GROUPED,
                "whole": len(block["rows"]) <= WHOLE_ROWS_MAX,
                "strong": list(winners),
            }
        case "figure":
            return {**block, "width": WIDTHS.get(block["figure_kind"], 1.0)}
        case _:
            return dict(block)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
