"""
results.json: everything that is printed anywhere, computed once. Figures are drawn beside it from the same tables; PDF, HTML and the
summaries of the tests are typeset from it and read nothing else.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmarks.comparison.contract import NOT_AUDITED, OUTCOMES, SOLD, SOLD_OUT, Audit, Gate, Trial
from benchmarks.report import measures, statistics
from benchmarks.report.measures import BY_KEY, CAPACITY, METRICS, QUANTILES, SERVING, Metric
from benchmarks.report.reading import Case, Left, RunLeft, UnreadableError
from benchmarks.report.statistics import Effect, Judged, Value

SCHEMA = 1
FIRST, SECOND = "A", "B"
SAME = (("A", "A2"), ("B", "B2"))  # one thing under two labels
# The four cells, and what differs along each side: the execution with the pattern kept, the pattern with the execution kept.
SIDES = (
    ("execution", "decides in the request", "A", "D"),
    ("execution", "decides from a queue", "C", "B"),
    ("pattern", "asyncio", "A", "C"),
    ("pattern", "gevent", "D", "B"),
)
OBJECTIVE_P99_MS, OBJECTIVE_LOST = 1000.0, 0.001
USERS = (100, 10)  # of the closed loops that are held against the open one
RATE_SETTING = "rate="  # a series of this setting is load that increases
CASES_MAX = 4  # of those that get figures of their own; the others are in the tables
CASES_FIRST = ("normal", "peak", "stress", "burst")  # of these, if they were run
WRONG = {
    "oversold": "sold {} too many",
    "duplicate": "sold {} twice for one key",
    "lost_ack": "lost {} that it had confirmed",
    "leaked": "lost {} that nobody has",
    "undersold": "left {} unsold that somebody was refused",
    "phantom": "sold {} to shoppers who were told otherwise",
}
UNHEARD = "unheard"  # told beside them, and no breach: who heard nothing was not told otherwise


@dataclass(frozen=True)
class Measured:
    """One trial, with what was made of its tables."""

    left: Left
    values: Mapping[str, Value | None]
    quantiles: Mapping[str, Mapping[str, Value | None]]  # by outcome, by quantile
    cpu_s: Mapping[str, float]
    delay_s: Mapping[str, float]
    unaccounted: float | None  # share of the cores' time that no role, idle or irq explains
    loops: Mapping[int, Mapping[str, Any]]  # by users of a closed loop, 0 for the open one that it was: what each tells

    @property
    def trial(self) -> Trial:
        return self.left.trial


@dataclass
class Results:
    """What is written as results.json, beside what figures need and readers do not."""

    document: dict[str, Any]
    measured: list[Measured] = field(default_factory=list)


def measure(left: Left) -> Measured:
    """Reads the trial's tables, once."""
    requests, resources = left.frame("requests"), left.frame("resources")
    used = measures.used(resources)
    quantiles = {}
    for name, rows in [("all", requests), *((one, requests[requests["outcome"] == one]) for one in (SOLD, SOLD_OUT))]:
        waits = measures.waits(rows)
        quantiles[name] = {f"p{q * 100:g}": statistics.quantile(waits.times, waits.never, q) for q in QUANTILES}
        quantiles[name]["max"] = Value(float(waits.times[-1]), is_bound=waits.never > 0) if len(waits.times) else None
    return Measured(
        left,
        measures.values(left.trial, requests, used.cpu_s, measures.peak_memory(resources)),
        quantiles,
        used.cpu_s,
        used.delay_s,
        measures.unaccounted(used.cpu_s, left.frame("system")),
        {0: _told(measures.waits(requests))} | {users: _told(measures.closed_loop(requests, users)) for users in USERS},
    )


def _told(waits: measures.Waits) -> dict[str, Any]:
    quantiles = {f"p{q * 100:g}": statistics.quantile(waits.times, waits.never, q) for q in (0.5, 0.95, 0.99)}
    return {"attempts": waits.count, **quantiles}


