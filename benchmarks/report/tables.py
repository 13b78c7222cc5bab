"""results.json as tables of texts, for PDF, HTML and the terminal alike. Rounded here and nowhere before."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report.measures import BY_KEY
from benchmarks.report.results import drawn
from benchmarks.report.statistics import INTERVALS, PAIRS_MIN

Table = dict[str, Any]
Document = Mapping[str, Any]
NOTHING = "-"
PAIR = ("A", "B")
# Of a level: whether it was a lower bound in some trial, and whether an upper one.
BOUNDS = {(False, False): "", (True, False): "≥ ", (False, True): "< ", (True, True): "≷ "}


def number(value: float | None, digits: int = 3) -> str:
    """As many digits as mean something: 1,490,000, 41.3, 0.0512."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    if abs(value) >= 100:
        scale = 10 ** max(0, math.floor(math.log10(abs(value))) + 1 - max(digits, 3))
        return f"{round(value / scale) * scale:,.0f}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def p_text(p: float | None) -> str:
    """As far as anybody looks."""
    return NOTHING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def part_text(part: float | None) -> str:
    """Of a limit, as closely as anybody looks."""
    return "< 0.001" if part is not None and 0 < part < 0.001 else number(part)


def level_of(document: Document, case: str, metric: str, label: str) -> Mapping[str, Any] | None:
    return next(
        (row for row in document["levels"] if (row["case"], row["metric"], row["label"]) == (case, metric, label)), None
    )


def level_text(document: Document, case: str, metric: str, label: str, *, interval: bool = True) -> str:
    """41.3 (40.1 to 42.8), with its sign where it is a bound."""
    level = level_of(document, case, metric, label)
    if level is None:
        return NOTHING
    factor = BY_KEY[metric].factor
    text = BOUNDS[level["is_bound"], level["is_below"]] + number(level["median"] * factor)
    return f"{text} ({number(level['low'] * factor)} to {number(level['high'] * factor)})" if interval else text


def bounded_text(value: Mapping[str, Any] | None) -> str:
    return NOTHING if value is None else ("≥ " if value["is_bound"] else "") + number(value["number"])


def effect_text(row: Mapping[str, Any]) -> str:
    if row["estimate"] is None:
        return NOTHING
    if not row["is_ratio"]:
        return f"{row['estimate'] * 100:+.2f} points"
    return f"{row['bound']}{' ' * bool(row['bound'])}{row['estimate']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def winner_text(document: Document, winner: str) -> str:
    return str(document["labels"].get(winner, winner)) if winner in {"A", "B"} else winner


def undecidable(document: Document) -> dict[str, int]:
    """Compared scenarios of which no row has pairs enough for a verdict, and how many blocks are valid on both sides."""
    can = {row["case"] for row in document["verdicts"] if row["pairs"] >= PAIRS_MIN}
    valid = {(trial["case"], trial["label"], trial["block"]) for trial in document["trials"] if not trial["is_void"]}
    return {
        name: sum((name, "B", block) in valid for case, label, block in valid if (case, label) == (name, "A"))
        for name in document["compared"]
        if name not in can
    }


def all_tables(document: Document) -> dict[str, Table]:
    """By the name a narrative asks with."""
    return {
        "answer": _answer(document),
        "verdicts": _verdicts(document),
        "estimates": _estimates(document),
        "correctness": _correctness(document),
        "gates": _gates(document),
        "quantiles": _quantiles(document),
        "capacity": _capacity(document),
        "roles": _roles(document),
        "scenarios": _scenarios(document),
        "environment": _environment(document),
        "sides": _sides(document),
        "variants": _variants(document),
        "loops": _loops(document),
        "lab": _lab(document),
        "code": _code(document),
        "void": _void(document),
    }


def _table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], note: str = "", numbers: Sequence[int] = ()
) -> Table:
    """`numbers` are columns set to the right."""
    return {
        "title": title,
        "header": list(header),
        "rows": [list(row) for row in rows],
        "note": note,
        "numbers": list(numbers),
    }


