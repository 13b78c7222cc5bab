"""From results to tables and sentences. Pure: it reads nothing but the package's result, and so may a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.strategies.oracle import KINDS
from benchmarks.strategies.strategy import ATTACKS

NOT_POSSIBLE = "-"
NOTHING = "holds"
STEPS_MAX = 40
RULE_OF_THREE = 3


def whole(strategies: Sequence[Mapping[str, Any]], pictures: Sequence[str]) -> dict[str, Any]:
    """What ``bench`` is told."""
    return {
        "tables": [_attacks(strategies), _rushes(strategies), _races(strategies)],
        "notes": list(_notes(strategies)),
        "passed": all(one["as_claimed"] for one in strategies),
        "pictures": list(pictures),
        "kinds": dict(KINDS),
        "attacks": {what.value: words for what, words in ATTACKS.items()},
        "strategies": list(strategies),
    }


def _attacks(strategies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = [
        [
            one["title"],
            one["verdict"],
            *(_cell(one["attacks"].get(what)) for what in ATTACKS),
            "yes" if one["as_claimed"] else "NO",
        ]
        for one in strategies
    ]
    header = ["STRATEGY", "VERDICT", *(what.upper() for what in ATTACKS), "AS CLAIMED"]
    return {
        "title": "Attacks that are arranged: what was found, and in how many trials",
        "header": header,
        "rows": rows,
    }


def _cell(of: Mapping[str, Any] | None) -> str:
    if of is None:
        return NOT_POSSIBLE
    if of["claims"]:
        return f"{' '.join(of['claims'])} {of['caught']} of {of['trials']}"
    if of["found"]:
        return " ".join(f"{kind} {count} of {of['trials']}" for kind, count in of["found"].items())
    return f"{NOTHING} {of['trials']} of {of['trials']}"


def _rushes(strategies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = [
        [
            one["title"],
            "one killed" if of["killed"] else "none",
            *(_share(of), str(max(of["oversold"]))),
            " ".join(f"{kind} {count}" for kind, count in of["found"].items() if kind != "oversold"),
            str(of["deadlocks"]),
            f"{of['retries'] / of['trials']:,.1f}",
            f"{of['per_second']:,.0f}",
            f"{of['p99_ms']:,.1f}",
        ]
        for one in strategies
        for of in one["storms"]
        if not of["spread_ms"]
    ]
    header = [
        *("STRATEGY", "KILLS", "OVERSOLD", "MOST UNITS", "ALSO, TRIALS"),
        *("DEADLOCKS", "RETRIES EACH", "PER SECOND", "P99 MS"),
    ]
    return {"title": "Rushes: everybody at once, left to chance", "header": header, "rows": rows}


def _races(strategies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by_delay = {one["title"]: {of["delay_ms"]: of for of in one["storms"] if of["spread_ms"]} for one in strategies}
    delays = sorted({delay for of in by_delay.values() for delay in of})
    rows = [[title, *(_share(of[delay]) for delay in delays)] for title, of in by_delay.items()]
    header = ["STRATEGY", *(f"{delay} MS" for delay in delays)]
    return {"title": "Races: how many oversold, by the delay between check and act", "header": header, "rows": rows}


def _share(of: Mapping[str, Any]) -> str:
    return f"{of['oversold_trials']} of {of['trials']} ({of['low']:.0%}-{of['high']:.0%})"


def _notes(strategies: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = [f"{what}: {words}" for what, words in ATTACKS.items()]
    notes += [f"{kind}: {words}" for kind, words in KINDS.items()]
    for one in strategies:
        for what, of in one["attacks"].items():
            if of["claims"]:
                void = f"; {of['void']} more did not come about" if of["void"] else ""
                notes.append(
                    f"{one['name']}, {what}: caught in {of['caught']} of {of['trials']}, so in at least {of['low']:.0%} (95%){void}"
                )
        if not one["oversold_trials"]:
            most = min(1.0, RULE_OF_THREE / one["trials"])
            notes.append(
                f"{one['name']}: oversold in 0 of {one['trials']} trials, so in less than {most:.1%} (95%, three over n)"
            )
        notes += [f"NOT AS CLAIMED: {one['name']}: {words}" for words in one["contradictions"]]
    trace = next((trace for one in strategies for trace in one["traces"] if trace["kind"] == "oversold"), None)
    if trace is not None:
        owner = next(one for one in strategies if trace in one["traces"])
        notes += [
            f"the trace of one oversell, {owner['title']}, of {trace['stock']} unit{'s' * (trace['stock'] > 1)}:",
            *lines(trace),
        ]
    return notes


def lines(trace: Mapping[str, Any]) -> list[str]:
    """A trace for people."""
    return [
        f"  {step['ms']:9.2f} ms  process {step['process']:>2}  {step['attempt']:<8} {step['step']}"
        for step in trace["steps"][:STEPS_MAX]
    ]