def assemble(run: RunLeft, code: Mapping[str, Any], say: Callable[[str], None] = lambda _: None) -> Results:
    """Everything. `code` is what the repository says of itself (repository.py)."""
    measured = []
    for place, left in enumerate(run.trials, 1):
        measured.append(measure(left))
        if place % 20 == 0:
            say(f"{place} of {len(run.trials)} trials read")
    labels = {left.trial.label: left.trial.backend for left in run.trials}
    both = [case for case in run.cases if {FIRST, SECOND} <= {left.trial.label for left in run.of(case)}]
    # Steps of a series have a row of their own, or none: each more would cost all rows of their strength.
    cases = [case for case in both if not case.variant]
    correctness = _correctness(measured)
    wrong = {
        row["backend"]: row["wrong"]
        for row in correctness
        if row["wrong"] and row["backend"] in {labels.get(FIRST), labels.get(SECOND)}
    }
    document = {
        "schema": SCHEMA,
        "run": _run(run, measured),
        "labels": labels,
        "compared": [case.name for case in cases],
        "cases": [_case(run, case) for case in run.cases],
        "trials": [_trial(one) for one in measured],
        "levels": list(_levels(measured, run)),
        "verdicts": _verdicts(
            measured, cases, [case for case in both if case.variant.startswith(RATE_SETTING)], wrong, run.run.seed
        ),
        "correctness": correctness,
        "wrong": wrong,
        "gates": list(_gates(run)),
        "gates_of_run": list(_gates_of_run(run)),
        "quantiles": list(_quantiles(measured, run)),
        "roles": list(_roles(measured, run)),
        "series": list(_series(measured, run)),
        "sides": list(_sides(measured, run)),
        "variants": list(_variants(measured, run)),
        "loops": list(_loops(measured, cases)),
        "lab": _read_lab(run),
        "code": dict(code),
    }
    return Results(document, measured)


def valid(measured: Iterable[Measured], case: Case | None = None, label: str | None = None) -> list[Measured]:
    """Void trials are shown, and count for nothing but the books."""
    return [
        one
        for one in measured
        if not one.trial.is_void
        and (case is None or one.left.case == case)
        and (label is None or one.trial.label == label)
    ]


def pairs(measured: Sequence[Measured], case: Case, metric: str, first: str, second: str) -> list[tuple[Value, Value]]:
    """Of one block each, both of them valid and with a value."""
    by_block: dict[int, dict[str, Value]] = {}
    for one in valid(measured, case):
        if (value := one.values.get(metric)) is not None:
            by_block.setdefault(one.trial.block, {})[one.trial.label] = value
    return [
        (found[first], found[second]) for _, found in sorted(by_block.items()) if first in found and second in found
    ]


def same_pairs(measured: Sequence[Measured], case: Case, metric: str) -> list[tuple[Value, Value]]:
    """One thing beside itself: in this case, or, where that was looked at too seldom, in all of them."""
    here = [pair for a, b in SAME for pair in pairs(measured, case, metric, a, b)]
    if len(here) >= statistics.FLOOR_PAIRS_MIN:
        return here
    cases = dict.fromkeys(one.left.case for one in measured)
    return [pair for each in cases for a, b in SAME for pair in pairs(measured, each, metric, a, b)]


def _run(run: RunLeft, measured: Sequence[Measured]) -> dict[str, Any]:
    manifest = asdict(run.run)
    return {
        "name": run.name,
        **{
            key: manifest[key]
            for key in ("size", "command", "commit", "seed", "started_at", "ended_at", "machine", "versions")
        },
        "planned": len(run.run.plan),
        "trials": len(measured),
        "void": sum(one.trial.is_void for one in measured),
        "attempts": sum(sum(one.trial.counts.values()) for one in measured),
        "ceiling_per_s": max((one.trial.null_ceiling_per_s or 0.0 for one in measured), default=0.0) or None,
        "unaccounted": float(np.median(known))
        if (known := [one.unaccounted for one in measured if one.unaccounted is not None])
        else None,
        "in_flight_peak": max((one.trial.in_flight_peak for one in measured), default=0),
        "open_peak": max((one.trial.open_peak for one in measured), default=0),
    }


