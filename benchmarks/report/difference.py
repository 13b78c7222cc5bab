"""Two runs: what changed by more than noise, and what else was different. They share no block, so trials are compared unpaired."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import statistics
from benchmarks.report.measures import METRICS, Metric
from benchmarks.report.reading import UnreadableError, read
from benchmarks.report.results import SCHEMA, assemble

CHANGED, SAME, UNDECIDED = "changed", "the same", "undecided"
TRIALS_MIN = 4  # three against three cannot come below p = 0.1
CIRCUMSTANCES = ("commit", "command", "size", "seed", "machine", "versions")


def document_of(path: Path) -> Mapping[str, Any]:
    """Of a results.json, or of a run's folder, which is then computed. Raises UnreadableError."""
    if path.is_dir():
        return assemble(read(path), {}).document
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{path} is neither a run's folder nor a results.json: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or "trials" not in document:
        raise UnreadableError(f"{path} is not a results.json of schema {SCHEMA}")
    return document


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Per scenario, backend and metric that both have; Holm counts them all."""
    keys = [key for key in _groups(before) if key in _groups(after)]
    found = []
    for case, label in keys:
        for metric in METRICS:
            old, new = (_numbers(document, case, label, metric) for document in (before, after))
            change = statistics.hodges_lehmann(old, new, metric.scale)
            if change is not None:
                found.append((case, label, metric, len(old), len(new), *change))
    corrected = statistics.holm([row[-1] for row in found if min(row[3], row[4]) >= TRIALS_MIN])
    left = iter(corrected)
    rows = []
    for case, label, metric, count_old, count_new, shift, p in found:
        p_holm = next(left) if min(count_old, count_new) >= TRIALS_MIN else None
        threshold = max(metric.scale.noticeable, *(_floor(document, case, metric) for document in (before, after)))
        if p_holm is None:
            verdict = UNDECIDED
        elif p_holm < statistics.SIGNIFICANCE and abs(shift) > threshold:
            verdict = CHANGED
        else:
            verdict = SAME if abs(shift) <= threshold else UNDECIDED
        rows.append(
            {
                "case": case,
                "label": label,
                "backend": after["labels"].get(label, label),
                "metric": metric.key,
                "title": metric.title,
                "is_ratio": metric.scale.is_ratio,
                "change": metric.scale.shown(shift),
                "threshold": metric.scale.shown(threshold),
                "p": p,
                "p_holm": p_holm,
                "trials": [count_old, count_new],
                "verdict": verdict,
                "is_better": verdict == CHANGED and (shift > 0) == metric.more_is_better,
            }
        )
    return {
        "before": before["run"]["name"],
        "after": after["run"]["name"],
        "rows": rows,
        "circumstances": [
            {"what": what, "before": before["run"].get(what), "after": after["run"].get(what)}
            for what in CIRCUMSTANCES
            if before["run"].get(what) != after["run"].get(what)
        ],
        "books": {"before": dict(before["wrong"]), "after": dict(after["wrong"])},
    }


def _groups(document: Mapping[str, Any]) -> dict[tuple[str, str], None]:
    return dict.fromkeys((trial["case"], trial["label"]) for trial in document["trials"])


def _numbers(document: Mapping[str, Any], case: str, label: str, metric: Metric) -> list[float]:
    return [
        value["number"]
        for trial in document["trials"]
        if (trial["case"], trial["label"]) == (case, label)
        and not trial["is_void"]
        and (value := trial["values"].get(metric.key)) is not None
    ]


def _floor(document: Mapping[str, Any], case: str, metric: Metric) -> float:
    """What the same backend differed by from itself in that run, on the scale's own axis."""
    floor = next(
        (row["floor"] for row in document["verdicts"] if (row["case"], row["metric"]) == (case, metric.key)), None
    )
    if floor is None:
        return 0.0
    return abs(metric.scale.difference(1.0, floor)) if metric.scale.is_ratio else float(floor)
