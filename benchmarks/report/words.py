"""What a run decides, as words: the sentences and numbers that the narrative's holes are filled with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report.statistics import FLOOR_PAIRS_MIN, PAIRS_MIN
from benchmarks.report.tables import bounded_text, effect_text, level_text, number, undecidable, winner_text

Document = Mapping[str, Any]
NOT_MEASURED = "was not measured in this run"
HEADLINES = ("response_p50", "response_p95", "response_p99", "throughput", "cpu", "memory", "errors")


def words(document: Document) -> dict[str, str | None]:
    """By hole. None is a hole that this run leaves open."""
    run = document["run"]
    names = document["labels"]
    found: dict[str, str | None] = {
        "run": run["name"],
        "command": run["command"] or "not recorded",
        "commit": run["commit"] or "not recorded",
        "seed": str(run["seed"]),
        "size": run["size"],
        "begun": run["started_at"],
        "trials": f"{run['trials']:,}",
        "valid_trials": f"{run['trials'] - run['void']:,}",
        "void_trials": f"{run['void']:,}",
        "attempts": f"{run['attempts']:,}",
        "in_flight_peak": f"{run['in_flight_peak']:,}",
        "open_peak": f"{run['open_peak']:,}",
        "scenarios": _listed(document["compared"]) or None,
        "cpu": _of(run["machine"], "cpu"),
        "cores": _of(run["machine"], "cores"),
        "kernel": _of(run["machine"], "kernel"),
        "versions": _listed([f"{name} {version}" for name, version in run["versions"].items()]) or None,
        "A": names.get("A"),
        "B": names.get("B"),
        "answer": _answer(document),
        "books": _books(document),
        "void": _void(document),
        "ceiling": _ceiling(document),
        "noise": _noise(document),
        "capacity": _capacity(document),
        "lab": _lab(document),
        "surprise": _surprise(document),
        "undecided": _undecided(document),
        "sides": _sides(document),
        "variants": _variants(document),
        "loops": _loops(document),
        "delay": _delay(document),
    }
    for key in (
        "response_mean",
        "response_p50",
        "response_p95",
        "response_p99",
        "accepted_p50",
        "accepted_p99",
        "throughput",
        "sellout",
        "cpu",
        "memory",
        "errors",
    ):
        found[f"said.{key}"] = said(document, key)
    for label in ("A", "B"):
        code = document["code"].get(names.get(label), {})
        found[f"lines.{label}"] = f"{code['lines']:,}" if code else None
        found[f"wins.{label}"] = _wins(document, label)
        found[f"when.{label}"] = _when(document, label)
    return found


def lists(document: Document) -> dict[str, Sequence[str]]:
    """By name, an item each."""
    return {
        "answers": [f"**{row['case']}, {row['title']}**: {row_text(document, row)}." for row in _decidable(document)]
        or ["No scenario has pairs enough for a verdict; the estimates are in the table below."],
        "lab": _lab_list(document),
    }


def _decidable(document: Document) -> list[Mapping[str, Any]]:
    return [row for row in document["verdicts"] if row["metric"] in HEADLINES and row["pairs"] >= PAIRS_MIN]


def row_text(document: Document, row: Mapping[str, Any]) -> str:
    """One verdict, with its ratio."""
    winner = winner_text(document, row["winner"])
    if row["winner"] in {"A", "B"}:
        return f"{winner} is better; B to A {effect_text(row)}"
    if row["winner"] == "tie":
        return f"a tie; B to A {effect_text(row)}"
    return f"{winner}: {row['reason']}" + ("" if row["estimate"] is None else f"; B to A {effect_text(row)}")


def said(document: Document, key: str) -> str:
    """One metric over all scenarios that can decide, as a sentence without its subject."""
    rows = [row for row in document["verdicts"] if row["metric"] == key]
    if not rows:
        return f"It {NOT_MEASURED}."
    few = undecidable(document)
    rows = [row for row in rows if row["case"] not in few]
    if not rows:
        return f"No scenario has {PAIRS_MIN} pairs, which a verdict takes."
    parts = []
    for row in rows:
        sides = " and ".join(
            f"{document['labels'][label]} {level_text(document, row['case'], key, label, interval=False)} {row['unit']}"
            for label in ("A", "B")
        )
        parts.append(f"{row['case']}: {sides} ({_verdict(document, row)})")
    return "; ".join(parts) + "."


def _verdict(document: Document, row: Mapping[str, Any]) -> str:
    return f"{winner_text(document, row['winner'])} is better" if row["winner"] in {"A", "B"} else f"{row['winner']}"


def _answer(document: Document) -> str | None:
    if document["wrong"]:
        return f"Nobody wins: {_listed(list(document['wrong'].values()))}. What sells too much is disqualified, whatever its speed."
    if not document["compared"]:
        return None
    rows = _decidable(document)
    if not rows:
        return f"Nothing is decided: no scenario has {PAIRS_MIN} pairs of valid trials. What follows are estimates."
    counts = {winner: sum(row["winner"] == winner for row in rows) for winner in ("A", "B", "tie", "inconclusive")}
    return (
        f"Of {len(rows)} headline rows with {PAIRS_MIN} pairs or more {document['labels']['A']} is better in {counts['A']}, {document['labels']['B']} in {counts['B']}; "
        f"{counts['tie']} are ties and {counts['inconclusive']} are not decided."
    )


def _books(document: Document) -> str:
    rows = document["correctness"]
    if any(row["wrong_trials"] for row in rows):
        return "Not so: " + _listed([row["wrong"] for row in rows if row["wrong"]]) + "."
    trials = sum(row["trials"] for row in rows)
    compared = {document["labels"].get(label) for label in ("A", "B")}
    bounds = [row["at_most"] for row in rows if row["backend"] in compared]
    bound = max(
        (1.0 if one is None else one for one in bounds), default=1.0
    )  # of what nobody looked into all may be wrong
    return (
        f"In {trials:,} trials nothing was oversold, sold twice, lost or leaked. That says of each backend that, with 95 % confidence, at most "
        f"{bound * 100:.1f} % of such trials would be wrong, and no more than that; the proofs are the engine's tests."
    )


def _void(document: Document) -> str:
    run = document["run"]
    if not run["void"]:
        return "No trial was void."
    # each says its value behind a colon, which is the trial's own
    reasons = _listed(
        sorted({reason.partition(":")[0] for trial in document["trials"] for reason in trial["void_reasons"]})
    )
    return f"{run['void']} of {run['trials']} trials were void ({reasons}); they are shown, and count for nothing but the books."


def _ceiling(document: Document) -> str:
    ceiling = document["run"]["ceiling_per_s"]
    if ceiling is None:
        return "What the generator can do at all was not measured."
    fastest = max((row["median"] for row in document["levels"] if row["metric"] == "throughput"), default=0.0)
    return f"Against a server that does nothing the generator reaches {number(ceiling)} attempts a second; the fastest backend here decided {number(fastest / ceiling * 100, 2)} % of that."


def _noise(document: Document) -> str:
    rows = [row for row in document["verdicts"] if row["metric"] == "response_p99" and row["floor"] is not None]
    if not rows:
        return "The noise of one backend beside itself is not known, so nothing is decided."
    own = {case["name"] for case in document["cases"] if case["noise_pairs"] >= FLOOR_PAIRS_MIN}
    by_place = {
        row["case"]
        if row["case"] in own
        else "anywhere in the run, which is what the other scenarios are held against": row["floor"]
        for row in rows
    }
    return (
        "In p99 one backend differed from itself by up to "
        + _listed([f"{(floor - 1) * 100:.0f} % ({place})" for place, floor in by_place.items()])
        + "."
    )


def _capacity(document: Document) -> str:
    rows = [row for row in document["verdicts"] if row["metric"] == "capacity"]
    if not document["series"]:
        return f"Load that increases step by step {NOT_MEASURED}."
    parts = []
    for scenario in dict.fromkeys(row["scenario"] for row in document["series"]):
        for label in ("A", "B"):
            of = [row for row in document["series"] if (row["scenario"], row["label"]) == (scenario, label)]
            if not of:
                parts.append(f"{document['labels'][label]} has no valid trial in {scenario}")
                continue
            kept = [row["offered_per_s"] for row in of if row["kept_up"] * 2 > row["trials"]]
            highest = max(row["offered_per_s"] for row in of)
            if kept:
                more = (
                    ", the most that was offered"
                    if max(kept) == highest
                    else f", and not with the next step of {number(min(row['offered_per_s'] for row in of if row['offered_per_s'] > max(kept)))}"
                )
                parts.append(f"{document['labels'][label]} keeps up with {number(max(kept))} a second{more}")
            else:
                parts.append(f"{document['labels'][label]} keeps up with none of the steps")
    verdict = f" Compared: {row_text(document, rows[0])}." if rows else ""
    return _listed(parts) + "." + verdict


def _lab(document: Document) -> str:
    lab = document["lab"]
    if not lab:
        return "The strategy lab was not run beside this comparison; `./flash bench strategies` runs it."
    rows = lab["strategies"]
    broken = [row["title"] for row in rows if row["verdict"] == "oversells"]
    safe = [row["title"] for row in rows if row["verdict"] == "safe"]
    caught, to_catch = sum(row["caught"] for row in rows), sum(row["to_catch"] for row in rows)
    return (
        f"Of {len(rows)} patterns under the same attacks {len(broken)} oversell ({_listed(broken) or 'none'}), and {len(safe)} are safe ({_listed(safe) or 'none'}). "
        f"What is known to break was caught in {caught} of {to_catch} trials."
    )


def _lab_list(document: Document) -> list[str]:
    lab = document["lab"]
    if not lab:
        return ["The strategy lab was not run beside this comparison."]
    return [f"**{row['title']}** ({row['verdict']}): {row['summary']}" for row in lab["strategies"]]


def _surprise(document: Document) -> str | None:
    """What differs most, and where the clock that is read turns the answer round."""
    rows = [row for row in document["verdicts"] if row["is_ratio"] and row["winner"] in {"A", "B"}]
    if not rows:
        return "No difference in this run is large enough to be surprised by."
    largest = max(rows, key=lambda row: max(row["estimate"], 1 / row["estimate"]))
    won = {(row["case"], row["metric"]): row["winner"] for row in document["verdicts"]}
    turned = [
        case
        for case in document["compared"]
        if {won.get((case, "accepted_p50")), won.get((case, "response_p50"))} == {"A", "B"}
    ]
    sentence = f"The largest difference is {largest['title']} in {largest['case']}: {row_text(document, largest)}."
    if turned:
        sentence += f" Which clock is read turns the answer round in {_listed(turned)}: who is sooner to accept is later to decide."
    return sentence


def _undecided(document: Document) -> str:
    rows = [row for row in document["verdicts"] if row["winner"] == "inconclusive"]
    if not document["verdicts"]:
        return "There was nothing to decide."
    if not rows:
        return "Every row was decided."
    reasons = dict.fromkeys(row["reason"] for row in rows)
    return f"{len(rows)} of {len(document['verdicts'])} rows were not decided: {_listed(list(reasons), '; ')}."


def _sides(document: Document) -> str:
    rows = [row for row in document["sides"] if row["metric"] == "response_p50"]
    if not rows:
        return f"The two other cells of the two by two (asyncio with a queue, gevent with an answer in the request) {NOT_MEASURED}."
    names = document["labels"]
    parts = [
        f"{names[row['second']]} to {names[row['first']]} {row['estimate']:.2f} (the {row['side']} differs; {row['kept']})"
        for row in rows
    ]
    return f"Median response, {_listed(parts, '; ')}."


def _variants(document: Document) -> str:
    rows = [row for row in document["variants"] if row["metric"] == "response_p99" and row["low"] is not None]
    if not rows:
        compared = any(case["variant"].startswith("algorithm=") for case in document["cases"])
        return "each was looked at too seldom for an interval." if compared else f"a choice of it {NOT_MEASURED}."
    told = [
        f"{row['second']} to {row['first']} {effect_text({**row, 'is_ratio': True})} with {document['labels'][row['label']]}"
        for row in rows
        if row["low"] > 1 or row["high"] < 1
    ]
    return (
        f"p99, {_listed(told, '; ')}." if told else "in p99 no variant's interval leaves out equality with the first."
    )


def _loops(document: Document) -> str:
    """Of the loop with fewest users whose p95 is known: the fewer, the more it leaves out."""
    rows = document["loops"]
    if not rows:
        return f"What a closed loop would have told {NOT_MEASURED}."
    parts = []
    for label in dict.fromkeys(row["label"] for row in rows):
        whole, *closed = [row for row in rows if row["label"] == label]
        known = [row for row in closed if row["p95"]]
        if not whole["p95"] or not known:
            continue
        least = min(known, key=lambda row: row["users"])
        parts.append(
            f"with {document['labels'][label]} the p95 was {bounded_text(whole['p95'])} ms, and {least['users']} users in a closed loop would have told of "
            f"{bounded_text(least['p95'])} ms, having asked for {number(least['share'] * 100, 2)} % of what was asked"
        )
    if not parts:
        return f"What a closed loop would have told of {rows[0]['case']} are too few attempts for a percentile."
    return f"In {rows[0]['case']}, {_listed(parts, '; ')}."


def _delay(document: Document) -> str:
    rows = [
        row
        for row in document["roles"]
        if row["serves"] and row["case"] in document["compared"] and row["label"] in {"A", "B"}
    ]
    if not rows:
        return f"How long servers were ready without a core {NOT_MEASURED}."
    sums: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (row["case"], row["label"])
        sums[key] = sums.get(key, 0.0) + row["delay_ms"]
    (case, label), most = max(sums.items(), key=lambda item: item[1])
    return f"What serves was ready and had no core for up to {number(most, 2)} ms per decided attempt ({case}, {document['labels'][label]})."


def _wins(document: Document, label: str) -> str:
    rows = [f"{row['title']} in {row['case']}" for row in document["verdicts"] if row["winner"] == label]
    return _listed(rows) if rows else "nothing that exceeds noise and what matters"


def _when(document: Document, label: str) -> str:
    """In which scenarios it waits less."""
    cases = [row["case"] for row in document["verdicts"] if row["metric"] == "response_p99" and row["winner"] == label]
    name = document["labels"].get(label, label)
    return (
        f"{name} has the shorter p99 until decided in {_listed(cases)}."
        if cases
        else f"In no scenario of this run {name} has a shorter p99 until decided that exceeds noise."
    )


def _of(machine: Mapping[str, Any], key: str) -> str:
    return str(machine.get(key, "not recorded"))


def _listed(items: Iterable[str], separator: str = ", ") -> str:
    known = list(items)
    if len(known) < 2 or separator != ", ":
        return separator.join(known)
    return ", ".join(known[:-1]) + " and " + known[-1]