def _case(run: RunLeft, case: Case) -> dict[str, Any]:
    of = run.of(case)
    first = of[0].trial
    return {
        "name": case.name,
        "slug": case.slug,
        "scenario": case.scenario,
        "variant": case.variant,
        "question": run.run.scenarios.get(case.scenario, {}).get("question", ""),
        "load_model": first.load_model,
        "offered_per_s": first.offered_per_s,
        "shoppers": first.shoppers,
        "stock": first.stock,
        "skus": first.skus,
        "servers": first.servers,
        "algorithm": first.algorithm,
        "viewers": first.viewers,
        "blocks": len({left.trial.block for left in of if left.trial.label in {FIRST, SECOND}}),
        "noise_pairs": len({left.trial.block for left in of if left.trial.label in {pair[1] for pair in SAME}}),
        "trials": len(of),
        "void": sum(left.trial.is_void for left in of),
        "attempts": sum(sum(left.trial.counts.values()) for left in of),
        "load_s": float(np.median([left.trial.load_s for left in of])),
        "in_flight_peak": max(left.trial.in_flight_peak for left in of),
        "open_peak": max(left.trial.open_peak for left in of),
    }


def _trial(one: Measured) -> dict[str, Any]:
    trial = one.trial
    return {
        "name": trial.name,
        "case": one.left.case.name,
        "block": trial.block,
        "position": trial.position,
        "label": trial.label,
        "backend": trial.backend,
        "seed": trial.seed,
        "started_at": trial.started_at,
        "is_void": trial.is_void,
        "void_reasons": list(trial.void_reasons),
        "audit": asdict(trial.audit),
        "counts": dict(trial.counts),
        "deferred": trial.deferred,
        "in_flight_peak": trial.in_flight_peak,
        "open_peak": trial.open_peak,
        "values": {key: None if value is None else asdict(value) for key, value in one.values.items()},
    }


def _levels(measured: Sequence[Measured], run: RunLeft) -> Iterable[dict[str, Any]]:
    for case, metric in itertools.product(run.cases, METRICS):
        for label in dict.fromkeys(left.trial.label for left in run.of(case)):
            known = [value for one in valid(measured, case, label) if (value := one.values[metric.key]) is not None]
            yield from _level(case.name, metric, label, known, run.run.seed)
    for scenario in dict.fromkeys(case.scenario for case in run.cases if case.variant.startswith(RATE_SETTING)):
        of = _capacities(measured, scenario)
        for label, side in ((FIRST, [a for a, _ in of]), (SECOND, [b for _, b in of])):
            yield from _level(scenario, CAPACITY, label, side, run.run.seed)


def _level(case: str, metric: Metric, label: str, known: Sequence[Value], seed: int) -> Iterable[dict[str, Any]]:
    level = statistics.middle([value.number for value in known], seed)
    if level is not None:
        yield {
            "case": case,
            "metric": metric.key,
            "label": label,
            "trials": len(known),
            **dict(zip(("median", "low", "high"), level, strict=True)),
            "is_bound": any(value.is_bound for value in known),
            "is_below": any(value.is_below for value in known),
        }


def _verdicts(
    measured: Sequence[Measured], cases: Sequence[Case], steps: Sequence[Case], wrong: Mapping[str, str], seed: int
) -> list[dict[str, Any]]:
    rows: list[tuple[str, Metric, Effect | str]] = []
    for case, metric in itertools.product(cases, METRICS):
        # void trials too: what was measured and may not be judged is told as that
        if any(one.left.case == case and one.values[metric.key] is not None for one in measured):
            of = pairs(measured, case, metric.key, FIRST, SECOND)
            found = statistics.compared(of, same_pairs(measured, case, metric.key), metric.scale, seed)
            rows.append((case.name, metric, found))
        elif metric.is_asked:
            rows.append((case.name, metric, metric.unknown))
    for scenario in dict.fromkeys(case.scenario for case in steps):
        of = _capacities(measured, scenario)
        rates = [float(case.variant.removeprefix(RATE_SETTING)) for case in steps if case.scenario == scenario]
        scale = statistics.ladder(rates)
        rows.append((scenario, CAPACITY, statistics.compared(of, _capacity_noise(measured), scale, seed)))
    judged = statistics.judge([(effect, metric.more_is_better) for _, metric, effect in rows], list(wrong.values()))
    return [_verdict(case, metric, effect, answer) for (case, metric, effect), answer in zip(rows, judged, strict=True)]