def _answer(document: Document) -> Table:
    """The seven that were asked for, per scenario: the winner alone."""
    keys = ("response_mean", "response_p95", "response_p99", "throughput", "cpu", "memory", "errors")
    won = {(row["case"], row["metric"]): row["winner"] for row in document["verdicts"]}
    rows = [[case, *(winner_text(document, won[case, key]) for key in keys)] for case in document["compared"]]
    header = ["scenario", "average", "p95", "p99", "throughput", "CPU", "memory", "errors"]
    return _table(
        "Who wins what",
        header,
        rows,
        "Latencies until decided, from the intended arrival. CPU and memory are of everything that serves.",
    )


def _verdicts(document: Document) -> Table:
    names = document["labels"]
    rows = []
    few = undecidable(document)
    for row in document["verdicts"]:
        if row["case"] in few:
            continue
        sides = [level_text(document, row["case"], row["metric"], label) for label in ("A", "B")]
        rows.append(
            [
                row["case"],
                f"{row['title']}, {row['unit']}",
                *sides,
                effect_text(row),
                NOTHING
                if row["floor"] is None
                else f"{row['floor']:.2f}"
                if row["is_ratio"]
                else f"{row['floor'] * 100:.2f}",
                p_text(row["p_holm"]),
                winner_text(document, row["winner"]),
                row["reason"],
            ]
        )
    header = [
        "scenario",
        "metric",
        f"A: {names.get('A', 'A')}",
        f"B: {names.get('B', 'B')}",
        "B to A",
        "noise",
        "p",
        "winner",
        "why",
    ]
    note = (
        f"Medians of trials with {INTERVALS}; B to A is the geometric mean of the blocks' ratios (mean difference, for shares) with its 95 % interval. Noise: the most that one backend differed by from itself, "
        "in this scenario, or in all of the run where it was beside itself in fewer than three valid pairs here; of a capacity, in p99. "
        "p after Holm's correction over all rows of this table. ≥: attempts without a verdict reach into it, or the last step was kept up with; <: not even the first was. "
        "B to A is then at least that (≥), at most (≤), or anything (≷)."
    )
    return _table("Verdicts", header, rows, note, (2, 3, 4, 5, 6))


def _estimates(document: Document) -> Table:
    """Of who has too few pairs for a verdict, which each of its rows would say again, the metrics that are looked at first."""
    keys = ("response_p50", "response_p99", "throughput")
    found = {(row["case"], row["metric"]): row for row in document["verdicts"]}
    rows = []
    for case, pairs in undecidable(document).items():
        cells = [case, str(pairs)]
        for key in keys:
            row = found.get((case, key))
            cells += [level_text(document, case, key, label, interval=False) for label in PAIR]
            cells.append(effect_text(row) if row else NOTHING)
        rows.append(cells)
    header = ["scenario", "pairs"]
    for key in ("p50", "p99", "throughput"):
        header += [f"{key} A", f"{key} B", "B to A"]
    return _table(
        "Too few pairs to decide",
        header,
        rows,
        f"Estimates, without a winner, of scenarios with fewer than {PAIRS_MIN} valid pairs; milliseconds until decided, and decided per second. ≥, ≤, ≷: attempts without a verdict reach into it. Their other metrics are in results.json.",
        range(1, 11),
    )


def _correctness(document: Document) -> Table:
    kinds = ("oversold", "undersold", "duplicate", "phantom", "lost_ack", "leaked", "unheard")
    rows = [
        [
            row["backend"],
            str(row["trials"]),
            *(f"{row[kind]:,}" for kind in kinds),
            str(row["wrong_trials"]),
            NOTHING if row["at_most"] is None else f"{row['at_most'] * 100:.1f} %",
        ]
        for row in document["correctness"]
    ]
    header = [
        "backend",
        "trials",
        "oversold",
        "undersold",
        "duplicate",
        "phantom",
        "lost",
        "leaked",
        "unheard",
        "wrong trials",
        "at most",
    ]
    note = (
        "Units or purchases over all trials, void ones included. Phantom: in the books, and the shopper was told something else. Unheard: in the books, and the shopper was told nothing "
        "before patience ended; the key still finds it, so it is no breach. At most: what share of such trials may be wrong, with 95 % confidence, given that none or these were."
    )
    return _table("The books", header, rows, note, range(1, 11))


