"""
`python -m benchmarks.report build RUN ROOT [--lab FILE]` writes what a run came to under ROOT; `diff A B` compares two. Prints one JSON object.
Exit codes: 0 done, and nothing wrong or changed · 1 books were wrong, something changed, or the narrative cannot be filled · 3 no such run.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import tables
from benchmarks.report.build import build, places_in
from benchmarks.report.difference import CHANGED, compare, document_of
from benchmarks.report.narrative import NarrativeError
from benchmarks.report.reading import UnreadableError
from benchmarks.report.results import is_disqualified

OK, FAILED, MISSING = 0, 1, 3


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", allow_abbrev=False)
    words = parser.add_subparsers(required=True)
    one = words.add_parser("build", allow_abbrev=False)
    one.add_argument("run", type=Path)
    one.add_argument("root", type=Path)
    one.add_argument("--lab", type=Path)
    one.set_defaults(work=_build)
    two = words.add_parser("diff", allow_abbrev=False)
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    two.set_defaults(work=_diff)
    parsed = parser.parse_args(arguments)
    work: Callable[[argparse.Namespace], tuple[int, dict[str, Any]]] = parsed.work
    try:
        code, said = work(parsed)
    except UnreadableError as error:
        print(f"flash: {error}", file=sys.stderr)
        return MISSING
    except NarrativeError as error:
        print(f"flash: {error}", file=sys.stderr)
        return FAILED
    print(json.dumps(said))
    return code


def _build(parsed: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    places = places_in(parsed.root)
    document = build(parsed.run, places, lambda text: print(text, file=sys.stderr, flush=True), parsed.lab)
    answer = tables.all_tables(document)["answer"]
    said = {
        "run": document["run"]["name"],
        "table": {"header": answer["header"], "rows": answer["rows"]},
        "wrong": document["wrong"],
        "written": [
            str(path)
            for path in (
                places.reports / "ANALYSIS_REPORT.pdf",
                places.reports / "report.html",
                places.reports / "results.json",
            )
        ],
    }
    return (FAILED if is_disqualified(document) else OK), said


def _diff(parsed: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    found = compare(document_of(parsed.before), document_of(parsed.after))
    rows = [
        [
            row["case"],
            row["backend"] if row["label"] in {"A", "B", "C", "D"} else f"{row['backend']} ({row['label']})",
            row["title"],
            f"{row['change']:.2f} times" if row["is_ratio"] else f"{row['change'] * 100:+.2f} points",
            tables.p_text(row["p_holm"]),
            row["verdict"] + (", better" if row["is_better"] else ", worse" if row["verdict"] == CHANGED else ""),
        ]
        for row in found["rows"]
    ]
    rows.sort(key=lambda row: not row[-1].startswith(CHANGED))
    found["table"] = {"header": ["SCENARIO", "BACKEND", "METRIC", "AFTER TO BEFORE", "P", "VERDICT"], "rows": rows}
    has_changed = (
        any(row["verdict"] == CHANGED for row in found["rows"]) or found["books"]["before"] != found["books"]["after"]
    )
    return (FAILED if has_changed else OK), found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