def _verdict(case: str, metric: Metric, effect: Effect | str, answer: Judged) -> dict[str, Any]:
    row = {
        "case": case,
        "metric": metric.key,
        "title": metric.title,
        "unit": metric.unit,
        "is_ratio": metric.scale.is_ratio,
        "winner": answer.winner.value,
        "reason": answer.reason,
        "p_holm": answer.p_holm,
    }
    return row | effect_row(None if isinstance(effect, str) else effect)


# What is said of B to A: whether in truth it may be more, and whether less.
BOUND = {(False, False): "", (True, False): "≥", (False, True): "≤", (True, True): "≷"}


def effect_row(effect: Effect | None) -> dict[str, Any]:
    """As people read it: ratios, not their logarithms."""
    if effect is None:
        return {"pairs": 0, "estimate": None, "low": None, "high": None, "floor": None, "threshold": None, "p": None, "p_exact": None, "superiority": None, "bound": ""}  # fmt: skip
    shown = effect.scale.shown
    return {
        "pairs": effect.pairs,
        "estimate": shown(effect.estimate),
        "low": shown(effect.low),
        "high": shown(effect.high),
        "floor": None if effect.floor is None else shown(effect.floor),
        "threshold": shown(effect.threshold),
        "p": effect.p,
        "p_exact": effect.p_exact,
        "superiority": effect.superiority,
        "bound": BOUND[effect.may_be_more, effect.may_be_less],
    }


def _capacities(measured: Sequence[Measured], scenario: str) -> list[tuple[Value, Value]]:
    """
    Of each block the highest step that either kept up with. All steps of both must be there and valid, or nothing is known of it: the
    void one may be what it keeps up with.
    """
    by_block: dict[int, dict[str, list[Measured]]] = {}
    for one in measured:
        if one.left.case.scenario == scenario and one.left.case.variant.startswith(RATE_SETTING):
            by_block.setdefault(one.trial.block, {}).setdefault(one.trial.label, []).append(one)
    steps = {one.left.case for of in by_block.values() for each in of.values() for one in each}
    found = []
    for _, of in sorted(by_block.items()):
        sides = [[one for one in of.get(label, []) if not one.trial.is_void] for label in (FIRST, SECOND)]
        if all(len(side) == len(steps) for side in sides):
            found.append((_capacity(sides[0]), _capacity(sides[1])))
    return found


def _capacity(steps: Sequence[Measured]) -> Value:
    # Who keeps up with the last step may bear more. Who keeps up with none bears less than the first, and is compared as if it bore that,
    # which is in its favour.
    rates = [one.trial.offered_per_s for one in steps]
    kept = [one.trial.offered_per_s for one in steps if keeps_up(one)]
    return Value(max(kept), is_bound=max(kept) == max(rates)) if kept else Value(min(rates), is_below=True)


def _capacity_noise(measured: Sequence[Measured]) -> list[tuple[Value, Value]]:
    """
    No series is run twice over, for that is dear; so it is what p99 differed by between one backend and itself, anywhere in the run. The
    objective is one of p99, which where load bends rises faster than load does: two capacities differ by less than the p99s beside them.
    """
    cases = dict.fromkeys(one.left.case for one in measured)
    return [pair for each in cases for a, b in SAME for pair in pairs(measured, each, "response_p99", a, b)]