def _gates(document: Document) -> Table:
    rows = []
    for row in document["gates_of_run"]:
        limits = dict.fromkeys(number(row[key]) for key in ("limit_least", "limit_most"))
        rows.append(
            [
                row["gate"],
                f"{' to '.join(limits)} {row['unit']}".strip(),
                *(part_text(row[key]) for key in ("median", "worst")),
                str(row["trials"]),
                str(row["failed"]),
            ]
        )
    return _table(
        "Validity gates",
        ["gate", "limit", "median trial", "worst trial", "trials", "void"],
        rows,
        "Over the whole run, in parts of the trial's own limit; where that is 0, the count itself. Worst: nearest to being void, or furthest into it; shares, rows and connections must come up to their limit, "
        "all others may not exceed it.",
        range(1, 6),
    )


def _quantiles(document: Document) -> Table:
    rows = []
    for row in document["quantiles"]:
        if "=" in row["case"] or not row["attempts"]:
            continue
        cells = [bounded_text(row[name]) for name in ("p50", "p95", "p99", "p99.9", "max")]
        rows.append(
            [row["case"], row["label"], row["outcome"].lower().replace("_", " "), f"{row['attempts']:,}", *cells]
        )
    note = "Milliseconds until decided; medians over trials of each trial's own. A percentile is told only where ten attempts of every trial lie beyond it."
    return _table(
        "Percentiles by outcome",
        ["scenario", "", "outcome", "attempts", "p50", "p95", "p99", "p99.9", "longest"],
        rows,
        note,
        range(3, 9),
    )


def _capacity(document: Document) -> Table:
    rows = [
        [
            row["scenario"],
            number(row["offered_per_s"]),
            f"{row['label']}: {document['labels'][row['label']]}",
            *(
                level_text(document, row["case"], key, row["label"], interval=False)
                for key in ("throughput", "response_p99", "errors", "cpu")
            ),
            f"{row['kept_up']} of {row['trials']}",
        ]
        for row in sorted(document["series"], key=lambda row: (row["scenario"], row["offered_per_s"], row["label"]))
    ]
    return _table(
        "Under increasing load", ["scenario", "offered, /s", "backend", "decided, /s", "p99, ms", "without verdict, %", "CPU, ms", "kept up"], rows,
        "Kept up: trials with a p99 of at most 1 s, so that 99 % of what is offered is decided within a second, and at most 0.1 % without a verdict.", (1, 3, 4, 5, 6, 7),
    )  # fmt: skip


def _roles(document: Document) -> Table:
    used = {
        (row["case"], row["label"], row["role"]): row
        for row in document["roles"]
        if row["cpu_ms"] > 0.0005 or row["delay_ms"] > 0.0005
    }
    columns = [
        (case, label)
        for case, label in itertools.product(drawn(document), PAIR)
        if any((case, label) == key[:2] for key in used)
    ]
    roles = {row["role"]: row["serves"] for key, row in used.items() if key[:2] in columns}
    rows = [
        [
            role + ("" if serves else " (instrument)"),
            *(
                f"{number(row['cpu_ms'])} ({number(row['delay_ms'])})"
                if (row := used.get((case, label, role)))
                else NOTHING
                for case, label in columns
            ),
        ]
        for role, serves in sorted(roles.items(), key=lambda item: not item[1])  # the instrument last
    ]
    return _table(
        "CPU by role",
        ["role", *(f"{case}, {label}" for case, label in columns)],
        rows,
        "Milliseconds of CPU per decided attempt, and in brackets of being ready without a core; medians over valid trials.",
        range(1, 1 + len(columns)),
    )


def _scenarios(document: Document) -> Table:
    rows = [
        [
            f"{case['scenario']}: {case['question']}" if case["question"] else case["scenario"],
            case["variant"] or NOTHING,
            case["load_model"],
            number(case["offered_per_s"]) if case["offered_per_s"] else "at once",
            f"{case['shoppers']:,}",
            f"{case['stock']:,} of {case['skus']}",
            f"{case['servers']}, {case['algorithm']}",
            f"{case['blocks']} + {case['noise_pairs']}",
            number(case["load_s"], 2),
        ]
        for case in document["cases"]
    ]
    header = [
        "scenario",
        "step",
        "load",
        "per second",
        "shoppers",
        "units of SKUs",
        "servers",
        "blocks",
        "seconds",
    ]
    return _table(
        "Scenarios",
        header,
        rows,
        "Blocks: of the backends, plus pairs of a backend with itself. Seconds: of load per trial, in the middle.",
        (3, 4, 5, 7, 8),
    )