def keeps_up(one: Measured) -> bool:
    """
    The objective: what a rate must keep to count as capacity. That p99 counts from the intended arrival, so 99 % of what was offered is
    decided within a second of being offered; how long the very last took is one straggler's, and not the rate's.
    """
    p99, lost = one.values["response_p99"], one.values["errors"]
    return (
        p99 is not None
        and not p99.is_bound
        and p99.number <= OBJECTIVE_P99_MS
        and lost is not None
        and lost.number <= OBJECTIVE_LOST
    )


def _correctness(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Of all trials, void ones too: a generator that was late oversells nothing."""
    rows = []
    for backend in dict.fromkeys(one.trial.backend for one in measured):
        # what nobody audited is not wrong for that: it is void, and told there
        of = [one.trial for one in measured if one.trial.backend == backend and one.trial.audit != NOT_AUDITED]
        sums = {kind: sum(getattr(trial.audit, kind) for trial in of) for kind in (*WRONG, UNHEARD)}
        broken = [trial for trial in of if not _is_right(trial.audit)]
        rows.append(
            {
                "backend": backend,
                "trials": len(of),
                "wrong_trials": len(broken),
                **sums,
                "at_most": statistics.at_most(len(broken), len(of)),
                "wrong": _words_of_wrong(backend, broken) if broken else "",
            }
        )
    return rows


def _is_right(audit: Audit) -> bool:
    return audit.clean and not any(getattr(audit, kind) for kind in WRONG)


def _words_of_wrong(backend: str, broken: Sequence[Trial]) -> str:
    worst = broken[0]
    said = [words.format(f"{count:,}") for kind, words in WRONG.items() if (count := getattr(worst.audit, kind))]
    said = said or [worst.audit.findings[0] if worst.audit.findings else "its books are not clean"]
    return f"{backend} {' and '.join(said)} in {worst.name}" + (
        f", and {len(broken) - 1} more" if len(broken) > 1 else ""
    )


def _gates(run: RunLeft) -> Iterable[dict[str, Any]]:
    for case in run.cases:
        of = run.of(case)
        for name in dict.fromkeys(name for left in of for name in left.trial.gates):
            gates = [left.trial.gates[name] for left in of if name in left.trial.gates]
            known = [gate.value for gate in gates if gate.value is not None]
            yield {
                "case": case.name,
                "gate": name,
                "unit": gates[0].unit,
                "limit": gates[0].limit,
                "median": float(np.median(known)) if known else None,
                "least": min(known, default=None),
                "most": max(known, default=None),
                "trials": len(gates),
                "failed": sum(not gate.passed for gate in gates),
            }


def _gates_of_run(run: RunLeft) -> Iterable[dict[str, Any]]:
    gates: dict[str, list[Gate]] = {}
    for left in run.trials:
        for name, gate in left.trial.gates.items():
            gates.setdefault(name, []).append(gate)
    for name, of in gates.items():
        yield {"gate": name, **gate_of_run(of)}


def gate_of_run(of: Sequence[Gate]) -> dict[str, Any]:
    """
    One gate over all trials, in parts of each trial's own limit, because that may follow its waits; of a limit of 0 the count itself. The
    worst is nearest to being void, or furthest into it.
    """
    known = [(gate, gate.value, gate.value / (gate.limit or 1.0)) for gate in of if gate.value is not None]
    parts = [part for _, _, part in known]
    # A gate does not say whether it asks for so much or for no more; who passes beyond the limit, or fails short of it, shows that it asks
    # for so much. If all are at the limit there is no worst.
    asks_for_more = any((value > gate.limit) == gate.passed for gate, value, _ in known if value != gate.limit)
    limits = [gate.limit for gate in of]
    return {
        "unit": of[0].unit,
        "limit_least": min(limits),
        "limit_most": max(limits),
        "median": float(np.median(parts)) if parts else None,
        "worst": (min if asks_for_more else max)(parts, default=None),
        "trials": len(of),
        "failed": sum(not gate.passed for gate in of),
    }


def _quantiles(measured: Sequence[Measured], run: RunLeft) -> Iterable[dict[str, Any]]:
    """Medians over trials of each trial's own quantile; percentiles are never averaged over requests of several trials."""
    for case in run.cases:
        for label in dict.fromkeys(
            left.trial.label for left in run.of(case) if left.trial.label not in {b for _, b in SAME}
        ):
            of = valid(measured, case, label)
            for outcome in ("all", SOLD, SOLD_OUT):
                row: dict[str, Any] = {"case": case.name, "label": label, "outcome": outcome, "trials": len(of)}
                row["attempts"] = sum(
                    sum(one.trial.counts.values()) if outcome == "all" else one.trial.counts[outcome] for one in of
                )
                for name in [*(f"p{q * 100:g}" for q in QUANTILES), "max"]:
                    row[name] = _median([one.quantiles[outcome][name] for one in of])
                yield row


def _roles(measured: Sequence[Measured], run: RunLeft) -> Iterable[dict[str, Any]]:
    for case in run.cases:
        for label in dict.fromkeys(
            left.trial.label for left in run.of(case) if left.trial.label not in {b for _, b in SAME}
        ):
            of = valid(measured, case, label)
            for role in dict.fromkeys(role for one in of for role in one.cpu_s):
                decided = [_decided(one.trial) or 1 for one in of]
                yield {
                    "case": case.name,
                    "label": label,
                    "role": role,
                    "serves": role in SERVING,
                    "cpu_ms": float(
                        np.median([one.cpu_s.get(role, 0.0) * 1000 / n for one, n in zip(of, decided, strict=True)])
                    ),
                    "delay_ms": float(
                        np.median([one.delay_s.get(role, 0.0) * 1000 / n for one, n in zip(of, decided, strict=True)])
                    ),
                }


def _decided(trial: Trial) -> int:
    return sum(trial.counts.get(outcome, 0) for outcome in OUTCOMES if outcome not in measures.WITHOUT_VERDICT)


def _series(measured: Sequence[Measured], run: RunLeft) -> Iterable[dict[str, Any]]:
    """Load that increases: what each step came to."""
    for case in run.cases:
        if not case.variant.startswith(RATE_SETTING):
            continue
        for label in dict.fromkeys(
            left.trial.label for left in run.of(case) if left.trial.label not in {b for _, b in SAME}
        ):
            of = valid(measured, case, label)
            if of:
                yield {
                    "scenario": case.scenario,
                    "case": case.name,
                    "label": label,
                    "offered_per_s": float(np.median([one.trial.offered_per_s for one in of])),
                    "trials": len(of),
                    "kept_up": sum(keeps_up(one) for one in of),
                }


def _sides(measured: Sequence[Measured], run: RunLeft) -> Iterable[dict[str, Any]]:
    """What of a difference is execution and what is pattern, from the four cells; estimates, no winners."""
    for case in run.cases:
        if not {"A", "B", "C", "D"} <= {left.trial.label for left in run.of(case)}:
            continue
        for (side, kept, first, second), key in itertools.product(
            SIDES, ("response_p50", "response_p99", "throughput", "cpu")
        ):
            found = statistics.effect(pairs(measured, case, key, first, second), [], BY_KEY[key].scale, run.run.seed)
            if found is not None:
                yield {
                    "case": case.name, "side": side, "kept": kept, "metric": key, "title": BY_KEY[key].title,
                    "first": first, "second": second, **effect_row(found),
                }  # fmt: skip


def _variants(measured: Sequence[Measured], run: RunLeft) -> Iterable[dict[str, Any]]:
    """Steps of a series that is not load, such as the balancer's algorithms: each against the first, in the same block."""
    for scenario in dict.fromkeys(
        case.scenario for case in run.cases if case.variant and not case.variant.startswith(RATE_SETTING)
    ):
        first, *others = [case for case in run.cases if case.scenario == scenario]
        labels = dict.fromkeys(
            left.trial.label for left in run.of(first) if left.trial.label not in {b for _, b in SAME}
        )
        for label, other, key in itertools.product(
            labels, others, ("response_p50", "response_p99", "throughput", "cpu")
        ):
            here = {one.trial.block: one.values[key] for one in valid(measured, first, label)}
            there = {one.trial.block: one.values[key] for one in valid(measured, other, label)}
            both = [(a, b) for block in here if (a := here[block]) is not None and (b := there.get(block)) is not None]
            found = statistics.effect(both, [], BY_KEY[key].scale, run.run.seed)
            if found is not None:
                yield {
                    "scenario": scenario, "label": label, "first": first.variant, "second": other.variant, "metric": key,
                    "title": BY_KEY[key].title, **effect_row(found),
                }  # fmt: skip


def _loops(measured: Sequence[Measured], cases: Sequence[Case]) -> Iterable[dict[str, Any]]:
    """Of the scenario with the longest waits, and trials enough: what closed loops would have told of it, medians over trials."""

    def longest(case: Case) -> float:
        return max(value.number for one in valid(measured, case) if (value := one.values["response_p95"]) is not None)

    # a burst has one moment, at which every closed loop asks once
    spread = [
        case
        for case in cases
        if any(one.trial.offered_per_s and one.values["response_p95"] for one in valid(measured, case))
    ]
    if not spread:
        return
    case = max([case for case in spread if len(valid(measured, case)) >= statistics.PAIRS_MIN] or spread, key=longest)
    for label, users in itertools.product((FIRST, SECOND), (0, *USERS)):
        of = valid(measured, case, label)
        for_all = sum(sum(one.trial.counts.values()) for one in of)
        if of:
            row = {"case": case.name, "label": label, "users": users, "trials": len(of)}
            row["share"] = sum(one.loops[users]["attempts"] for one in of) / for_all
            for name in ("p50", "p95", "p99"):
                row[name] = _median([one.loops[users][name] for one in of])
            yield row


def _median(values: Sequence[Value | None]) -> dict[str, Any] | None:
    # None where any trial has none: a median of those that have would be of other attempts
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return {"number": float(np.median([v.number for v in known])), "is_bound": any(v.is_bound for v in known)}


def _read_lab(run: RunLeft) -> dict[str, Any] | None:
    try:
        return _lab(run.lab)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(
            f"{run.lab_file} is no result of ./flash bench strategies as it is written now ({error}). Fix: run it again"
        ) from error


def _lab(lab: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Of the strategy lab what is printed: who oversells, and how surely that is seen."""
    if lab is None:
        return None
    rows = []
    for strategy in lab["strategies"]:
        attacks = strategy["attacks"].values()
        rows.append(
            {
                "name": strategy["name"],
                "title": strategy["title"],
                "summary": strategy["summary"],
                "ours": strategy["ours"],
                "verdict": strategy["verdict"],
                "as_claimed": strategy["as_claimed"],
                "trials": sum(attack["trials"] for attack in attacks)
                + sum(storm["trials"] for storm in strategy["storms"]),
                "caught": sum(attack["caught"] or 0 for attack in attacks),
                "to_catch": sum(attack["trials"] for attack in attacks if attack["caught"] is not None),
                "storms": [
                    {
                        key: storm[key]
                        for key in (
                            "delay_ms",
                            "killed",
                            "spread_ms",
                            "trials",
                            "oversold",
                            "oversold_trials",
                            "low",
                            "high",
                        )
                    }
                    for storm in strategy["storms"]
                ],
            }
        )
    return {"kinds": dict(lab["kinds"]), "strategies": rows}


def drawn(document: Mapping[str, Any]) -> list[str]:
    """The compared scenarios that get figures of their own, in the report's order."""
    blocks = {case["name"]: case["blocks"] for case in document["cases"]}
    places = {name: place for place, name in enumerate(CASES_FIRST)}
    found = sorted(document["compared"], key=lambda name: (places.get(name, len(places)), -blocks[name]))
    return found[:CASES_MAX]


def is_disqualified(document: Mapping[str, Any]) -> bool:
    """Whether the books of a compared backend were wrong."""
    return bool(document["wrong"])