def _environment(document: Document) -> Table:
    run = document["run"]
    rows = [
        ["run", run["name"]],
        ["command", run["command"]],
        ["commit", run["commit"]],
        ["seed", str(run["seed"])],
        ["from, to", f"{run['started_at']}, {run['ended_at'] or 'unfinished'}"],
    ]
    rows += [[f"machine: {key}", _flat(value)] for key, value in run["machine"].items()]
    rows += [[f"version: {key}", _flat(value)] for key, value in run["versions"].items()]
    return _table("Environment", ["what", "value"], rows)


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value))
    return str(value)


def _sides(document: Document) -> Table:
    names = document["labels"]
    rows = [
        [
            row["case"],
            row["side"],
            row["kept"],
            f"{names[row['second']]} to {names[row['first']]}",
            row["title"],
            effect_text({**row, "is_ratio": True}),
        ]
        for row in document["sides"]
    ]
    return _table(
        "Execution and pattern",
        ["scenario", "what differs", "what is kept", "ratio of", "metric", "ratio"],
        rows,
        "Estimates, without a winner.",
        (5,),
    )


def _variants(document: Document) -> Table:
    rows = [
        [
            row["scenario"],
            row["label"],
            f"{row['second']} to {row['first']}",
            row["title"],
            effect_text({**row, "is_ratio": True}),
        ]
        for row in document["variants"]
    ]
    return _table(
        "Variants",
        ["scenario", "", "ratio of", "metric", "ratio"],
        rows,
        "Estimates, without a winner; within a block.",
        (4,),
    )


def _loops(document: Document) -> Table:
    rows = [
        [
            row["case"],
            f"{row['label']}: {document['labels'][row['label']]}",
            f"closed, {row['users']} users" if row["users"] else "open, as it was",
            f"{number(row['share'] * 100)} %",
            *(bounded_text(row[name]) for name in ("p50", "p95", "p99")),
        ]
        for row in document["loops"]
    ]
    return _table(
        "What a closed loop would have told of the same trials",
        ["scenario", "backend", "loop", "attempts told of", "p50", "p95", "p99"],
        rows,
        "Milliseconds until decided: from the intended arrival in the open loop, from the sending in a closed one. Medians over valid trials of each trial's own. "
        "Users of a closed loop take the next attempt that is due once they were answered.",
        range(3, 7),
    )


def _lab(document: Document) -> Table:
    rows = [
        [
            row["title"],
            row["verdict"],
            f"{row['caught']} of {row['to_catch']}" if row["to_catch"] else "nothing to catch",
            f"{sum(storm['oversold_trials'] for storm in row['storms'])} of {sum(storm['trials'] for storm in row['storms'])}",
            "yes" if row["as_claimed"] else "no",
        ]
        for row in (document["lab"] or {"strategies": []})["strategies"]
    ]
    return _table(
        "The strategy lab",
        ["pattern", "verdict", "attacks caught", "crowds that oversold", "as claimed"],
        rows,
        numbers=(2, 3),
    )


def _code(document: Document) -> Table:
    rows = [
        [backend, f"{of['lines']:,}", ", ".join(of["folders"]), "; ".join(of["stores"])]
        for backend, of in document["code"].items()
    ]
    return _table(
        "What each backend alone needs",
        ["backend", "lines of code", "where", "stores"],
        rows,
        "Neither comments nor docstrings nor empty lines. What both use is not counted.",
        (1,),
    )


def _void(document: Document) -> Table:
    rows = [
        [trial["name"], trial["case"], trial["backend"], "; ".join(trial["void_reasons"])]
        for trial in document["trials"]
        if trial["is_void"]
    ]
    return _table("Void trials", ["trial", "scenario", "backend", "why"], rows)
